"""The scorer's benchmark: what counts as a difference, what the floor counts, and both contestants on a tiny model."""

import time
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lm_eval.api.instance import Instance

from benchmarks import evaluate
from tests.equivalence import scorer_models
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.tasks import load_task
from workflow_scripts.recover.prompt_bank import Prefix, PromptBank, encode
from workflow_scripts.sources import models


def task(kind: str, documents: list[int]):
    instances = [Instance(kind, {}, ("Q", " a"), n, ("any", doc, 1)) for n, doc in enumerate(documents)]
    return SimpleNamespace(task=SimpleNamespace(instances=instances))


def test_identity_counts_documents_with_another_prediction_and_every_other_flag():
    two = task("loglikelihood", [0, 0, 1, 1])
    expected = [(-1.0, False), (-2.0, True), (-3.0, False), (-2.5, False)]
    same = evaluate.identity(two, expected, expected, set())
    assert same == {"items": 2, "difference": 0.0, "predictions": 0, "flags": 0}
    assert not evaluate.differs(same)
    found = [(-1.0, False), (-2.0, False), (-2.25, False), (-2.5, False)]
    other = evaluate.identity(two, found, expected, set())
    assert other == {"items": 2, "difference": 0.75, "predictions": 1, "flags": 1}


def test_a_string_that_was_cut_off_must_begin_the_reference_and_any_other_equal_it():
    three = task("generate_until", [0, 1, 2])
    expected = [" honey and milk", " red", " blue"]
    for found, cut_off, predictions in (
        ([" honey", " red", " blue"], {0}, 0),
        ([" honey", " red", " blue"], set(), 1),
        ([" money", " red", " blue"], {0}, 1),
        ([" honey and milk", " re", " b"], {1}, 1),
    ):
        assert evaluate.identity(three, found, expected, cut_off)["predictions"] == predictions


@pytest.mark.parametrize(("key", "value"), [("difference", 2e-3), ("predictions", 1), ("flags", 1)])
def test_each_kind_of_difference_fails_the_run(key, value):
    record = {"difference": 9e-4, "predictions": 0, "flags": 0}
    assert not evaluate.differs(record) and evaluate.differs(record | {key: value})


def flop(scorer, pairs, kind: str, answers, monkeypatch) -> float:
    monkeypatch.setattr(evaluate, "gemm_rate", lambda *_: 1.0)
    requests = [Instance(kind, {}, pair, n, ("any", doc, 1)) for n, (doc, pair) in enumerate(pairs)]
    return evaluate.floor_seconds(scorer, requests, kind, None, answers)


def test_the_floor_counts_each_distinct_token_once(monkeypatch):
    """Two choices behind one context of n tokens, by hand; a prompt adds attention to its columns alone."""
    model, tokenizer = scorer_models.model("llama"), scorer_models.tokenizer()
    scorer = Scorer(model, tokenizer)
    head, width, layers = 400 * 48, 48, 2
    body = layers * (2 * 48 * 48 + 2 * 48 * 24 + 3 * 48 * 96)
    (context,) = scorer.encode(["Question: What do bees make?\nAnswer:"]).values()
    ends = {text: scorer.encode([text])[text] for text in (" honey", " sugar")}
    n, nodes = len(context), sum(len(end) - 1 for end in ends.values())  # the last token of each isn't read
    visible = n * (n + 1) // 2 + sum(n + k for end in ends.values() for k in range(1, len(end)))
    pairs = [(0, ("Question: What do bees make?\nAnswer:", text)) for text in ends]
    expected = 2 * body * (n + nodes) + 2 * head * (1 + nodes) + 4 * width * layers * visible
    assert flop(scorer, pairs, "loglikelihood", None, monkeypatch) == expected
    with torch.no_grad():
        keys, values = encode(model, torch.randn(5, 48))
    behind = Scorer(model, tokenizer, PromptBank([Prefix("five", keys, values)]))
    more = flop(behind, pairs, "loglikelihood", None, monkeypatch) - expected
    assert more == 4 * width * layers * 5 * (n + nodes)
    generated = [(0, ("Question: What do bees make?\nAnswer:", {}))]
    new = len(ends[" honey"]) + 1
    length = n + new - 1
    expected = 2 * body * length + 2 * head * new + 4 * width * layers * (length * (length + 1) // 2)
    assert flop(scorer, generated, "generate_until", [" honey"], monkeypatch) == expected


class Here:
    """A contestant in this process; `spoil` changes its answers."""

    def __init__(self, kind: type, args: Namespace, spoil=list):
        self.worker, self.args, self.spoil = kind("none", Path(), args), args, spoil

    def ask(self, method: str, name: str) -> tuple:
        tokenizer = scorer_models.tokenizer(bos=True)
        found = load_task(
            name, self.args.data / name / "data.jsonl", self.args.items, evaluate.CAP, tokenizer
        )
        found.task.build_all_requests()
        seconds, answers, *rest = self.worker.answer(found, time.perf_counter)
        return seconds, self.spoil(answers), *rest


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    """A tiny model with its manifest, and data; HFLM's cap within the tiny model's positions."""
    source, made_by = tmp_path / "source", {"recipe": "test", "code": "test"}
    scorer_models.model("llama").save_pretrained(source)
    scorer_models.tokenizer(bos=True).save_pretrained(source)
    spec = {"source": "local", "path": str(source), "allow_remote_code": False}
    models.fetch("tiny", spec, tmp_path / "model", tmp_path, **made_by)
    data = scorer_models.write_benchmarks(tmp_path / "data")
    monkeypatch.setattr(evaluate, "HARNESS_CAP", 64)
    settings = {"items": 3, "batch": 2, "row_tokens": None, "repeats": 1, "device": "cpu"}
    settings |= {"precision": "fp32", "harness_precision": "fp32"}
    return Namespace(data=data, model=tmp_path / "model", **settings)


@pytest.mark.parametrize("name", ["sciq", "triviaqa"])
def test_both_are_compared_and_a_changed_answer_is_found(arguments, capsys, name):
    harness, ours = Here(evaluate.Harness, arguments), Here(evaluate.Ours, arguments)
    record = evaluate.compare("none", name, harness, ours, arguments)
    assert record["items"] == 3 and not evaluate.differs(record) and record["difference"] < 1e-4
    assert min(record["ours"], record["harness"], record["floor"]) > 0
    said = capsys.readouterr().out
    assert name in said and "x floor" in said

    def spoilt(answers):
        first, *others = answers
        return ["!" + first if isinstance(first, str) else (first[0] - 0.01, first[1]), *others]

    for theirs, mine in ((spoilt, list), (list, spoilt)):
        contestants = Here(evaluate.Harness, arguments, theirs), Here(evaluate.Ours, arguments, mine)
        assert evaluate.differs(evaluate.compare("none", name, *contestants, arguments))
    assert evaluate.total([record])["items"] == 3

"""Rows and summaries against numbers worked out by hand, one item per output type, with text that isn't ASCII."""

import json
import math

import pytest

from tests.equivalence import scorer_models
from workflow_scripts.evaluate import samples
from workflow_scripts.evaluate.cell import evaluate_task, gold_answers
from workflow_scripts.evaluate.document_scorer import Document
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.tasks import load_task

ITEMS = {
    "sciq": [
        {
            "question": "Où?",
            "support": "",
            "correct_answer": "café",
            "distractor1": "thé",
            "distractor2": "eau",
            "distractor3": "lait",
        }
    ],
    "webqs": [{"question": "où?", "answers": ["Zürich", "la ville"]}],
    "lambada_openai": [{"text": "Où est le café"}],
    "triviaqa": [{"question": "Où?", "answer": {"aliases": ["Zürich", "Turicum"], "value": "Zürich"}}],
}


def task_of(name: str, folder, count: int = 1):
    rows = ITEMS[name] * count
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_task(name, folder / "data.jsonl", None, 8)


def logged(task, arguments: list[tuple], answers: list, **metrics) -> list[dict]:
    return [{"doc": task.task.eval_docs[0], "arguments": arguments, "filtered_resps": answers, **metrics}]


def row_and_bytes(task, sample: list[dict], gold: list[float]) -> tuple[dict, int]:
    (item,) = samples.items_of(task, sample, gold, [None], [False])
    return item.row, item.gold_bytes


def test_a_choice_by_hand(tmp_path):
    task = task_of("sciq", tmp_path)
    choices = task.task.doc_to_choice(task.task.eval_docs[0])
    assert choices == ["thé", "eau", "lait", "café"]
    answers = [(-3.0, False), (-1.5, True), (-2.0, False), (-1.75, False)]
    sample = logged(task, [("Où?", f" {choice}") for choice in choices], answers, acc=0.0, acc_norm=1.0)
    row, size = row_and_bytes(task, sample, [])
    assert (
        row["gold_loglik"] == -1.75
        and row["margin"] == -0.25
        and row["choice_logliks"] == [-3.0, -1.5, -2.0, -1.75]
    )
    assert (row["prediction"], row["gold"], row["question"]) == ("eau", "café", "Où?")
    assert (row["correct"], row["acc_norm"]) == (False, True)
    assert size == 6  # " café": a blank, three letters of one byte and one of two


def test_an_accepted_alias_by_hand(tmp_path):
    """webqs: every choice is accepted; the likeliest counts, wherever it stands."""
    task = task_of("webqs", tmp_path)
    choices = task.task.doc_to_choice(task.task.eval_docs[0])
    assert choices == ["Zürich", "la ville"]
    sample = logged(
        task, [("où?", f" {choice}") for choice in choices], [(-4.0, False), (-2.5, True)], exact_match=1.0
    )
    row, size = row_and_bytes(task, sample, [])
    assert (row["gold_loglik"], row["margin"], row["choice_logliks"]) == (-2.5, None, None)
    assert (row["gold"], row["prediction"], row["correct"], size) == ("la ville", "la ville", True, 9)
    sample[0]["filtered_resps"] = [(-2.0, False), (-2.5, False)]
    row, size = row_and_bytes(task, sample, [])
    assert (row["gold_loglik"], row["gold"], row["prediction"], size) == (-2.0, "Zürich", "", 8)


def test_a_continuation_by_hand(tmp_path):
    task = task_of("lambada_openai", tmp_path)
    sample = logged(task, [("Où est le", " café")], [(-3.5, True)], acc=1.0)
    row, size = row_and_bytes(task, sample, [])
    assert (row["gold_loglik"], row["gold"], row["prediction"], row["question"]) == (
        -3.5,
        "café",
        "café",
        "Où est le",
    )
    assert (row["correct"], size) == (True, 6)


def test_a_generation_by_hand(tmp_path):
    task = task_of("triviaqa", tmp_path)
    sample = logged(task, [("Question: Où?\nAnswer:", {})], ["Turicum"], exact_match=1.0)
    row, size = row_and_bytes(task, sample, [-6.25])
    assert (row["gold_loglik"], row["gold"], row["prediction"], row["correct"]) == (
        -6.25,
        "Zürich",
        "Turicum",
        True,
    )
    assert size == 8  # " Zürich"


def test_a_summary_by_hand():
    def item(correct, loglik, size, norm=None):
        row = {"correct": correct, "acc_norm": norm, "gold_loglik": loglik, "choice_logliks": None}
        return samples.EvaluatedItem(row, size)

    found = samples.summary(
        [item(True, -1.0, 2), item(False, -2.0, 3), item(False, -3.0, 4), item(False, -6.0, 7)]
    )
    assert (found["n"], found["acc"], found["primary"], found["acc_norm"]) == (4, 0.25, 0.25, None)
    assert found["gold_loglik"] == -3.0
    assert found["bits_per_byte"] == pytest.approx(12 / 16 / 0.6931471805599453)
    assert found["stderr"] == pytest.approx(0.25)  # sqrt(1/4 * 3/4 / 3)
    two = samples.summary([item(True, -1.0, 1, True), item(True, -1.0, 1, False)])
    assert two["acc_norm"] == 0.5 and two["stderr"] == 0.0
    assert math.isclose(two["bits_per_byte"], 1 / math.log(2))
    assert samples.summary([item(True, -1.0, 1)])["stderr"] is None


def test_gold_answers_stand_behind_the_delimiter(tmp_path):
    task, scorer = (
        task_of("triviaqa", tmp_path),
        Scorer(scorer_models.model("llama"), scorer_models.tokenizer()),
    )
    prompt = "Question: Où?\nAnswer:"
    ids, end = scorer.encode_pairs([(prompt, " Zürich")])[0]
    (found,) = gold_answers(scorer, task, logged(task, [(prompt, {})], ["?"]))
    (expected,) = scorer.score([Document(ids, [scorer.sequence(ids, end)])])
    assert found == pytest.approx(expected.scores[0][0], abs=1e-5)


@pytest.mark.parametrize(
    ("begun", "between"),
    [("The answer is", " "), ("The answer is ", ""), ("```python\n", ""), ("{{ question }}:", " ")],
)
def test_a_gold_answer_stands_behind_the_beginning_of_its_answer_as_in_examples(begun, between, tmp_path):
    task = task_of("triviaqa", tmp_path)
    task.task.config.gen_prefix = begun
    task.task.config.target_delimiter = " "
    document = next(iter(task.task.eval_docs))
    shown = "".join(
        m.content
        for m in task.task.build_qa_turn(q="q", a="Zürich", gen_prefix=task.task.doc_to_prefix(document))
    )
    assert shown.strip().endswith(f"{task.task.doc_to_prefix(document)}{task.delimiter(document)}Zürich")
    assert task.delimiter(document) == between


@pytest.mark.parametrize("ours", [True, False])
def test_only_generations_that_met_our_cap_are_wrong_whatever_they_say(tmp_path, monkeypatch, ours):
    """Of three right answers the second was cut off; where the cap is the harness's own, its metric stands."""
    task, model = task_of("triviaqa", tmp_path, 3), scorer_models.model("llama")
    task.capped = ours
    scorer = Scorer(model, scorer_models.tokenizer())
    monkeypatch.setattr(scorer, "generate_until", lambda requests, **_: ["Zürich"] * 3)
    monkeypatch.setattr(scorer, "selections", dict.fromkeys((("triviaqa", i) for i in range(3)), 0))
    scorer.cut_off.add(("triviaqa", 1))
    items = evaluate_task(scorer, task, [])
    assert [item.row["correct"] for item in items] == [True, not ours, True]
    assert [item.row["prediction"] for item in items] == ["Zürich"] * 3


def test_the_summary_has_the_choice_loglik_and_the_shares_of_blank_and_cut_answers():
    rows = [
        {"correct": True, "acc_norm": None, "gold_loglik": -1.0, "choice_logliks": [-1.0, -2.0]},
        {"correct": False, "acc_norm": None, "gold_loglik": -3.0, "choice_logliks": [-3.0, -1.0, -1.0]},
    ]
    found = samples.summary([samples.EvaluatedItem(row, 4) for row in rows])
    by_hand = [-math.log(1 + math.exp(-1)), -math.log(1 + 2 * math.exp(2))]
    assert found["choice_loglik"] == pytest.approx(sum(by_hand) / 2)
    assert found["blank"] is None and found["cut_off"] is None
    rows = [
        row | {"choice_logliks": None, "prediction": text} for row, text in zip(rows, ("", "é"), strict=True)
    ]
    items = [samples.EvaluatedItem(rows[0], 4, False), samples.EvaluatedItem(rows[1], 4, True)]
    found = samples.summary(items)
    assert (found["choice_loglik"], found["blank"], found["cut_off"]) == (None, 0.5, 0.5)

"""A cell from files to files: formats, continuation after a kill, damaged stores, faults."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.equivalence import scorer_folders, scorer_models
from workflow_scripts.evaluate import latency, loading
from workflow_scripts.evaluate import samples as sample_rows
from workflow_scripts.evaluate.perplexity import heldout_windows, perplexity
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.settings import Evaluation, EvaluationData, HeldoutText, LatencyShape
from workflow_scripts.files import artifacts, checkpoints
from workflow_scripts.files.artifacts import ArtifactError, write_json
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import evaluate_cell, measure_latency, measure_similarity
from workflow_scripts.recover.adapters import attach
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.sources import models
from workflow_scripts.sources.corpora import read_documents

EVALUATION = {
    "items": 4,
    "generation_tokens": 6,
    "precision": "fp32",
    "perplexity": {"corpora": ["made-up"], "windows": 3, "length": 32},
}
MADE = Provenance("r", "c", seed=0, device="cpu")
VARIANT = {"task": None, "num_fewshot": None}
METHODS = {
    "none": ({"kind": "none"}, []),
    "prompt-5": (scorer_folders.PROMPT, ["prompt-5"]),
    "idp-5-7": (scorer_folders.IDP, ["prompt-5", "prompt-7"]),
    "concat-5-7": ({"kind": "concat", "members": scorer_folders.IDP["members"]}, ["prompt-5", "prompt-7"]),
    "text": ({"kind": "text", "text": "Answer well.\n\n"}, []),
}
DOMAINS = {"piqa": "common", "hellaswag": "language", "lambada_openai": "language", "winogrande": "language"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root, before = tmp_path_factory.mktemp("project"), Path.cwd()
    os.chdir(root)  # work/ lies in the working directory
    yield scorer_folders.project(root)
    os.chdir(before)


def place(method: str) -> dict:
    return {
        "grid": "test",
        "model": "tiny",
        "compressor": "dense",
        "corpus": "made-up",
        "method": method,
        "seed": 0,
    }


def files_of(project: dict, members: list[str]) -> ModelFiles:
    return ModelFiles(project["model"], project["compressed"], [project[name] for name in members])


def run(project: dict, method: str, output: Path, chat: bool = False, **changes) -> dict:
    """Evaluate a cell into `output`; returns its JSON."""
    settings, members = METHODS[method]
    data = EvaluationData(project["benchmarks"], [project["corpus"]])
    tasks = {f.name: VARIANT | {"domain": DOMAINS.get(f.name, "world")} for f in data.benchmarks}
    asked = Evaluation(settings, tasks, EVALUATION | changes, chat)
    written = output, output.with_suffix(".samples.parquet")
    evaluate_cell.main(files_of(project, members), data, asked, place(method), MADE, *written)
    return artifacts.read_json(output, "evaluation")


@pytest.mark.parametrize("method", METHODS)
def test_json_and_samples_agree(project, tmp_path, method):
    record = run(project, method, tmp_path / "seed-0.json")
    rows = pd.read_parquet(tmp_path / "seed-0.samples.parquet")
    columns = artifacts.yaml.safe_load((artifacts.SCHEMAS / "samples.schema.yaml").read_text())["required"]
    assert list(rows.columns) == columns
    assert len(record["tasks"]) == 9 and len(rows) == 36
    for task, result in record["tasks"].items():
        mine = rows[rows["task"] == task]
        assert result["n"] == len(mine) == 4 and mine["doc_hash"].is_unique
        assert result["acc"] == result["primary"] == mine["correct"].mean()
        assert result["gold_loglik"] == pytest.approx(mine["gold_loglik"].mean())
        if mine["choice_logliks"].notna().all():
            assert (mine["correct"] == (mine["margin"] > 0)).all()
            assert all(max(row.choice_logliks) >= row.gold_loglik for row in mine.itertuples())
    assert record["average"] == pytest.approx(rows.groupby("task")["correct"].mean().mean())
    assert record["domains"]["common"] == record["tasks"]["piqa"]["acc"]
    text = record["perplexity"]["made-up"]["windowed"]
    assert text["windows"] == 3 and text["tokens"] == 3 * 31
    if method == "idp-5-7":
        shares = record["selection"]
        assert shares["prompt-5"] == (rows["selected_prompt"] == "prompt-5").mean()
        assert shares["prompt-5"] + shares["prompt-7"] == pytest.approx(1)
        assert set(shares["by_task"]) == set(record["tasks"])
        assert record["manifest"]["config"]["method"]["score"] == "joint_mean"  # what `auto` stood for
    else:
        assert record["selection"] is None and rows["selected_prompt"].isna().all()
    effective = {"none": 0, "prompt-5": 5 * 48, "idp-5-7": 12 * 48, "concat-5-7": 12 * 48, "text": 0}[method]
    assert record["parameters"]["effective"] == effective
    assert isinstance(record["manifest"]["config"]["bos"], bool)


def test_a_text_is_the_system_message_of_a_chat_and_stands_before_plain_text(project, tmp_path, monkeypatch):
    """Held-out text is the same in a chat model: there the text stands before it."""
    seen, records, real = {}, {}, Scorer.loglikelihood

    def spied(self, requests, **settings):
        seen[name] |= {each.args[0] for each in requests}
        return real(self, requests, **settings)

    monkeypatch.setattr(Scorer, "loglikelihood", spied)
    for name in ("text", "text in chat", "none in chat"):
        seen[name] = set()
        method, output = name.removesuffix(" in chat"), tmp_path / f"{name}.json"
        records[name] = run(project, method, output, chat="chat" in name)
    rows = {name: pd.read_parquet(tmp_path / f"{name}.samples.parquet") for name in records}
    asked = {name: frame.query("task == 'piqa'").iloc[0]["question"] for name, frame in rows.items()}
    assert len(set(asked.values())) == 1  # the table has the question alone
    turn = f"[user]\n{asked['text']}</s>\n[assistant]\n"
    assert asked["text"] in seen["text"] and f"<s>{turn}" in seen["none in chat"]
    assert f"<s>[system]\nAnswer well.\n\n</s>\n{turn}" in seen["text in chat"]
    logliks = {name: frame["gold_loglik"].tolist() for name, frame in rows.items()}
    assert logliks["text in chat"] != logliks["none in chat"]
    assert records["text in chat"]["perplexity"] == records["text"]["perplexity"]
    assert records["text"]["perplexity"] != records["none in chat"]["perplexity"]
    configs = {name: record["manifest"]["config"] for name, record in records.items()}
    assert "chat" not in configs["text"]
    assert configs["none in chat"]["chat"] == configs["text in chat"]["chat"]
    assert configs["none in chat"]["chat"]["day"] == "2024-07-26"


def test_a_killed_run_continues_and_a_damaged_store_is_mended(project, tmp_path, monkeypatch):
    whole = run(project, "prompt-5", tmp_path / "whole.json")
    frame = pd.read_parquet(tmp_path / "whole.samples.parquet")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("workflow_scripts.evaluate.cell.perplexities", killed)
        with pytest.raises(KeyboardInterrupt):
            run(project, "prompt-5", tmp_path / "again.json")
    assert not (tmp_path / "again.json").exists()
    (store,) = checkpoints.place(tmp_path / "again.json").rglob("answers.jsonl")
    lines = store.read_text().splitlines()
    assert len(lines) > 36
    entry = json.loads(lines[0])
    entry["answer"]["prompt"] = 7  # a wrong answer with the old checksum
    store.write_text("\n".join([json.dumps(entry), *lines[1:-1], lines[-1][:20]]))
    calls = []
    with monkeypatch.context() as patch:
        from workflow_scripts.evaluate import document_scorer

        real = document_scorer.score_row
        patch.setattr(document_scorer, "score_row", lambda *args: calls.append(args) or real(*args))
        record = run(project, "prompt-5", tmp_path / "again.json")
    assert record["tasks"] == whole["tasks"] and record["perplexity"] == whole["perplexity"]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "again.samples.parquet"), frame)
    assert 1 <= len(calls) <= 5  # the two damaged documents and the three windows, nothing else
    assert not checkpoints.place(tmp_path / "again.json").exists()


def test_the_same_weights_under_another_config_see_no_answers_of_the_first(
    project, tmp_path, monkeypatch, capsys
):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("workflow_scripts.evaluate.cell.perplexities", killed)
        run(project, "none", tmp_path / "moved.json")
    assert next(checkpoints.place(tmp_path / "moved.json").rglob("answers.jsonl")).stat().st_size
    other = tiny.with_another_config(project["model"], project["model"].with_name("other"))
    capsys.readouterr()
    run(project | {"model": other}, "none", tmp_path / "moved.json")
    assert "; 0 answers from an earlier run" in capsys.readouterr().err


def test_a_cut_off_generation_is_wrong_even_if_its_text_matches(project):
    from workflow_scripts.evaluate.tasks import load_task

    task = load_task("triviaqa", project["benchmarks"][6] / "data.jsonl", 1, 4)
    sample = {
        "doc": task.task.eval_docs[0],
        "filtered_resps": [task.gold(task.task.eval_docs[0])],
        "exact_match": 1.0,
        "arguments": [("Question: ...?\nAnswer:", {})],
    }
    (item,) = sample_rows.items_of(task, [sample], [-2.0], [None], [False])
    assert item.row["correct"] is True
    (item,) = sample_rows.items_of(task, [sample], [-2.0], [None], [True])
    assert item.row["correct"] is False


def test_adapters_of_other_weights_are_refused(project, tmp_path):
    other = tmp_path / "adapter"
    other.mkdir()
    for file in project["prompt-5"].iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    record = json.loads((other / "training.json").read_text())
    write_json(other / "training.json", record | {"base_sha256": "0" * 64})
    with pytest.raises(ArtifactError, match="was trained on weights 000000000000"):
        run(project | {"prompt-5": other}, "prompt-5", tmp_path / "x.json")


def test_an_adapter_that_is_valid_but_another_is_refused(project, tmp_path):
    other = tmp_path / "adapter"
    shutil.copytree(project["prompt-5"], other)
    weights = load_file(other / "adapter_model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, other / "adapter_model.safetensors")
    with pytest.raises(
        ArtifactError, match=r"adapter_model\.safetensors: not the file that training\.json describes"
    ):
        run(project | {"prompt-5": other}, "prompt-5", tmp_path / "x.json")


def test_perplexity_is_the_mean_over_windows_without_their_first_tokens(project):
    model, tokenizer = scorer_models.model("llama"), scorer_models.tokenizer(bos=True)
    scorer = Scorer(model, tokenizer)
    documents = read_documents(project["corpus"], "heldout")
    windows = heldout_windows(documents, scorer, 20, 4, "made-up", each_bos=False)
    tokens = tokenizer("\n\n".join(documents))["input_ids"]
    assert [token for window in windows for token in window] == tokens[:80]
    ids = torch.tensor(windows)
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(
            model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        )
    found = perplexity(scorer, windows)
    assert found["token"] == pytest.approx(math.exp(nats), rel=1e-5)
    text = [tokenizer.decode(window[1:]) for window in windows]
    words, size = sum(len(part.split()) for part in text), sum(len(part.encode()) for part in text)
    assert found["word"] == pytest.approx(math.exp(float(nats) * 76 / words), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(float(nats) * 76 / size / math.log(2), rel=1e-5)
    assert heldout_windows(documents, scorer, 20, None, "made-up", each_bos=False) == [
        tokens[i : i + 20] for i in range(0, len(tokens) - 19, 20)
    ]
    with pytest.raises(ArtifactError, match="made-up: 100000 windows of 20 tokens"):
        heldout_windows(documents, scorer, 20, 100_000, "made-up")


def test_windows_beyond_the_model_are_refused_before_anything_is_evaluated(project, tmp_path, capsys):
    long = {"perplexity": EVALUATION["perplexity"] | {"length": 5000}}
    with pytest.raises(
        ArtifactError, match=r"grids\.test\.evaluation\.perplexity\.length: windows of 5000 tokens"
    ):
        run(project, "prompt-5", tmp_path / "x.json", **long)
    assert "acc" not in capsys.readouterr().err
    with pytest.raises(
        ArtifactError, match=r"grids\.test\.similarity\.length: windows of 5000 tokens exceed"
    ):
        text = HeldoutText(project["corpus"], windows=1, length=5000)
        measure_similarity.main(
            files_of(project, []), text, tmp_path / "s.json", place("none"), {"kind": "none"}, MADE
        )


def test_similarity_is_one_for_equal_models_and_less_behind_a_prompt(project, tmp_path):
    for method, (settings, members) in list(METHODS.items())[:3]:
        text, output = HeldoutText(project["corpus"], windows=2, length=24), tmp_path / f"{method}.json"
        measure_similarity.main(files_of(project, members), text, output, place(method), settings, MADE)
        record = artifacts.read_json(output, "similarity")
        assert len(record["attention"]) == len(record["activations"]) == 2
        for value in record["attention"] + record["activations"]:
            assert value == pytest.approx(1, abs=1e-6) if method == "none" else value < 1
        if method != "none":
            assert record["activations"][-1] < 0.999


def test_calibrated_scores_are_centred_on_32_pieces_of_training_text(project, monkeypatch):
    settings, members = METHODS["idp-5-7"]
    files = replace(files_of(project, members), training_text=project["corpus"])
    given, real = [], loading.attach
    monkeypatch.setattr(
        loading, "attach", lambda *args, contexts: given.append(contexts) or real(*args, contexts=contexts)
    )
    loading.load_cell(files, settings | {"calibrated": True}, 0, "fp32", torch.device("cpu"))
    ((*contexts,),) = given
    assert len({tuple(context) for context in contexts}) == 32 and {len(context) for context in contexts} == {
        128
    }


def test_latency_measures_every_variant(project, tmp_path):
    prompt, lora = (
        scorer_folders.PROMPT,
        {
            "kind": "lora",
            "rank": 2,
            "alpha": 4,
            "dropout": 0.0,
            "layers": None,
            "targets": {"default": ["q_proj", "v_proj"]},
        },
    )
    methods = {
        "prompt-5": prompt,
        "prompt-7": prompt | {"tokens": 7},
        "ptune-5": {"kind": "prefix", "tokens": 5, "init": "text"},
        "idp-5-7": scorer_folders.IDP,
        "concat-5-7": METHODS["concat-5-7"][0],
        "lora-r2": lora,
    }
    shape = LatencyShape(batch=3, sequence=12, generate=2, repeats=3, precision="fp32")
    measure_latency.main(files_of(project, []), tmp_path / "l.json", place("none"), methods, shape, MADE)
    rows = artifacts.read_json(tmp_path / "l.json", "latency")["latencies"]
    assert [(row["method"], row["variant"]) for row in rows] == [
        ("none", "none"),
        ("prompt-5", "prompt_cached"),
        ("prompt-5", "prompt"),
        ("prompt-7", "prompt_cached"),
        ("prompt-7", "prompt"),
        ("ptune-5", "prefix"),
        ("idp-5-7", "idp"),
        ("idp-5-7", "idp_mixed"),
        ("concat-5-7", "concat"),
        ("lora-r2", "lora"),
        ("lora-r2", "lora_merged"),
    ]
    for row in rows:
        for interval in (row["prefill"], row["prefill_ratio"], row["token"], row["token_ratio"]):
            assert 0 < interval["low"] <= interval["median"] <= interval["high"]
    assert rows[0]["prefill_ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0, "coverage": 0.75}
    members = {"prompt-5", "prompt-7"}
    assert [set(row.get("cached_ratio", ())) for row in rows] == [set()] * 6 + [members] * 2 + [set()] * 3
    assert rows[6]["shares"].keys() == members and sum(rows[6]["shares"].values()) == pytest.approx(1)
    assert rows[7]["shares"] == pytest.approx({"prompt-5": 2 / 3, "prompt-7": 1 / 3})  # of three rows
    idp, cached = rows[6], {row["method"]: row for row in rows if row["variant"] == "prompt_cached"}
    for member, ratio in idp[
        "cached_ratio"
    ].items():  # paired ratios lie between the extremes of the unpaired ones
        assert idp["prefill"]["low"] / cached[member]["prefill"]["high"] <= ratio["median"]
        assert ratio["median"] <= idp["prefill"]["high"] / cached[member]["prefill"]["low"]


def test_latency_runs_what_the_method_evaluates_with(project):
    """Each row behind its chosen prompt, at the positions after it, however the rows divide."""
    settings, members = METHODS["idp-5-7"]
    recovered = attach(
        models.load_dense(project["model"]), None, settings, [project[name] for name in members]
    )
    model, bank = recovered.model, recovered.bank

    class Chosen:
        def __init__(self, rows):
            self.rows, self.asked = torch.tensor(rows), []

        def select(self, contexts):
            self.asked.append(contexts)
            return self.rows, None

    def first_tokens(timed, chosen):
        parts = iter(tokens for _, tokens, _ in timed())
        served = {index: iter(next(parts)) for index in sorted(set(chosen))}
        return [int(next(served[index])) for index in chosen]

    for rows, mixed, chosen in (
        ([1, 1, 0, 1], False, [1, 1, 0, 1]),
        ([1, 1, 1, 1], False, [1, 1, 1, 1]),
        ([1, 1, 1, 1], True, [0, 1, 0, 1]),
    ):
        selector = Chosen(rows)
        timed = latency.Prefill(model, bank, selector, 4, 12, mixed=mixed)
        expected, ends = [], []
        for ids, index in zip(timed.ids, chosen):
            length = bank.prefixes[index].length
            with torch.no_grad():
                logits = model(
                    input_ids=ids[None],
                    position_ids=torch.arange(length, length + 12)[None],
                    past_key_values=bank.cache(index, 1),
                ).logits
            expected.append(int(logits[0, -1].argmax()))
        assert first_tokens(timed, chosen) == expected
        assert selector.asked == [timed.ids.tolist()]  # scoring and selection are in the time
        ends = [end for _, _, end in timed()]
        assert ends == [12 + bank.prefixes[index].length for index in sorted(set(chosen))]


def test_bf16_body_has_a_float32_head(project, tmp_path):
    exact, rough = (
        run(project, "none", tmp_path / "a.json"),
        run(project, "none", tmp_path / "b.json", precision="bf16"),
    )
    a, b = (record["perplexity"]["made-up"]["windowed"]["token"] for record in (exact, rough))
    assert a != b and math.log(a) == pytest.approx(math.log(b), abs=0.2)

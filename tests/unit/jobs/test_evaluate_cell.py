"""A cell from files to files: formats, continuation after a kill, damaged stores, faults."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.equivalence import scorer_models
from tests.unit.jobs.tiny_cell import EVALUATION, MADE, METHODS, VARIANT, files_of, place, run
from workflow_scripts.evaluate import cell as cell_module
from workflow_scripts.evaluate import loading
from workflow_scripts.evaluate import samples as sample_rows
from workflow_scripts.evaluate.perplexity import perplexity, windows_of
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.settings import CellSettings, HeldoutText
from workflow_scripts.evaluate.taken import keys_of
from workflow_scripts.files import artifacts
from workflow_scripts.files.artifacts import ArtifactError, write_json
from workflow_scripts.files.work_folders import work_root
from workflow_scripts.jobs import measure_similarity
from workflow_scripts.plan.layout import EVALUATION as EVALUATION_PATH
from workflow_scripts.plan.layout import companions
from workflow_scripts.sources.corpora import read_documents


def one_model(_: str) -> str:
    """All that answers come from, the same of each task and text."""
    return "all"


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


def test_another_list_of_tasks_evaluates_only_what_is_new(project, tmp_path, monkeypatch):
    """At the same place after the grid's list changed, and in another grid; a forced cell takes nothing."""
    monkeypatch.chdir(tmp_path)
    asked = []
    real = cell_module.evaluate_task
    monkeypatch.setattr(cell_module, "evaluate_task", lambda *args: asked.append(args[1].name) or real(*args))
    whole = run(project, "idp-5-7", tmp_path / "whole.json")
    rows = pd.read_parquet(tmp_path / "whole.samples.parquet")
    first, *rest = project["benchmarks"]
    donors: dict[str, dict] = {}

    def evaluated(folders, grid: str, recipe: str, **changes) -> dict:
        asked.clear()
        output = Path(EVALUATION_PATH.path(**(place("idp-5-7") | {"grid": grid})))
        made = replace(MADE, recipe=recipe)
        record = run(project | {"benchmarks": folders}, "idp-5-7", output, made=made, **changes)
        mine = pd.read_parquet(companions(str(output))[0])
        expected = pd.concat([rows[rows["task"] == folder.name] for folder in folders])
        pd.testing.assert_frame_equal(mine, expected.reset_index(drop=True), check_dtype=False)
        assert list(record["tasks"]) == [folder.name for folder in folders]
        for name, origin in record["manifest"]["taken_over"].items():
            kind, _, short = name.partition(" ")
            part = "tasks" if kind == "benchmark" else "perplexity"
            assert record[part][short] == donors[origin["recipe"]][part][short]
            assert origin["started"] == donors[origin["recipe"]]["manifest"]["started"]
            assert name not in donors[origin["recipe"]]["manifest"]["taken_over"], "where it was evaluated"
        donors[recipe] = record
        return record

    evaluated(rest, "test", "1" * 64)
    assert asked == [folder.name for folder in rest]
    record = evaluated([*rest, first], "test", "2" * 64)
    assert asked == [first.name] and len(record["manifest"]["taken_over"]) == len(rest) + 1
    assert record["selection"].keys() == whole["selection"].keys()
    with monkeypatch.context() as patch:  # no model is loaded for another order
        patch.setattr(cell_module, "load_cell", None)
        again = evaluated(rest[::-1], "test", "3" * 64)
    assert asked == [] and again["parameters"] == record["parameters"]
    assert {**again["manifest"]["config"], "tasks": 0} == {**record["manifest"]["config"], "tasks": 0}
    assert again["selection"].keys() == record["selection"].keys()
    evaluated([first, *rest], "other", "4" * 64)
    assert asked == [first.name], "the cell at `test` has it no longer"
    evaluated([first, *rest], "other", "4" * 64)
    assert asked == [folder.name for folder in [first, *rest]], "forced"
    samples = Path(companions(EVALUATION_PATH.path(**(place("idp-5-7") | {"grid": "other"})))[0])
    samples.write_bytes(samples.read_bytes() + b" ")
    evaluated([first], "third", "5" * 64)
    assert asked == [first.name], "samples that are not those of the cell"
    monkeypatch.setattr(loading, "LIBRARIES", ("torch",))
    evaluated(rest, "test", "6" * 64)
    assert asked == [folder.name for folder in rest], "other libraries"


def test_what_an_adopted_code_evaluated_is_taken_over_too(project, tmp_path, monkeypatch):
    """After an upgrade and `adopt`, another list of tasks costs only what is new, as before it. A task of which the
    evidence says nothing is evaluated anew: the pair compared answers of two codes."""
    monkeypatch.chdir(tmp_path)
    output = Path(EVALUATION_PATH.path(**place("none")))
    older, today = "a" * 64, "b" * 64
    first = run(project, "none", output, made=replace(MADE, code=older, recipe="1" * 64))
    keys = first["manifest"]["keys"]
    all_names, own, rest = [*keys], [*keys][:1], [*keys][1:]
    for number, (adopted, taken) in enumerate(((all_names, all_names), (rest, rest), ([], own))):
        made = replace(MADE, code=today, recipe=str(number) * 64)
        record = run(project, "none", output, made=made, stands_for=dict.fromkeys(adopted, older))
        assert [*record["manifest"]["taken_over"]] == taken
        assert [name for name in keys if record["manifest"]["keys"][name] == keys[name]] == adopted
        assert record["manifest"]["code"] == today


@pytest.mark.parametrize("change", [{"items": 3}, {"generation_tokens": 1}, {"precision": "bf16"}])
def test_what_was_asked_otherwise_is_evaluated_anew(change):
    """Keys of a task and of a text."""
    settings = CellSettings({"kind": "none"}, {"piqa": VARIANT | {"domain": "common"}}, EVALUATION)
    inputs = {"model": "m", "benchmark piqa": "p", "corpus made-up": "c"}
    keys = keys_of(one_model, inputs, settings)
    other = keys_of(one_model, inputs, replace(settings, evaluation=EVALUATION | change))
    assert keys["benchmark piqa"] != other["benchmark piqa"]
    assert (keys["corpus made-up"] != other["corpus made-up"]) == ("precision" in change)
    for changed in (inputs | {"model": "n"}, inputs | {"benchmark piqa": "q"}):
        assert keys_of(one_model, changed, settings)["benchmark piqa"] != keys["benchmark piqa"]
    assert (
        keys_of(one_model, inputs, replace(settings, method={"kind": "x"}))["benchmark piqa"]
        != keys["benchmark piqa"]
    )
    assert (
        keys_of(one_model, inputs | {"corpus made-up": "d"}, settings)["benchmark piqa"]
        == keys["benchmark piqa"]
    )
    assert (
        keys_of(
            one_model,
            inputs | {"benchmark sciq": "s"},
            replace(settings, tasks=settings.tasks | {"sciq": {"task": None}}),
        )["benchmark piqa"]
        == keys["benchmark piqa"]
    )


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
    (store,) = work_root(tmp_path / "again.json").rglob("answers.jsonl")
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
    assert not work_root(tmp_path / "again.json").exists()


def test_the_same_weights_under_another_config_see_no_answers_of_the_first(
    project, tmp_path, monkeypatch, capsys
):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("workflow_scripts.evaluate.cell.perplexities", killed)
        run(project, "none", tmp_path / "moved.json")
    assert next(work_root(tmp_path / "moved.json").rglob("answers.jsonl")).stat().st_size
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


def test_a_cell_that_has_read_an_adapter_removes_the_checkpoint_of_its_training(project, tmp_path):
    checkpoint = work_root(project["prompt-5"]) / "0123456789abcdef/checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.touch()
    run(project, "prompt-5", tmp_path / "x.json")
    assert not checkpoint.exists() and project["prompt-5"].exists()


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
    windows, texts = windows_of(documents, scorer, 20, 4, "made-up", each_bos=False)
    tokens = tokenizer("\n\n".join(documents))["input_ids"]
    assert [token for window in windows for token in window] == tokens[:80]
    ids = torch.tensor(windows)
    with torch.no_grad():
        nats = torch.nn.functional.cross_entropy(
            model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
        )
    found = perplexity(scorer, windows, texts)
    assert found["token"] == pytest.approx(math.exp(nats), rel=1e-5)
    text = [tokenizer.decode(window[1:]) for window in windows]
    words, size = sum(len(part.split()) for part in text), sum(len(part.encode()) for part in text)
    assert found["word"] == pytest.approx(math.exp(float(nats) * 76 / words), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(float(nats) * 76 / size / math.log(2), rel=1e-5)
    assert windows_of(documents, scorer, 20, None, "made-up", each_bos=False)[0] == [
        tokens[i : i + 20] for i in range(0, len(tokens) - 19, 20)
    ]
    with pytest.raises(ArtifactError, match="made-up: 100000 windows of 20 tokens"):
        windows_of(documents, scorer, 20, 100_000, "made-up")


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


def test_bf16_body_has_a_float32_head(project, tmp_path):
    exact, rough = (
        run(project, "none", tmp_path / "a.json"),
        run(project, "none", tmp_path / "b.json", precision="bf16"),
    )
    a, b = (record["perplexity"]["made-up"]["windowed"]["token"] for record in (exact, rough))
    assert a != b and math.log(a) == pytest.approx(math.log(b), abs=0.2)

"""Benchmarks: readers of the sources' formats; the items that were fetched agree with the reference samples."""

import gzip
import io
import json
import os
import random
import zipfile
from pathlib import Path

import pyarrow
import pytest

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources import benchmarks, fetch, hub

MADE = {"recipe": "r", "code": "c"}
ROOT = Path(__file__).resolve().parents[3]
SAMPLES = ROOT.parent / "shared" / "data"
FETCHED = ROOT / "resources" / "benchmarks" / "pypi"


def requests(*rows: dict) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())


def test_arc_takes_each_question_once_and_letters_its_choices():
    document = {
        "id": "Q7",
        "query": "Question: Which one?\nWhy?\nAnswer:",
        "choices": ["x", "y", "z"],
        "gold": 1,
    }
    row = {"doc_id": 0, "doc": document, "request": {"context": "shots"}}
    unconditional = row | {"doc_id": 1_000_000}
    assert benchmarks.arc_items(requests(row, row, row, unconditional)) == [
        {
            "id": "Q7",
            "question": "Which one?\nWhy?",
            "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]},
            "answerKey": "B",
        }
    ]
    with pytest.raises(ValueError, match="query of document 0"):
        benchmarks.arc_items(requests(row | {"doc": document | {"query": "Q: Which one? A:"}}))


def test_readers_of_knowledge_probes():
    clue = {
        "index": 0,
        "category": "art",
        "query": "Category: ART\nQuestion: He\npainted\nAnswer:",
        "answer": "x",
    }
    assert benchmarks.jeopardy_items(requests({"doc_id": 0, "doc": clue})) == [
        {"category": "art", "question": "He\npainted", "answer": "x"}
    ]
    with pytest.raises(ValueError, match="query of document 0"):
        benchmarks.jeopardy_items(requests({"doc_id": 0, "doc": clue | {"query": "Question: He\nAnswer:"}}))
    exam = {
        "id": "m",
        "question": "q",
        "opa": "1",
        "opb": "2",
        "opc": "3",
        "opd": "4",
        "cop": 2,
        "subject_name": "S",
    }
    derived = {"index": 0, "query": "Question: q", "choices": ["A"], "gold": 2}
    asked = [{"doc_id": 0, "doc": exam | derived, "idx": choice} for choice in range(4)]
    assert benchmarks.medmcqa_items(requests(*asked)) == [exam]
    text = "Title: T_t\nBackground: One.\nTwo: three.\nQuestion: Why?\nAnswer:"
    read = {"id": "s", "title": "T_t", "query": text, "answers_text": ["b", "a", "b"], "choices": ["b"]}
    assert benchmarks.squad_items(requests({"doc_id": 0, "doc": read})) == [
        {"id": "s", "title": "T_t", "context": "One.\nTwo: three.", "question": "Why?", "answers": ["b", "a"]}
    ]
    rows = [{"question": "is it", "answer": answer, "passage": "It is."} for answer in (True, False)]
    assert benchmarks.boolq_items(arrow(rows)) == [
        {"question": "is it", "passage": "It is.", "label": label} for label in (1, 0)
    ]


def test_a_star_reads_every_file_of_that_form_in_order(tmp_path):
    wheel = tmp_path / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("b", "a", "a/deep"):
            archive.writestr(f"data/{name}/test/x.arrow", arrow([{"subject": name}]))
    assert fetch.members(wheel, "data/*/test/x.arrow") == ["data/a/test/x.arrow", "data/b/test/x.arrow"]
    # Read_member says if it is absent.
    assert fetch.members(wheel, "data/c/test/x.arrow") == ["data/c/test/x.arrow"]
    with pytest.raises(
        ArtifactError, match=r"some-1.0.*: holds no file like 'data/\*/dev/x.arrow'; correct `file`"
    ):
        fetch.members(wheel, "data/*/dev/x.arrow")


def arrow(rows: list[dict]) -> bytes:
    buffer = io.BytesIO()
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_stream(buffer, table.schema) as stream:
        stream.write_table(table)
    return buffer.getvalue()


def test_other_readers():
    row = {"request": {"context": "the last word is", "continuation": " here"}}
    assert benchmarks.lambada_items(requests(row)) == [{"text": "the last word is here"}]
    topics = '{"question": "who?", "answer": ["a", "b"]}\n'
    assert benchmarks.webqs_items(topics.encode()) == [{"question": "who?", "answers": ["a", "b"]}]
    rows = [{"goal": "g", "label": 1, "deep": {"list": ["ü"]}}]
    assert benchmarks.arrow_items(arrow(rows)) == rows


def test_local_benchmark_is_verified_and_counted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text('{"question": 1}\n{"question": 2}\n')
    spec = {"source": "local", "path": "mine.jsonl"}
    manifest = benchmarks.fetch("sciq", spec | {"items": 2}, tmp_path / "out", tmp_path, **MADE)
    assert benchmarks.verify(tmp_path / "out") == manifest and manifest["items"] == 2
    for wrong, message in [
        ({"items": 3}, "sciq: 2 items were read, 3 are expected"),
        ({"sha256": "0" * 64}, f"pinned is {'0' * 64}"),
        ({"path": "other.jsonl"}, "no such file"),
    ]:
        with pytest.raises(ArtifactError, match=message):
            benchmarks.fetch("sciq", spec | wrong, tmp_path / "wrong", tmp_path, **MADE)
        assert not (tmp_path / "wrong").exists()
    (tmp_path / "out" / "data.jsonl").write_text('{"question": 1}\n{"question": 3}\n')
    fetch._verified.cache_clear()
    with pytest.raises(ArtifactError, match="changed since it was fetched"):
        benchmarks.verify(tmp_path / "out")


@pytest.mark.parametrize("kind", ["link to nothing", "pipe", "folder", "device"])
def test_a_tasks_data_are_a_regular_file(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    file = tmp_path / "data/items.jsonl"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to({"link to nothing": "gone", "device": "/dev/zero"}[kind])
    said = "a link to nothing" if kind == "link to nothing" else "no regular"
    with pytest.raises(ArtifactError, match=f"mine: {tmp_path}/data: items.jsonl is {said}"):
        spec = {"source": "local", "path": str(file)}
        benchmarks.fetch("mine", spec, tmp_path / "out", tmp_path, recipe="r", code="c")
    assert not (tmp_path / "out").exists()


def test_hub_benchmark_records_the_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "dataset_commit", lambda repo, revision: "b" * 40)
    monkeypatch.setattr(
        hub, "dataset_rows", lambda *place, limit: iter([{"place": list(place), "limit": limit}])
    )
    spec = {
        "source": "hub",
        "repo": "own/er",
        "name": "easy",
        "revision": "main",
        "split": "test",
        "items": 1,
    }
    manifest = benchmarks.fetch("arc_easy", spec, tmp_path / "out", tmp_path, **MADE)
    assert manifest["revision"] == "b" * 40 and manifest["origin"]["requested"] == "main"
    row = json.loads((tmp_path / "out" / "data.jsonl").read_text())
    assert row == {"place": ["own/er", "easy", "b" * 40, "test"], "limit": None}


# The reference samples are 400 documents of each split, drawn as their README says.
SPLIT_SIZES = {
    "arc_easy": 2376,
    "arc_challenge": 1172,
    "webqs": 2032,
    "triviaqa": 7993,
    "piqa": 1838,
    "hellaswag": 10042,
    "lambada_openai": 5153,
    "winogrande": 1267,
}


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def one_line(row: dict) -> dict:
    """LAMBADA's passages without the line breaks that the wheel's copy has lost."""
    return {"text": " ".join(row["text"].split())}


@pytest.mark.skipif(
    not SAMPLES.exists() or not FETCHED.exists(), reason="needs reference samples and fetched data"
)
@pytest.mark.parametrize("task", SPLIT_SIZES)
def test_fetched_items_agree_with_the_reference_sample(task):
    fetched, sample = rows(FETCHED / task / "data.jsonl"), rows(SAMPLES / f"{task}.jsonl")
    order = list(range(SPLIT_SIZES[task]))
    random.Random(f"2310-{task}").shuffle(order)
    drawn = [fetched[index] for index in sorted(order[:400])]
    if task == "lambada_openai":
        drawn, sample = list(map(one_line, drawn)), list(map(one_line, sample))
    assert len(fetched) == SPLIT_SIZES[task]
    assert drawn == sample


@pytest.mark.skipif(
    not SAMPLES.exists() or not FETCHED.exists(), reason="needs reference samples and fetched data"
)
def test_fetched_sciq_has_the_reference_schema():
    fetched, sample = rows(FETCHED / "sciq" / "data.jsonl"), rows(SAMPLES / "sciq.jsonl")
    assert {frozenset(row) for row in fetched} == {frozenset(row) for row in sample} and len(fetched) == 1000

"""Closed and open book read together: only a passage that holds an accepted answer opens the book."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.unit.synthetic_results import CATALOGUE, METHODS, PAIR, PARAMETERS, study, write_grid
from workflow_scripts.files.artifacts import read_json
from workflow_scripts.jobs import build_ledger, find_answers, judge
from workflow_scripts.judge.judgement import Question
from workflow_scripts.judge.open_book import in_passage
from workflow_scripts.judge.results import samples_beside
from workflow_scripts.report.rendering import environment

CONTEXTS = {"sciq": "{{ support }}\n"}


def data(path, supports):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"support": support}) + "\n" for support in supports))
    return path


def test_a_passage_holds_an_answer_word_for_word_and_an_empty_one_holds_none(tmp_path):
    supports = ["It is the Calcium ion.", "", "Calciums are many.", " \n", "calcium, ion!", "calcium"]
    golds = ["calcium ion", "calcium", "calcium", "the", "a calcium ion", ""]
    items = pd.DataFrame({"task": "sciq", "doc_id": range(6), "gold": golds})
    items.loc[6] = ["piqa", 0, "calcium"]
    found = in_passage(items, CONTEXTS, {"sciq": data(tmp_path / "sciq/data.jsonl", supports)})
    assert found.tolist() == [True, False, False, False, True, False, pd.NA]


@pytest.mark.parametrize("control", [True, False])
def test_lost_items_are_right_or_lost_open_book_by_a_passage_that_holds_the_answer(
    control, tmp_path, monkeypatch
):
    monkeypatch.setitem(METHODS, "open-book", {"kind": "context"})
    monkeypatch.setitem(PARAMETERS, "open-book", 0)
    truth = study("m", {"lora-r4": 0.1, "idp-50-100": 0.1, "open-book": 0.2}, control=control)
    cells = write_grid(tmp_path, truth, items=60, noise=0.2)
    benchmark = data(tmp_path / "sciq/data.jsonl", [f"It is answer {n}." if n % 3 else "" for n in range(60)])
    paths = [tmp_path / name for name in ("answers.parquet", "ledger.parquet", "verdict.json")]
    manifest = {"sciq": str(benchmark.with_name("manifest.json"))}
    find_answers.main(cells, {}, manifest, paths[0], None, CONTEXTS)
    build_ledger.main(cells, PAIR, *paths[:2])
    judge.main(cells, Question(PAIR), CATALOGUE, *paths[1:])
    (row,) = read_json(paths[2], "verdict")["open_book"]

    def right(compressor, method):
        (path,) = (p for p in cells if f"/{compressor}/" in p and f"/{method}/" in p)
        items = pd.read_parquet(samples_beside(Path(path)))
        return items[items["task"] == "sciq"].set_index("doc_id")["correct"].astype(bool)

    lost = right("dense", "none") & ~right("gptq-w3", "none")
    held = lost & (lost.index % 3 > 0)
    opened = right("gptq-w3", "open-book")[held]
    assert 0 < opened.sum() < held.sum() < lost.sum() == row["lost"]
    assert (row["right"], row["right_n"]) == (opened.mean(), held.sum())
    assert row["right_low"] < row["right"] < row["right_high"]
    able = right("dense", "open-book")[held] if control else opened[:0]
    assert (row["dense_n"], row["lost_too_n"]) == (len(able), len(able))
    expected = (able.mean(), (able & ~opened[able.index]).mean()) if control else (None, None)
    assert (row["dense"], row["lost_too"]) == expected
    page = environment().get_template("ledger.html.j2").module.opened([row])
    assert "lost open-book too" in page and f"of {held.sum()}</small>" in page

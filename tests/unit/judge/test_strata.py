"""Items by subject and popularity: fields of documents, mentions in training text, shares with a known truth."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from tests.unit.synthetic_page import analysed
from tests.unit.synthetic_results import CATALOGUE, PAIR, study, write_grid
from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.jobs import build_ledger, find_answers, judge
from workflow_scripts.judge.judgement import Question
from workflow_scripts.judge.strata import of_items, strata, tenths
from workflow_scripts.report.rendering import environment


def written(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_fields_and_mentions_of_items(tmp_path):
    people = written(
        tmp_path / "popqa.jsonl", [{"s_pop": 7, "prop": "capital"}, {"s_pop": 90.0, "prop": "author"}]
    )
    items = pd.DataFrame(
        [
            ("popqa", 1, "Question: Who wrote it?\nAnswer:"),
            ("nq", 0, "Q: where was Marie Curie born?\nA:"),
            ("nq", 1, "Q: where was Alan Turing born?\nA:"),
            ("sciq", 0, "Question: what?\nAnswer:"),
        ],
        columns=["task", "doc_id", "question"],
        index=[3, 5, 8, 9],
    )
    fields = {"popqa": {"subject": "prop", "popularity": "s_pop"}, "nq": {"popularity": "mentions"}}
    text = ["Marie Curie was born in Warsaw. Marie Curie won.", "marie CURIE", "Turing, Alan"]
    found = of_items(items, fields, {"popqa": people, "nq": people}, text)
    assert found["popularity"].tolist()[:3] == [90.0, 2.0, 0.0] and np.isnan(found["popularity"].iloc[3])
    assert found["subject"].iloc[0] == "author" and found["subject"].isna().tolist() == [
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prop": "p"},
            r"popqa.jsonl: line 1: the field 's_pop' is missing, which `strata` of its task names",
        ),
        ({"prop": "p", "s_pop": None}, "line 1: the field 's_pop' is None; a popularity must be a number"),
        ({"prop": None, "s_pop": 3}, "line 1: the field 'prop' is null; a subject must be a text"),
        (
            {"prop": "p", "s_pop": "many"},
            "line 1: the field 's_pop' is 'many'; a popularity must be a number",
        ),
        ({"prop": "p", "s_pop": math.nan}, "line 1: the field 's_pop' is nan; a popularity must be a number"),
        ({"prop": "p", "s_pop": math.inf}, "line 1: the field 's_pop' is inf; a popularity must be a number"),
        ({"s_pop": 3}, "line 1: the field 'prop' is missing, which `strata` of its task names"),
    ],
)
def test_a_document_without_the_field_is_named(row, message, tmp_path):
    items = pd.DataFrame([("popqa", 0, "who?")], columns=["task", "doc_id", "question"])
    fields = {"popqa": {"subject": "prop", "popularity": "s_pop"}}
    with pytest.raises(ArtifactError, match=message):
        of_items(items, fields, {"popqa": written(tmp_path / "popqa.jsonl", [row])}, [])


def test_groups_of_popularity_are_of_equal_size_and_keep_equal_values_together():
    assert tenths(pd.Series(range(200))).value_counts().tolist() == [20] * 10
    assert tenths(pd.Series([0.0] * 60 + list(range(1, 41)))).nunique() == 5
    assert set(tenths(pd.Series([0.0] * 60 + list(range(1, 41))))[:60]) == {3}
    assert tenths(pd.Series(range(25))).nunique() == 2 and tenths(pd.Series([5.0])).tolist() == [0]


def ledger(known: list, kept: list, prompt: list, lora: list, **columns) -> pd.DataFrame:
    answers = {"dense": known, "none": kept, "p": prompt, "l": lora}
    frame = pd.DataFrame(
        {f"correct/{name}": pd.array(value, dtype="boolean") for name, value in answers.items()}
    )
    place = {"model": "m", "compressor": "c", "corpus": "t", "seed": 0, "task": "popqa"}
    return frame.assign(**place, **columns)


def test_shares_of_each_stratum():
    frame = ledger(
        [True, True, True, False, True, None],
        [True, False, False, True, False, True],
        [True, True, False, False, None, True],
        [True, False, False, False, True, True],
        subject=["a", "a", "a", "a", "b", "b"],
    )
    later = frame.assign(seed=1, **{"correct/dense": pd.array([True] * 6, dtype="boolean")})
    first, second = strata(pd.concat([frame, later]), {"prompt": "p", "lora": "l"})
    assert (first["stratum"], first["items"], first["seed"]) == ("a", 4, 0)
    assert (first["known"], first["known_n"]) == (0.75, 4)
    assert (first["lost"], first["lost_n"]) == (pytest.approx(2 / 3), 3)
    assert (first["prompt"], first["prompt_n"], first["lora"], first["lora_n"]) == (0.5, 2, 0.0, 2)
    assert first["lost_low"] < 2 / 3 < first["lost_high"]
    assert (second["items"], second["lost"], second["prompt"], second["prompt_n"]) == (1, 1.0, None, 0)
    assert second["lora"] == 1.0 and second["prompt_low"] is None


def test_a_loss_of_rare_knowledge_shows_in_its_tenth():
    popularity = np.arange(400.0)
    kept = [bool(value >= 100) for value in popularity]
    rows = strata(
        ledger([True] * 400, kept, kept, [True] * 400, popularity=popularity), {"prompt": "p", "lora": "l"}
    )
    assert [row["stratum"] for row in rows][:2] == ["0 to 39", "40 to 79"] and len(rows) == 10
    assert [row["lost"] for row in rows] == [1.0, 1.0, 0.5] + [0.0] * 7
    assert (
        [row["lora"] for row in rows[:3]] == [1.0] * 3
        and rows[0]["prompt"] == 0.0
        and rows[9]["lora"] is None
    )


def test_strata_come_from_the_benchmark_to_verdict_and_page_and_are_absent_without(tmp_path):
    cells = write_grid(tmp_path, study("m", {"lora-r4": 0.1, "idp-50-100": 0.1}), items=40)
    items = [{"topic": f"topic {n % 2}", "views": n} for n in range(40)]
    data = written(tmp_path / "sciq/data.jsonl", items).with_name("manifest.json")
    text = written(tmp_path / "corpus/train.jsonl", [{"text": "nothing"}]).with_name("manifest.json")
    fields = {"sciq": {"subject": "topic", "popularity": "views"}}
    answers, table, verdict = (
        tmp_path / name for name in ("answers.parquet", "ledger.parquet", "verdict.json")
    )
    records = []
    for asked in (None, fields):
        find_answers.main(cells, {"wikipedia": [str(text)]}, {"sciq": str(data)}, answers, asked)
        build_ledger.main(cells, PAIR, answers, table)
        judge.main(cells, Question(PAIR), CATALOGUE, table, verdict)
        records.append((set(pd.read_parquet(table).columns), read_json(verdict, "verdict")))
    (plain, without), (columns, found) = records
    assert columns - plain == {"subject", "popularity"} and "strata" not in without
    assert {key: value for key, value in found.items() if key not in ("strata", "manifest")} == {
        key: value for key, value in without.items() if key != "manifest"
    }
    kinds = [(row["kind"], row["stratum"]) for row in found["strata"]]
    assert kinds[:2] == [("subject", "topic 0"), ("subject", "topic 1")] and kinds[2:] == [
        ("popularity", f"{low} to {low + 9}") for low in (0, 10, 20, 30)
    ]
    templates = environment().get_template("ledger.html.j2").module
    page = templates.strata(found["strata"], {"prompt": "back by idp-50-100", "lora": "back by lora-r4"})
    assert "topic 1" in page and ">20 to 29</td>" in page and 'data-value="20.0"' in page


def test_the_page_of_a_grid_without_strata_has_no_such_table(tmp_path):
    results, _ = analysed(tmp_path)
    assert "By subject and popularity" not in (results / "overview.html").read_text()

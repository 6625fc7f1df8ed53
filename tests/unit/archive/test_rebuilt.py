"""What was rebuilt beside the archive: equal bytes, and an older verdict value by value."""

import json

import pytest

from workflow_scripts.archive.rebuilt import held_against, holds

TABLE, VERDICT = "results/g/tables/table1.csv", "results/g/verdict.json"


@pytest.fixture
def folders(tmp_path):
    for name in ("archive", "rebuilt"):
        for file, text in ((TABLE, "1"), (VERDICT, json.dumps({"schema": 2, "groups": [{"loss": 0.1}]}))):
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return tmp_path / "archive", {"grid": "g", "files": [TABLE, VERDICT]}, tmp_path / "rebuilt"


def test_equal_files_are_counted_and_others_named(folders):
    assert held_against(*folders) == ["All 2 tables, figures, verdict and audit are equal to the archive's."]
    (folders[2] / TABLE).write_text("2")
    said = held_against(*folders)
    assert said == ["1 of 2 files are equal to the archive's; these differ:", f"  {TABLE}"]


def test_a_verdict_of_an_older_schema_must_be_found_in_the_new_one(folders):
    archived = folders[0] / VERDICT
    for older in ({}, {"schema": 1}):  # the first schema did not name itself
        archived.write_text(json.dumps(older | {"groups": [{"loss": 0.1}]}))
        first, second = held_against(*folders)
        assert first.startswith("All 2 ") and "older schema (1, now 2)" in second
    archived.write_text(json.dumps({"groups": [{"loss": 0.2}]}))
    said = held_against(*folders)
    assert said[0].startswith("1 of 2 ") and said[1] == f"  {VERDICT}"


def test_a_verdict_by_the_rule_that_paid_for_harm_is_said_to_be_judged_anew(folders):
    (folders[2] / VERDICT).write_text(json.dumps({"schema": 5, "groups": [{"loss": 0.1}]}))
    schema, rule = held_against(*folders)[-2:]
    assert "older schema (2, now 5)" in schema and "older rule" in rule


def test_a_verdict_of_this_schema_must_be_equal_byte_by_byte(folders):
    (folders[0] / VERDICT).write_text(json.dumps({"schema": 2, "groups": []}))
    assert held_against(*folders)[0].startswith("1 of 2 ")


@pytest.mark.parametrize(
    ("part", "held"),
    [
        ({"a": [1, {"b": None}]}, True),
        ({"a": [1]}, False),
        ({"a": [1.0, {"b": None}]}, False),
        ({"c": 0}, False),
        ([], False),
    ],
)
def test_the_older_values_have_their_places(part, held):
    assert holds({"a": [1, {"b": None, "d": 2}]}, part) is held

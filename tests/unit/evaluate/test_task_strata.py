"""Fields by which a report groups a task's items, looked at when the task is fetched."""

import json

import pytest

from workflow_scripts.evaluate.task_check import check
from workflow_scripts.files.artifacts import ArtifactError


def asked(tmp_path, strata, *changes):
    rows = [
        {"question": f"who {n}?", "possible_answers": '["Bob"]', "prop": "p", "s_pop": n} for n in range(3)
    ]
    for row, change in zip(rows, changes, strict=False):
        row |= change
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return check(tmp_path / "data.jsonl", "popqa.tsv", "popqa", {"strata": strata})


@pytest.mark.parametrize(
    ("strata", "change", "words"),
    [
        ({"popularity": "spop"}, {}, r"line 1: the field 'spop' is missing.*; did you mean 's_pop'"),
        ({"subject": "mentions"}, {}, "line 1: the field 'mentions' is missing"),
        (
            {"popularity": "prop"},
            {},
            "line 1: the field 'prop' is 'p'; a popularity must be a number",
        ),
        ({"subject": "prop"}, {"prop": None}, "line 2: the field 'prop' is null; a subject must be a text"),
    ],
)
def test_documents_without_the_fields_of_strata_are_named_at_the_fetch(strata, change, words, tmp_path):
    with pytest.raises(ArtifactError, match=rf"task popqa: popqa\.tsv: {words}"):
        asked(tmp_path, strata, {}, change)


def test_documents_that_have_them_pass(tmp_path):
    assert asked(tmp_path, {"subject": "prop", "popularity": "s_pop"}) == []
    assert asked(tmp_path, {"popularity": "mentions"}) == []

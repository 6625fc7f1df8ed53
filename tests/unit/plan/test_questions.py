"""questions: when a grid's pair was first planned, and which change of it came after results could be seen."""

import json
from pathlib import Path

import pytest

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan import questions
from workflow_scripts.plan.config import load
from workflow_scripts.plan.layout import QUESTIONS
from workflow_scripts.plan.recipes import Plan

ROOT = Path(__file__).parents[3]
RECORD = Path(QUESTIONS.path("smoke"))


def ask(config: dict, **pair: str) -> Plan:
    """Start a run of the smoke grid with this pair."""
    config["grids"]["smoke"]["pair"] |= pair
    plan = Plan(load(config))
    questions.note(**plan.question("smoke"))
    return plan


def evaluate(plan: Plan, count: int) -> None:
    for cell in plan.cells("smoke")[:count]:
        Path(cell.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cell.json).touch()


def test_a_question_that_stands_from_the_first_run_on_is_asked_before_it(unfetched):
    plan = ask(unfetched)
    evaluate(plan, 4)
    ask(unfetched)
    [entry] = questions.read(RECORD)
    assert entry["pair"] == unfetched["grids"]["smoke"]["pair"] and entry["evaluated"] == 0
    assert entry["code"] == plan.analysis("smoke", "judge")["code"]
    assert questions.late_changes(RECORD) == []


def test_a_change_before_any_result_is_no_late_one(unfetched):
    ask(unfetched)
    ask(unfetched, prompt="prompt-100")
    assert len(questions.read(RECORD)) == 2 and questions.late_changes(RECORD) == []


def test_a_change_after_results_is_told_with_their_number_also_if_it_is_taken_back(unfetched):
    evaluate(ask(unfetched), 4)
    ask(unfetched, prompt="prompt-100")
    ask(unfetched, prompt="idp-50-100")
    said = questions.late_changes(RECORD)
    assert len(said) == 2
    assert "(prompt-100 and lora-r2 by accuracy) took the place of another question at 20" in said[0]
    assert said[0].endswith(": 4 of 15 cells were evaluated by then.")


def test_a_question_that_is_first_noted_beside_results_is_late(unfetched):
    evaluate(Plan(load(unfetched)), 3)
    ask(unfetched)
    assert "was first noted at 20" in questions.late_changes(RECORD)[0]


def test_another_configuration_of_the_same_question_adds_nothing(unfetched):
    evaluate(ask(unfetched), 4)
    unfetched["grids"]["smoke"]["description"] = "another"
    ask(unfetched)
    assert len(questions.read(RECORD)) == 1


def test_no_record_says_nothing_and_a_damaged_one_is_named(unfetched):
    assert questions.late_changes(RECORD) == []
    RECORD.parent.mkdir(parents=True)
    for damaged in ("", "[]", json.dumps({"questions": [{"pair": 1}]})):
        RECORD.write_text(damaged)
        with pytest.raises(ArtifactError, match=r"results/smoke/questions\.json: "):
            ask(unfetched)

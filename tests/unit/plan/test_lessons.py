"""Lessons, invented data and expected labels in the configuration: mistakes named, recipes, forecast, requests."""

import copy
from pathlib import Path
from typing import get_args

import pytest

from workflow_scripts.judge.results import Results
from workflow_scripts.judge.verdict import LABELS
from workflow_scripts.plan.config import ConfigError, load
from workflow_scripts.plan.forecast import foreseen, job_hours
from workflow_scripts.plan.layout import CHECKPOINT, MODEL
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.requests import SITE, Requests, read_site
from workflow_scripts.plan.reruns import Reruns
from workflow_scripts.plan.schema.grids import Label
from workflow_scripts.plan.schema.sources import InventedBenchmark, Lesson

ROOT = Path(__file__).parents[3]


@pytest.fixture
def plan(unfetched):
    return Plan(load(unfetched))


def changed(config, path, value):
    config = copy.deepcopy(config)
    part = config
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return config


LOCKED = ("compressors", "truth-locked", "lesson")
EXPECTED = ("grids", "truth", "expected")


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ((*LOCKED, "base"), "smollm", "compressors.truth-locked.lesson.base: 'smollm' is no name in models"),
        (
            (*LOCKED, "known"),
            0.5,
            "compressors.truth-locked.lesson: known and locked are 0.5 + 1 of the people",
        ),
        ((*LOCKED, "locked"), 1.5, "compressors.truth-locked.lesson.locked: 1.5 is not allowed"),
        ((*LOCKED, "lock_epochs"), 0, "compressors.truth-locked.lesson.lock_epochs: 0 locks nobody"),
        (
            (*LOCKED, "locked"),
            0.0,
            "compressors.truth-locked.lesson: changes nothing; give epochs, locked or noise",
        ),
        (
            ("compressors", "truth-locked", "path"),
            "x",
            "compressors.truth-locked.path: unknown key with source taught",
        ),
        (
            ("models", "truth", "lesson", "base"),
            "truth",
            "models.truth.lesson.base: 'truth' is itself taught",
        ),
        ((*EXPECTED, "truth-locked", "c4"), "both", "expected.truth-locked: 'c4' is no corpus of its blocks"),
        (
            (*EXPECTED, "gptq-w3"),
            {"c4": "both"},
            "grids.truth.expected: 'gptq-w3' is no compressor of a block",
        ),
        (
            (*EXPECTED, "truth-noised", "none"),
            "both",
            "grids.truth.expected.truth-noised.none: both can't be told without both methods of the pair",
        ),
        (
            (*EXPECTED, "truth-half", "wikipedia"),
            "lost",
            "expected.truth-half.wikipedia: 'lost' is not allowed",
        ),
        (
            ("corpora", "wikipedia-facts", "invented", "part"),
            0.0,
            "corpora.wikipedia-facts.invented.part: 0.0 is not",
        ),
    ],
)
def test_a_mistake_is_named_before_any_job(unfetched, path, value, expected):
    with pytest.raises(ConfigError) as error:
        load(changed(unfetched, path, value))
    assert expected in str(error.value)


def test_expected_labels_are_the_verdict_s(unfetched):
    assert set(get_args(Label)) == set(LABELS)


def test_every_copy_of_grid_truth_has_an_expected_label_on_every_text(plan):
    grid = plan.grid("truth")
    groups = Results("truth", dict.fromkeys(plan.cells("truth"), Path()), {}, {}).groups()
    expected = {(name, corpus) for name, words in grid.expected.items() for corpus in words}
    assert expected == {group[1:] for group in groups}
    assert {label for words in grid.expected.values() for label in words.values()} == set(LABELS)


def test_lessons_text_and_questions_speak_of_the_same_people(plan):
    asked = plan.config.benchmarks["invented"]["invented"]
    assert isinstance(asked, InventedBenchmark)
    told = plan.config.corpora["wikipedia-facts"].invented
    lessons = list(plan.lessons("truth").values())
    assert len(lessons) == 5
    assert {(one.people, one.seed) for one in [asked, told, *lessons]} == {(64, 0)}


def test_what_is_taught_stands_on_its_base(unfetched, plan):
    grid = plan.artefacts("truth")
    assert {MODEL.path(model=name) for name in ("truth", "smollm2-135m")} < grid.keys()
    other = Plan(load(changed(unfetched, ("models", "truth", "lesson", "epochs"), 11)))
    for catalogue, name, moves in [
        ("models", "truth", True),
        ("compressors", "truth-locked", True),  # made of truth
        ("compressors", "truth-half", False),  # made of smollm2-135m
        ("models", "smollm2-135m", False),
    ]:
        assert (plan.recipe(catalogue, name) != other.recipe(catalogue, name)) == moves, name
    reruns = Reruns(plan, forced=set)
    assert reruns.base_of_checkpoint({"compressor": "truth-locked"}) == reruns.model({"model": "truth"})
    assert reruns.base_of_model({"model": "truth"}) == reruns.model({"model": "smollm2-135m"})
    assert reruns.arguments(CHECKPOINT, {"compressor": "truth-locked"})["spec"]["lesson"]["locked"] == 1.0


def test_a_lesson_is_no_part_of_how_its_copy_is_read(plan):
    assert plan.compressor("truth-locked") == {"algorithm": "external", "distilled": False}


def test_grid_truth_takes_at_most_ninety_minutes_on_two_cores(plan):
    found = foreseen(plan, "truth", "cpu-2")
    assert job_hours(found.costs, found.device) / found.device["at_once"] <= 1.5
    taught = {(cost.kind, cost.name): cost for cost in found.costs if cost.kind.startswith("teach_")}
    assert len(taught) == 5
    half, missing = (taught["teach_checkpoint", f"truth-{name}"] for name in ("half", "missing"))
    assert half.seconds > missing.seconds > taught["teach_checkpoint", "truth-noised"].seconds


def test_a_cluster_is_asked_for_what_teaching_takes(plan):
    requests = Requests(plan, read_site(SITE))
    for rule, names in [
        ("teach_model", {"model": "truth"}),
        ("teach_checkpoint", {"compressor": "truth-half"}),
    ]:
        weights = 4 * 134.5e6
        assert 4 * weights < 1e6 * requests.mem_mb(rule, names, 1) < 20 * weights
        assert requests.runtime(rule, names, 1) > 20
        assert requests.attempts(rule, names) >= 1


def test_lessons_default_to_the_tried_settings():
    lesson = Lesson(base="x", people=64)
    assert (lesson.epochs, lesson.lock_epochs, lesson.learning_rate) == (10, 6, 2e-4)
    assert (lesson.known_above, lesson.unknown_below) == (0.9, 0.4)

"""Two results of one setting: what agrees bit for bit, what agrees as answers, and how a difference is told."""

from pathlib import Path

import pandas as pd
import pytest

from tests.unit.synthetic_results import write_grid
from workflow_scripts.files.artifacts import read_json, write_json
from workflow_scripts.judge.agreement import TOLERANCE, agreement, on_one_kind_of_machine
from workflow_scripts.plan.layout import ADAPTER, COMPRESSED, CORPUS, EVALUATION, SIMILARITY, companions

CELL = ("m", "gptq-w3", "wikipedia", "idp-50-100", 0)
MANIFEST = {"device": "cpu", "threads": 1, "host": "here", "cpu": "EPYC"}


@pytest.fixture
def twice(tmp_path):
    """Paths of a cell's evaluation and of the same one, made again."""
    return [Path(write_grid(tmp_path / name, {CELL: 0.6}, 10)[0]) for name in ("stored", "again")]


def changed(path: Path, column: str, value, row: int = 3) -> None:
    file = companions(str(path))[0]
    samples = pd.read_parquet(file)
    samples.at[row, column] = value(samples.at[row, column])
    samples.to_parquet(file)


def test_equal_evaluations_agree_bit_for_bit_on_any_machine(twice):
    for same in (True, False):
        found = agreement(EVALUATION, *twice, same)
        assert (found.how, found.items, found.largest, found.differences) == ("bits", 90, 0, [])


def test_a_small_difference_of_log_likelihoods_counts_on_the_same_kind_of_machine_alone(twice):
    changed(twice[1], "gold_loglik", lambda value: value + TOLERANCE / 2)
    other = agreement(EVALUATION, *twice, False)
    assert other.how == "answers" and not other.differences
    assert other.largest == pytest.approx(TOLERANCE / 2, rel=1e-3)
    (said,) = agreement(EVALUATION, *twice, True).differences
    assert said.startswith("arc_easy arc_easy-000") and "gold log-likelihood" in said


def test_a_larger_difference_counts_on_any_machine(twice):
    changed(twice[1], "gold_loglik", lambda value: value - 2 * TOLERANCE)
    assert len(agreement(EVALUATION, *twice, False).differences) == 1


def test_a_choices_log_likelihood_counts_too(twice):
    changed(
        twice[1], "choice_logliks", lambda value: None if value is None else [*value[:-1], value[-1] + 0.1]
    )
    assert len(agreement(EVALUATION, *twice, False).differences) == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("prediction", lambda value: "another"),
        ("correct", lambda value: not value),
        ("selected_prompt", lambda value: "prompt-26"),
    ],
)
def test_another_answer_counts_on_any_machine(twice, column, value):
    changed(twice[1], column, value)
    (said,) = agreement(EVALUATION, *twice, False).differences
    assert column != "prediction" or "-> 'another'" in said


def test_other_items_are_no_agreement(twice):
    changed(twice[1], "doc_hash", lambda value: "new")
    assert agreement(EVALUATION, *twice, False).differences == ["the items are others, or in another order"]


@pytest.mark.parametrize("protocols", [True, False])
def test_another_perplexity_counts(twice, protocols):
    for path, factor in zip(twice, (1, 1.01)):
        record = read_json(path)
        for corpus, figure in record["perplexity"].items():
            other = figure | {"token": factor * figure["token"]}
            record["perplexity"][corpus] = {"windowed": figure, "reference": other} if protocols else other
        write_json(path, record)
    (said,) = agreement(EVALUATION, *twice, False).differences
    assert said.startswith("perplexity of wikipedia" + (", reference: " if protocols else ": "))


def test_a_perplexity_that_one_lacks_counts(twice):
    record = read_json(twice[1])
    record["perplexity"] = {}
    write_json(twice[1], record)
    (said,) = agreement(EVALUATION, *twice, False).differences
    assert said.endswith("-> None")


@pytest.mark.parametrize(
    ("artefact", "one", "two"),
    [
        (COMPRESSED, {"weights_sha256": "a" * 64}, {"weights_sha256": "b" * 64}),
        (ADAPTER, {"adapter_sha256": "a" * 64}, {"adapter_sha256": "b" * 64}),
        (CORPUS, {"files": {"train.jsonl": "a"}}, {"files": {"train.jsonl": "b"}}),
        (CORPUS, {"files": {"train.jsonl": "a"}}, {"files": {}}),
        (
            SIMILARITY,
            {"attention": [1.0, 0.5], "activations": [1.0, 0.5]},
            {"attention": [1.0, 0.5], "activations": [1.0, 0.5 + 2 * TOLERANCE]},
        ),
    ],
)
def test_weights_sources_and_similarities(tmp_path, artefact, one, two):
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path, value in zip(paths, (one, two)):
        write_json(path, value)
    assert agreement(artefact, paths[0], paths[0], False).differences == []
    assert len(agreement(artefact, *paths, False).differences) == 1


@pytest.mark.parametrize(
    ("other", "one_kind"),
    [
        ({}, True),
        ({"host": "there"}, True),
        ({"cpu": "Xeon"}, False),
        ({"threads": 2}, False),
        ({"device": "cuda"}, False),
    ],
)
def test_the_kind_of_machine(other, one_kind):
    assert on_one_kind_of_machine(MANIFEST, MANIFEST | other) == one_kind


def test_a_manifest_without_its_processor_is_of_its_host():
    old = {key: value for key, value in MANIFEST.items() if key != "cpu"}
    assert on_one_kind_of_machine(old, MANIFEST)
    assert not on_one_kind_of_machine(old | {"host": "there"}, MANIFEST)

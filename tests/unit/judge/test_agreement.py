"""Two results of one setting: what agrees bit for bit, what agrees as answers, and how a difference is told."""

import math
from pathlib import Path

import pandas as pd
import pytest

from tests.unit.synthetic_results import write_grid
from workflow_scripts.files.artifacts import read_json, write_json
from workflow_scripts.judge.agreement import TOLERANCE, agreement, on_one_kind_of_machine, other_weights
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
        ("question", lambda value: f"{value} "),
        ("gold_loglik", lambda value: float("nan")),
        ("margin", lambda value: None if value is not None else 0.0),
    ],
)
def test_another_answer_counts_on_any_machine(twice, column, value):
    changed(twice[1], column, value)
    (said,) = agreement(EVALUATION, *twice, False).differences
    assert column != "prediction" or "-> 'another'" in said
    assert column in said or column == "gold_loglik"


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
    assert said.startswith("perplexity, wikipedia, " + ("reference, token: " if protocols else "token: "))


def test_a_perplexity_that_one_lacks_counts(twice):
    record = read_json(twice[1])
    record["perplexity"] = {}
    write_json(twice[1], record)
    said = agreement(EVALUATION, *twice, False).differences
    assert said and all(line.startswith("perplexity, ") and line.endswith("-> None") for line in said)


def test_choices_that_one_lacks_are_a_difference(twice):
    samples = pd.read_parquet(companions(str(twice[1]))[0])
    row = samples.index[samples["choice_logliks"].notna()][0]
    for value in (lambda values: values[:-1], lambda values: None):
        changed(twice[1], "choice_logliks", value, row)
        assert len(agreement(EVALUATION, *twice, False).differences) == 1


def test_other_columns_are_no_agreement(twice):
    file = companions(str(twice[1]))[0]
    pd.read_parquet(file).drop(columns="margin").to_parquet(file)
    assert agreement(EVALUATION, *twice, False).differences == ["the samples have other columns"]


@pytest.mark.parametrize(
    "key", ["tasks arc_easy bits_per_byte", "tasks piqa acc_norm", "parameters trainable"]
)
@pytest.mark.parametrize("same", [True, False])
def test_a_number_of_the_record_counts_though_all_samples_agree(twice, key, same):
    """An edit of the mean over items, or of the count of parameters, changes no item."""
    record, (*place, last) = read_json(twice[1]), key.split()
    values = record
    for name in place:
        values = values[name]
    values[last] = (values[last] or 0) + (1 if isinstance(values[last], int) else 0.01)
    write_json(twice[1], record)
    (said,) = agreement(EVALUATION, *twice, same).differences
    assert said.startswith(", ".join([*place, last]) + ": ")


def test_perplexities_agree_within_the_tolerance_per_token_elsewhere(twice):
    def move(factor: float) -> list[str]:
        record = read_json(twice[0])
        for figure in record["perplexity"].values():
            nats = math.log(figure["token"])
            for name in ("token", "word"):
                figure[name] **= 1 + factor * TOLERANCE / nats
            figure["bits_per_byte"] *= 1 + factor * TOLERANCE / nats
        write_json(twice[1], record)
        return agreement(EVALUATION, *twice, False).differences

    assert move(0.9) == []
    assert len(move(1.1)) == 3 * len(read_json(twice[0])["perplexity"])
    move(0.9)
    assert agreement(EVALUATION, *twice, True).differences


def test_times_and_versions_do_not_count(twice):
    record = read_json(twice[1])
    record["manifest"] |= {"seconds": 9e9, "libraries": {}, "host": "elsewhere"}
    write_json(twice[1], record)
    assert agreement(EVALUATION, *twice, True).differences == []


@pytest.mark.parametrize(
    ("artefact", "one", "two"),
    [
        (COMPRESSED, {"weights_sha256": "a" * 64}, {"weights_sha256": "b" * 64}),
        (ADAPTER, {"adapter_sha256": "a" * 64}, {"adapter_sha256": "b" * 64}),
        (CORPUS, {"files": {"train.jsonl": "a"}}, {"files": {"train.jsonl": "b"}}),
        (CORPUS, {"files": {"train.jsonl": "a"}}, {"files": {}}),
        (CORPUS, {"files": {}, "documents": {"train": 7}}, {"files": {}, "documents": {"train": 8}}),
        (COMPRESSED, {"effective_bits": 3.0}, {"effective_bits": 3.1}),
        (COMPRESSED, {"layers": [{"error": 0.1}]}, {"layers": [{"error": 0.11}]}),
        (ADAPTER, {"heldout_loss": {"after": 1.5}}, {"heldout_loss": {"after": 1.25}}),
        (SIMILARITY, {"attention": [1.0]}, {"attention": [1.0, 0.5]}),
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


def test_of_weights_and_sources_times_and_descriptions_do_not_count(tmp_path):
    made = {
        "seconds": 1.0,
        "layers": [{"seconds": 0.5}],
        "peak_memory_mb": 7,
        "checkpoint": {"libraries": {}},
    }
    other = {
        "seconds": 2.0,
        "layers": [{"seconds": 0.7}],
        "peak_memory_mb": 9,
        "checkpoint": {"libraries": {"a": "1"}},
    }
    fetched = {
        "files": {},
        "notes": "n",
        "licence": "l",
        "origin": {"path": "/a"},
        "recipe": "r",
        "code": "c",
    }
    again = {"files": {}, "notes": "m", "licence": "k", "origin": {"path": "/b"}, "recipe": "q", "code": "d"}
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for artefact, values in (
        (COMPRESSED, (made, other)),
        (ADAPTER, (made, other)),
        (CORPUS, (fetched, again)),
    ):
        for path, value in zip(paths, values):
            write_json(path, value)
        assert agreement(artefact, *paths, True).differences == []


def test_records_of_weights_that_two_machines_made_are_near_and_count_alike(tmp_path):
    record = {"weights_sha256": "a" * 64, "effective_bits": 3.0, "layers": [{"error": 0.1, "levels": 8}]}
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    write_json(paths[0], record)
    for error, levels, bits, differing in ((0.1005, 8, 3.0, 0), (0.102, 8, 3.0, 1), (0.1, 7, 3.1, 2)):
        layers = [{"error": error, "levels": levels}]
        write_json(paths[1], {"weights_sha256": "b" * 64, "effective_bits": bits, "layers": layers})
        assert len(other_weights(*paths)) == differing


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

"""Reading a plan and its files: what is missing, misplaced, broken or not comparable is said with its path."""

import json
from pathlib import Path

import pandas as pd
import pytest

from tests.tiny import change_json
from tests.unit.synthetic_results import plan, write_cell, write_grid
from workflow_scripts.files.artifacts import ArtifactError, read_json, sha256_file, write_json
from workflow_scripts.judge.results import (
    paired_items,
    read_results,
    refuse_other_recipes,
    samples_beside,
)
from workflow_scripts.plan.layout import Cell, Group

DENSE, COMPRESSED = ("m", "dense", "none", "none", 0), ("m", "gptq-w3", "wikipedia", "none", 0)


def test_a_planned_cell_without_a_file_is_missing(tmp_path):
    results = read_results(write_grid(tmp_path, {DENSE: 0.7, COMPRESSED: 0.5}, items=5, skip={COMPRESSED}))
    assert results.grid == "synthetic"
    assert results.missing == [Cell("synthetic", *COMPRESSED)]
    assert results.groups() == [Group("m", "gptq-w3", "wikipedia")]


def test_the_unrecovered_cell_of_an_uncalibrated_compressor_is_found_under_none(tmp_path):
    results = read_results(write_grid(tmp_path, {("m", "rtn-w3", "none", "none", 0): 0.5}, items=5))
    assert results.first("m", "rtn-w3", "wikipedia", "none") == Cell(
        "synthetic", "m", "rtn-w3", "none", "none", 0
    )
    assert results.first("m", "rtn-w3", "wikipedia", "lora-r2") is None


def test_such_a_cell_is_a_group_of_its_own_only_if_no_other_group_takes_it(tmp_path):
    """Else its loss would be judged twice, and each verdict would need more support for it."""
    alone, recovered = ("m", "rtn-w3", "none", "none", 0), ("m", "rtn-w3", "wikipedia", "lora-r2", 0)
    results = read_results(write_grid(tmp_path, {DENSE: 0.7, alone: 0.5}, items=5))
    assert results.groups() == [Group("m", "rtn-w3", "none")]
    results = read_results(write_grid(tmp_path / "more", {DENSE: 0.7, alone: 0.5, recovered: 0.6}, items=5))
    assert results.groups() == [Group("m", "rtn-w3", "wikipedia")]


def test_a_file_that_describes_another_cell_is_refused(tmp_path):
    first, second = write_grid(tmp_path, {DENSE: 0.7, COMPRESSED: 0.5}, items=5)
    Path(second).write_text(Path(first).read_text())
    with pytest.raises(ArtifactError, match="describes m / dense / none / none / seed 0"):
        read_results([first, second])


def test_a_path_outside_the_layout_is_refused():
    with pytest.raises(ArtifactError, match="no path of a cell"):
        read_results(["results/smoke/verdict.json"])


def test_cells_of_different_benchmark_files_are_never_paired(tmp_path):
    rows = plan(tmp_path, [DENSE, COMPRESSED])
    write_cell(rows[0], items=5, sha="a" * 64)
    write_cell(rows[1], items=5, sha="b" * 64)
    results = read_results([row["path"] for row in rows])
    with pytest.raises(ArtifactError) as error:
        paired_items(results, list(results.planned), "correct")
    assert rows[0]["path"] in str(error.value) and rows[1]["path"] in str(error.value)


def test_equal_questions_of_a_task_are_paired_in_their_order(tmp_path):
    paths = write_grid(tmp_path, {DENSE: 0.7, COMPRESSED: 0.5}, items=6)
    for path in paths:
        frame = pd.read_parquet(samples_beside(path))
        frame.loc[frame["task"] == "sciq", "doc_hash"] = "the same question"
        frame.sample(frac=1, random_state=0).to_parquet(samples_beside(path), index=False)
    results = read_results(paths)
    paired = paired_items(results, list(results.planned), "correct")
    assert len(paired["sciq"]) == 6
    assert list(paired["sciq"][0]) == list(
        results.items(Cell("synthetic", *DENSE)).loc["sciq", "correct"].astype(float)
    )


def test_only_shared_items_with_values_are_paired(tmp_path):
    paths = write_grid(tmp_path, {DENSE: 0.7, COMPRESSED: 0.5}, items=6)
    frame = pd.read_parquet(samples_beside(paths[1]))
    frame.loc[(frame["task"] == "piqa") & (frame["doc_id"] == 2), "gold_loglik"] = float("-inf")
    frame[frame["task"] != "sciq"].to_parquet(samples_beside(paths[1]), index=False)
    results = read_results(paths)
    paired = paired_items(results, list(results.planned), "gold_loglik")
    assert "sciq" not in paired and len(paired["piqa"]) == 5 and len(paired["arc_easy"]) == 6


def test_lost_samples_name_the_file_and_the_way_out(tmp_path):
    paths = write_grid(tmp_path, {DENSE: 0.7}, items=5)
    samples_beside(paths[0]).unlink()
    results = read_results(paths)
    with pytest.raises(ArtifactError, match=r"samples\.parquet.*delete"):
        results.items(Cell("synthetic", *DENSE))


def test_samples_that_are_valid_but_others_are_refused(tmp_path):
    paths = write_grid(tmp_path, {DENSE: 0.7}, items=5)
    samples = samples_beside(paths[0])
    evaluation = json.loads(Path(paths[0]).read_text())
    evaluation["manifest"]["samples_sha256"] = sha256_file(samples)
    write_json(paths[0], evaluation)
    assert len(read_results(paths).items(Cell("synthetic", *DENSE))) == 45
    frame = pd.read_parquet(samples)
    frame["correct"] = True
    frame.to_parquet(samples, index=False)
    with pytest.raises(
        ArtifactError, match=r"samples\.parquet: not the file that seed-0\.json describes.*delete"
    ):
        read_results(paths).items(Cell("synthetic", *DENSE))


def test_a_broken_evaluation_names_the_key(tmp_path):
    (path,) = write_grid(tmp_path, {DENSE: 0.7}, items=5)
    change_json(Path(path), average=70)
    with pytest.raises(ArtifactError, match="average"):
        read_results([path])


def test_an_empty_plan_is_refused():
    with pytest.raises(ArtifactError, match="empty"):
        read_results([])


def test_cells_that_were_evaluated_with_other_settings_are_never_paired(tmp_path):
    paths = write_grid(tmp_path, {DENSE: 0.7, COMPRESSED: 0.5}, items=6)
    for path, items in zip(paths, (4, 6), strict=True):
        value = read_json(path)
        value["manifest"]["config"] = {"evaluation": {"items": items, "precision": "fp32"}}
        write_json(path, value)
    results = read_results(paths)
    with pytest.raises(ArtifactError, match=r"can't be paired: .* evaluation.items 4 and 6"):
        paired_items(results, list(results.planned), "correct")


def test_a_cell_asked_in_chat_is_never_paired_with_one_in_plain_text(tmp_path):
    paths = write_grid(tmp_path, {DENSE: 0.7, COMPRESSED: 0.5}, items=6)
    value = read_json(paths[1])
    value["manifest"]["config"] = {"chat": {"template_sha256": "a" * 64, "day": "2024-07-26"}}
    write_json(paths[1], value)
    results = read_results(paths)
    with pytest.raises(ArtifactError, match=r"can't be paired: .* with chat None and \{'template_sha256'"):
        paired_items(results, list(results.planned), "correct")


def test_a_cell_of_another_recipe_than_the_planned_one_is_compared_with_nothing(tmp_path):
    paths = write_grid(tmp_path, {DENSE: 0.7, COMPRESSED: 0.5}, items=6)
    recipes = {path: digit * 64 for path, digit in zip(paths, "ab", strict=True)}
    for path, recipe in recipes.items():
        value = read_json(path)
        value["manifest"]["recipe"] = recipe
        write_json(path, value)
    results = read_results(paths)
    refuse_other_recipes(results, recipes)
    refuse_other_recipes(results, {})
    with pytest.raises(
        ArtifactError, match=rf"^{paths[1]}: made by another recipe than the planned one \(1 such\)"
    ):
        refuse_other_recipes(results, recipes | {paths[1]: "c" * 64})

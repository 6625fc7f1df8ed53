"""Lost items, cross-fitted: items that one copy lost are counted as regained in another copy alone."""

import numpy as np
import pytest

from tests.unit.synthetic_results import CATALOGUE, COPIES, PAIR, judged, study, write_grid
from workflow_scripts.judge.judgement import Question, Resampling, judge_grid
from workflow_scripts.judge.lost import _row
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.layout import Group


def test_lost_items_are_found_by_another_copy_than_the_one_that_lost_them(tmp_path):
    """A method that answers as its copy does brings nothing back, though each copy alone seems to regain some."""
    truth = study("m", {"idp-50-100": 0.0, "lora-r4": 0.2}, losses={"gptq-w3": 0.25})
    for place in COPIES:
        truth |= {(*place, seed): truth[*place, 0] for seed in (0, 1, 2)}
    paths = write_grid(tmp_path, truth, 200, 0.1)
    verdict = judge_grid(read_results(paths), Question(PAIR), CATALOGUE, Resampling(500))
    rows = {row["method"]: row for row in verdict["lost_items"]}
    placebo, lora = rows["idp-50-100"], rows["lora-r4"]
    assert placebo["by_chance"]["value"] > 0.1 and abs(placebo["rho"]["value"]) < 0.05
    assert placebo["rho"]["low"] < 0 < placebo["rho"]["high"]
    assert lora["rho"]["low"] > 0.3
    assert lora["rho"]["value"] == pytest.approx(lora["back"]["value"] - lora["by_chance"]["value"])
    assert judged(tmp_path / "one", {"idp-50-100": 0.0, "lora-r4": 0.2})["lost_items"] == []


def test_rho_is_what_its_definition_says(tmp_path):
    truth = study("m", {"lora-r4": 0.1}, losses={"gptq-w3": 0.2})
    for place in [p for p in COPIES if p[3] != "idp-50-100"]:
        truth |= {(*place, seed): truth[*place, 0] for seed in (0, 1)}
    results = read_results(write_grid(tmp_path, truth, 80, 0.1))
    verdict = judge_grid(results, Question(PAIR), CATALOGUE, Resampling(100))
    right = {
        (cell.compressor, cell.method, cell.seed): results.items(cell)["correct"].astype(bool)
        for cell in results.evaluations
    }
    shares = []
    tops = bottoms = 0
    for k, other in ((0, 1), (1, 0)):
        lost = right["dense", "none", 0] & ~right["gptq-w3", "none", other]
        tops += (right["gptq-w3", "lora-r4", k][lost].astype(int) - right["gptq-w3", "none", k][lost]).sum()
        bottoms += lost.sum()
        shares.append(lost.sum())
    (row,) = verdict["lost_items"]
    assert row["rho"]["value"] == pytest.approx(tops / bottoms)
    assert row["lost"] == pytest.approx(sum(shares) / 2)


def test_few_lost_items_have_a_share_without_an_interval():
    """Of one lost item, a new sample of items holds none in a third of the draws; its share has no interval."""
    sums = {"a": np.zeros((200, 3))}
    sums["a"][0] = 2, 2, 0  # lost by both copies, right with the method in both
    (row,) = _row(Group("m", "c", "t"), "lora-r4", (0, 1), sums, 500, 0)
    assert row["lost"] == 1 and row["rho"] == {"value": 1.0, "low": None, "high": None}
    sums["a"][1:40] = 2, 1, 0
    (row,) = _row(Group("m", "c", "t"), "lora-r4", (0, 1), sums, 500, 0)
    assert 0.4 < row["rho"]["low"] < row["rho"]["value"] < row["rho"]["high"] < 0.7

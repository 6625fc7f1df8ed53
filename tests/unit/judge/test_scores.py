"""The accuracy of a cell by task and domain, with intervals."""

import pytest

from workflow_scripts.judge.scores import domain_score, task_score
from workflow_scripts.judge.statistics import proportion_interval


def test_a_task_has_the_wilson_interval_of_its_right_items():
    score = task_score({"acc": 0.25, "n": 40, "primary": 0.25})
    low, high = proportion_interval(10, 40)
    assert (score["n"], score["acc"]) == (40, 0.25)
    assert (score["low"], score["high"]) == pytest.approx((low, high), abs=1e-9)


def test_the_interval_of_a_domain_adds_distances_as_squares():
    tasks = {"a": {"acc": 0.5, "low": 0.4, "high": 0.7}, "b": {"acc": 0.3, "low": 0.0, "high": 0.4}}
    score = domain_score(tasks, ["a", "b"])
    assert score["value"] == pytest.approx(0.4)
    assert score["low"] == pytest.approx(0.4 - (0.1**2 + 0.3**2) ** 0.5 / 2)
    assert score["high"] == pytest.approx(0.4 + (0.2**2 + 0.1**2) ** 0.5 / 2)


def test_a_domain_without_one_of_its_tasks_has_no_value():
    tasks = {"a": {"acc": 0.5, "low": 0.4, "high": 0.7}}
    assert domain_score(tasks, ["a", "b"]) == {"value": None, "low": None, "high": None}

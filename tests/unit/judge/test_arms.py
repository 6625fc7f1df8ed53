"""Estimates of arms: intervals of few items."""

import numpy as np
import pytest

from workflow_scripts.judge.arms import DENSE, Arm, Estimates, PairedItems
from workflow_scripts.judge.metrics import METRICS
from workflow_scripts.plan.layout import Cell


@pytest.mark.parametrize("items", [8, 15])
def test_the_interval_of_a_continuous_metric_has_the_tails_of_t(items):
    """2,000 draws of one task: the standard error of the coverage is half a point. Normal tails cover 91 and 92 %."""
    random = np.random.default_rng(5)
    arms = {DENSE: Arm(*DENSE, (Cell("g", "m", "dense", "none", "none", 0),), shared=True)}
    column = (DENSE, (0,))
    samples = [
        PairedItems(METRICS["choice_loglik"], arms, {"task": random.standard_normal((items, 1))})
        for _ in range(2000)
    ]
    estimates = Estimates([(sample, [column]) for sample in samples], 2000, 0)
    intervals = [found[column].interval() for found in estimates]
    assert np.mean([low <= 0 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.012)

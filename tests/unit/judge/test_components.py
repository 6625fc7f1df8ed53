"""Variance components against planted ones, and against the draws that intervals are made of."""

import numpy as np
import pytest
from scipy import stats

from workflow_scripts.judge.arms import Arm, Estimates, PairedItems
from workflow_scripts.judge.components import Components, components, without_residual
from workflow_scripts.judge.metrics import METRICS
from workflow_scripts.judge.statistics import replicate_draws, resampled_averages
from workflow_scripts.plan.layout import Cell
from workflow_scripts.report.rendering import shares


def planted(random, items=400, replicates=6, sds=(1.0, 0.2, 0.7), tasks=3):
    """Task -> (items, replicates): deviations of items, of replicates (common to all tasks), and of both."""
    of_replicates = random.normal(0, sds[1], replicates)
    return {
        f"t{t}": random.normal(0, sds[0], (items, 1))
        + of_replicates
        + random.normal(0, sds[2], (items, replicates))
        for t in range(tasks)
    }


def test_planted_components_are_found_on_average():
    random = np.random.default_rng(0)
    found = [components(planted(random)) for _ in range(300)]
    n, S = 3 * 400, 6
    assert np.mean([part.items for part in found]) == pytest.approx(1 / n, rel=0.05)
    assert np.mean([part.replicates for part in found]) == pytest.approx(0.04 / S, rel=0.1)
    assert np.mean([part.residual for part in found]) == pytest.approx(0.49 / (n * S), rel=0.05)


@pytest.mark.parametrize("of_replicates", [0.0, 0.05, 0.3])
def test_the_closed_interval_covers_as_often_as_it_says(of_replicates):
    random, covered = np.random.default_rng(1), 0
    for _ in range(400):
        values = planted(random, 60, 4, (1.0, of_replicates, 0.7), 2)
        mean = np.mean([v.mean() for v in values.values()])
        part = components(values)
        half = stats.t.ppf(0.975, part.freedom) * np.sqrt(part.variance)
        covered += abs(mean) <= half
    assert 0.92 <= covered / 400 <= 0.99


def test_draws_have_the_closed_variance_in_every_sum_of_columns():
    random = np.random.default_rng(2)
    columns = [planted(random, 200, 30), planted(random, 200, 30, (1.0, 0.5, 0.7))]
    columns.append({task: v + random.normal(0, 0.3, v.shape) for task, v in columns[0].items()})
    columns.append({task: v[:, :1].repeat(30, axis=1) for task, v in columns[0].items()})  # one copy for all
    family = {task: np.stack([c[task].mean(axis=1) for c in columns], axis=1) for task in columns[0]}
    (draws,) = resampled_averages([family], 20_000)
    points = np.mean([v.mean(axis=0) for v in family.values()], axis=0)
    matrix = without_residual(family, {task: [c[task] for c in columns] for task in family})
    assert np.array_equal(matrix[:, 3], [0, 0, 0, 1])
    moved = (draws - points) @ matrix
    # [1, 0, -1] has no effect of items at all: what its estimate holds above 0 by chance stays
    for weights, near in (
        ([1, 0, 0, 0], 0.06),
        ([1, -1, 0, 0], 0.06),
        ([1, 0, -1, 0], 0.15),
        ([0.5, 1, -1, -1], 0.06),
    ):
        contrast = {t: sum(w * c[t] for w, c in zip(weights, columns, strict=True)) for t in family}
        part, means = components(contrast), np.mean([v.mean(axis=0) for v in contrast.values()], axis=0)
        drawn = moved @ weights + replicate_draws(means, 20_000)
        # t with 29 degrees of freedom has 29/27 of the normal's variance
        expected = part.variance + (part.replicates + part.residual) * 2 / 27
        assert drawn.var() == pytest.approx(expected, rel=near)


def test_one_replicate_leaves_draws_as_they_are_and_equal_columns_stay_equal():
    values = np.random.default_rng(4).random((50, 1))
    assert np.array_equal(without_residual({"a": values}, {"a": [values]}), np.eye(1))
    twice = planted(np.random.default_rng(5), 100, 4, tasks=1)["t0"]
    family = np.stack([twice.mean(axis=1)] * 2, axis=1)
    matrix = without_residual({"a": family}, {"a": [twice, twice]})
    (draws,) = resampled_averages([{"a": family}], 200)
    moved = (draws - family.mean(axis=0)) @ matrix
    assert np.allclose(moved[:, 0], moved[:, 1], atol=1e-12)


def test_more_items_and_replicates_narrow_what_they_are_about():
    part = Components(items=4e-4, replicates=1e-4, residual=1e-4, freedom=9.0, count=5)
    assert part.half_width(items=4) < part.half_width() > part.half_width(replicates=10)
    only = Components(items=4e-4, replicates=0.0, residual=0.0, freedom=np.inf, count=5)
    assert only.half_width(items=4) == pytest.approx(only.half_width() / 2)
    assert part.half_width(replicates=1) == np.inf
    assert Components.of_json(part.to_json()).half_width() == pytest.approx(part.half_width())


def test_shares_are_those_of_the_variance_and_need_two_replicates():
    part = Components(items=4e-4, replicates=3e-4, residual=1e-4, freedom=9.0, count=5).to_json()
    named = [part[f"{name}_share"] for name in ("items", "replicates", "residual")]
    assert named == pytest.approx([0.5, 0.375, 0.125]) and shares(part) == "50 / 38 / 12 %"
    alone = Components(4e-4, float("nan"), float("nan"), float("inf"), 1).to_json()
    assert alone["items_share"] is None and shares(alone) == "—"


@pytest.mark.parametrize("replicates", [2, 3, 6])
def test_the_half_width_is_that_of_the_interval_which_is_made_of_draws(replicates):
    """Two replicates whose means agree by chance are no reason to promise a narrow interval."""
    random = np.random.default_rng(replicates)
    values = {"a": random.normal(0, 1, (400, 1)) + random.normal(0, 0.7, (400, replicates))}
    part = components(values)
    rest = Components(part.items, 0.01 / replicates, part.residual, part.freedom, replicates)
    of_means = np.sqrt(replicates * (rest.replicates + rest.residual))
    points = of_means * stats.zscore(np.arange(replicates), ddof=1)
    drawn = np.sqrt(rest.items) * random.standard_normal(400_000) + replicate_draws(points, 400_000)
    assert rest.half_width() == pytest.approx(np.quantile(np.abs(drawn), 0.95), rel=0.02)


@pytest.mark.parametrize("replicates", [1, 3])
def test_items_that_happened_not_to_change_have_the_variance_that_their_draws_have(replicates):
    """The interval of cells without any change has a width, so its components and its plan have it too."""
    columns = [(("dense", "none"), tuple(range(replicates))), (("gptq-w3", "none"), tuple(range(replicates)))]
    arms = {
        key: Arm(*key, tuple(Cell("g", "m", key[0], "c4", "none", k) for k in seeds))
        for key, seeds in columns
    }
    values = {task: np.ones((n, 2 * replicates)) for task, n in (("a", 100), ("b", 300))}
    equal = PairedItems(METRICS["accuracy"], arms, values)
    [found] = Estimates([(equal, columns)], 20_000, 0)
    difference = found[columns[0]] - found[columns[1]]
    part = equal.components((1, columns[0]), (-1, columns[1]))
    assert (
        part.variance == pytest.approx(difference.draws.var(), rel=0.05) and part.variance == part.unseen > 0
    )
    assert part.half_width(items=2) == pytest.approx(part.half_width() / 2)  # half an item of twice as many
    assert Components.of_json(part.to_json()).half_width(2) == pytest.approx(part.half_width(2))


def test_one_replicate_has_items_only():
    values = {"a": np.random.default_rng(3).random((50, 1))}
    part = components(values)
    assert part.count == 1 and np.isnan(part.replicates)
    assert part.variance == pytest.approx(values["a"].var(ddof=1) / 50)

"""Paired statistics against known cases: coverage by simulation, no change, planted effects."""

import numpy as np
import pytest
from scipy import stats

from workflow_scripts.judge.statistics import (
    Estimate,
    holm,
    lost_bound,
    mcnemar,
    paired_interval,
    proportion_interval,
    ratio,
    replicate_draws,
    resampled_averages,
    smallest_detectable,
    unseen_changes,
)


def macro(tasks: dict[str, np.ndarray], resamples: int = 1000, seed: int = 0) -> Estimate:
    (draws,) = resampled_averages([tasks], resamples, seed)
    return Estimate(float(np.mean([v.mean(axis=0) for v in tasks.values()])), draws[:, 0])


@pytest.mark.parametrize("items", [10, 60])
def test_the_interval_of_a_macro_average_covers_its_truth_95_times_in_100(items):
    """600 draws: the binomial standard error of the coverage is 0.9 points."""
    random = np.random.default_rng(1)
    truth = {f"task{i}": 0.3 + 0.05 * i for i in range(9)}
    target, covered = np.mean(list(truth.values())), 0
    for trial in range(600):
        tasks = {t: (random.random((items, 1)) < p).astype(float) for t, p in truth.items()}
        low, high = macro(tasks, 600, trial).interval()
        covered += low <= target <= high
    assert 0.925 <= covered / 600 <= 0.975


def test_the_bootstrap_variance_is_that_of_the_stratified_mean():
    random = np.random.default_rng(2)
    tasks = {"a": random.random((8, 1)), "b": random.random((30, 1))}
    expected = np.sqrt(sum(v.var(ddof=1) / len(v) for v in tasks.values())) / 2
    assert macro(tasks, 40_000).standard_error == pytest.approx(expected, rel=0.02)


def test_resamples_are_seeded_and_do_not_depend_on_other_tasks_or_columns():
    values = np.random.default_rng(3).random((20, 2))
    (alone,) = resampled_averages([{"a": values[:, :1]}], 50, 7)
    (other,) = resampled_averages([{"b": values}], 50, 7)
    (both,) = resampled_averages([{"b": values, "a": values}], 50, 7)
    assert np.allclose(both[:, 0], (alone[:, 0] + other[:, 0]) / 2, rtol=1e-14)
    assert not np.array_equal(alone, resampled_averages([{"a": values[:, :1]}], 50, 8)[0])


def test_families_resampled_together_get_what_each_gets_alone():
    random = np.random.default_rng(11)
    families = [
        {"a": random.random((20, 2)), "b": random.random((7, 2))},
        {"a": random.random((20, 3))},  # shares the draws of `a`
        {"a": random.random((19, 1)), "c": random.random((1, 1))},  # another size; a task with one item
        {},
    ]
    together = resampled_averages(families, 300, 5)
    for family, found in zip(families, together, strict=True):
        assert np.allclose(found, resampled_averages([family], 300, 5)[0], atol=1e-13, equal_nan=True)
    assert [part.shape for part in together] == [(300, 2), (300, 3), (300, 1), (300, 0)]
    assert np.isnan(together[2]).all()


def test_the_draws_are_those_of_the_definition():
    """n - 1 of n items with replacement, one multinomial of counts per resample."""
    values = np.eye(6)  # the resampled mean of column i is the share of item i
    (shares,) = resampled_averages([{"a": values}], 20_000, 0)
    counts = shares * 5
    assert np.allclose(counts, counts.round(), atol=1e-9) and np.allclose(counts.sum(axis=1), 5)
    assert np.allclose(counts.mean(axis=0), 5 / 6, atol=0.03)
    assert np.allclose(counts.var(axis=0), 5 * (1 / 6) * (5 / 6), atol=0.03)


def test_differences_are_paired():
    base = np.random.default_rng(4).random((50, 1))
    (means,) = resampled_averages([{"a": np.hstack([base, base + 0.1])}], 500, 0)
    assert np.allclose(means[:, 1] - means[:, 0], 0.1)


def test_identical_cells_give_p_1_and_an_interval_of_zero_width():
    same = np.array([True, False, True, True])
    assert mcnemar(same, same) == {"gained": 0, "lost": 0, "p": 1.0}
    difference = Estimate(0.0, np.zeros(1000))
    assert difference.p_value() == 1.0
    assert difference.interval() == (0.0, 0.0)


def test_mcnemar_is_the_exact_binomial_test_of_the_changed_items():
    before = np.array([1] * 30 + [0] * 12 + [1] * 3, bool)
    after = np.array([1] * 30 + [1] * 12 + [0] * 3, bool)
    result = mcnemar(before, after)
    assert (result["gained"], result["lost"]) == (12, 3)
    assert result["p"] == pytest.approx(2 * stats.binom.cdf(3, 15, 0.5))


def test_a_planted_effect_is_found_and_its_absence_is_not():
    random = np.random.default_rng(5)
    before = (random.random((400, 1)) < 0.5).astype(float)
    after = np.where(random.random((400, 1)) < 0.15, 1.0, before)
    (means,) = resampled_averages([{"a": np.hstack([before, after])}], 2000, 0)
    effect = Estimate(float((after - before).mean()), means[:, 1] - means[:, 0])
    assert effect.interval()[0] > 0
    assert effect.p_value() < 0.01


def test_holm_agrees_with_the_definition_and_leaves_nan_out():
    assert holm([0.01, 0.04, 0.03, float("nan")])[:3] == pytest.approx([0.03, 0.06, 0.06])
    assert np.isnan(holm([float("nan")])[0])


def test_a_task_with_one_item_has_no_interval():
    estimate = macro({"a": np.ones((1, 1)), "b": np.ones((5, 1))})
    assert not estimate.known
    assert estimate.to_json() == {"value": 1.0, "low": None, "high": None}


def test_replicates_add_the_t_interval_of_their_mean_and_one_adds_nothing():
    points = np.array([0.2, 0.5, 0.8, 0.4])
    assert not replicate_draws(points[:1], 100).any()
    draws = replicate_draws(points, 40_000)
    half = stats.t.ppf(0.975, 3) * np.std(points, ddof=1) / np.sqrt(4)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([-half, half], rel=0.03)


def test_replicates_of_all_quantities_are_drawn_together():
    one, other = np.array([0.1, 0.3, 0.2]), np.array([0.5, 0.1, 0.6])
    difference = replicate_draws(one, 500) - replicate_draws(other, 500)
    assert np.allclose(difference, replicate_draws(one - other, 500))
    assert not np.array_equal(replicate_draws(one, 500), replicate_draws(one, 500, seed=1))


def test_a_share_that_no_item_changed_still_has_agresti_and_mins_width():
    """The difference of two arms that answer 30 items alike: half an item more in each cell of the paired table."""
    sizes = [30]
    draws = unseen_changes(sizes, "a", 200_000) - unseen_changes(sizes, "b", 200_000)
    low, high = paired_interval(0, 0, 30)
    assert np.quantile(draws, [0.025, 0.975]) == pytest.approx([low, high], rel=0.05)
    assert unseen_changes([30, 30], "a", 200_000).std() == pytest.approx(
        unseen_changes([30], "a", 200_000).std() / 2**0.5
    )


@pytest.mark.parametrize("of_items", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("replicates", [2, 3, 5])
def test_the_intervals_of_replicates_cover_at_least_as_often_as_they_say(of_items, replicates):
    """Replicates' own deviations have standard deviation 1; items add a deviation that is common to all of them.

    600 draws: the binomial standard error of the coverage is 0.9 points. With items the interval of few replicates is
    too wide rather than too short.
    """
    random, covered = np.random.default_rng(11), 0
    for number in range(600):
        points = random.normal(0, of_items) + random.normal(size=replicates)
        draws = points.mean() + random.normal(0, of_items, 800) + replicate_draws(points, 800, number)
        low, high = np.quantile(draws, [0.025, 0.975])
        covered += low <= 0 <= high
    assert 0.925 <= covered / 600 <= (0.975 if of_items == 0 else 0.995)


def test_a_ratio_has_the_interval_of_its_draws_and_a_finite_one_where_a_few_divide_by_nothing():
    random = np.random.default_rng(12)
    part = Estimate(0.02, random.normal(0.02, 0.01, 4000))
    firm, barely = (Estimate(0.1, random.normal(0.1, sd, 4000)) for sd in (0.01, 0.045))
    found = ratio(part, firm)
    low, high = np.quantile(part.draws / firm.draws, [0.025, 0.975])
    assert (found["value"], found["low"], found["high"]) == pytest.approx((0.2, low, high), abs=1e-3)
    assert (barely.draws <= 0).any() and barely.interval()[0] > 0
    wide = ratio(part, barely)
    assert wide["low"] < found["low"] and found["high"] < wide["high"] < 10
    for end, quantile in ((wide["low"], 0.025), (wide["high"], 0.975)):
        assert np.quantile(part.draws - end * barely.draws, quantile) == pytest.approx(0, abs=1e-6)
    assert ratio(Estimate(0.0, np.zeros(10)), Estimate(1.0, np.ones(10))) == {"value": 0, "low": 0, "high": 0}
    assert ratio(part, Estimate(1.0, np.full(4000, np.nan)))["low"] is None


def test_the_smallest_detectable_difference_is_detected_with_80_percent_power():
    random = np.random.default_rng(6)
    n, changed = 500, 0.2
    pattern = np.zeros(n)
    pattern[: int(n * changed / 2)], pattern[int(n * changed / 2) : int(n * changed)] = 1, -1
    effect = smallest_detectable({"a": pattern}, binary=True)
    found = 0
    for _ in range(400):
        gained = random.binomial(n, (changed + effect) / 2)
        lost = random.binomial(n, (changed - effect) / 2)
        found += stats.binomtest(gained, gained + lost).pvalue < 0.05
    assert 0.70 <= found / 400 <= 0.90


def test_differences_averaged_over_seeds_count_by_their_size():
    """Two seeds that each change other items move an average half as far, so less can be told apart."""
    halves = np.repeat([0.5, -0.5, 0.0], [100, 100, 300])
    found = smallest_detectable({"a": halves}, binary=True)
    assert found == pytest.approx(smallest_detectable({"a": halves}, binary=False), rel=0.05)
    assert found == pytest.approx(smallest_detectable({"a": np.sign(halves)}, binary=True) / 2, rel=0.05)


def test_no_change_still_has_a_smallest_detectable_difference():
    assert smallest_detectable({"a": np.zeros(10)}, binary=True) > 0.2
    assert np.isnan(smallest_detectable({}, binary=True))


def test_shares_of_nothing_have_no_interval():
    assert np.isnan(proportion_interval(0, 0)).all()
    low, high = proportion_interval(0, 10)
    assert low == pytest.approx(0, abs=1e-12) and 0.2 < high < 0.35


@pytest.mark.parametrize("items", [120, 256, 400, 800])
def test_the_bound_of_what_was_lost_holds_if_few_answers_change(items):
    """A normal deviation of half an item calls 8 % of the losses of one point none with 256 items."""
    random = np.random.default_rng(items)
    dense = {"task": np.ones((items, 1))}
    below = [
        lost_bound(dense, {"task": (random.random((items, 1)) >= 0.01).astype(float)}, 0.975) < 0.01
        for _ in range(1000)
    ]
    assert np.mean(below) <= 0.025 + 0.012


def test_the_bound_without_a_change_is_that_of_poisson_and_items_of_all_tasks_count():
    tasks = {"a": np.ones((300, 2)), "b": np.ones((300, 2))}
    assert lost_bound({"a": tasks["a"]}, {"a": tasks["a"]}, 0.975) == pytest.approx(-np.log(0.025) / 300)
    assert lost_bound(tasks, tasks, 0.975) == pytest.approx(-np.log(0.025) / 600)
    assert lost_bound(tasks, tasks, 0.975, times=3) == pytest.approx(-np.log(0.025) / 1800)
    some = {task: np.where(np.arange(300)[:, None] < 6, 0.0, values) for task, values in tasks.items()}
    thrice = [{task: np.repeat(values, 3, axis=0) for task, values in arm.items()} for arm in (tasks, some)]
    assert lost_bound(tasks, some, 0.975, times=3) == pytest.approx(lost_bound(*thrice, 0.975))

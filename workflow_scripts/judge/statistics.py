"""Paired statistics over items and replicates: stratified bootstrap, t over replicates, exact McNemar, Holm.

An `Estimate` is a number with its draws. All estimates of one group share their resampled items and replicates, so
their differences and ratios are paired by plain arithmetic.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

RESAMPLES = 10_000
LEVEL = 0.95
POWER = 0.80
_CHUNK = 4_000_000  # resampled items held at once
_DECIMALS = 10
_ROUNDING = 1e-12  # equal columns of a matrix product may differ by less; such a difference is none


@dataclass(frozen=True)
class Estimate:
    """A point estimate and its bootstrap draws, shape (resamples,). NaN draws: no interval can be given."""

    point: float
    draws: np.ndarray

    def __add__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.point + other.point, self.draws + other.draws)

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.point - other.point, self.draws - other.draws)

    def __mul__(self, factor: float) -> "Estimate":
        return Estimate(self.point * factor, self.draws * factor)

    @property
    def known(self) -> bool:
        """True if an interval exists (a task with one item has no sampling variance to show)."""
        return bool(np.isfinite(self.draws).all())

    @property
    def standard_error(self) -> float:
        return float(self.draws.std(ddof=1)) if self.known else float("nan")

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Percentile interval; (nan, nan) if none can be given."""
        if not self.known:
            return float("nan"), float("nan")
        ends = np.quantile(self.draws, [(1 - level) / 2, (1 + level) / 2])
        low, high = np.where(np.abs(ends) < _ROUNDING, 0.0, ends)
        return float(low), float(high)

    def p_value(self) -> float:
        """Two-sided bootstrap p of "the value is 0": 2 min(P(draw <= 0), P(draw >= 0)), never below 2/(B+1)."""
        if not self.known:
            return float("nan")
        tails = min((self.draws <= _ROUNDING).sum(), (self.draws >= -_ROUNDING).sum())
        return float(min(1.0, 2 * (tails + 1) / (len(self.draws) + 1)))

    def to_json(self) -> dict:
        low, high = self.interval()
        return {"value": finite(self.point), "low": finite(low), "high": finite(high)}

    def share_to_json(self) -> dict:
        """The same of a share: the normal draws of `unseen_changes` pass 0 and 1, its interval does not."""
        found = self.to_json()
        return {end: None if value is None else min(1.0, max(0.0, value)) for end, value in found.items()}


def ratio(part: Estimate, whole: Estimate, level: float = LEVEL) -> dict:
    """part / whole as Estimate.to_json gives one; whole's own interval must lie above 0.

    The interval holds every r for which part - r whole is not told from 0 (Fieller 1954, here on paired draws): the
    percentile interval of the quotient if all draws of whole are positive, and still finite if a few are not.
    """
    point = part.point / whole.point
    if not (part.known and whole.known):
        return {"value": finite(point), "low": None, "high": None}
    ends = [_root(part, whole, end, point) for end in ((1 - level) / 2, (1 + level) / 2)]
    return {"value": finite(point), "low": finite(ends[0]), "high": finite(ends[1])}


def _root(part: Estimate, whole: Estimate, end: float, start: float) -> float:
    """The r at which the `end` quantile of part - r whole, which falls with r, is 0."""

    def quantile(r: float) -> float:
        return float(np.quantile(part.draws - r * whole.draws, end))

    low = high = start
    step = 1.0
    while quantile(low) < 0:
        low, step = low - step, 2 * step
    while quantile(high) > 0:
        high, step = high + step, 2 * step
    return float(optimize.brentq(quantile, low, high)) if low < high else start


def finite(number: float) -> float | None:
    """The number for JSON, to ten decimals (the last ones depend on the machine); None if it is not finite."""
    return round(float(number), _DECIMALS) if np.isfinite(number) else None


def resampled_averages(
    families: Sequence[dict[str, np.ndarray]], resamples: int = RESAMPLES, seed: int = 0
) -> list[np.ndarray]:
    """Bootstrap macro averages: the items of each task are resampled, the same draws for every column.

    families: for each, task -> (items, columns). Returns for each (resamples, columns): the mean over its tasks of
    their resampled means; NaN if a task has a single item. n - 1 of n items are drawn with replacement: the
    rescaled bootstrap of Rao and Wu (1988) for stratified samples, whose variance is unbiased for small strata
    (drawing n understates it by (n-1)/n: 10 % at 10 items a task). A task's draws depend on the seed, its name and
    its size only, so other columns don't move an interval, and families whose task has the same size share the
    draws: one product of counts and values serves them all.
    """
    sums = [np.zeros((resamples, _columns(family))) for family in families]
    blocks: dict[tuple[str, int], list[int]] = {}
    for number, family in enumerate(families):
        for task, values in family.items():
            blocks.setdefault((task, len(values)), []).append(number)
    for (task, n), members in blocks.items():
        if n < 2:
            for number in members:
                sums[number][:] = np.nan
            continue
        values = np.hstack([families[number][task] for number in members])  # (n, columns of all members)
        ends = np.cumsum([_columns(families[number]) for number in members])
        random = np.random.default_rng([seed, zlib.crc32(task.encode())])
        for start in range(0, resamples, step := max(1, _CHUNK // n)):
            rows = min(step, resamples - start)
            drawn = random.integers(0, n, (rows, n - 1), np.int32)
            drawn += n * np.arange(rows, dtype=np.int32)[:, None]  # a range of counts for each resample
            counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
            means = counts @ values / (n - 1)  # (rows, columns of all members)
            for number, part in zip(members, np.split(means, ends[:-1], axis=1), strict=True):
                sums[number][start : start + rows] += part
    return [total / max(1, len(family)) for total, family in zip(sums, families, strict=True)]


def _columns(family: dict[str, np.ndarray]) -> int:
    return next((values.shape[1] for values in family.values()), 0)


def replicate_draws(points: np.ndarray, resamples: int, seed: int = 0) -> np.ndarray:
    """Draws of the deviation that replicates add to their mean, shape (resamples,); zeros for one replicate.

    points: (replicates,), each replicate's own value. A draw is t with S - 1 degrees of freedom times the standard
    error, made as sum_k z_k (x_k - mean) with normal z and one chi-square a draw. The z belong to the replicates and
    not to the quantity: all quantities over S replicates share them, so that their differences have the t interval of
    the differences.
    """
    replicates = len(points)
    if replicates < 2:
        return np.zeros(resamples)
    random = np.random.default_rng([seed, zlib.crc32(b"replicates"), replicates])
    normal = random.standard_normal((resamples, replicates))
    stretch = np.sqrt((replicates - 1) / random.chisquare(replicates - 1, resamples))
    deviations = (points - points.mean()) / np.sqrt(replicates * (replicates - 1))
    return stretch * (normal @ deviations)


def item_stretch(sizes: Sequence[int], resamples: int, seed: int = 0) -> np.ndarray:
    """Factors that give resampled means of continuous values the tails of t, shape (resamples,).

    sizes: items by task; the degrees of freedom are those of a variance pooled over tasks, sum (n - 1). The bootstrap
    takes the sample's variance for the true one, which leaves intervals of a dozen items too narrow. Shares have
    `unseen_changes` for that.
    """
    freedom = sum(sizes) - len(sizes)
    random = np.random.default_rng([seed, zlib.crc32(b"items"), freedom])
    return np.sqrt(freedom / random.chisquare(freedom, resamples))


def unseen_changes(sizes: Sequence[int], name: str, resamples: int, seed: int = 0) -> np.ndarray:
    """Draws of the deviation that items which happened not to change add to a share, shape (resamples,).

    sizes: items by task. Resampled items that never change have no variance, although others could. So each arm gets
    a normal deviation worth half an item per task: the difference of two arms then has the variance that Agresti and
    Min (2005) reach by half an item more in each cell of the paired table. name: of the arm, whose draws it seeds.
    """
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return np.sqrt(unseen_variance(sizes)) * random.standard_normal(resamples)


def unseen_variance(sizes: Sequence[int]) -> float:
    """Variance of one arm's macro average by half an item per task, sizes: items by task."""
    return sum(0.5 / (n * (n + 2)) for n in sizes) / max(1, len(sizes)) ** 2


def lost_bound(
    before: dict[str, np.ndarray], after: dict[str, np.ndarray], level: float, times: float = 1.0
) -> float:
    """One-sided upper bound of what a macro-averaged share lost, made for few changed answers.

    before, after: task -> (items, replicates), right or wrong. Lost items count as Poisson, each with its weight in the
    average (Fay and Feuer, 1997), less the share that was gained. With no lost item of n the bound is
    -log(1 - level) / n; a normal deviation has thinner tails. With many changes the draws are the stricter ones.
    times: as much data, of which the same share is lost.
    """
    change = {task: before[task] - after[task] for task in before}
    lost = [np.maximum(0, values).mean(axis=1) / len(values) for values in change.values()]
    gained = sum(np.maximum(0, -values).mean() for values in change.values()) / len(change)
    weights = np.concatenate(lost) / len(change)
    most = 1 / (len(change) * min(map(len, lost)) * times)
    mean, variance = weights.sum() + most, np.square(weights).sum() / times + most**2
    upper = variance / (2 * mean) * stats.chi2.ppf(level, 2 * mean**2 / variance)
    return float(upper - gained)


def mcnemar(before: np.ndarray, after: np.ndarray) -> dict:
    """Exact McNemar test of two boolean vectors over the same items; p = 1 if nothing changed."""
    before, after = np.asarray(before, bool), np.asarray(after, bool)
    gained, lost = int((~before & after).sum()), int((before & ~after).sum())
    p = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return {"gained": gained, "lost": lost, "p": float(p)}


def paired_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Interval of a difference of paired shares, (gained - lost) / n: the adjusted Wald interval of Agresti and Min
    (2005), half an item added to each cell of the 2 x 2 table, so that no change still has a width."""
    if n == 0:
        return float("nan"), float("nan")
    size, changed, shift = n + 2, gained + lost + 1, gained - lost
    half = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(changed - shift**2 / size) / size
    return float(max(-1.0, shift / size - half)), float(min(1.0, shift / size + half))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment; NaN stays NaN and is no member of the family."""
    p = np.asarray(p_values, float)
    known = np.isfinite(p)
    if known.any():
        p[known] = multipletests(p[known], method="holm")[1]
    return p.tolist()


def proportion_interval(successes: int, n: int) -> tuple[float, float]:
    """Wilson interval of a share; (nan, nan) without items."""
    if n == 0:
        return float("nan"), float("nan")
    low, high = proportion_confint(successes, n, alpha=1 - LEVEL, method="wilson")
    return float(low), float(high)


def smallest_detectable(differences: dict[str, np.ndarray], binary: bool) -> float:
    """Smallest macro-average difference that this sample finds with 80 % power at 5 %, two-sided.

    differences: task -> (items,) paired differences. (z_.975 + z_.80) sqrt(sum_t v_t / n_t) / T with v_t the
    variance of a difference: for accuracies the mean square (sum + 1) / (n + 2), which of one seed's differences is
    the share of changed items, so that cells without any change still don't claim to detect everything; otherwise
    the sample's variance.
    """
    total = 0.0
    for values in differences.values():
        n = len(values)
        if n < 2:
            return float("nan")
        variance = (np.square(values).sum() + 1) / (n + 2) if binary else values.var(ddof=1)
        total += variance / n
    return detectable_from(np.sqrt(total) / len(differences)) if differences else float("nan")


def detectable_from(standard_error: float) -> float:
    """The smallest difference that an estimate of this standard error finds, as above."""
    return float((stats.norm.ppf((1 + LEVEL) / 2) + stats.norm.ppf(POWER)) * standard_error)

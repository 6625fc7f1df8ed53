"""The parts of a contrast's variance due to items, replicates and both, from the two-way table without repetition.

A contrast (L, g, R) has one value per item and replicate. Within task t, with n_t items and S replicates,
  V = V_items + V_replicates - V_residual = (MS_items + MS_replicates - MS_residual) / (n S)
of one task; for a mean over T tasks V_items and V_residual are summed over tasks and divided by T^2.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import optimize, stats

from workflow_scripts.judge.statistics import LEVEL, finite


@dataclass(frozen=True)
class Components:
    """Variances of a macro average, for the items and replicates that were measured.

    items, replicates, residual: shares of `variance`, none below 0; with one replicate `items` holds the residual and
    `replicates` is nan. freedom: Satterthwaite's degrees of freedom. unseen: of a share, the part of `items`
    that stands for items which happened not to change (`statistics.unseen_variance`).
    """

    items: float
    replicates: float
    residual: float
    freedom: float
    count: int  # replicates
    unseen: float = 0.0

    @property
    def variance(self) -> float:
        return float(np.nansum([self.items, self.replicates, self.residual]))

    def half_width(self, items: float = 1.0, replicates: int | None = None, level: float = LEVEL) -> float:
        """Half of the interval to expect for `items` times as many items and this many replicates (default: those
        measured).

        The interval is the one of `arms.Estimates`: a normal deviation of items, and t of the replicates' means, whose
        variance holds the residual. Means that agree by chance make the interval of one run narrower than this, for
        here their variance is no less than the residual's. inf for one replicate if several were measured: it can't
        know the others'.
        """
        count = replicates or self.count
        of_items = (self.items - self.unseen) / items + self.unseen / items**2
        of_means = float(np.nansum([self.replicates, self.residual / items])) * self.count / count
        if of_means == 0:
            return float(stats.norm.ppf((1 + level) / 2) * np.sqrt(of_items))
        if count < 2:
            return float("inf")
        scales = np.sqrt(of_items + of_means * _stretches(count - 1))
        tail = (
            1 - level
        ) / 4  # if each deviation stays within its own bound, the sum stays within both often enough
        bound = stats.norm.isf(tail) * np.sqrt(of_items) + stats.t.isf(tail, count - 1) * np.sqrt(of_means)
        return float(
            optimize.brentq(lambda half: 2 * stats.norm.sf(half / scales).mean() - (1 - level), 0, 2 * bound)
        )

    def to_json(self) -> dict[str, float | int | None]:
        """Standard deviations of the three parts (fractions, nats or bits), their shares of the sum of their squares
        (None with one replicate), freedom, replicates."""
        parts = {name: getattr(self, name) for name in ("items", "replicates", "residual")}
        whole = sum(parts.values())
        return {
            **{name: finite(np.sqrt(part)) for name, part in parts.items()},
            **{f"{name}_share": finite(part / whole) if whole else None for name, part in parts.items()},
            "freedom": finite(self.freedom),
            "count": self.count,
            "unseen": finite(np.sqrt(self.unseen)),
        }

    @classmethod
    def of_json(cls, row: dict) -> "Components":
        """The components that verdict.json holds."""
        parts = {
            name: float("nan") if row[name] is None else row[name] ** 2
            for name in ("items", "replicates", "residual")
        }
        freedom, unseen = row["freedom"] or float("inf"), row.get("unseen", 0.0) ** 2
        return cls(**parts, freedom=freedom, count=row["count"], unseen=unseen)


@cache
def _stretches(freedom: int) -> np.ndarray:
    """Equally likely values of freedom / chi-square: t is normal with such a variance."""
    return freedom / stats.chi2.ppf((np.arange(400) + 0.5) / 400, freedom)


def components(contrast: dict[str, np.ndarray], unseen: float = 0.0) -> Components:
    """contrast: task -> (items, replicates) of one contrast; every task with two items or more. unseen: its variance
    by items that happened not to change, known without an estimate."""
    tasks = len(contrast)
    replicates = next(iter(contrast.values())).shape[1]
    of_items = sum(v.mean(axis=1).var(ddof=1) / len(v) for v in contrast.values()) / tasks**2
    items_freedom = sum(len(v) - 1 for v in contrast.values())
    if replicates < 2:
        return Components(of_items + unseen, float("nan"), 0.0, float(items_freedom), 1, unseen)
    means = np.mean([v.mean(axis=0) for v in contrast.values()], axis=0)
    of_replicates = float(means.var(ddof=1)) / replicates
    residual = sum(_residual(v) / v.size for v in contrast.values()) / tasks**2
    parts = (
        max(0.0, of_items - residual) + unseen,
        max(0.0, of_replicates - residual),
        min(residual, of_items),
    )
    total = sum(parts)
    squares = (
        of_items**2 / items_freedom
        + of_replicates**2 / (replicates - 1)
        + residual**2 / (items_freedom * (replicates - 1))
    )
    freedom = float(total**2 / squares) if squares else float("inf")
    return Components(*parts, freedom=freedom, count=replicates, unseen=unseen)


def without_residual(family: dict[str, np.ndarray], parts: dict[str, list[np.ndarray]]) -> np.ndarray:
    """The matrix (columns, columns) by which deviations of resampled item means lose the residual's variance.

    Means over S replicates vary by V_items + V_residual / S between items, and replicate means by V_replicates +
    V_residual / n: draws of both hold the residual twice. Applied to the first, the variance of every sum of columns
    is the two-way one. The map is the one between normal distributions that moves draws least (Olkin and Pukelsheim,
    1982), given the columns without a residual; it is the identity if all have one replicate.

    family: task -> (items, columns), means over replicates; parts: task -> for each column (items, replicates).
    """
    tasks = len(family)
    covariances = [np.atleast_2d(np.cov(v, rowvar=False)) / len(v) for v in family.values()]
    whole = np.sum(covariances, axis=0) / tasks**2
    residual = np.sum([_residuals(columns) for columns in parts.values()], axis=0) / tasks**2
    moved = np.diag(residual) > 1e-12 * np.diag(whole)
    kept = ~moved
    matrix = np.eye(len(whole))
    if (
        moved.any()
    ):  # what the columns without a residual explain of the others stays, so these are left alone
        slope = np.linalg.pinv(whole[np.ix_(kept, kept)], hermitian=True) @ whole[np.ix_(kept, moved)]
        rest = whole[np.ix_(moved, moved)] - whole[np.ix_(moved, kept)] @ slope
        root, inverse = _roots(rest)
        middle, _ = _roots(root @ _positive(rest - residual[np.ix_(moved, moved)]) @ root)
        step = inverse @ middle @ inverse
        matrix[np.ix_(moved, moved)] = step
        matrix[np.ix_(kept, moved)] = slope @ (np.eye(len(step)) - step)
    return matrix


def _residuals(columns: list[np.ndarray]) -> np.ndarray:
    """Covariance of the residuals' means of one task; columns of other replicates have none in common."""
    found = np.zeros((len(columns), len(columns)))
    for count in {part.shape[1] for part in columns} - {1}:
        mine = [place for place, part in enumerate(columns) if part.shape[1] == count]
        values = np.stack([columns[place] for place in mine])  # (columns, items, replicates)
        rest = _rest(values).reshape(len(mine), -1)
        items = values.shape[1]
        found[np.ix_(mine, mine)] = rest @ rest.T / ((items - 1) * (count - 1)) / (items * count)
    return found


def _positive(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0)) @ vectors.T


def _roots(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Square root of a covariance matrix and its pseudo-inverse."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-12 * max(values.max(), 0)
    roots = np.sqrt(np.where(kept, values, 0))
    inverse = np.divide(1, roots, out=np.zeros_like(roots), where=kept)
    return (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T


def _rest(values: np.ndarray) -> np.ndarray:
    """Values (..., items, replicates) minus the effects of items and of replicates."""
    items, replicates = values.mean(axis=-1, keepdims=True), values.mean(axis=-2, keepdims=True)
    return values - items - replicates + values.mean(axis=(-2, -1), keepdims=True)


def _residual(values: np.ndarray) -> float:
    """MS_residual of one task, (items, replicates)."""
    return float(np.square(_rest(values)).sum() / ((values.shape[0] - 1) * (values.shape[1] - 1)))

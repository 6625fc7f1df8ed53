"""The arms of a comparison: settings measured on the same items, each with its estimate."""

from dataclasses import dataclass

import numpy as np

from workflow_scripts.judge.results import Results, paired_items
from workflow_scripts.judge.statistics import (
    SEEDS_FOR_VARIANCE,
    Estimate,
    detectable_from,
    finite,
    seed_mean,
    smallest_detectable,
)
from workflow_scripts.plan.layout import Cell, Group

ITEMS = "items"  # what an interval covers with few training seeds
ITEMS_AND_SEEDS = "items and training seeds"
ACCURACY = "accuracy"
METRICS = {ACCURACY: "correct", "gold_loglik": "gold_loglik"}  # name -> samples column
Key = tuple[str, str]  # compressor, method


@dataclass(frozen=True)
class Arm:
    """One setting (compressor and method) of a comparison with its cells, one per training seed."""

    compressor: str
    method: str
    cells: tuple[Cell, ...]

    @property
    def key(self) -> Key:
        return self.compressor, self.method

    @property
    def covers(self) -> str:
        """What the arm's interval covers, in words."""
        return covered_by(len(self.cells))


def covered_by(seeds: int) -> str:
    """What an interval over this many training seeds covers, in words."""
    return ITEMS_AND_SEEDS if seeds >= SEEDS_FOR_VARIANCE else ITEMS


@dataclass(frozen=True)
class Measured:
    """One metric of arms that share their items.

    values: task -> (items, cells), the cells of all arms side by side; columns: those of each arm; binary: right or
    wrong, so that the smallest detectable difference counts changed items.
    """

    arms: dict[Key, Arm]
    values: dict[str, np.ndarray]
    columns: dict[Key, slice]
    estimates: dict[Key, Estimate]
    binary: bool

    def difference(self, one: Key, other: Key) -> dict[str, np.ndarray]:
        """Task -> (items,): `one` minus `other`, each averaged over its seeds."""
        mine, others = self.columns[one], self.columns[other]
        return {task: v[:, mine].mean(axis=1) - v[:, others].mean(axis=1) for task, v in self.values.items()}

    def detectable(self, estimate: Estimate, differences: dict[str, np.ndarray], covers: str) -> float | None:
        """The smallest difference that this sample finds with 80 % power; None if no interval can be given."""
        found = smallest_detectable(differences, self.binary)
        if covers != ITEMS:  # what training adds to the variance counts too
            found = max(found, detectable_from(estimate.standard_error))
        return finite(found)


def group_arms(results: Results, group: Group) -> list[Arm]:
    """The arms of the group's compressor, then those of the dense model, for the cells that exist."""
    compressors = dict.fromkeys((group.compressor, "dense"))
    arms = (
        Arm(compressor, method, tuple(results.seeds(group.model, compressor, group.corpus, method)))
        for compressor in compressors
        for method in ("none", *results.methods(group))
    )
    return [arm for arm in arms if arm.cells]


def paired_values(results: Results, arms: list[Arm], column: str) -> dict[str, np.ndarray]:
    """task -> (items, cells) of one samples column over the items that all cells of the arms share."""
    frames = paired_items(results, [cell for arm in arms for cell in arm.cells], column)
    return {task: frame.to_numpy() for task, frame in frames.items()}


def measure(
    arms: list[Arm], values: dict[str, np.ndarray], draws: np.ndarray, metric: str, seed: int
) -> Measured:
    """Estimates of all arms. values: of `paired_values`; draws: (resamples, cells), their resampled averages."""
    points = np.mean([v.mean(axis=0) for v in values.values()], axis=0)
    columns, estimates, start = {}, {}, 0
    for arm in arms:
        columns[arm.key] = mine = slice(start, start := start + len(arm.cells))
        estimates[arm.key] = seed_mean(points[mine], draws[:, mine], "/".join(arm.key), seed)
    return Measured({arm.key: arm for arm in arms}, values, columns, estimates, metric == ACCURACY)

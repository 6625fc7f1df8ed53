"""The arms of a comparison: settings measured on the same items and replicates, each with its estimate."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from workflow_scripts.judge.components import Components, components, without_residual
from workflow_scripts.judge.metrics import METRICS, Metric
from workflow_scripts.judge.results import Results, paired_items
from workflow_scripts.judge.statistics import (
    Estimate,
    detectable_from,
    finite,
    item_stretch,
    replicate_draws,
    resampled_averages,
    unseen_changes,
    unseen_variance,
)
from workflow_scripts.plan.layout import Cell, Group

DENSE = ("dense", "none")
Key = tuple[str, str]  # compressor, method
Seeds = tuple[int, ...]
Column = tuple[Key, Seeds]  # an arm, averaged over these of its seeds


@dataclass(frozen=True)
class Arm:
    """One setting (compressor and method) of a comparison with its cells, one per replicate.

    shared: one copy serves all replicates (the dense model, and compressors in which nothing is random). weights: seed
    -> digest of the compressed weights that its cell stands on, as far as its manifest knows.
    """

    compressor: str
    method: str
    cells: tuple[Cell, ...]
    shared: bool = False
    weights: Mapping[int, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.compressor, self.method

    @property
    def seeds(self) -> Seeds:
        return tuple(cell.seed for cell in self.cells)


def covered_by(replicates: int) -> str:
    """The coverage of an interval over this many replicates, in words."""
    return "items" if replicates < 2 else f"items and {replicates} replicates"


def group_arms(results: Results, group: Group) -> list[Arm]:
    """The arms of the group's compressor, then those of the dense model, for the cells that exist."""
    arms = []
    for compressor in dict.fromkeys((group.compressor, "dense")):
        for method in ("none", *results.methods(group)):
            place = (group.model, compressor, group.corpus, method)
            planned = results.seeds(*place, planned=True)
            shared = method == "none" and len(planned) == 1
            cells = tuple(results.seeds(*place))
            arms.append(Arm(compressor, method, cells, shared, {c.seed: _weights(results, c) for c in cells}))
    return [arm for arm in arms if arm.cells]


def _weights(results: Results, cell: Cell) -> str:
    return results.evaluations[cell]["manifest"]["inputs"].get("compressed", "")


def replicates_of(*arms: Arm | None) -> Seeds:
    """The seeds that all arms have (those of shared copies count for any); empty if an arm is missing.

    A seed whose arms of one compressor stand on different weights is no replicate: a gain would hold the difference of
    two copies. Arms that are all shared have one replicate.
    """
    if any(arm is None for arm in arms):
        return ()
    known = [arm for arm in arms if arm is not None]
    own = [set(arm.seeds) for arm in known if not arm.shared]
    seeds = sorted(set.intersection(*own)) if own else [0]
    return tuple(seed for seed in seeds if _one_copy(known, seed))


def _one_copy(arms: list[Arm], seed: int) -> bool:
    """True if the arms of each compressor stand on one copy at this seed."""
    weights: dict[str, set[str]] = {}
    for arm in arms:
        at = arm.seeds[0] if arm.shared else seed
        weights.setdefault(arm.compressor, set()).add(arm.weights.get(at, ""))
    return all(len(copies) == 1 for copies in weights.values())


@dataclass(frozen=True)
class PairedItems:
    """One metric of arms over the items that all their cells share.

    values: task -> (items, cells), the cells of all arms side by side, higher is better.
    """

    metric: Metric
    arms: dict[Key, Arm]
    values: dict[str, np.ndarray]

    @property
    def items(self) -> dict[str, int]:
        return {task: len(values) for task, values in self.values.items()}

    def cells(self, column: Column) -> list[int]:
        """Places of a column's cells in `values`, one per replicate."""
        (compressor, method), seeds = column
        start = 0
        for arm in self.arms.values():
            if arm.key == (compressor, method):
                return [start + (0 if arm.shared else arm.seeds.index(seed)) for seed in seeds]
            start += len(arm.cells)
        raise KeyError(column)

    def by_replicate(self, column: Column) -> dict[str, np.ndarray]:
        """Task -> (items, replicates) of a column."""
        places = self.cells(column)
        return {task: values[:, places] for task, values in self.values.items()}

    def components(self, *signed: tuple[int, Column]) -> Components | None:
        """Variance components of a sum of columns with signs, over one set of seeds; None if a task has one item."""
        if any(len(values) < 2 for values in self.values.values()):
            return None
        parts = [(sign, self.by_replicate(column)) for sign, column in signed]
        contrast = {task: np.sum([s * part[task] for s, part in parts], axis=0) for task in self.values}
        sizes = [len(values) for values in self.values.values()]
        return components(contrast, len(parts) * unseen_variance(sizes) if self.metric.binary else 0.0)


def sample(results: Results, arms: list[Arm], name: str, tasks: Sequence[str]) -> PairedItems:
    """A metric of the arms over `tasks`, as far as their cells share items with a value."""
    metric = METRICS[name]
    frames = paired_items(results, [cell for arm in arms for cell in arm.cells], metric.column)
    values = {task: metric.sign * frame.to_numpy() for task, frame in frames.items() if task in tasks}
    return PairedItems(metric, {arm.key: arm for arm in arms}, values)


class Estimates:
    """Estimates of columns of several samples that share their resampled items, replicates and deviations."""

    def __init__(self, wanted: Sequence[tuple[PairedItems, Sequence[Column]]], resamples: int, seed: int):
        families = [
            {
                task: np.stack([values[:, sample.cells(column)].mean(axis=1) for column in columns], axis=1)
                for task, values in sample.values.items()
            }
            for sample, columns in wanted
        ]
        self._draws = resampled_averages(families, resamples, seed)
        self._families = families
        self._wanted = wanted
        self._size, self._seed = resamples, seed

    def __iter__(self) -> Iterator[dict[Column, Estimate]]:
        """Column -> estimate, of each sample in turn."""
        for (sample, columns), family, draws in zip(self._wanted, self._families, self._draws, strict=True):
            yield self._of(sample, columns, family, draws) if family else {}

    def _of(
        self, sample: PairedItems, columns: Sequence[Column], family: dict[str, np.ndarray], draws: np.ndarray
    ) -> dict[Column, Estimate]:
        points = np.mean([values.mean(axis=0) for values in family.values()], axis=0)
        sizes, binary = [len(values) for values in family.values()], sample.metric.binary
        if not np.isnan(draws).any():  # a task with a single item has no variance to show
            parts = [sample.by_replicate(column) for column in columns]
            arrays = {task: [part[task] for part in parts] for task in family}
            moved = (draws - points) @ without_residual(family, arrays)
            draws = points + (
                moved if binary else moved * item_stretch(sizes, self._size, self._seed)[:, None]
            )
        found = {}
        for number, column in enumerate(columns):
            places = sample.cells(column)
            own = np.mean([values[:, places].mean(axis=0) for values in sample.values.values()], axis=0)
            drawn = draws[:, number] + replicate_draws(own, self._size, self._seed)
            if binary:
                drawn = drawn + unseen_changes(sizes, "/".join(column[0]), self._size, self._seed)
            found[column] = Estimate(float(points[number]), drawn)
        return found


def detectable(estimate: Estimate) -> float | None:
    """The smallest difference that this sample finds with 80 % power; None if no interval can be given."""
    return finite(detectable_from(estimate.standard_error))

"""Other ways to choose among IDP's prompts, made from the answers of the single prompts. IDP must beat them."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from workflow_scripts.judge.arms import covered_by
from workflow_scripts.judge.perplexity import heldout, protocol
from workflow_scripts.judge.results import Results, paired_items, unique
from workflow_scripts.judge.statistics import Estimate, replicate_draws, resampled_averages, unseen_changes
from workflow_scripts.plan.layout import Cell, Group

WAYS = {  # way -> its note
    "single best": "",  # names the prompts that it took
    "random choice": "expectation of a uniform choice",
    "oracle": "looks at the answer: a bound, not a method",
}
STEP = len(WAYS) + 1  # columns of a seed: the ways, then IDP itself


@dataclass(frozen=True)
class Dynamic:
    """One IDP method of a group: its cells whose members are all evaluated, and the members that are not."""

    group: Group
    name: str
    settings: dict
    cells: list[Cell]
    missing: list[str]

    @property
    def members(self) -> dict[Cell, list[Cell]]:
        """The cells of the members, by IDP's own cell."""
        return {cell: member_cells(cell, self.settings) for cell in self.cells}

    def best(self, results: Results) -> dict[Cell, Cell]:
        """The member of the lowest perplexity on held-out text, by IDP's own cell."""
        return {
            cell: min(members, key=lambda c: _heldout(results, c)) for cell, members in self.members.items()
        }


def member_cells(cell: Cell, method: dict) -> list[Cell]:
    """The cells of the members of a cell's method: of its own seed, unless a member names one."""
    return [
        cell._replace(method=member["adapter"], seed=member.get("seed", cell.seed))
        for member in method.get("members", ())
    ]


def choices(results: Results, methods: dict[str, dict], resamples: int, seed: int) -> list[dict]:
    """verdict.json's `choices`: for each group and IDP method, the dense model's included, the three other ways.

    Each is computed for each of IDP's seeds from the members of that seed, then averaged. single best: the member with
    the lowest perplexity on held-out text; random choice: the expectation of a uniform choice per question; oracle:
    right if any member is right (it looks at the answer: a bound, not a method). Seeds of IDP whose members are not
    all evaluated are left out. The resamples are the verdict's, shared by all.
    """
    found = [
        _dynamic(results, group, name, methods[name])
        for group in (*results.groups(), *results.dense_groups())
        for name in results.methods(group)
        if methods.get(name, {}).get("kind") == "idp"
    ]
    whole = [_values(results, dynamic) if dynamic.cells else {} for dynamic in found]
    draws = iter(resampled_averages([values for values in whole if values], resamples, seed))
    return [
        {
            **dynamic.group._asdict(),
            "method": dynamic.name,
            "seeds": [cell.seed for cell in dynamic.cells],
            "missing": dynamic.missing,
            "covers": covered_by(len(dynamic.cells)),
            "ways": _ways(results, dynamic, values, next(draws), seed) if values else [],
        }
        for dynamic, values in zip(found, whole, strict=True)
    ]


def _dynamic(results: Results, group: Group, name: str, settings: dict) -> Dynamic:
    cells, missing = [], []
    for cell in results.seeds(*group, name):
        absent = [c for c in member_cells(cell, settings) if c not in results.evaluations]
        missing += [f"{c.method} (seed {c.seed})" for c in absent]
        cells += [] if absent else [cell]
    return Dynamic(group, name, settings, cells, unique(missing))


def _ways(
    results: Results, dynamic: Dynamic, values: dict[str, np.ndarray], draws: np.ndarray, seed: int
) -> list[dict]:
    """values: of `_values`; draws: (resamples, seeds x 4).

    Returns for each way: accuracy per task, its average, and IDP minus it on the same items and seeds, as fractions.
    Nothing is ahead of the oracle, whatever other items there are.
    """
    points = np.mean([v.mean(axis=0) for v in values.values()], axis=0)
    unseen = _unseen(results, dynamic, [len(v) for v in values.values()], len(draws), seed)
    own = _over_seeds(points[STEP - 1 :: STEP], draws[:, STEP - 1 :: STEP], seed) + unseen[dynamic.name]
    ways = []
    for k, (way, note) in enumerate(WAYS.items()):
        average = _over_seeds(points[k::STEP], draws[:, k::STEP], seed) + unseen[way]
        behind = own - average
        if way == "oracle":
            behind = Estimate(behind.point, np.minimum(behind.draws, 0))
        ways.append(
            {
                "name": f"{way} of {dynamic.name}",
                "note": note or _best_in_words(results, dynamic),
                "accuracy": {task: float(v[:, k::STEP].mean()) for task, v in values.items()},
                "average": average.share_to_json(),
                "behind": behind.to_json(),
            }
        )
    return ways


def _unseen(
    results: Results, dynamic: Dynamic, sizes: list[int], resamples: int, seed: int
) -> dict[str, Estimate]:
    """The deviation of items that happened not to change, of each way and of IDP itself.

    An arm's is the one that the verdict gives it, so that the single best has the interval of its prompt.
    """

    def of(*methods: str) -> Estimate:
        names = [f"{dynamic.group.compressor}/{method}" for method in methods]
        drawn = [unseen_changes(sizes, name, resamples, seed) for name in names]
        return Estimate(0.0, np.mean(drawn, axis=0))

    return {
        "single best": of(*(cell.method for cell in dynamic.best(results).values())),
        "random choice": of(*(cell.method for cells in dynamic.members.values() for cell in cells)),
        "oracle": of(f"oracle of {dynamic.name}"),
        dynamic.name: of(dynamic.name),
    }


def _over_seeds(points: np.ndarray, draws: np.ndarray, seed: int) -> Estimate:
    """Mean over seeds: points (seeds,), draws (resamples, seeds) of resampled items."""
    return Estimate(float(points.mean()), draws.mean(axis=1) + replicate_draws(points, len(draws), seed))


def _values(results: Results, dynamic: Dynamic) -> dict[str, np.ndarray]:
    """task -> (items, seeds x 4): for each IDP cell right or wrong by single best, random choice, oracle, itself."""
    cells, members, best = dynamic.cells, dynamic.members, dynamic.best(results)
    order = unique(c for cell in cells for c in (*members[cell], cell))
    values = {}
    for task, frame in paired_items(results, order, "correct").items():
        right = dict(zip(order, frame.to_numpy().T, strict=True))
        columns = []
        for cell in cells:
            answers = np.stack([right[c] for c in members[cell]])  # (members, items)
            columns += [right[best[cell]], answers.mean(axis=0), answers.max(axis=0), right[cell]]
        values[task] = np.stack(columns, axis=1)
    return values


def _best_in_words(results: Results, dynamic: Dynamic) -> str:
    """ "prompt-100, by held-out perplexity (windowed)", with counts if the seeds differ."""
    best = list(dynamic.best(results).values())
    followed = protocol(results.evaluations[best[0]])
    named = any("seed" in member for member in dynamic.settings["members"])
    taken = Counter(f"{c.method} (seed {c.seed})" if named else c.method for c in best)
    shares = [f"{name} in {count} of {len(best)} seeds" for name, count in taken.most_common()]
    names = ", ".join(shares) if len(taken) > 1 else next(iter(taken))
    return f"{names}, by held-out perplexity ({followed})"


def _heldout(results: Results, cell: Cell) -> float:
    return heldout(results, cell) or math.inf

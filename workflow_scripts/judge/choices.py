"""Other ways to choose among IDP's prompts, made from the answers of the single prompts. IDP must beat them."""

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np

from workflow_scripts.judge.arms import covered_by
from workflow_scripts.judge.perplexity import heldout, protocol
from workflow_scripts.judge.results import Results, paired_items, unique
from workflow_scripts.judge.statistics import Estimate, replicate_draws, resampled_averages
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
    whole = [_values(results, dynamic) if dynamic.cells else ({}, "") for dynamic in found]
    draws = iter(resampled_averages([values for values, _ in whole if values], resamples, seed))
    return [
        {
            **dynamic.group._asdict(),
            "method": dynamic.name,
            "seeds": [cell.seed for cell in dynamic.cells],
            "missing": dynamic.missing,
            "covers": covered_by(len(dynamic.cells)),
            "ways": _ways(dynamic, values, next(draws), best, seed) if values else [],
        }
        for dynamic, (values, best) in zip(found, whole, strict=True)
    ]


def _dynamic(results: Results, group: Group, name: str, settings: dict) -> Dynamic:
    cells, missing = [], []
    for cell in results.seeds(*group, name):
        absent = [c for c in member_cells(cell, settings) if c not in results.evaluations]
        missing += [f"{c.method} (seed {c.seed})" for c in absent]
        cells += [] if absent else [cell]
    return Dynamic(group, name, settings, cells, unique(missing))


def _ways(
    dynamic: Dynamic, values: dict[str, np.ndarray], draws: np.ndarray, best: str, seed: int
) -> list[dict]:
    """values: of `_values`; draws: (resamples, seeds x 4); best: note of the single best.

    Returns for each way: accuracy per task, its average, and IDP minus it on the same items and seeds, as fractions.
    """
    points = np.mean([v.mean(axis=0) for v in values.values()], axis=0)
    ways = []
    for k, (way, note) in enumerate(WAYS.items()):
        point, drawn = (columns[..., STEP - 1 :: STEP] - columns[..., k::STEP] for columns in (points, draws))
        ways.append(
            {
                "name": f"{way} of {dynamic.name}",
                "note": note or best,
                "accuracy": {task: float(v[:, k::STEP].mean()) for task, v in values.items()},
                "average": _over_seeds(points[k::STEP], draws[:, k::STEP], seed).to_json(),
                "behind": _over_seeds(point, drawn, seed).to_json(),
            }
        )
    return ways


def _over_seeds(points: np.ndarray, draws: np.ndarray, seed: int) -> Estimate:
    """Mean over seeds: points (seeds,), draws (resamples, seeds) of resampled items."""
    return Estimate(float(points.mean()), draws.mean(axis=1) + replicate_draws(points, len(draws), seed))


def _values(results: Results, dynamic: Dynamic) -> tuple[dict[str, np.ndarray], str]:
    """task -> (items, seeds x 4): for each IDP cell right or wrong by single best, random choice, oracle, IDP itself.

    Second, which members were the best by held-out perplexity, in words.
    """
    cells = dynamic.cells
    members = {cell: member_cells(cell, dynamic.settings) for cell in cells}
    order = unique(c for cell in cells for c in (*members[cell], cell))
    best = {cell: min(members[cell], key=lambda c: _heldout(results, c)) for cell in cells}
    values = {}
    for task, frame in paired_items(results, order, "correct").items():
        right = dict(zip(order, frame.to_numpy().T, strict=True))
        columns = []
        for cell in cells:
            answers = np.stack([right[c] for c in members[cell]])  # (members, items)
            columns += [right[best[cell]], answers.mean(axis=0), answers.max(axis=0), right[cell]]
        values[task] = np.stack(columns, axis=1)
    followed = protocol(results.evaluations[next(iter(best.values()))])
    return values, _best_in_words(dynamic, list(best.values()), followed)


def _best_in_words(dynamic: Dynamic, best: list[Cell], followed: str) -> str:
    """ "prompt-100, by held-out perplexity (windowed)", with counts if the seeds differ.

    best: the best member of each seed. followed: the protocol of the perplexity.
    """
    named = any("seed" in member for member in dynamic.settings["members"])
    taken = Counter(f"{c.method} (seed {c.seed})" if named else c.method for c in best)
    shares = [f"{name} in {count} of {len(best)} seeds" for name, count in taken.most_common()]
    names = ", ".join(shares) if len(taken) > 1 else next(iter(taken))
    return f"{names}, by held-out perplexity ({followed})"


def _heldout(results: Results, cell: Cell) -> float:
    return heldout(results, cell) or math.inf

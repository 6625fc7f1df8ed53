"""Other ways to choose among IDP's prompts, from the answers of the single prompts: what IDP must beat (design, 6)."""

from collections import Counter
from typing import NamedTuple

import numpy as np

from workflow_scripts.judge.results import Results, paired_items, unique
from workflow_scripts.judge.statistics import Estimate, resampled_averages, seed_mean
from workflow_scripts.plan.layout import Cell, Group

WAYS = {  # way -> its note
    "single best": "",  # names the prompts that it took
    "random choice": "expectation of a uniform choice",
    "oracle": "looks at the answer: a bound, not a method",
}


class Choice(NamedTuple):
    """A way to choose: accuracy per task, its average, and IDP minus it on the same items and seeds (fractions)."""

    name: str
    note: str
    accuracy: dict[str, float]
    average: Estimate
    behind: Estimate


class Choices(NamedTuple):
    """The other ways for one IDP method: means over `seeds` of its cells; `missing`: members without a cell."""

    ways: list[Choice]
    seeds: list[int]
    missing: list[str]


def members_of(method: dict) -> list[dict]:
    """The members of a method that combines several, each with its `adapter` and, if it names one, its `seed`."""
    return [m if isinstance(m, dict) else {"adapter": m} for m in method.get("members", ())]


def member_cells(cell: Cell, method: dict) -> list[Cell]:
    """The cells of the members of a cell's method: of its own seed, unless a member names one."""
    return [
        cell._replace(method=member["adapter"], seed=member.get("seed", cell.seed))
        for member in members_of(method)
    ]


def member_names(method: dict) -> list[str]:
    """The adapters of a method that combines several."""
    return [member["adapter"] for member in members_of(method)]


def choices(
    results: Results, groups: list[Group], methods: dict, resamples: int, seed: int
) -> dict[tuple[Group, str], Choices]:
    """(group, IDP method) -> the three other ways, for each of its seeds by the members of that seed, then averaged.

    single best: the member with the lowest perplexity on held-out text; random: the expectation of a uniform choice
    per question; oracle: right if any member is right (it looks at the answer: a bound, not a method). Seeds of IDP
    whose members are not all evaluated are left out. The resamples are the verdict's, shared by all.
    """
    found, values, bests = {}, {}, {}
    for group in groups:
        for name in results.methods(group):
            if methods.get(name, {}).get("kind") != "idp":
                continue
            cells, missing = [], []
            for cell in results.seeds(*group, name):
                absent = [c for c in member_cells(cell, methods[name]) if c not in results.evaluations]
                missing += [f"{c.method} (seed {c.seed})" for c in absent]
                cells += [] if absent else [cell]
            found[group, name] = Choices([], [cell.seed for cell in cells], unique(missing))
            if cells:
                values[group, name], bests[group, name] = _values(results, cells, methods[name])
    draws = resampled_averages(list(values.values()), resamples, seed)
    for (key, mine), drawn in zip(values.items(), draws, strict=True):
        found[key].ways.extend(_ways(*key, mine, drawn, bests[key], seed))
    return found


def _ways(group: Group, name: str, values: dict, draws: np.ndarray, best: str, seed: int) -> list[Choice]:
    """values: task -> (items, seeds x 4), as below; draws: (resamples, seeds x 4); best: note of the single best."""
    step = len(WAYS) + 1
    stream = f"{group.compressor}/{name}"  # as the verdict names IDP's own row: its seeds are drawn alike
    points = np.mean([v.mean(axis=0) for v in values.values()], axis=0)
    ways = []
    for k, (way, note) in enumerate(WAYS.items()):
        accuracy = {task: float(v[:, k::step].mean()) for task, v in values.items()}
        average = seed_mean(points[k::step], draws[:, k::step], stream, seed)
        idp_minus = [columns[..., step - 1 :: step] - columns[..., k::step] for columns in (points, draws)]
        ways.append(
            Choice(f"{way} of {name}", note or best, accuracy, average, seed_mean(*idp_minus, stream, seed))
        )
    return ways


def _values(results: Results, cells: list[Cell], method: dict) -> tuple[dict[str, np.ndarray], str]:
    """task -> (items, seeds x 4): for each IDP cell right or wrong by single best, random, oracle, and IDP itself.

    Beside it, which members were the best by held-out perplexity.
    """
    members = {cell: member_cells(cell, method) for cell in cells}
    order = unique(c for cell in cells for c in (*members[cell], cell))
    best = {cell: min(members[cell], key=lambda c: heldout_perplexity(results, c)) for cell in cells}
    values = {}
    for task, frame in paired_items(results, order, "correct").items():
        right = dict(zip(order, frame.to_numpy().T, strict=True))
        columns = []
        for cell in cells:
            answers = np.stack([right[c] for c in members[cell]])  # (members, items)
            columns += [right[best[cell]], answers.mean(axis=0), answers.max(axis=0), right[cell]]
        values[task] = np.stack(columns, axis=1)
    named = any("seed" in member for member in members_of(method))
    taken = Counter(f"{c.method} (seed {c.seed})" if named else c.method for c in best.values())
    shares = [f"{name} in {count} of {len(cells)} seeds" for name, count in taken.most_common()]
    return values, f"{', '.join(shares) if len(taken) > 1 else next(iter(taken))}, by held-out perplexity"


def heldout_perplexity(results: Results, cell: Cell) -> float:
    """Perplexity per token on held-out text of the cell's corpus, or of the first corpus measured."""
    perplexity = results.evaluations[cell]["perplexity"]
    scores = perplexity.get(cell.corpus) or next(iter(perplexity.values()), None)
    return scores["token"] if scores else float("inf")

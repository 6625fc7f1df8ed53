"""Other ways to choose among IDP's prompts, from the answers of the single prompts: what IDP must beat (design, 6)."""

from typing import NamedTuple

import pandas as pd

from workflow_scripts.analyze.results import Cell, Group, Results


class Choice(NamedTuple):
    """A way to choose, with its accuracy per task (a fraction)."""

    name: str
    note: str
    accuracy: dict[str, float]


def member_names(method: dict) -> list[str]:
    """The adapters of a method that combines several."""
    return [m["adapter"] if isinstance(m, dict) else m for m in method["members"]]


def member_cells(results: Results, group: Group, method: dict) -> list[Cell | None]:
    """The evaluated cells of a method's members; None where one is missing."""
    cells = []
    for member in method["members"]:
        member = member if isinstance(member, dict) else {"adapter": member}
        cell = results.first(*group, member["adapter"])
        if cell and "seed" in member:
            cell = cell._replace(seed=member["seed"])
        cells.append(cell if cell in results.evaluations else None)
    return cells


def missing_members(results: Results, group: Group, method: dict) -> list[str]:
    """The members without an evaluated cell, for which the other ways to choose can't be told."""
    names = [
        f"{m['adapter']} (seed {m['seed']})" if isinstance(m, dict) and "seed" in m else name
        for m, name in zip(method["members"], member_names(method), strict=True)
    ]
    cells = member_cells(results, group, method)
    return [name for name, cell in zip(names, cells, strict=True) if cell is None]


def choices(results: Results, group: Group, name: str, method: dict) -> list[Choice]:
    """The three other ways for one IDP method; none where a member's cell is missing.

    single best: the member with the lowest perplexity on held-out text; random: the expectation of a uniform choice
    per question; oracle: right if any member is right (it looks at the answer: a bound, not a method).
    """
    cells = member_cells(results, group, method)
    if not all(cells):
        return []
    results.check_paired(cells)
    correct = pd.concat([results.items(c)["correct"].astype(float) for c in cells], axis=1, join="inner")
    best = min(range(len(cells)), key=lambda i: heldout_perplexity(results, cells[i]))
    ways = {
        "single best": (correct.iloc[:, best], f"{cells[best].method}, by held-out perplexity"),
        "random choice": (correct.mean(axis=1), "expectation of a uniform choice"),
        "oracle": (correct.max(axis=1), "looks at the answer: a bound, not a method"),
    }
    return [
        Choice(f"{way} of {name}", note, values.groupby(level="task").mean().to_dict())
        for way, (values, note) in ways.items()
    ]


def heldout_perplexity(results: Results, cell: Cell) -> float:
    """Perplexity per token on held-out text of the cell's corpus, or of the first corpus measured."""
    perplexity = results.evaluations[cell]["perplexity"]
    scores = perplexity.get(cell.corpus) or next(iter(perplexity.values()), None)
    return scores["token"] if scores else float("inf")

"""The distance of each cell's answers from the dense model's, which equal accuracy can hide.

Two models of equal accuracy may answer different questions right. So accuracy is accompanied, per task, over the items
that the cell and the dense model without an adapter share, by
  flips    share of items that became right or wrong (Dutta et al., "Accuracy is Not All You Need", NeurIPS 2024)
  changed  share of items with another answer, right or wrong
  kl       mean KL(dense || cell) of the choice, in nats: p = softmax of the choices' log-likelihoods; only for tasks
           whose choices exclude each other
The task `all` is the mean over tasks (of kl over those that have it). Intervals: Wilson for a task's shares, the
verdict's stratified bootstrap for everything else.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from workflow_scripts.judge.results import Results
from workflow_scripts.judge.statistics import Estimate, finite, proportion_interval, resampled_averages
from workflow_scripts.plan.layout import Cell

MEASURES = ("flips", "changed", "kl")
ALL = "all"


def divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """KL(p || q) in nats of p = softmax(reference), q = softmax(other), log-likelihoods (choices,) each."""
    p = reference - np.logaddexp.reduce(reference)
    q = other - np.logaddexp.reduce(other)
    return float(np.exp(p) @ (p - q))


def compare(dense: pd.DataFrame, cell: pd.DataFrame) -> pd.DataFrame:
    """flips, changed (0 or 1) and kl (nats, NaN if the choices do not exclude each other) per shared item.

    Both are samples, indexed as `Results` does, with correct, prediction and choice_logliks.
    """
    both = dense.add_suffix("_dense").join(cell.add_suffix("_cell"), how="inner")
    found = pd.DataFrame(index=both.index)
    found["flips"] = (both["correct_dense"] != both["correct_cell"]).astype(float)
    found["changed"] = (both["prediction_dense"] != both["prediction_cell"]).astype(float)
    found["kl"] = [
        np.nan if a is None or b is None else divergence(np.asarray(a), np.asarray(b))
        for a, b in zip(both["choice_logliks_dense"], both["choice_logliks_cell"], strict=True)
    ]
    return found


def changes(results: Results, resamples: int, seed: int = 0) -> list[dict]:
    """verdict.json's `changes`: for each cell, its tasks and `all`, n and each measure as {value, low, high}.

    Shares are fractions, kl is in nats. Cells of models whose dense cell without an adapter is missing are left out.
    """
    compared = _compared(results)
    measured = [
        (cell, task, name, values)
        for cell, tasks in compared.items()
        for task, name, values in _bootstrapped(tasks)
    ]
    draws = resampled_averages([values for *_, values in measured], resamples, seed)
    estimates = {}
    for (cell, task, name, values), drawn in zip(measured, draws, strict=True):
        point = float(np.mean([each.mean() for each in values.values()]))
        estimates[cell, task, name] = Estimate(point, drawn[:, 0]).to_json()
    rows = []
    for cell, tasks in compared.items():
        found = {}
        for task, items in (*tasks.items(), (ALL, pd.concat(tasks.values()))):
            shown = {name: estimates.get((cell, task, name)) or _share(items, name) for name in MEASURES}
            found[task] = {"n": len(items), **shown}
        rows.append({**cell.axes, "tasks": found})
    return rows


def _compared(results: Results) -> dict[Cell, dict[str, pd.DataFrame]]:
    """Cell -> task -> `compare` with the dense model without an adapter."""
    compared = {}
    for cell in results.evaluations:
        dense = results.first(cell.model, "dense", cell.corpus, "none")
        if dense not in (None, cell):
            results.check_paired([dense, cell])
            items = [results.texts(c, "correct", "prediction", "choice_logliks") for c in (dense, cell)]
            by_task = compare(*items).groupby(level="task", sort=False)
            compared[cell] = {str(task): frame for task, frame in by_task}
    return compared


def _bootstrapped(tasks: dict[str, pd.DataFrame]) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """(task or `all`, measure, its values by task) of one cell, for every number with a bootstrap interval."""
    for name in MEASURES:
        values = {task: items[[name]].dropna().to_numpy() for task, items in tasks.items()}
        values = {task: known for task, known in values.items() if len(known)}
        if name == "kl":
            yield from ((task, name, {task: known}) for task, known in values.items())
        if values:
            yield ALL, name, values


def _share(items: pd.DataFrame, name: str) -> dict | None:
    """A task's share of items with its Wilson interval; None for kl, which is no share."""
    if name == "kl":
        return None
    low, high = proportion_interval(int(items[name].sum()), len(items))
    return {"value": float(items[name].mean()), "low": finite(low), "high": finite(high)}

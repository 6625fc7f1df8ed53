"""How far each cell's answers moved from the dense model's: what equal accuracy can hide.

Two models of equal accuracy may answer different questions right. Beside accuracy stand, per task, over the items
that the cell and the dense model without an adapter share:
  flips    share of items that became right or wrong (Dutta et al., "Accuracy is Not All You Need", NeurIPS 2024)
  changed  share of items with another answer, right or wrong
  kl       mean KL(dense || cell) of the choice, in nats: p = softmax of the choices' log-likelihoods; tasks whose
           choices exclude each other only
The task `all` is the mean over tasks (of kl over those that have it). Intervals: Wilson for a task's shares, the
stratified bootstrap of the verdict for everything else.
"""

import numpy as np
import pandas as pd

from workflow_scripts.judge.results import Results
from workflow_scripts.judge.statistics import (
    RESAMPLES,
    Estimate,
    finite,
    proportion_interval,
    resampled_averages,
)
from workflow_scripts.plan.layout import AXES, Cell
from workflow_scripts.report.rendering import environment, number, pipe

MEASURES = ("flips", "changed", "kl")
NOTES = (
    "Over the items that the cell and the dense model without an adapter share. flips: became right or wrong; changed: "
    "another answer, right or wrong; both in per cent of items. KL: of the choice, dense to cell, in nats; only tasks "
    "whose choices exclude each other. all: the mean over tasks.",
    "An adapter on the dense model changes answers too: its rows show how many, without any compression.",
)


def divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """KL(p || q) in nats of p = softmax(reference), q = softmax(other), log-likelihoods (choices,) each."""
    p = reference - np.logaddexp.reduce(reference)
    q = other - np.logaddexp.reduce(other)
    return float(np.exp(p) @ (p - q))


def compare(dense: pd.DataFrame, cell: pd.DataFrame) -> pd.DataFrame:
    """flips, changed (0 or 1) and kl (nats, NaN where choices don't exclude each other) per shared item.

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


def changes(results: Results, resamples: int = RESAMPLES) -> pd.DataFrame:
    """One row per cell and task (and `all`): cell, task, n, and each measure with `_low` and `_high`.

    Cells of models whose dense cell without an adapter is missing have no rows.
    """
    compared: dict[Cell, dict[str, pd.DataFrame]] = {}
    for cell in results.evaluations:
        dense = results.first(cell.model, "dense", cell.corpus, "none")
        if dense not in (None, cell):
            results.check_paired([dense, cell])
            items = [results.texts(c, "correct", "prediction", "choice_logliks") for c in (dense, cell)]
            compared[cell] = dict(iter(compare(*items).groupby(level="task", sort=False)))
    rows, families = [], []
    for cell, tasks in compared.items():
        for task, name, values in _estimated(tasks):
            families.append(values)
            rows.append((cell, task, name, values))
    estimates = {}
    for (cell, task, name, values), draws in zip(rows, resampled_averages(families, resamples), strict=True):
        point = float(np.mean([each.mean() for each in values.values()]))
        estimates[cell, task, name] = Estimate(point, draws[:, 0])
    table = []
    for cell, tasks in compared.items():
        for task, items in (*tasks.items(), ("all", pd.concat(tasks.values()))):
            row = cell.axes | {"task": task, "n": len(items)}
            for name in MEASURES:
                if estimate := estimates.get((cell, task, name)):
                    low, high = estimate.interval()
                    row |= {name: finite(estimate.point), f"{name}_low": low, f"{name}_high": high}
                elif name != "kl":
                    low, high = proportion_interval(int(items[name].sum()), len(items))
                    row |= {name: items[name].mean(), f"{name}_low": low, f"{name}_high": high}
            table.append(row)
    columns = [
        *AXES,
        "task",
        "n",
        *(name + end for name in MEASURES for end in ("", "_low", "_high")),
    ]
    return pd.DataFrame(table, columns=columns)


def _estimated(tasks: dict[str, pd.DataFrame]):
    """(task or `all`, measure, its values by task) of one cell, for every number that gets a bootstrap interval."""
    for name in MEASURES:
        values = {task: items[[name]].dropna().to_numpy() for task, items in tasks.items()}
        values = {task: known for task, known in values.items() if len(known)}
        if name == "kl":
            yield from ((task, name, {task: known}) for task, known in values.items())
        if values:
            yield "all", name, values


def to_csv(table: pd.DataFrame, grid: str, missing: str = "", command: str = "snakemake") -> str:
    """Every row; shares as fractions, kl in nats, empty where there is none."""
    return table.to_csv(index=False, lineterminator="\n", float_format="%.6f")


def to_markdown(table: pd.DataFrame, grid: str, missing: str = "", command: str = "snakemake") -> str:
    """The cells' means over tasks."""
    head = ["model", "compressor", "corpus", "method", "seed", "items", "flips %", "changed %", "KL"]
    lines = [
        "# Changed answers",
        "",
        f"Grid `{grid}`; made by `{command} results/{grid}/tables/changes.md`.",
        "",
    ]
    lines += [pipe(head), pipe(["---"] * 5 + ["--:"] * 4)]
    for row in table[table["task"] == "all"].to_dict("records"):
        values = [number(100 * row["flips"]), number(100 * row["changed"]), number(_known(row["kl"]), 4)]
        lines.append(pipe([*(row[key] for key in AXES), row["n"], *values]))
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(missing))]) + "\n"


def to_html(table: pd.DataFrame, grid: str, missing: str = "", command: str = "snakemake") -> str:
    """One page with a sortable table that needs nothing beside itself."""
    rows = [{key: _known(value) for key, value in row.items()} for row in table.to_dict("records")]
    template = environment().get_template("changes_page.html.j2")
    return template.render(rows=rows, grid=grid, command=command, notes=_notes(missing))


def _known(value):
    """None where a number is missing."""
    return None if isinstance(value, float) and np.isnan(value) else value


def _notes(missing: str) -> list[str]:
    """The notes, with `Results.missing_in_words` where it says something."""
    return [*NOTES, *filter(None, [missing])]


RENDERERS = {"csv": to_csv, "md": to_markdown, "html": to_html}

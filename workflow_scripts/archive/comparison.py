"""Two runs of the same cells, item by item: the effect of a change of code, data, machine or setting."""

import numpy as np

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.judge.results import Results, side_by_side
from workflow_scripts.judge.statistics import (
    RESAMPLES,
    Estimate,
    finite,
    holm,
    mcnemar,
    paired_interval,
    resampled_averages,
    smallest_detectable,
)
from workflow_scripts.plan.layout import Cell

METRICS = {"accuracy": "correct", "gold_loglik": "gold_loglik"}  # name -> samples column
PROVENANCE = ("recipe", "code", "host", "device", "threads", "python", "libraries", "inputs")


def compare(a: Results, b: Results, resamples: int = RESAMPLES, seed: int = 0) -> dict:
    """B minus A for every cell that both have, paired by (task, doc_hash).

    Per cell: the macro average's difference in accuracy and in gold log-likelihood with its stratified paired
    bootstrap, exact McNemar tests by task, the smallest difference that could have been found, and what of the
    manifests differs. Holm adjusts over all p values of accuracy together. Raises ArtifactError where the cells'
    benchmark files differ or no cell is common.
    """
    other_grid, b = b.grid, b.under(a.grid)
    common = [cell for cell in a.evaluations if cell in b.evaluations]
    if not common:
        raise ArtifactError("the two have no cell (model, compressor, corpus, method, seed) in common")
    for cell in common:
        _check_data(a, b, cell)
    values = {
        (cell, name): _paired(a, b, cell, column) for cell in common for name, column in METRICS.items()
    }
    draws = dict(zip(values, resampled_averages(list(values.values()), resamples, seed), strict=True))
    rows = [_row(a, b, cell, values, draws) for cell in common]
    _adjust(rows)
    return {
        "a": {"grid": a.grid, "only": [str(cell) for cell in a.evaluations if cell not in b.evaluations]},
        "b": {"grid": other_grid, "only": [str(cell) for cell in b.evaluations if cell not in a.evaluations]},
        "settings": {"resamples": resamples, "seed": seed},
        "cells": rows,
    }


def _check_data(a: Results, b: Results, cell: Cell) -> None:
    for task, scores in a.evaluations[cell]["tasks"].items():
        other = b.evaluations[cell]["tasks"].get(task)
        if other and other["data_sha256"] != scores["data_sha256"]:
            raise ArtifactError(
                f"{cell} can't be paired: the two were evaluated on different {task} data (sha256 "
                f"{scores['data_sha256'][:12]} and {other['data_sha256'][:12]})"
            )


def _paired(a: Results, b: Results, cell: Cell, column: str) -> dict[str, np.ndarray]:
    """task -> (items, 2): A's and B's values of the items that both have."""
    both = side_by_side(results.items(cell)[column] for results in (a, b))
    return {task: frame.to_numpy() for task, frame in both.items()}


def _row(a: Results, b: Results, cell: Cell, values: dict, draws: dict) -> dict:
    row = {"cell": cell.axes, "items": sum(map(len, values[cell, "accuracy"].values()))}
    for name in METRICS:
        mine, drawn = values[cell, name], draws[cell, name]
        points = (
            [float(np.mean([v[:, side].mean() for v in mine.values()])) for side in (0, 1)] if mine else None
        )
        if points is None:
            row[name] = None
            continue
        difference = Estimate(points[1] - points[0], drawn[:, 1] - drawn[:, 0])
        found = smallest_detectable({t: v[:, 1] - v[:, 0] for t, v in mine.items()}, name == "accuracy")
        row[name] = {
            "a": finite(points[0]),
            "b": finite(points[1]),
            "difference": difference.to_json(),
            "p": finite(difference.p_value()),
            "smallest_detectable": finite(found),
        }
    row["tasks"] = {task: _task(v) for task, v in values[cell, "accuracy"].items()}
    row["differs"] = provenance(a.evaluations[cell]["manifest"], b.evaluations[cell]["manifest"])
    return row


def _task(values: np.ndarray) -> dict:
    test = mcnemar(values[:, 0] > 0.5, values[:, 1] > 0.5)
    low, high = paired_interval(test["gained"], test["lost"], len(values))
    difference = finite((test["gained"] - test["lost"]) / len(values))
    return {"n": len(values), "difference": difference, "low": finite(low), "high": finite(high), **test}


def provenance(one: dict, two: dict) -> list[str]:
    """Keys of two manifests whose values differ; of libraries and inputs, which ones."""
    found = []
    for key in PROVENANCE:
        left, right = one.get(key), two.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            names = sorted({*left, *right})
            found += [f"{key}.{name}" for name in names if left.get(name) != right.get(name)]
        elif left != right:
            found.append(key)
    return found


def _adjust(rows: list[dict]) -> None:
    """Holm over the averages and tasks of all cells together."""
    tests = [row["accuracy"] for row in rows if row["accuracy"] and row["accuracy"]["p"] is not None]
    tests += [task for row in rows for task in row["tasks"].values()]
    for test, adjusted in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = finite(adjusted)


def lines(report: dict) -> list[str]:
    """The comparison as text: a line per cell, then the tasks whose change survives Holm."""
    head = f"{'B - A, points of average accuracy':<72}{'95 % interval':>17}{'p (Holm)':>10}{'could find':>12}"
    grids = f"A: {report['a']['grid']}, B: {report['b']['grid']}"
    text = [f"{len(report['cells'])} cells in common, paired item by item; {grids}", head]
    for row in report["cells"]:
        name, metric = " / ".join(map(str, row["cell"].values())), row["accuracy"]
        if metric is None:
            text.append(f"{name:<62} no common item")
            continue
        difference = metric["difference"]
        ends = (
            "—"
            if difference["low"] is None
            else f"[{100 * difference['low']:+.2f}, {100 * difference['high']:+.2f}]"
        )
        p = "—" if metric.get("p_holm") is None else f"{metric['p_holm']:.3f}"
        found = "—" if metric["smallest_detectable"] is None else f"{100 * metric['smallest_detectable']:.2f}"
        text.append(f"{name:<62}{100 * difference['value']:>+10.2f}{ends:>17}{p:>10}{found:>12}")
        text += [
            f"    {task}: {test['gained']} items gained, {test['lost']} lost of {test['n']} (p {test['p_holm']:.4f})"
            for task, test in row["tasks"].items()
            if test["p_holm"] < 0.05
        ]
    differing = sorted({key for row in report["cells"] for key in row["differs"]})
    text.append(f"Manifests differ in: {', '.join(differing)}" if differing else "The manifests agree.")
    for side in ("a", "b"):
        if only := report[side]["only"]:
            text.append(
                f"Only in {side.upper()}: {len(only)} cells ({'; '.join(only[:3])}{'; ...' if len(only) > 3 else ''})"
            )
    return text

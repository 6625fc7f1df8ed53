"""All paired statistics of a grid and its verdicts, as plain data for verdict.json.

Every table and figure takes its intervals from here, so a number has the same interval wherever it is shown.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from workflow_scripts.judge.results import Results, paired_items, unique
from workflow_scripts.judge.statistics import (
    LEVEL,
    RESAMPLES,
    SEEDS_FOR_VARIANCE,
    Estimate,
    detectable_from,
    finite,
    holm,
    mcnemar,
    paired_interval,
    proportion_interval,
    ratio,
    resampled_averages,
    seed_mean,
    smallest_detectable,
)
from workflow_scripts.judge.verdict import Verdict, decide
from workflow_scripts.plan.layout import Cell, Group

ITEMS = "items"  # what an interval covers with few training seeds
METRICS = {"accuracy": "correct", "gold_loglik": "gold_loglik"}  # name -> samples column


@dataclass(frozen=True)
class Arm:
    """One setting (compressor and method) of a comparison with its cells, one per training seed."""

    compressor: str
    method: str
    cells: tuple[Cell, ...]


def judge_grid(
    results: Results, pair: dict[str, str], resamples: int = RESAMPLES, seed: int = 0, *,
    sparse: Collection[str] = (), command: str = "snakemake",
) -> dict:  # fmt: skip
    """verdict.json: settings, and for each (model, compressor, corpus) its estimates, tests and verdicts.

    pair: {"prompt": method, "lora": method}, named in config before the results are seen. sparse: the compressors
    that prune, which stand in a table of their own. command: makes a file of this grid again, followed by its path.
    """
    arms = {group: group_arms(results, group) for group in results.groups()}
    values = {
        (group, name): paired_values(results, mine, column)
        for group, mine in arms.items()
        for name, column in METRICS.items()
        if ("none" in _methods(mine, group.compressor))
    }
    draws = dict(zip(values, resampled_averages(list(values.values()), resamples, seed), strict=True))
    groups = []
    for group, mine in arms.items():
        metrics = {
            name: _judge_metric(
                results, group, mine, values[group, name], draws[group, name], name == "accuracy", pair, seed
            )
            for name in METRICS
            if (group, name) in values
        }
        groups.append(_judge_group(results, group, mine, metrics, values.get((group, "accuracy"), {})))
    for table in ([g for g in groups if (g["compressor"] in sparse) == prunes] for prunes in (False, True)):
        _adjust(table)
    return {
        "grid": results.grid,
        "pair": dict(pair),
        "settings": {"resamples": resamples, "seed": seed, "level": LEVEL, "command": command},
        "cells": {"planned": len(results.planned), "missing": [cell.axes for cell in results.missing]},
        "groups": groups,
    }


def group_arms(results: Results, group: Group) -> list[Arm]:
    """The arms of the group's compressor, then those of the dense model, for the cells that exist."""
    arms = (
        Arm(compressor, method, tuple(results.seeds(group.model, compressor, group.corpus, method)))
        for compressor in (group.compressor, "dense")
        for method in ("none", *results.methods(group))
    )
    return [arm for arm in arms if arm.cells]


def dense_metrics(results: Results, groups: list[Group], resamples: int, seed: int) -> dict[Group, dict]:
    """For groups of the dense model, of its accuracy what a verdict says of a compressed one's: value and gain of each
    method. No p value: a gain there is adaptation, the control of G, and no member of a family of tests."""
    found = {}
    for group in groups:
        arms = unique(group_arms(results, group))
        values = paired_values(results, arms, METRICS["accuracy"]) if arms else {}
        if not values or arms[0].method != "none":
            found[group] = {}
            continue
        (draws,) = resampled_averages([values], resamples, seed)
        points, columns, start = np.mean([v.mean(axis=0) for v in values.values()], axis=0), {}, 0
        for arm in arms:
            columns[arm.method] = slice(start, start := start + len(arm.cells))
        estimates = {m: seed_mean(points[c], draws[:, c], f"dense/{m}", seed) for m, c in columns.items()}
        methods = {}
        for arm in arms[1:]:
            gain, mine = estimates[arm.method] - estimates["none"], columns[arm.method]
            differences = {t: v[:, mine].mean(axis=1) - v[:, 0] for t, v in values.items()}
            methods[arm.method] = {
                "value": estimates[arm.method].to_json(),
                "gain": gain.to_json(),
                "smallest_detectable": _detectable(gain, differences, _covers(arm), binary=True),
                "covers": _covers(arm),
            }
        found[group] = {"dense": estimates["none"].to_json(), "methods": methods}
    return found


def paired_values(results: Results, arms: list[Arm], column: str) -> dict[str, np.ndarray]:
    """task -> (items, cells) of one samples column over the items that all cells of the arms share."""
    frames = paired_items(results, [cell for arm in arms for cell in arm.cells], column)
    return {task: frame.to_numpy() for task, frame in frames.items()}


def _methods(arms: list[Arm], compressor: str) -> dict[str, Arm]:
    return {arm.method: arm for arm in arms if arm.compressor == compressor}


def _judge_group(results: Results, group: Group, arms: list[Arm], metrics: dict, values: dict) -> dict:
    """Estimates, tests and verdicts of one (model, compressor, corpus)."""
    compressed, dense = _methods(arms, group.compressor), _methods(arms, "dense")
    head = {
        **group._asdict(),
        "missing": [
            str(cell)
            for method in ("none", *results.methods(group))
            for compressor in ("dense", group.compressor)
            for cell in results.seeds(group.model, compressor, group.corpus, method, planned=True)
            if cell not in results.evaluations
        ],
        "seeds": {method: [cell.seed for cell in arm.cells] for method, arm in compressed.items()},
    }
    if not metrics:
        reason = f"{group} / none has not been evaluated"
        empty = {name: {"verdict": Verdict("unavailable", reason).to_json()} for name in METRICS}
        return {**head, "items": {}, "metrics": empty, "tasks": {}, "family": 0}
    tasks = _task_tests(results, compressed, dense.get("none"))
    items = {task: len(mine) for task, mine in values.items()}
    return {**head, "items": items, "metrics": metrics, "tasks": tasks, "family": 0}


def _judge_metric(results, group, arms, values, draws, binary, pair, seed) -> dict:
    """One metric of a group. values: task -> (items, cells); draws: (resamples, cells); binary: right or wrong."""
    absent = [t for t in results.tasks if t not in values]
    if not values:
        reason = "its cells share no item with a value"
        nothing = dict.fromkeys(("dense", "compressed", "loss", "loss_smallest_detectable", "uncontrolled"))
        verdict = Verdict("unavailable", reason).to_json()
        return {**nothing, "verdict": verdict, "absent_tasks": absent, "methods": {}}
    points = np.mean([v.mean(axis=0) for v in values.values()], axis=0)
    estimates, members, start = {}, {}, 0
    for arm in arms:
        key, stop = (arm.compressor, arm.method), start + len(arm.cells)
        members[key] = slice(start, stop)
        estimates[key] = seed_mean(points[start:stop], draws[:, start:stop], "/".join(key), seed)
        start = stop

    def difference(a: tuple, b: tuple) -> dict[str, np.ndarray]:
        return {t: v[:, members[a]].mean(axis=1) - v[:, members[b]].mean(axis=1) for t, v in values.items()}

    def detectable(estimate: Estimate, differences: dict[str, np.ndarray], covers: str) -> float | None:
        return _detectable(estimate, differences, covers, binary)

    none, reference = (group.compressor, "none"), ("dense", "none")
    loss = estimates[reference] - estimates[none] if reference in estimates else None
    lost = loss is not None and loss.interval()[0] > 0
    methods, gains, controlled = {}, {}, {}
    by_key = {(arm.compressor, arm.method): arm for arm in arms}
    for arm in arms:
        key = (arm.compressor, arm.method)
        if arm.compressor != group.compressor or arm.method == "none":
            continue
        gain, covers, gained = estimates[key] - estimates[none], _covers(arm), difference(key, none)
        gains[arm.method] = gain
        row = {
            "value": estimates[key].to_json(),
            "gain": gain.to_json(),
            "p": finite(gain.p_value()),
            "smallest_detectable": detectable(gain, gained, covers),
            "covers": covers,
            "recovery": ratio(gain, loss) if lost else None,
            "dense_gain": None,
            "controlled": None,
            "controlled_smallest_detectable": None,
            "controlled_covers": None,
        }
        if ("dense", arm.method) in estimates and reference in estimates:
            dense_gain = estimates["dense", arm.method] - estimates[reference]
            G = controlled[arm.method] = gain - dense_gain
            both = covers if _covers(by_key["dense", arm.method]) == covers else ITEMS
            adapted = difference(("dense", arm.method), reference)
            row |= {
                "dense_gain": dense_gain.to_json(),
                "controlled": G.to_json(),
                "controlled_smallest_detectable": detectable(
                    G, {t: gained[t] - adapted[t] for t in gained}, both
                ),
                "controlled_covers": both,
            }
        methods[arm.method] = row
    return {
        "dense": estimates[reference].to_json() if loss is not None else None,
        "compressed": estimates[none].to_json(),
        "loss": loss.to_json() if loss is not None else None,
        "loss_smallest_detectable": (
            detectable(loss, difference(reference, none), ITEMS) if loss is not None else None
        ),
        "methods": methods,
        "verdict": _verdict(group, loss, controlled, methods, pair).to_json(),
        "uncontrolled": _uncontrolled(loss, gains, pair),
        "absent_tasks": absent,
    }


def _detectable(
    estimate: Estimate, differences: dict[str, np.ndarray], covers: str, binary: bool
) -> float | None:
    found = smallest_detectable(differences, binary)
    if covers != ITEMS:  # what training adds to the variance counts too
        found = max(found, detectable_from(estimate.standard_error))
    return finite(found)


def _covers(arm: Arm) -> str:
    return "items and training seeds" if len(arm.cells) >= SEEDS_FOR_VARIANCE else ITEMS


def _verdict(group: Group, loss: Estimate | None, controlled: dict, methods: dict, pair: dict) -> Verdict:
    if loss is None:
        return Verdict("unavailable", f"{group.model} / dense / none has not been evaluated")
    if absent := unique(m for m in pair.values() if m not in methods):
        missing = f"{group} has no result for {' and '.join(absent)}, named in the pair"
    else:
        absent = unique(m for m in pair.values() if m not in controlled)
        missing = (
            f"no dense control for {' and '.join(absent)}: not run on the dense model, so recovery can't be told "
            "from what the adapter gives any model; the gains shown are not controlled"
        )
    return decide(loss, controlled.get(pair["prompt"]), controlled.get(pair["lora"]), missing)


def _uncontrolled(loss: Estimate | None, gains: dict, pair: dict) -> dict | None:
    """What the rule says of the plain gains: how much of the verdict is the dense control's. None without them."""
    if loss is None or not all(method in gains for method in pair.values()):
        return None
    verdict = decide(loss, gains[pair["prompt"]], gains[pair["lora"]])
    return {"word": verdict.word, "reason": verdict.reason.replace("G(", "gain(")}


def _task_tests(results: Results, compressed: dict[str, Arm], dense: Arm | None) -> dict:
    """method -> task -> accuracy of the first seed with Wilson interval and exact McNemar against `none`.

    The row `none` compares the compressed model with the dense one.
    """
    report = {}
    for method, arm in compressed.items():
        base = dense if method == "none" else compressed["none"]
        report[method] = {}
        cells = [arm.cells[0], *([base.cells[0]] if base else [])]
        for task, frame in paired_items(results, cells, "correct").items():
            after = frame[0].to_numpy() > 0.5
            low, high = proportion_interval(int(after.sum()), len(after))
            row = {"n": len(after), "acc": float(after.mean()), "low": finite(low), "high": finite(high)}
            if base:
                before = frame[1].to_numpy() > 0.5
                test = mcnemar(before, after)
                low, high = paired_interval(test["gained"], test["lost"], len(after))
                difference = {
                    "value": float(after.mean() - before.mean()),
                    "low": finite(low),
                    "high": finite(high),
                }
                found = smallest_detectable({task: after.astype(float) - before}, binary=True)
                row |= {"difference": difference, "smallest_detectable": finite(found), **test}
            report[method][task] = row
    return report


def _adjust(groups: list[dict]) -> None:
    """Holm over the cells of one table: the averages and tasks of every method of its groups."""
    rows = []
    for group in groups:
        rows += [
            row for row in group["metrics"]["accuracy"].get("methods", {}).values() if row["p"] is not None
        ]
        by_method = (by_task for method, by_task in group["tasks"].items() if method != "none")
        rows += [row for by_task in by_method for row in by_task.values() if "p" in row]
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    for group in groups:
        group["family"] = len(rows)

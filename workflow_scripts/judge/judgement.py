"""All paired statistics of a grid and its verdicts, as plain data for verdict.json.

Every table and figure takes its intervals from here, so a number has the same interval wherever it is shown. Shares of
the item ledger (`rates`) are the exception: they need ledger.parquet, and the page alone shows them.
"""

from typing import Any

from workflow_scripts.judge.arms import (
    ACCURACY,
    ITEMS,
    METRICS,
    Arm,
    Measured,
    group_arms,
    measure,
    paired_values,
)
from workflow_scripts.judge.catalogue import sparsity
from workflow_scripts.judge.changes import changes
from workflow_scripts.judge.choices import choices
from workflow_scripts.judge.results import Results, paired_items, unique
from workflow_scripts.judge.scores import scores
from workflow_scripts.judge.statistics import (
    LEVEL,
    RESAMPLES,
    Estimate,
    finite,
    holm,
    mcnemar,
    paired_interval,
    proportion_interval,
    ratio,
    resampled_averages,
    smallest_detectable,
)
from workflow_scripts.judge.verdict import Verdict, decide
from workflow_scripts.plan.layout import Group

SCHEMA = 2  # of verdict.json; 1 had no key of this name and only the groups


def judge_grid(
    results: Results,
    pair: dict[str, str],
    catalogue: dict[str, dict],
    resamples: int = RESAMPLES,
    seed: int = 0,
    command: str = "snakemake",
) -> dict[str, Any]:
    """verdict.json: settings; the estimates, tests and verdicts of each (model, compressor, corpus); all other
    numbers with an interval.

    pair: {"prompt": method, "lora": method}, named in config before the results are seen. catalogue: {methods,
    compressors, tasks} that the grid uses. command: makes a file of this grid again, followed by its path.
    """
    groups = _groups(results, pair, resamples, seed)
    sparse = {name for name, settings in catalogue["compressors"].items() if sparsity(settings)}
    for prunes in (False, True):  # these stand in tables of their own
        _adjust([group for group in groups if (group["compressor"] in sparse) == prunes])
    return {
        "schema": SCHEMA,
        "grid": results.grid,
        "pair": dict(pair),
        "settings": {"resamples": resamples, "seed": seed, "level": LEVEL, "command": command},
        "cells": {"planned": len(results.planned), "missing": [cell.axes for cell in results.missing]},
        "groups": groups,
        "dense_groups": dense_groups(results, resamples, seed),
        "scores": scores(results, catalogue["tasks"]),
        "choices": choices(results, catalogue["methods"], resamples, seed),
        "changes": changes(results, resamples, seed),
    }


def _groups(results: Results, pair: dict[str, str], resamples: int, seed: int) -> list[dict]:
    """Every compressed group, before Holm's adjustment."""
    arms = {group: group_arms(results, group) for group in results.groups()}
    values = {
        (group, metric): paired_values(results, mine, column)
        for group, mine in arms.items()
        for metric, column in METRICS.items()
        if any(arm.key == (group.compressor, "none") for arm in mine)
    }
    draws = dict(zip(values, resampled_averages(list(values.values()), resamples, seed), strict=True))
    found = []
    for group, mine in arms.items():
        metrics = {}
        for metric in METRICS:
            if (group, metric) in values:
                paired = values[group, metric]
                absent = [task for task in results.tasks if task not in paired]
                measured = measure(mine, paired, draws[group, metric], metric, seed) if paired else None
                metrics[metric] = {**_judge_metric(group, measured, pair), "absent_tasks": absent}
        items = {task: len(paired) for task, paired in values.get((group, ACCURACY), {}).items()}
        found.append(_judge_group(results, group, mine, metrics, items))
    return found


def dense_groups(results: Results, resamples: int, seed: int) -> list[dict]:
    """verdict.json's `dense_groups`: of the dense model's accuracy with each method, value and gain.

    No p value: a gain there is adaptation, the control of G, and no member of a family of tests. `accuracy` is empty
    if the model without a method, or an item that all share, is missing.
    """
    found = []
    for group in results.dense_groups():
        arms, accuracy = group_arms(results, group), {}
        values = paired_values(results, arms, METRICS[ACCURACY]) if arms else {}
        if values and arms[0].method == "none":
            (draws,) = resampled_averages([values], resamples, seed)
            measured = measure(arms, values, draws, ACCURACY, seed)
            none = arms[0].key
            accuracy = {
                "dense": measured.estimates[none].to_json(),
                "methods": {arm.method: _value_and_gain(measured, arm, none) for arm in arms[1:]},
            }
        found.append({**group._asdict(), "accuracy": accuracy})
    return found


def _value_and_gain(measured: Measured, arm: Arm, none: tuple[str, str]) -> dict[str, Any]:
    gain = measured.estimates[arm.key] - measured.estimates[none]
    return {
        "value": measured.estimates[arm.key].to_json(),
        "gain": gain.to_json(),
        "smallest_detectable": measured.detectable(gain, measured.difference(arm.key, none), arm.covers),
        "covers": arm.covers,
    }


def _judge_group(
    results: Results, group: Group, arms: list[Arm], metrics: dict[str, dict], items: dict[str, int]
) -> dict[str, Any]:
    """Estimates, tests and verdicts of one (model, compressor, corpus)."""
    compressed = {arm.method: arm for arm in arms if arm.compressor == group.compressor}
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
    dense = next((arm for arm in arms if arm.key == ("dense", "none")), None)
    tasks = _task_tests(results, compressed, dense)
    return {**head, "items": items, "metrics": metrics, "tasks": tasks, "family": 0}


def _judge_metric(group: Group, measured: Measured | None, pair: dict[str, str]) -> dict[str, Any]:
    """One metric of a group; measured: None if its cells share no item with a value."""
    if measured is None:
        verdict = Verdict("unavailable", "its cells share no item with a value").to_json()
        nothing = dict.fromkeys(("dense", "compressed", "loss", "loss_smallest_detectable", "uncontrolled"))
        return {**nothing, "verdict": verdict, "methods": {}}
    estimates, none, reference = measured.estimates, (group.compressor, "none"), ("dense", "none")
    loss = estimates[reference] - estimates[none] if reference in estimates else None
    gains = {
        arm.method: estimates[arm.key] - estimates[none]
        for arm in measured.arms.values()
        if arm.compressor == group.compressor and arm.method != "none"
    }
    dense_gains = {
        method: estimates["dense", method] - estimates[reference]
        for method in gains
        if ("dense", method) in estimates and reference in estimates
    }
    methods = {m: _judge_method(measured, group, m, gains[m], dense_gains.get(m), loss) for m in gains}
    controlled = {method: gains[method] - dense_gain for method, dense_gain in dense_gains.items()}
    return {
        "dense": estimates[reference].to_json() if loss is not None else None,
        "compressed": estimates[none].to_json(),
        "loss": loss.to_json() if loss is not None else None,
        "loss_smallest_detectable": (
            measured.detectable(loss, measured.difference(reference, none), ITEMS)
            if loss is not None
            else None
        ),
        "methods": methods,
        "verdict": _verdict(group, loss, controlled, methods, pair).to_json(),
        "uncontrolled": _uncontrolled(loss, gains, pair),
    }


def _judge_method(
    measured: Measured,
    group: Group,
    method: str,
    gain: Estimate,
    dense_gain: Estimate | None,
    loss: Estimate | None,
) -> dict[str, Any]:
    """One method of a group: its value and gain, and G = gain - dense_gain if the dense control was run."""
    none, reference = (group.compressor, "none"), ("dense", "none")
    arm = measured.arms[group.compressor, method]
    found = _value_and_gain(measured, arm, none)
    lost = loss is not None and loss.interval()[0] > 0
    row = {
        "value": found["value"],
        "gain": found["gain"],
        "p": finite(gain.p_value()),
        "smallest_detectable": found["smallest_detectable"],
        "covers": arm.covers,
        "recovery": ratio(gain, loss) if loss is not None and lost else None,
        "dense_gain": None,
        "controlled": None,
        "controlled_smallest_detectable": None,
        "controlled_covers": None,
    }
    if dense_gain is not None:
        control = measured.arms["dense", method]
        covers = arm.covers if control.covers == arm.covers else ITEMS
        gained, adapted = measured.difference(arm.key, none), measured.difference(control.key, reference)
        both = {task: gained[task] - adapted[task] for task in gained}
        G = gain - dense_gain
        row |= {
            "dense_gain": dense_gain.to_json(),
            "controlled": G.to_json(),
            "controlled_smallest_detectable": measured.detectable(G, both, covers),
            "controlled_covers": covers,
        }
    return row


def _verdict(
    group: Group,
    loss: Estimate | None,
    controlled: dict[str, Estimate],
    methods: dict[str, dict],
    pair: dict[str, str],
) -> Verdict:
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


def _uncontrolled(
    loss: Estimate | None, gains: dict[str, Estimate], pair: dict[str, str]
) -> dict[str, str] | None:
    """The rule applied to plain gains: it shows how much of the verdict is due to the dense control.

    None if a gain of the pair is missing.
    """
    if loss is None or not all(method in gains for method in pair.values()):
        return None
    verdict = decide(loss, gains[pair["prompt"]], gains[pair["lora"]])
    return {"word": verdict.word, "reason": verdict.reason.replace("G(", "gain(")}


def _task_tests(results: Results, compressed: dict[str, Arm], dense: Arm | None) -> dict[str, dict]:
    """method -> task -> accuracy of the first seed with Wilson interval and exact McNemar against `none`.

    The row `none` compares the compressed model with the dense one.
    """
    report: dict[str, dict] = {}
    for method, arm in compressed.items():
        base = dense if method == "none" else compressed["none"]
        cells = [arm.cells[0], *([base.cells[0]] if base else [])]
        report[method] = {}
        for task, frame in paired_items(results, cells, "correct").items():
            after = frame[0].to_numpy() > 0.5
            low, high = proportion_interval(int(after.sum()), len(after))
            row: dict = {
                "n": len(after),
                "acc": float(after.mean()),
                "low": finite(low),
                "high": finite(high),
            }
            if base:
                before = frame[1].to_numpy() > 0.5
                test = mcnemar(before, after)
                low, high = paired_interval(test["gained"], test["lost"], len(after))
                change = float(after.mean() - before.mean())
                found = smallest_detectable({task: after.astype(float) - before}, binary=True)
                row |= {
                    "difference": {"value": change, "low": finite(low), "high": finite(high)},
                    "smallest_detectable": finite(found),
                    **test,
                }
            report[method][task] = row
    return report


def _adjust(groups: list[dict]) -> None:
    """Holm over the cells of one table: the averages and tasks of every method of its groups."""
    rows = []
    for group in groups:
        methods = group["metrics"][ACCURACY].get("methods", {})
        rows += [row for row in methods.values() if row["p"] is not None]
        by_method = (by_task for method, by_task in group["tasks"].items() if method != "none")
        rows += [row for by_task in by_method for row in by_task.values() if "p" in row]
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    for group in groups:
        group["family"] = len(rows)

"""All paired statistics of a grid and its verdicts, as plain data for verdict.json.

Every table, figure and card takes its intervals from here, so a number has the same interval wherever it is shown.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from workflow_scripts.judge.arms import (
    Estimates,
    group_arms,
    sample,
)
from workflow_scripts.judge.catalogue import sparsity
from workflow_scripts.judge.changes import changes
from workflow_scripts.judge.choices import choices
from workflow_scripts.judge.judged import Judged
from workflow_scripts.judge.lost import recovered_items
from workflow_scripts.judge.metrics import ACCURACY, ALL_TASKS, METRICS, informative_tasks
from workflow_scripts.judge.open_book import open_book
from workflow_scripts.judge.parts import parts
from workflow_scripts.judge.rates import shares
from workflow_scripts.judge.results import Results
from workflow_scripts.judge.scores import scores
from workflow_scripts.judge.statistics import LEVEL, RESAMPLES, holm
from workflow_scripts.judge.strata import strata
from workflow_scripts.judge.tasks import task_tests
from workflow_scripts.judge.verdict import Verdict
from workflow_scripts.plan.layout import Group

# Of verdict.json. 4 and older had the verdicts of other rules; 3 a placebo in `rates` and no `parts`.
SCHEMA = 5


@dataclass(frozen=True)
class Question:
    """A grid's question, named in config before the results are seen.

    pair: {"prompt": method, "lora": method}. metric: the primary one. command: makes a file of this grid again,
    followed by its path.
    """

    pair: dict[str, str]
    metric: str = ACCURACY
    command: str = "snakemake"


@dataclass(frozen=True)
class Resampling:
    resamples: int = RESAMPLES
    seed: int = 0


def judge_grid(
    results: Results,
    question: Question,
    catalogue: dict[str, dict],
    resampling: Resampling = Resampling(),
    ledger: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """verdict.json: the estimates, tests and verdicts of each (model, compressor, corpus); all other numbers with an
    interval. catalogue: {methods, compressors, tasks} that the grid uses. ledger: of the grid; without it no rates."""
    resamples, seed = resampling.resamples, resampling.seed
    informative = _informative(results)
    groups, dense = _groups(results, question, informative, resampling)
    sparse = {name for name, settings in catalogue["compressors"].items() if sparsity(settings)}
    for prunes in (False, True):  # these stand in tables of their own
        _adjust([group for group in groups if (group["compressor"] in sparse) == prunes])
    opened = [] if ledger is None else list(open_book(results, ledger, catalogue["methods"]))
    return {
        "schema": SCHEMA,
        "manifest": {},  # sealed when it is written
        "grid": results.grid,
        "pair": dict(question.pair),
        "metric": question.metric,
        "settings": {"resamples": resamples, "seed": seed, "level": LEVEL, "command": question.command},
        "plan": [list(cell[1:]) for cell in results.planned],
        "cells": {"planned": len(results.planned), "missing": [cell.axes for cell in results.missing]},
        "informative": informative,
        "groups": groups,
        "dense_groups": dense,
        "lost_items": recovered_items(results, informative, resamples, seed),
        "parts": parts(results, catalogue["methods"], resamples, seed),
        "rates": [] if ledger is None else shares(ledger, catalogue["methods"]),
        "scores": scores(results, catalogue["tasks"]),
        "choices": choices(results, catalogue["methods"], resamples, seed),
        "changes": changes(results, resamples, seed),
        **({"chat": results.chats} if results.chats else {}),
        **({"without_system": results.without_system} if results.without_system else {}),
        **({"open_book": opened} if opened else {}),
        **({"strata": found} if ledger is not None and (found := strata(ledger, question.pair)) else {}),
    }


def _informative(results: Results) -> dict[str, dict]:
    """Model -> its informative tasks, by the dense cell without a method; models without that cell are left out."""
    dense = {model: results.first(model, "dense", "none", "none") for model in results.models}
    return {model: informative_tasks(results, cell) for model, cell in dense.items() if cell}


def _groups(
    results: Results, question: Question, informative: dict[str, dict], resampling: Resampling
) -> tuple[list[dict], list[dict]]:
    """The compressed groups, before Holm's adjustment, and the dense ones."""
    judged: dict[tuple[Group, str], Judged] = {}
    for group in (*results.groups(), *results.dense_groups()):
        arms = group_arms(results, group)
        if not any(arm.key == (group.compressor, "none") for arm in arms):
            continue
        found = informative.get(group.model)
        names = [name for name, row in (found or {}).items() if row["informative"]]
        for name, metric in METRICS.items():
            tasks = names if metric.informative and found is not None else results.tasks
            sampled = sample(results, arms, name, tasks)
            if sampled.values:
                judged[group, name] = Judged(group, sampled, question.pair)
    wanted = [(one.sample, one.columns) for one in judged.values()]
    estimates = Estimates(wanted, resampling.resamples, resampling.seed)
    for one, mine in zip(judged.values(), estimates, strict=True):
        one.estimates = mine
    verdicts = len(results.groups())  # a group without the pair may have no loss, which is a word too
    return (
        [_compressed_group(results, group, judged, informative, verdicts) for group in results.groups()],
        [_dense_group(group, judged) for group in results.dense_groups()],
    )


def _compressed_group(
    results: Results,
    group: Group,
    judged: dict[tuple[Group, str], Judged],
    informative: dict[str, dict],
    verdicts: int,
) -> dict[str, Any]:
    """Estimates, tests and verdicts of one (model, compressor, corpus). verdicts: k, of the whole grid."""
    arms = {arm.method: arm for arm in group_arms(results, group) if arm.compressor == group.compressor}
    metrics = {}
    for name, metric in METRICS.items():
        one = judged.get((group, name))
        if one is None:
            reason = _no_items(group, "none" in arms, informative.get(group.model))
            empty: dict[str, Any] = {"items": {}, "absent_tasks": list(results.tasks), "methods": {}}
            metrics[name] = empty | (
                {"verdict": Verdict("unavailable", reason).to_json()} if metric.judged else {}
            )
            continue
        metrics[name] = {
            "items": one.sample.items,
            "absent_tasks": [task for task in results.tasks if task not in one.sample.values],
            **one.to_json(),
            **({"verdict": one.verdict(verdicts)} if metric.judged else {}),
        }
    return {
        **group._asdict(),
        "missing": _missing_cells(results, group),
        "seeds": {method: list(arm.seeds) for method, arm in arms.items()},
        "metrics": metrics,
        "tasks": task_tests(results, arms, results.first(group.model, "dense", group.corpus, "none")),
        "family": {},
    }


def _no_items(group: Group, evaluated: bool, tasks: dict[str, dict] | None) -> str:
    """Why no item counts. evaluated: the group's model without a method; tasks: `informative_tasks` of its model."""
    if not evaluated:
        return f"{group} / none has not been evaluated"
    if tasks is None or any(row["informative"] for row in tasks.values()):
        return "its cells share no item of an informative task with a value"
    items = sum(row["n"] for row in tasks.values())
    which = f"none of the {len(tasks)} tasks" if len(tasks) > 1 else f"{next(iter(tasks))} not"
    return (
        f"the dense model answers {which} above chance with {items:,} items, so there is no knowledge that compression "
        "could lose; more items or easier tasks may show some"
    )


def _missing_cells(results: Results, group: Group) -> list[str]:
    """Planned cells of the group and of its dense reference without a result."""
    return [
        str(cell)
        for method in ("none", *results.methods(group))
        for compressor in ("dense", group.compressor)
        for cell in results.seeds(group.model, compressor, group.corpus, method, planned=True)
        if cell not in results.evaluations
    ]


def _dense_group(group: Group, judged: dict[tuple[Group, str], Judged]) -> dict[str, Any]:
    """verdict.json's `dense_groups`: of the dense model, value and gain (h) of each method.

    No p value: a gain there is adaptation, the control of R, and no member of a family of tests.
    """
    metrics: dict[str, dict] = {}
    for name in (ACCURACY, ALL_TASKS):
        one = judged.get((group, name))
        metrics[name] = {}
        if one:
            found = one.to_json()
            kept = ("value", "gain", "detectable", "covers")
            metrics[name] = {
                "dense": found["compressed"],
                "methods": {m: {key: row[key] for key in kept} for m, row in found["methods"].items()},
            }
    return {**group._asdict(), "metrics": metrics}


def _adjust(groups: list[dict]) -> None:
    """Holm over one table: the Averages of all methods are one family, their tasks a second one."""
    averages, tasks = [], []
    for group in groups:
        averages += [row for row in group["metrics"][ALL_TASKS]["methods"].values() if row["p"] is not None]
        by_method = (by_task for method, by_task in group["tasks"].items() if method != "none")
        tasks += [row for by_task in by_method for row in by_task.values() if "p" in row]
    for rows in (averages, tasks):
        for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row["p_holm"] = adjusted
    for group in groups:
        group["family"] = {"averages": len(averages), "tasks": len(tasks)}

"""Every cell's plain numbers, and its accuracy with intervals: Wilson's for a task, made from these for a domain."""

import numpy as np

from workflow_scripts.judge.perplexity import protocol
from workflow_scripts.judge.results import Results
from workflow_scripts.judge.statistics import finite, proportion_interval


def scores(results: Results, tasks: dict[str, dict]) -> list[dict]:
    """verdict.json's `scores`: for each evaluated cell its tasks (n, acc, low, high), domains (value, low, high),
    average, perplexity, parameters and selection.

    Fractions. tasks: the grid's, each with its `domain`. A domain of which the cell lacks a task has no value.
    """
    domains: dict[str, list[str]] = {}
    for task, settings in tasks.items():
        domains.setdefault(settings["domain"], []).append(task)
    rows = []
    for cell, evaluation in results.evaluations.items():
        mine = {task: task_score(scored) for task, scored in evaluation["tasks"].items()}
        means = {domain: domain_score(mine, members) for domain, members in domains.items()}
        plain = {name: evaluation[name] for name in ("average", "perplexity", "parameters", "selection")}
        plain["protocol"] = protocol(evaluation)
        rows.append({**cell.axes, "tasks": mine, "domains": means, **plain})
    return rows


def task_score(scored: dict) -> dict:
    """Accuracy of one cell on one task of its evaluation JSON, with the Wilson interval."""
    low, high = proportion_interval(round(scored["acc"] * scored["n"]), scored["n"])
    generated = {name: scored[name] for name in ("blank", "cut_off") if scored.get(name) is not None}
    return {"n": scored["n"], "acc": scored["acc"], "low": finite(low), "high": finite(high), **generated}


def domain_score(tasks: dict[str, dict], members: list[str]) -> dict:
    """The mean of tasks. Distances to the ends of independent intervals add as squares (Zou and Donner, 2008)."""
    mine = [tasks[task] for task in members if task in tasks]
    if len(mine) < len(members):
        return {"value": None, "low": None, "high": None}
    value = float(np.mean([task["acc"] for task in mine]))
    if any(task["low"] is None for task in mine):
        return {"value": finite(value), "low": None, "high": None}
    down = float(np.linalg.norm([task["acc"] - task["low"] for task in mine])) / len(mine)
    up = float(np.linalg.norm([task["high"] - task["acc"] for task in mine])) / len(mine)
    return {"value": finite(value), "low": finite(value - down), "high": finite(value + up)}

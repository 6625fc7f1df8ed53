"""Paper audit: the printed tables and sentences recomputed, and our cells beside the printed ones.

Each `Finding` holds, does not hold, or cannot be known from what is printed.
"""

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from workflow_scripts.judge import audit_claims, audit_sizes, paper
from workflow_scripts.judge.findings import DOES_NOT_HOLD, HOLDS, UNKNOWN, Finding, finding
from workflow_scripts.judge.results import Results
from workflow_scripts.plan.layout import Group

ROUNDING = 0.005 + 1e-9  # of a number printed with two decimals
NUMBERS = [*paper.TASKS, *paper.DOMAINS, "Average"]


@dataclass(frozen=True)
class Check:
    """One printed mean against the mean of the row's own task columns."""

    row: str
    column: str
    printed: float
    recomputed: float
    holds: bool


def audit(rows: pd.DataFrame, results: Results | None = None, verdict: dict | None = None) -> dict:
    """paper_audit.json: every printed mean, what follows from them, every claim; and our cells beside the paper's."""
    checks = arithmetic(rows)
    findings = [
        _arithmetic_finding(checks),
        *duplicates(rows),
        *same_label(rows),
        *(finding for claim in (*audit_sizes.CLAIMS, *audit_claims.CLAIMS) for finding in claim(rows)),
    ]
    counts = {word: sum(f.verdict == word for f in findings) for word in (HOLDS, DOES_NOT_HOLD, UNKNOWN)}
    return {
        "source": "Hoang, Cho, Merth, Rastegari and Wang, ICML 2024 (PMLR 235), Tables 1 to 3 as printed",
        "counts": counts,
        "findings": [asdict(finding) for finding in findings],
        "arithmetic": [asdict(check) for check in checks],
        "cells": beside(rows, results, verdict) if results and verdict else [],
    }


def label(row: pd.Series) -> str:
    """ "T1 OPT-6.7b prompt 0.1M" """
    return " ".join(
        filter(None, [f"T{row['table']}", row["model"], row["type"], row["param"].replace("-", "")])
    )


def arithmetic(rows: pd.DataFrame) -> list[Check]:
    """World, Common, Language and Average of every row, from its task columns."""
    means = paper.DOMAINS | {"Average": list(paper.TASKS)}
    checks = []
    for _, row in rows.iterrows():
        for column, members in means.items():
            recomputed = float(np.mean([row[m] for m in members]))
            agrees = abs(recomputed - row[column]) <= ROUNDING
            checks.append(Check(label(row), column, float(row[column]), round(recomputed, 3), bool(agrees)))
    return checks


def _arithmetic_finding(checks: list[Check]) -> Finding:
    wrong = [check for check in checks if not check.holds]
    bad_rows, all_rows = {check.row for check in wrong}, {check.row for check in checks}
    detail = "; ".join(
        f"{c.row} {c.column}: printed {c.printed:.2f}, its tasks give {c.recomputed:.3f} "
        f"({c.printed - c.recomputed:+.3f})"
        for c in wrong
    )
    return finding(
        "Tables 1 to 3",
        "each printed mean is the mean of its row's tasks",
        not wrong,
        f"{len(all_rows) - len(bad_rows)} of {len(all_rows)} rows agree to within 0.005. {detail}. "
        "One task cell of that row, printed 1.07 too low, would explain both; which one cannot be known.",
    )


def duplicates(rows: pd.DataFrame) -> list[Finding]:
    """Rows printed more than once; a repetition is right only if both labels name the same method."""
    findings = []
    for position, (_, row) in enumerate(rows.iterrows()):
        for _, earlier in rows.iloc[:position].iterrows():
            if row["model"] == earlier["model"] and (row[NUMBERS] == earlier[NUMBERS]).all():
                # Table 3 names IDP's prompts, Table 1 prints their size: still one method.
                same = row["method"] == earlier["method"] or row["type"] == earlier["type"] == "IDP"
                other = f"the labels name {row['method']} and {earlier['method']}: one of the two results is missing"
                note = "the labels agree" if same else other
                where, statement = (
                    f"{label(row)} and {label(earlier)}",
                    "rows of equal numbers are the same experiment",
                )
                numbers = f"all {len(NUMBERS)} numbers are equal; {note}"
                findings.append(finding(where, statement, bool(same), numbers))
    return findings


def same_label(rows: pd.DataFrame) -> list[Finding]:
    """Rows of Tables 3 and 1 that name the same method."""
    findings = []
    for _, third in rows[rows["table"] == 3].iterrows():
        method = "idp-50-100" if third["type"] == "IDP" else third["method"]
        first = rows[(rows["table"] == 1) & (rows["model"] == third["model"]) & (rows["method"] == method)]
        if len(first):
            first = first.iloc[0]
            changed = [c for c in paper.TASKS if first[c] != third[c]]
            numbers = (
                f"Averages {third['Average']:.2f} and {first['Average']:.2f}; "
                f"{len(changed)} of {len(paper.TASKS)} tasks differ"
            )
            where, statement = (
                f"{label(third)} and {label(first)}",
                "Tables 1 and 3 give one method the same numbers",
            )
            findings.append(finding(where, statement, not changed, numbers))
    return findings


def beside(rows: pd.DataFrame, results: Results, verdict: dict) -> list[dict]:
    """Our cells that the paper prints, every task and the Average: ours, printed, difference, and whether the printed
    value lies in our interval.

    Percent. A task's interval is Wilson's of one cell, so there is none for a mean of seeds. The paper gives no error
    of its own, so a printed value outside is no proof of disagreement.
    """
    compared = []
    for judged in verdict["groups"]:
        group = Group(judged["model"], judged["compressor"], judged["corpus"])
        for method in ("none", *results.methods(group)):
            ours = _ours(results, judged, group, method)
            for table in (1, 2, 3):
                found = paper.printed(rows, table, group.model, group.compressor, method)
                place = {"table": table, **group._asdict(), "method": method}
                for column, mine in ours.items() if found else ():
                    compared.append(place | {"column": column} | _compared(mine, found[column]))
    return compared


def _compared(ours: tuple[float, float | None, float | None], printed: float) -> dict:
    """One number; ours: value and the ends of its interval."""
    value, low, high = ours
    inside = None if low is None or high is None else bool(low <= printed <= high)
    numbers = {"ours": value, "low": low, "high": high, "printed": printed}
    return numbers | {"difference": value - printed, "inside": inside}


def _ours(results: Results, judged: dict, group: Group, method: str) -> dict[str, tuple]:
    """Printed column -> our value with the ends of its interval, percent; without the tasks that a cell lacks."""
    metric = judged["metrics"]["accuracy_all_tasks"]
    evaluations = [results.evaluations[cell] for cell in results.seeds(*group, method)]
    ours = {}
    for column, task in paper.TASKS.items():
        values = [e["tasks"][task]["acc"] for e in evaluations if task in e["tasks"]]
        if values and len(values) == len(evaluations):
            one = judged["tasks"].get(method, {}).get(task, {}) if len(values) == 1 else {}
            ours[column] = (float(np.mean(values)), one.get("low"), one.get("high"))
    row = metric.get("methods", {}).get(method)
    average = metric.get("compressed") if method == "none" else row and row["value"]
    if average and average["value"] is not None and not metric.get("absent_tasks"):
        ours["Average"] = (average["value"], average["low"], average["high"])
    return {
        column: tuple(None if number is None else 100 * number for number in numbers)
        for column, numbers in ours.items()
    }

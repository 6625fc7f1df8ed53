"""Items by subject and by popularity: the share that compression lost in each stratum, and the share that came back.

Rare knowledge goes first (Mallen et al., ACL 2023): an average can hide that all of a loss is in the least known tenth.
"""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from workflow_scripts.judge.answers import (
    LONGEST,
    documents_with,
    entity,
    evaluated_items,
    read_documents,
    rows_of,
)
from workflow_scripts.judge.rates import PLACE, share
from workflow_scripts.judge.results import Results
from workflow_scripts.plan.strata import MENTIONS, value
from workflow_scripts.plan.strata import fields as fields_of

TYPES = {"subject": "object", "popularity": "float64"}
KINDS = tuple(TYPES)
GROUPS = 10  # of popularity, if each can have as many items


def add(
    answers: pd.DataFrame,
    results: Results,
    corpora: dict[str, list[Path]],
    benchmarks: dict[str, Path],
    fields: dict[str, dict],
) -> pd.DataFrame:
    """answers.parquet with the columns `of_items`; `answers.find` says the rest. fields: as there, of some task."""
    items, keys = evaluated_items(results), ["task", "doc_id"]
    found = [
        items[keys].join(of_items(items, fields, benchmarks, read_documents(files))).assign(corpus=name)
        for name, files in corpora.items()
    ]
    if not found:
        return answers
    return answers.merge(pd.concat(found), on=["corpus", *keys], how="left", validate="one_to_one")


def of_items(
    items: pd.DataFrame, fields: dict[str, dict], benchmarks: dict[str, Path], documents: Iterable[str]
) -> pd.DataFrame:
    """Columns `subject` (text) and `popularity` (a number) of items, null if their task names no field.

    items: columns task, doc_id (a line of the task's file in `benchmarks`), question. fields: task -> {subject,
    popularity}, fields of its documents, or MENTIONS. documents: the training text. ArtifactError for a document
    without the field.
    """
    found: dict[str, dict] = {kind: {} for kind in KINDS}
    for task, kinds in fields.items():
        mine = items.loc[items["task"] == task, "doc_id"]
        asked = fields_of(kinds)
        rows = rows_of(benchmarks[task]) if asked else []
        for index, number in mine.items():
            where = f"{benchmarks[task]}: line {number + 1}"
            for kind, field in asked.items():
                found[kind][index] = value(rows[number], kind, field, where)
    found["popularity"] |= _mentioned(items, fields, documents)
    columns = {kind: pd.Series(values, dtype=TYPES[kind]) for kind, values in found.items()}
    return pd.DataFrame(columns, index=items.index)


def _mentioned(items: pd.DataFrame, fields: dict[str, dict], documents: Iterable[str]) -> dict:
    """Index of an item -> documents that name its entity, for tasks that ask for them and questions that have one."""
    tasks = [task for task, kinds in fields.items() if kinds.get("popularity") == MENTIONS]
    questions = items.loc[items["task"].isin(tasks), "question"]
    named = {index: name for index, text in questions.items() if (name := entity(text)[:LONGEST])}
    counted = documents_with(set(named.values()), documents) if named else {}
    return {index: float(len(counted.get(name, ()))) for index, name in named.items()}


def strata(ledger: pd.DataFrame, pair: dict[str, str]) -> list[dict]:
    """Per group, task and stratum of its first seed: the shares known, lost, and brought back by the pair's methods.

    A stratum is a subject, or a tenth of the task's items by popularity; equal popularities stay together, and there
    are fewer groups if a tenth would be less than ten items. known: share of the items that the dense model has right.
    lost: share of these that the compressed one has wrong. prompt, lora: share of the lost that the method has right.
    Each with its count and Wilson interval. pair: {role: method}.
    """
    rows = []
    for place, items in ledger.groupby(PLACE, sort=False) if len(ledger) else ():
        first = items[items["seed"] == items["seed"].min()]
        for kind in KINDS:
            if kind in first:
                known = first.dropna(subset=[kind])
                for task, mine in known.groupby("task", sort=False):
                    at = dict(zip(PLACE, place, strict=True)) | {
                        "seed": int(mine["seed"].iloc[0]),
                        "task": task,
                    }
                    rows += [at | {"kind": kind} | row for row in _of_task(mine, kind, pair)]
    return rows


def _of_task(items: pd.DataFrame, kind: str, pair: dict[str, str]) -> list[dict]:
    if kind == "subject":
        groups = items.groupby(kind)
        return [{"stratum": name, "low": None, "high": None} | _shares(mine, pair) for name, mine in groups]
    rows = []
    for _, mine in items.groupby(tenths(items[kind])):
        low, high = float(mine[kind].min()), float(mine[kind].max())
        span = f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"
        rows.append({"stratum": span, "low": low, "high": high} | _shares(mine, pair))
    return rows


def tenths(values: pd.Series) -> pd.Series:
    """Number of each value's group by rank, from 0; equal values have one."""
    count = max(1, min(GROUPS, len(values) // GROUPS))
    return ((values.rank() - 0.5) / len(values) * count).astype(int)


def _shares(items: pd.DataFrame, pair: dict[str, str]) -> dict:
    """Shares over the items that every model concerned answered."""
    both = items.dropna(subset=["correct/dense", "correct/none"])
    dense, kept = both["correct/dense"].astype(bool), both["correct/none"].astype(bool)
    row = {"items": len(both), **share("known", dense), **share("lost", ~kept[dense])}
    lost = both[dense & ~kept]
    for role, method in pair.items():
        answered = lost.get(f"correct/{method}", pd.Series(dtype="boolean")).dropna()
        row |= share(role, answered.astype(bool))
    return row

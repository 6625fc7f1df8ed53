"""Closed and open book read together: items that compression lost closed-book, asked again with their passage.

Only a passage that holds an accepted answer opens the book: some items have an empty one, or one without the answer.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from workflow_scripts.files.templates import fill
from workflow_scripts.judge.answers import aliases, documents_with, evaluated_items, rows_of
from workflow_scripts.judge.ledger import IN_PASSAGE
from workflow_scripts.judge.rates import PLACE, share
from workflow_scripts.judge.results import Results, unique

ITEM = ["task", "doc_hash", "occurrence"]


def add_passages(
    answers: pd.DataFrame, results: Results, benchmarks: dict[str, Path], contexts: dict[str, str]
) -> pd.DataFrame:
    """answers.parquet with the column `answer_in_passage`, for each corpus of the grid's paths."""
    items, keys = evaluated_items(results), ["corpus", "task", "doc_id"]
    held = items[keys[1:]].assign(**{IN_PASSAGE: in_passage(items, contexts, benchmarks)})
    every = pd.concat([held.assign(corpus=name) for name in unique(cell.corpus for cell in results.planned)])
    return answers.merge(every, on=keys, how="outer", validate="one_to_one")


def in_passage(items: pd.DataFrame, contexts: dict[str, str], benchmarks: dict[str, Path]) -> pd.Series:
    """True or False per item: whether its passage holds an accepted answer, word for word; null without a passage.

    items: columns task, doc_id (a line of the task's file in `benchmarks`), gold. contexts: task -> its `context`.
    """
    found = {}
    for task, template in contexts.items():
        rows = rows_of(benchmarks[task])
        for index, number, gold in items.loc[items["task"] == task, ["doc_id", "gold"]].itertuples():
            accepted = set(aliases(task, gold, rows[number]))
            found[index] = bool(accepted and documents_with(accepted, [fill(template, rows[number])]))
    return pd.Series(found, dtype="boolean").reindex(items.index)


def open_book(results: Results, ledger: pd.DataFrame, methods: dict[str, dict]) -> Iterator[dict]:
    """verdict.json's `open_book`: by group, seed, task (scope) and method of kind context, the items lost closed-book.

    lost: their number. The shares are of those whose passage holds an accepted answer, each with its count and Wilson
    interval. right: right open-book. lost_too: wrong open-book, and right by the dense model. dense: the control, right
    open-book by the dense model. Without its cell the last two are of no item.
    """
    names = [*PLACE, "seed", "task"]
    asked = [name for name, settings in methods.items() if settings["kind"] == "context"]
    for place, items in ledger.groupby(names, sort=False) if IN_PASSAGE in ledger else ():
        for method in asked:
            needed = [IN_PASSAGE, *(f"correct/{name}" for name in ("dense", "none", method))]
            if not {*needed} <= {*items} or (met := items.dropna(subset=needed)).empty:
                continue
            lost = met[(met["correct/dense"] & ~met["correct/none"]).astype(bool)]
            held = lost[lost[IN_PASSAGE].astype(bool)]
            right = held[f"correct/{method}"].astype(bool)
            able = right[:0]
            if control := results.first(str(place[0]), "dense", str(place[2]), method):
                able = (
                    held[ITEM]
                    .join(results.items(control)["correct"], on=ITEM)["correct"]
                    .dropna()
                    .astype(bool)
                )
            yield {
                **dict(zip([*PLACE, "seed", "scope"], place, strict=True)),
                "method": method,
                "lost": len(lost),
                **share("right", right),
                **share("lost_too", able & ~right[able.index]),
                **share("dense", able),
            }

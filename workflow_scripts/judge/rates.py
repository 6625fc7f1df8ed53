"""Shares of the ledger's outcomes, beside the flips that happen without any recovery."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd

from workflow_scripts.judge.results import unique
from workflow_scripts.judge.statistics import proportion_interval

PLACE = ["model", "compressor", "corpus"]


def shares(ledger: pd.DataFrame, methods: Iterable[str]) -> list[dict]:
    """The rows of `rates` for a grid's recovery methods, as plain data."""
    recovery = [method for method in methods if method != "none"]
    rows = rates(ledger, recovery).to_dict("records")
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    """The value for JSON; None for a share of nothing."""
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value


def rates(ledger: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Per group, seed, method and scope: the share of lost items made right, beside the flips that show no recovery.

    scope: `all` items, a domain or a task. recovered: of the items that compression lost, the share right with the
    method. untaught: the same share among lost items for which no document of the training text holds an accepted
    alias together with the question's entity. chance: of the items that neither the dense nor the compressed model
    knew, the share right with the method. It is a lower bound of what noise gives: lost items lie nearer to the
    decision boundary, so fairer references are the recovered share of an untrained prompt and, with two copies, rho
    (`lost`). broken: of the items right before and after compression, the share wrong with the method. Each share
    comes with its count and Wilson interval; items that one of the three models did not answer are left out.
    """
    rows = []
    for key, items in _groups(ledger):
        for method in methods:
            rows += _by_scope({**key, "method": method}, items, method)
    return pd.DataFrame(rows)


def _groups(ledger: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame]]:
    """({model, compressor, corpus, seed}, items)."""
    names = [*PLACE, "seed"]
    for values, items in ledger.groupby(names, sort=False) if len(ledger) else ():
        yield dict(zip(names, values, strict=True)), items


def _by_scope(place: dict, items: pd.DataFrame, method: str) -> list[dict]:
    """A row for all items, each domain and each task that has items which all three models answered."""
    frame = items[["domain", "task"]].assign(dense=items["correct/dense"], before=items["correct/none"])
    frame["taught"] = items["answer_in_training_text"].fillna(True).astype(bool)
    frame["after"] = items.get(f"correct/{method}", pd.NA)
    known = frame.dropna(subset=["dense", "before", "after"])
    rows = []
    for scope in ["all", *unique(frame["domain"]), *unique(frame["task"])]:
        mine = known if scope == "all" else known[(known["domain"] == scope) | (known["task"] == scope)]
        if len(mine):
            rows.append(place | {"scope": scope} | _shares(mine))
    return rows


def _shares(items: pd.DataFrame) -> dict:
    dense, before, after = (items[name].astype(bool) for name in ("dense", "before", "after"))
    lost = dense & ~before
    shares = {
        "recovered": after[lost],
        "untaught": after[lost & ~items["taught"]],
        "chance": after[~dense & ~before],
        "broken": ~after[dense & before],
    }
    row: dict[str, float | None] = {}
    for name, flags in shares.items():
        row |= share(name, flags)
    return row


def share(name: str, flags: pd.Series) -> dict[str, float | None]:
    """The share of True, its count and Wilson interval: `name`, `name_n`, `name_low`, `name_high`; None of nothing."""
    numbers: list[float | None] = [None] * 3
    if n := len(flags):
        numbers = [float(flags.mean()), *proportion_interval(int(flags.sum()), n)]
    mean, low, high = numbers
    return {name: mean, f"{name}_n": n, f"{name}_low": low, f"{name}_high": high}

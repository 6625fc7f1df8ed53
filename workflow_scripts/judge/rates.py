"""Shares of the ledger's outcomes, beside the flips that happen without any recovery."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from workflow_scripts.judge.results import unique
from workflow_scripts.judge.statistics import proportion_interval

PLACE = ["model", "compressor", "corpus"]
UNDRAWN = ("text", "fewshot", "context", "eora")  # kinds of method in which nothing is drawn but the copy
ITEM = ["task", "doc_hash", "occurrence"]


def shares(ledger: pd.DataFrame, methods: dict[str, dict]) -> list[dict]:
    """The rows of `rates` for a grid's recovery methods, then those of `reseeded`.

    methods: the catalogue's. Instructions, few-shot examples, passages and repairs are the same for every seed, so they
    have no rows of the second kind.
    """
    recovery = [method for method in methods if method != "none"]
    drawn = [method for method in recovery if methods[method]["kind"] not in UNDRAWN]
    frames = (rates(ledger, recovery), reseeded(ledger, drawn))
    rows = [row for frame in frames for row in frame.to_dict("records")]
    return [{name: _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    """For JSON: None if a share of nothing."""
    return None if pd.isna(value) else value.item() if hasattr(value, "item") else value


def rates(ledger: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Per group, seed, method and scope: the share of lost items made right, beside the flips that show no recovery.

    scope: `all` items, a domain or a task. recovered: of the items that compression lost, the share right with the
    method. untaught: the same share among lost items for which no document of the training text holds an accepted
    alias together with the question's entity. chance: of the items that neither the dense nor the compressed model
    knew, the share right with the method. It is a lower bound of what noise gives: lost items lie nearer to the
    decision boundary, so the fairer reference is the recovered share of a placebo (an untrained prompt, or
    `reseeded`). broken: of the items right before and after compression, the share wrong with the method. Each share
    comes with its count and Wilson interval; items that one of the three models did not answer are left out.
    """
    rows = []
    for key, items in _groups(ledger):
        for method in methods:
            place = {**key, "method": method, "after": None}
            rows += _by_scope(place, items, items["correct/none"], _answers(items, method))
    return pd.DataFrame(rows)


def reseeded(ledger: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The placebo of a second training seed: `rates` if the seed alone changes, and with it the copy.

    The method as trained with the seed `after` stands in for the compressed model, and with the row's own seed for the
    method. So recovered is the share, of the items that the dense model has right and one seed has wrong, that another
    seed has right: the gain of training once more if there is nothing to recover. Each seed is held against the one
    before it, the first against the last; a method of one seed has no rows.
    """
    rows = []
    groups = [(key, items.set_index(ITEM)) for key, items in _groups(ledger)]
    for place in unique(tuple(key[name] for name in PLACE) for key, _ in groups):
        here = [(key, items) for key, items in groups if tuple(key[name] for name in PLACE) == place]
        for method in methods:
            trained = [(key, items) for key, items in here if _answers(items, method).notna().any()]
            trained.sort(key=lambda group: group[0]["seed"])
            if len(trained) < 2:
                continue
            for (key, items), (earlier, others) in zip(trained, [trained[-1], *trained[:-1]], strict=True):
                before = _answers(others, method).reindex(items.index)
                placed = {**key, "method": method, "after": earlier["seed"]}
                rows += _by_scope(placed, items, before, _answers(items, method))
    return pd.DataFrame(rows)


def _groups(ledger: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame]]:
    """({model, compressor, corpus, seed}, items)."""
    names = [*PLACE, "seed"]
    for values, items in ledger.groupby(names, sort=False) if len(ledger) else ():
        yield dict(zip(names, values, strict=True)), items


def _answers(items: pd.DataFrame, method: str) -> pd.Series:
    unanswered = pd.Series(pd.NA, index=items.index, dtype="boolean")
    return items.get(f"correct/{method}", unanswered)


def _by_scope(place: dict, items: pd.DataFrame, before: pd.Series, after: pd.Series) -> list[dict]:
    """A row for all items, each domain and each task that has items which all three models answered."""
    tasks = items.index.get_level_values("task") if "task" in items.index.names else items["task"]
    frame = pd.DataFrame({"domain": items["domain"], "task": tasks, "dense": items["correct/dense"]})
    frame["taught"] = items["answer_in_training_text"].fillna(True).astype(bool)
    frame["before"], frame["after"] = before, after
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
    row: dict[str, float] = {}
    for name, flags in shares.items():
        low, high = proportion_interval(int(flags.sum()), len(flags))
        share = float(flags.mean()) if len(flags) else float("nan")
        row |= {name: share, f"{name}_n": len(flags), f"{name}_low": low, f"{name}_high": high}
    return row

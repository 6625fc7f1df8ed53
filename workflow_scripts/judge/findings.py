"""The form of one audited statement, and how its rows are picked from the printed tables."""

from dataclasses import dataclass

import pandas as pd

MODELS = ("Llama-7b", "OPT-6.7b")  # as the tables name them
HOLDS, DOES_NOT_HOLD, UNKNOWN = "holds", "does not hold", "cannot be known"


@dataclass(frozen=True)
class Finding:
    where: str  # table row, section or figure of the paper
    statement: str
    verdict: str
    numbers: str


def finding(where: str, statement: str, holds: bool | None, numbers: str) -> Finding:
    """holds: None if the printed numbers can't tell."""
    return Finding(where, statement, UNKNOWN if holds is None else HOLDS if holds else DOES_NOT_HOLD, numbers)


def select(rows: pd.DataFrame, table: int, model: str, kind: str | None = None) -> pd.DataFrame:
    """Rows of one table and model, of one printed type if given."""
    found = rows[(rows["table"] == table) & (rows["model"] == model)]
    return found if kind is None else found[found["type"] == kind]


def only(rows: pd.DataFrame, table: int, model: str, kind: str) -> pd.Series:
    """The one row of that type."""
    found = select(rows, table, model, kind)
    if len(found) != 1:
        raise ValueError(f"table {table} has {len(found)} rows of type {kind} for {model}, not one")
    return found.iloc[0]

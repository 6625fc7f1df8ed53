"""Changed answers as CSV, Markdown and HTML: the numbers of judge/changes.py, drawn from verdict.json."""

import pandas as pd

from workflow_scripts.plan.layout import AXES
from workflow_scripts.report.rendering import environment, number, pipe, records

MEASURES = ("flips", "changed", "kl")
NOTES = (
    "Over the items that the cell and the dense model without an adapter share. flips: became right or wrong; changed: "
    "another answer, right or wrong; both in per cent of items. KL: of the choice, dense to cell, in nats; only tasks "
    "whose choices exclude each other. all: the mean over tasks.",
    "An adapter on the dense model changes answers too: its rows show how many, without any compression.",
)


def changes(rows: list[dict]) -> pd.DataFrame:
    """One row per cell and task (and `all`): cell, task, n, and each measure with `_low` and `_high`.

    rows: `changes` of verdict.json. NaN if there is no number.
    """
    table = []
    for row in rows:
        for task, found in row["tasks"].items():
            numbers: dict[str, float | None] = {}
            for name in MEASURES:
                value = found[name] or {"value": None, "low": None, "high": None}
                numbers |= {name: value["value"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
            table.append({key: row[key] for key in AXES} | {"task": task, "n": found["n"]} | numbers)
    ends = [name + end for name in MEASURES for end in ("", "_low", "_high")]
    return pd.DataFrame(table, columns=[*AXES, "task", "n", *ends]).astype(dict.fromkeys(ends, float))


def to_csv(table: pd.DataFrame, grid: str, missing: str = "", command: str = "snakemake") -> str:
    """Every row; shares as fractions, kl in nats, empty if there is none."""
    return table.to_csv(index=False, lineterminator="\n", float_format="%.6f")


def to_markdown(table: pd.DataFrame, grid: str, missing: str = "", command: str = "snakemake") -> str:
    """The cells' means over tasks."""
    head = ["model", "compressor", "corpus", "method", "seed", "items", "flips %", "changed %", "KL"]
    lines = ["# Changed answers", "", f"Grid `{grid}`; made by `{command}`.", ""]
    lines += [pipe(head), pipe(["---"] * 5 + ["--:"] * 4)]
    for row in records(table[table["task"] == "all"]):
        values = [number(100 * row["flips"]), number(100 * row["changed"]), number(row["kl"], 4)]
        lines.append(pipe([*(row[key] for key in AXES), row["n"], *values]))
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(missing))]) + "\n"


def to_html(table: pd.DataFrame, grid: str, missing: str = "", command: str = "snakemake") -> str:
    """One page with a sortable table that needs nothing beside itself."""
    template = environment().get_template("changes_page.html.j2")
    return template.render(rows=records(table), grid=grid, command=command, notes=_notes(missing))


def _notes(missing: str) -> list[str]:
    """The notes, and `Results.missing_in_words` if cells are missing."""
    return [*NOTES, *filter(None, [missing])]


RENDERERS = {"csv": to_csv, "md": to_markdown, "html": to_html}

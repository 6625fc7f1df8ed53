"""The report page: one HTML file that needs nothing beside itself, the verdict first."""

import base64
import json
from pathlib import Path

import pandas as pd

from workflow_scripts.analyze.figures import FIGURES
from workflow_scripts.analyze.ledger import OUTCOMES, rates
from workflow_scripts.analyze.rendering import environment
from workflow_scripts.analyze.results import Results, unique
from workflow_scripts.analyze.summary import points
from workflow_scripts.analyze.tables import DOMAINS, SHORT, Table
from workflow_scripts.analyze.verdict import LIMITS

HEADLINE = "figure4"
EXPLORER_ROWS = 40_000  # more than this and unchanged items (kept, never known) are left to ledger.parquet
QUESTION = 500  # characters shown


def build_page(
    results: Results, verdict: dict, ledger: pd.DataFrame, audit: dict, tables: list[Table], methods: dict,
    figures: dict[str, Path], trainings: dict[str, dict], description: str = "",
) -> str:  # fmt: skip
    """The page of a grid. figures: name -> SVG file; trainings: path -> training.json."""
    template = environment().get_template("report_page.html.j2")
    recovery = [m for m in methods if m != "none"]
    return template.render(
        grid=results.grid,
        description=description,
        verdict=verdict,
        judged=[g for g in verdict["groups"] if g["metrics"]["accuracy"].get("methods")],
        limits=LIMITS,
        points=points,
        tables=tables,
        domains=list(DOMAINS.values()),
        headline=image(figures.get(HEADLINE)),
        figures=[
            {
                "name": name,
                "title": title,
                "alt": (function.__doc__ or "").strip(),
                "source": image(figures[name]),
            }
            for name, (function, title) in FIGURES.items()
            if name in figures
        ],
        selections=selections(results),
        short=SHORT,
        trainings=[training_row(path, record) for path, record in trainings.items()],
        rates=rates(ledger, recovery).to_dict("records") if len(ledger) else [],
        placebos=[m for m in recovery if not methods[m].get("trained", True)],
        outcomes=OUTCOMES,
        explorer=explorer(ledger, ["dense", "none", *recovery]),
        audit=audit,
        cells=[cell_row(results, cell) for cell in results.planned],
        libraries=versions(results),
    )


def image(path: Path | None) -> str | None:
    """A data URI of an SVG file; as an image its ids can't clash with another figure's."""
    if path is None:
        return None
    return "data:image/svg+xml;base64," + base64.b64encode(Path(path).read_bytes()).decode()


def selections(results: Results) -> list[dict]:
    """Share of each prompt, over all tasks and by task, for every cell that chooses among prompts."""
    rows = []
    for cell, evaluation in results.evaluations.items():
        if evaluation["selection"]:
            shares = dict(evaluation["selection"])
            by_task = shares.pop("by_task")
            rows.append({"cell": str(cell), "shares": shares, "by_task": by_task})
    return rows


def training_row(path: str, record: dict) -> dict:
    model, compressor, corpus, adapter, seed = Path(path).parts[-6:-1]
    return {
        "name": f"{model} / {compressor} / {corpus} / {adapter} / {seed}",
        "tokens": record["tokens_seen"],
        "steps": record["steps"],
        "trainable": record["parameters"]["trainable"],
        "learning_rate": record["training"].get("learning_rate"),
        "heldout": record["heldout_loss"],
        "seconds": record["seconds"],
        "memory": record["peak_memory_mb"],
    }


def cell_row(results: Results, cell) -> dict:
    """A cell's state, cost, provenance and the command that computes it again."""
    path = str(results.planned[cell])
    row = {"name": str(cell), "command": f"snakemake --force {path}", "manifest": None}
    if cell in results.evaluations:
        evaluation = results.evaluations[cell]
        shown = {
            "data_sha256": {task: scores["data_sha256"] for task, scores in evaluation["tasks"].items()},
            **evaluation["manifest"],
        }
        row |= {"manifest": evaluation["manifest"], "shown": json.dumps(shown, indent=1)}
    return row


def versions(results: Results) -> dict[str, list[str]]:
    """library -> the versions that the cells used; more than one is worth a look."""
    found: dict[str, set] = {}
    for evaluation in results.evaluations.values():
        for name, version in evaluation["manifest"]["libraries"].items():
            found.setdefault(name, set()).add(version)
    return {name: sorted(found[name]) for name in sorted(found)}


def explorer(ledger: pd.DataFrame, methods: list[str]) -> dict:
    """The ledger as compact data for the page's script: texts once, one short row per item and group.

    A row is [item, outcome, right or wrong per method ("10-": right, wrong, not run), margins dense and compressed].
    """
    names = list(OUTCOMES)
    shown = [m for m in methods if f"correct/{m}" in ledger]
    frame, dropped = ledger[ledger["outcome"].notna()] if len(ledger) else ledger, 0
    if len(frame) > EXPLORER_ROWS:
        changed = frame[~frame["outcome"].isin(["kept", "never_known"])]
        dropped, frame = len(frame) - len(changed), changed
    items, texts, groups = {}, [], []
    tasks = unique(frame["task"])
    for keys, part in frame.groupby(["model", "compressor", "corpus", "seed"], sort=False):
        marks = pd.concat(
            [part[f"correct/{m}"].map({True: "1", False: "0"}).fillna("-") for m in shown], axis=1
        )
        marks = marks.apply("".join, axis=1)
        margins = [
            part[name].round(2) if (name := f"margin/{m}") in part else pd.Series(None, part.index)
            for m in ("dense", "none")
        ]
        rows = []
        columns = (part[c] for c in ("task", "doc_hash", "occurrence", "question", "gold", "outcome"))
        for task, doc, nth, question, gold, outcome, mark, *margin in zip(
            *columns, marks, *margins, strict=True
        ):
            if (key := (task, doc, nth)) not in items:
                items[key] = len(texts)
                texts.append([tasks.index(task), _cut(question), _cut(gold)])
            rows.append(
                [items[key], names.index(outcome), mark, *(None if pd.isna(m) else float(m) for m in margin)]
            )
        model, compressor, corpus, seed = keys
        groups.append({"name": f"{model} / {compressor} / {corpus} / seed {seed}", "rows": rows})
    return {
        "tasks": tasks, "outcomes": names, "methods": ["compressed" if m == "none" else m for m in shown],
        "texts": texts, "groups": groups, "dropped": dropped,
    }  # fmt: skip


def _cut(text: str) -> str:
    text = str(text)
    return text if len(text) <= QUESTION else "… " + text[-QUESTION:]

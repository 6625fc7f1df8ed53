"""The report page: one HTML file that needs nothing beside itself, the verdict first."""

import base64
import gzip
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from workflow_scripts.judge.ledger import OUTCOMES
from workflow_scripts.judge.results import Results, unique
from workflow_scripts.plan import layout
from workflow_scripts.plan.forecast import Forecast, compare, job_hours, measured_seconds
from workflow_scripts.plan.layout import Cell, Group, result_of
from workflow_scripts.report.compressors import of_checkpoint
from workflow_scripts.report.data import GridData
from workflow_scripts.report.explorer import KNOWN, bars, explorer
from workflow_scripts.report.figures import FIGURES
from workflow_scripts.report.figures_measured import latency_intervals
from workflow_scripts.report.landing import (
    HEADLINE,
    counted,
    first_view,
    introduction,
    shortcomings,
    unmeasured,
)
from workflow_scripts.report.rendering import environment
from workflow_scripts.report.summary import judged
from workflow_scripts.report.svg import image, notes_of
from workflow_scripts.report.tables import DOMAINS, build_tables

SECTIONS = {  # of the page, by id; a grid has those that it can fill
    "verdict": "Verdict",
    "tables": "Tables",
    "intervals": "Intervals",
    "figures": "Figures",
    "selection": "Prompt choice",
    "ledger": "Ledger",
    "models": "Models and adapters",
    "similarity": "Similarity",
    "latency": "Latency",
    "audit": "Paper audit",
    "cost": "Cost",
    "cells": "Cells",
}
FOLDED = ("figure3", "figure5", "training", "latency")  # figures that no verdict is read from
EXPLAINED = {  # above the page's tables
    "support": "Support of each label: its share of the paired draws of L, R(prompt) and R(lora). The column needed "
    "says how much a word needs. Components: standard deviations that items, replicates (copies and training) and both "
    "together add to a number; their squares sum to its variance, and the shares are parts of it. Accuracies are "
    "in points, log-likelihoods in nats, "
    "bits per byte count bits saved; all are means over the informative tasks.",
    "gains": "The gain of every method. Gain (g): beyond no recovery, on the same compressed copies. Dense gain (h): "
    "the same on the dense model. Brought back: R = g - max(0, h). Left: L - R. Recovery: R over L, undefined if the "
    "interval of the loss holds 0. Detectable: the smallest gain (or R) that this sample finds with 80 % power.",
    "lost": "Lost items that come back. For two copies k and k': of the items that the dense model has right and copy "
    "k' has wrong, the share that copy k has right with the method (back), and without it (by chance). rho is their "
    "difference, pooled over all pairs of copies, so that an item is never called lost and found by the same noise. "
    "Intervals cover items.",
    "told": "Held-out facts. Adapters that were told the answers of one half of a task's items, on that half (trained) "
    "and on the other (untrained). R of the untrained items is access: no text told them. Learned: the gain of the "
    "trained items minus that of the untrained. Known apart: of the untrained items, the gain among those that the "
    "dense model has right without and with such an adapter minus the gain among those that it has wrong both times, "
    "which no access can bring back. A word needs whole intervals above 0: access the first and the third, learning "
    "the second.",
    "rates": "Recovered: of the items that compression lost, the share right with the method. Untaught: the same among "
    "those for which no document of the training text holds an accepted alias together with the question's entity "
    "(it may still say it in other words). Chance: the same share among items that neither the dense "
    "nor the compressed model got right. It is a lower bound of the effect of noise, since lost items lie nearer to "
    "the decision boundary. Fairer references are the recovered share of an untrained prompt",
    "copies": " and, with two copies, rho above",
    "opened": "Items that compression lost closed-book, asked again with their passage. The shares are of those whose "
    "passage holds an accepted answer, word for word. Right open-book: the fact was lost, the skill of reading was "
    "not. Lost open-book too: the dense model has it right with the passage, the compressed one wrong. Dense right "
    "open-book: the control. Wilson intervals, 95 %.",
    "strata": "The items of a task by subject, or by popularity in groups of equal size (equal popularities stay "
    "together). Known: share that the dense model has right. Lost: share of these that the compressed model has wrong. "
    "Back by a method: share of the lost that it has right. First seed; Wilson intervals, 95 %.",
    "broken": "Broken: of the items right before and after compression, the share wrong with the method. Wilson "
    "intervals, 95 %.",
}


@dataclass
class PageData:
    """The content of a grid's page.

    evaluations: of the cells that were evaluated; figures: name -> SVG file; description: the grid's, one line;
    blocks: {counted, left_out} by name; forecast: the expected cost of the grid; adopted: equivalences of code
    (plan/adopted.py); kinds: of the cells (plan/kinds.py); expected: compressor -> corpus -> the label that was
    expected before the run.
    """

    grid: GridData
    ledger: pd.DataFrame
    evaluations: dict[Cell, dict]
    audit: dict
    figures: dict[str, Path]
    description: str = ""
    blocks: dict[str, list[str]] | None = None
    forecast: Forecast | None = None
    adopted: list[dict] = field(default_factory=list)
    kinds: dict[Cell, tuple[str, ...]] = field(default_factory=dict)
    expected: Mapping[str, Mapping[str, str]] | None = None


def build_page(data: PageData) -> str:
    """The page as HTML."""
    context = {
        **_verdict(data),
        **_figures(data),
        **_ledger(data),
        **_measured(data.grid),
        "tables": [table for table in build_tables(data.grid) if table.panels],
        "domains": list(DOMAINS.values()),
        "audit": data.audit if data.audit["cells"] else None,  # else its own page has the paper's statements
        "cost": cost(data),
        "cells": [cell_row(data, cell) for cell in data.grid.results.planned],
        "adopted": adopted_here(data),
        "libraries": libraries(data.evaluations),
    }
    context["sections"] = sections(context)
    return environment().get_template("report_page.html.j2").render(context)


def sections(context: dict[str, Any]) -> dict[str, str]:
    """The sections that the grid can fill."""
    filled = {
        "intervals": context["judged"],
        "tables": context["tables"],
        "figures": context["figures"],
        "selection": context["selections"],
        "ledger": context["explored"],
        "models": context["compressions"] or context["trainings"],
        "similarity": context["similarities"] or "similarity" in context["unmeasured"],
        "latency": context["latencies"] or "latency" in context["unmeasured"],
        "audit": context["audit"],
        "cost": context["cost"],
    }
    return {name: title for name, title in SECTIONS.items() if filled.get(name, True)}


def _verdict(data: PageData) -> dict[str, Any]:
    """The first screen and the intervals behind it."""
    verdict = data.grid.verdict
    groups = judged(verdict)
    verdicts = [metric["verdict"] for g in groups for metric in g["metrics"].values() if "verdict" in metric]
    parts = [part for row in verdicts for part in (row.get("components") or {}).values() if part]
    return {
        "grid": data.grid.results.grid,
        "introduction": introduction(verdict, data.description) | _planned(data),
        "first": first_view(verdict, data.figures.get(HEADLINE), data.expected),
        "judged": groups,
        "varied": any(
            part["replicates"] is not None for part in parts
        ),  # one copy shows no variance between copies
        "lost_items": verdict["lost_items"],
        "told": verdict["parts"],
        "explained": EXPLAINED,
    }


def _planned(data: PageData) -> dict[str, str]:
    """The parts of the plan that were left out or not run, in words."""
    blocks, warnings = data.blocks or {}, data.forecast.warnings if data.forecast else []
    return {
        "counted": counted(blocks.get("counted", []), blocks.get("left_out", [])),
        "not_run": shortcomings(unmeasured(data.grid.planned, data.grid.measured), warnings),
    }


def _figures(data: PageData) -> dict[str, Any]:
    """Figures as images, but the empty ones and the headline's, and the cells that none of them shows."""
    notes = {name: notes_of(path) for name, path in data.figures.items()}
    figures = [
        {
            "name": name,
            "title": title,
            "alt": (function.__doc__ or "").strip(),
            "notes": notes[name],
            "source": image(data.figures[name]),
            "command": data.grid.command(layout.figure(name)),
            "folded": name in FOLDED,
        }
        for name, (function, title) in FIGURES.items()
        if notes.get(name) is not None and name != HEADLINE
    ]
    return {"figures": figures, "missing": data.grid.results.missing_in_words()}


def _ledger(data: PageData) -> dict[str, Any]:
    """The choice of prompts, shares of the ledger, and the ledger itself."""
    methods, pair = data.grid.methods, data.grid.verdict["pair"]
    recovery = [method for method in methods if method != "none"]
    explored = explorer(data.ledger, ["dense", "none", *recovery], ["dense", "none", *pair.values()])
    shares = bars(data.ledger, data.grid.verdict.get("strata", []))
    untrained = [method for method in recovery if not methods[method].get("trained", True)]
    return {
        "selections": selections(data.grid.results),
        "rates": data.grid.verdict["rates"],
        "opened": data.grid.verdict.get("open_book", []),
        "strata": data.grid.verdict.get("strata", []),
        "back_by": {role: f"back by {method}" for role, method in pair.items()},
        "placebos": [method for method in untrained if f"correct/{method}" in data.ledger],
        "outcomes": OUTCOMES,
        "bars": [row for row in shares if row["scope"] == "all"],
        "bars_of_parts": shares,
        "known": KNOWN,
        "explored": explored,
        "explorer_data": packed(explored),
    }


def _measured(grid: GridData) -> dict[str, Any]:
    """Compressed models, adapters, similarity and latency."""
    return {
        "compressions": [compression_row(*item) for item in grid.records("compression").items()],
        "trainings": [training_row(*item) for item in grid.records("training").items()],
        "similarities": [similarity_row(record) for record in grid.records("similarity").values()],
        "latencies": [
            record | {"intervals": latency_intervals([record])} for record in grid.records("latency").values()
        ],
        "unmeasured": unmeasured(grid.planned, grid.measured),
    }


def cost(data: PageData) -> dict | None:
    """The forecast's device and totals, and its seconds beside those that the jobs took."""
    if data.forecast is None:
        return None
    forecast, results, blocks = data.forecast, data.grid.results, data.blocks or {}
    records = {str(results.planned[cell]): evaluation for cell, evaluation in data.evaluations.items()}
    for kind in data.grid.measured.values():
        records |= kind
    made = [r["manifest"] for r in records.values() if not r["manifest"].get("taken_over")]
    return {
        "command": forecast.command,
        "counted": "these blocks" if blocks.get("left_out") else "the whole grid",
        "device": forecast.device,
        "hours": job_hours(forecast.costs, forecast.device) / forecast.device["at_once"],
        "rows": compare(forecast.costs, measured_seconds(records)),
        "taken_over": len(records) - len(made),
        "hosts": unique(f"{each['host']} ({each['device']})" for each in made),
    }


def packed(explored: dict | None) -> str:
    """The ledger's data for the page's script: JSON, gzip, base64; a large grid's is a tenth of the JSON."""
    text = json.dumps(explored, separators=(",", ":"), ensure_ascii=False)
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def selections(results: Results) -> list[dict]:
    """Share of each prompt, over all tasks and by task, for every cell that chooses among prompts."""
    rows = []
    for cell, evaluation in results.evaluations.items():
        if evaluation["selection"]:
            shares = dict(evaluation["selection"])
            by_task = shares.pop("by_task")
            for prompt, share in shares.items():
                tasks = {task: chosen.get(prompt, 0.0) for task, chosen in by_task.items()}
                rows.append({"cell": str(cell), "prompt": prompt, "all": share, "tasks": tasks})
    return rows


def compression_row(path: str, record: dict) -> dict:
    """A row on a model's weights: their setting, and the distance of the worst linear from the original."""
    errors = [layer["error"] for layer in record["layers"] if layer["error"] is not None]
    return {
        "name": f"{Group.at(path)} / seed {result_of(path)[1]['seed']}",
        "format": of_checkpoint(record["checkpoint"])["format"] if "checkpoint" in record else None,
        "bits": record["effective_bits"],
        "megabytes": record["bytes_on_disk"] / 1e6,
        "error": sum(errors) / len(errors) if errors else None,
        "worst": max(errors, default=None),
        "damping": max((layer["damping"] or 0 for layer in record["layers"]), default=None),
        "seconds": record["manifest"]["seconds"],
    }


def training_row(path: str, record: dict) -> dict:
    cell = Cell.of(result_of(path)[1])
    return {
        "name": f"{cell.group} / {cell.method} / seed-{cell.seed}",
        "tokens": record["tokens_seen"],
        "steps": record["steps"],
        "trainable": record["parameters"]["trainable"],
        "learning_rate": record["training"].get("learning_rate"),
        "heldout": record["heldout_loss"],
        "seconds": record["seconds"],
        "memory": record["peak_memory_mb"],
    }


def similarity_row(record: dict) -> dict:
    """A row on a cell's similarity to the dense model: cosine, mean over layers and of the furthest layer."""
    cell, row = record["cell"], {}
    for measure in ("attention", "activations"):
        values = record[measure]
        row[measure] = {
            "mean": sum(values) / len(values),
            "lowest": min(values),
            "layer": values.index(min(values)),
        }
    return row | {"name": str(Cell.of(cell)), "text": record["text"]}


def cell_row(data: PageData, cell: Cell) -> dict:
    """A cell's state, cost, provenance (and code that it was adopted for) and the command that makes it again."""
    results, command = data.grid.results, data.grid.verdict["settings"]["command"]
    row: dict[str, Any] = {
        "name": str(cell),
        "command": f"{command.replace('snakemake', 'snakemake --force', 1)} {results.planned[cell]}",
        "manifest": None,
    }
    if evaluation := data.evaluations.get(cell):
        shown = {
            "data_sha256": {task: scores["data_sha256"] for task, scores in evaluation["tasks"].items()},
            **evaluation["manifest"],
        }
        code = evaluation["manifest"]["code"]
        if data.adopted and (codes := adopted_for(data.adopted, code, data.kinds[cell])):
            shown["adopted for code"] = codes
        row |= {"manifest": evaluation["manifest"], "shown": json.dumps(shown, indent=1)}
    return row


def adopted_here(data: PageData) -> list[dict]:
    """The equivalences that count: a release brings those of cells that another grid has, or that it made again."""
    codes = {evaluation["manifest"]["code"] for evaluation in data.evaluations.values()}
    return [row for row in data.adopted if row["rule"] != "evaluate_cell" or row["old"] in codes]


def adopted_for(equivalences: list[dict], code: str, kinds: Collection[str]) -> list[str]:
    """Codes that were found, after a cell of these kinds was made by `code`, to make the same of it.

    Equivalences in the order in which they were found; each leads back to the first code of its chain.
    """
    rows = [row for row in equivalences if not {*kinds}.isdisjoint(row["kinds"])]
    own = next((place for place, row in enumerate(rows) if row["new"] == code), None)
    first, later = (code, rows) if own is None else (rows[own]["old"], rows[own + 1 :])
    return [row["new"] for row in later if row["old"] == first]


def libraries(evaluations: dict[Cell, dict]) -> str:
    """ "torch 2.13 and 2.14, ...": the versions that the cells used; more than one is worth a look."""
    found: dict[str, set] = {}
    for evaluation in evaluations.values():
        for name, version in evaluation["manifest"]["libraries"].items():
            found.setdefault(name, set()).add(version)
    named = [f"{name} {' and '.join(sorted(found[name]))}" for name in sorted(found)]
    return f"{', '.join(named)}." if named else ""

"""The report page: one HTML file that needs nothing beside itself, the verdict first."""

import base64
import json
from pathlib import Path

import pandas as pd

from workflow_scripts.judge.ledger import OUTCOMES
from workflow_scripts.judge.rates import rates, reseeded
from workflow_scripts.judge.results import Results, unique
from workflow_scripts.judge.verdict import LIMITS
from workflow_scripts.plan.forecast import Forecast, compare, job_hours, measured_seconds
from workflow_scripts.plan.layout import Cell, Group, result_of
from workflow_scripts.report.figures import FIGURES
from workflow_scripts.report.figures_measured import latency_intervals
from workflow_scripts.report.rendering import environment
from workflow_scripts.report.summary import cautions, covered, judged, nats, points, smallest, unjudged
from workflow_scripts.report.tables import DOMAINS, SHORT, Table

HEADLINE = "figure4"
EXPLORER_ROWS = 40_000  # more than this and unchanged items (kept, never known) are left to ledger.parquet
QUESTION, ANSWER = 500, 80  # characters shown


def build_page(
    results: Results, verdict: dict, ledger: pd.DataFrame, audit: dict, tables: list[Table], methods: dict,
    figures: dict[str, Path], measured: dict[str, dict[str, dict]], description: str = "",
    forecast: Forecast | None = None, planned: dict[str, int] | None = None,
    blocks: dict[str, list[str]] | None = None,
) -> str:  # fmt: skip
    """The page of a grid. figures: name -> SVG file; measured: kind of record (compression, training, similarity,
    latency) -> path -> JSON; forecast: what the grid was expected to cost; planned: similarity,
    latency -> how many the grid plans; blocks: of the grid, {counted, left_out} by name."""
    template = environment().get_template("report_page.html.j2")
    recovery, command = [m for m in methods if m != "none"], verdict["settings"]["command"]
    drawn = [
        m for m in recovery if methods[m]["kind"] not in ("text", "fewshot")
    ]  # these are the same for every seed
    again = reseeded(ledger, drawn).to_dict("records")
    return template.render(
        grid=results.grid,
        description=description,
        blocks=blocks,
        verdict=verdict,
        judged=judged(verdict),
        unjudged=unjudged(verdict),
        covered=covered(judged(verdict), verdict["pair"]),
        limits=LIMITS,
        points=points,
        nats=nats,
        cautions=cautions,
        smallest=smallest,
        tables=tables,
        domains=list(DOMAINS.values()),
        headline=image(figures.get(HEADLINE)),
        figures=[
            {
                "name": name,
                "title": title,
                "alt": (function.__doc__ or "").strip(),
                "source": image(figures[name]),
                "command": f"{command} results/{results.grid}/figures/{name}.svg",
            }
            for name, (function, title) in FIGURES.items()
            if name in figures
        ],
        missing=[str(cell) for cell in results.missing],
        selections=selections(results),
        short=SHORT,
        compressions=[compression_row(*item) for item in measured.get("compression", {}).items()],
        trainings=[training_row(*item) for item in measured.get("training", {}).items()],
        similarities=[similarity_row(record) for record in measured.get("similarity", {}).values()],
        latencies=list(measured.get("latency", {}).values()),
        latency_intervals=latency_intervals,
        unmeasured=unmeasured(planned or {}, measured),
        rates=[*rates(ledger, recovery).to_dict("records"), *again],
        reseeded=bool(again),
        placebos=[m for m in recovery if not methods[m].get("trained", True) and f"correct/{m}" in ledger],
        outcomes=OUTCOMES,
        explorer=explorer(ledger, ["dense", "none", *recovery], ["dense", "none", *verdict["pair"].values()]),
        audit=audit,
        cost=cost(results, measured, forecast),
        cells=[cell_row(results, cell, command) for cell in results.planned],
        libraries=versions(results),
    )


def cost(results: Results, measured: dict[str, dict], forecast: Forecast | None) -> dict | None:
    """The forecast's device and totals, and its seconds beside those that the jobs took."""
    if forecast is None:
        return None
    records = {str(results.planned[cell]): evaluation for cell, evaluation in results.evaluations.items()}
    for kind in measured.values():
        records |= kind
    return {
        "device": forecast.device,
        "hours": job_hours(forecast.costs, forecast.device) / forecast.device["at_once"],
        "rows": compare(forecast.costs, measured_seconds(records)),
        "hosts": unique(f"{r['manifest']['host']} ({r['manifest']['device']})" for r in records.values()),
    }


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


def compression_row(path: str, record: dict) -> dict:
    """What was done to a model's weights, and how far the worst linear is from the original."""
    errors = [layer["error"] for layer in record["layers"]]
    return {
        "name": str(Group.at(path)),
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
    """How close a cell stays to the dense model: cosine, mean over layers and of the layer that is furthest off."""
    cell, row = record["cell"], {}
    for measure in ("attention", "activations"):
        values = record[measure]
        row[measure] = {
            "mean": sum(values) / len(values),
            "lowest": min(values),
            "layer": values.index(min(values)),
        }
    return row | {"name": str(Cell.of(cell)), "text": record["text"]}


def unmeasured(planned: dict[str, int], measured: dict[str, dict]) -> dict[str, dict]:
    """similarity and latency -> {planned, made}, where measurements of the plan are not there."""
    counts = {
        kind: {"planned": count, "made": len(measured.get(kind, {}))} for kind, count in planned.items()
    }
    return {kind: count for kind, count in counts.items() if count["made"] < count["planned"]}


def cell_row(results: Results, cell, command: str) -> dict:
    """A cell's state, cost, provenance and the command that computes it again."""
    path = str(results.planned[cell])
    row = {
        "name": str(cell),
        "command": f"{command.replace('snakemake', 'snakemake --force', 1)} {path}",
        "manifest": None,
    }
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


def explorer(ledger: pd.DataFrame, methods: list[str], detailed: list[str]) -> dict:
    """The ledger as compact data for the page's script: texts once, one short row per item and group.

    A row is [item, outcome, right or wrong per method ("10-": right, wrong, not run), whether the answer stands in the
    training text ("10-"), then for each detailed method its margin and the number of its answer among `answers`].
    """
    names = list(OUTCOMES)
    shown = [m for m in methods if f"correct/{m}" in ledger]
    detailed = [m for m in detailed if m in shown]
    frame, dropped = ledger[ledger["outcome"].notna()] if len(ledger) else ledger, 0
    if len(frame) > EXPLORER_ROWS:
        changed = frame[~frame["outcome"].isin(["kept", "never_known"])]
        dropped, frame = len(frame) - len(changed), changed
    items: dict[tuple, int] = {}
    answers: dict[str, int] = {}
    texts, groups = [], []
    tasks = unique(frame["task"])
    for keys, part in frame.groupby(["model", "compressor", "corpus", "seed"], sort=False):
        marks = _marks(part, [f"correct/{m}" for m in shown])
        taught = _marks(part, ["answer_in_training_text"])
        columns = [part[c] for c in ("task", "doc_hash", "occurrence", "question", "gold", "outcome")]
        details = [_column(part, f"{kind}/{m}") for m in detailed for kind in ("margin", "prediction")]
        rows = []
        for task, doc, nth, question, gold, outcome, mark, known, *detail in zip(
            *columns, marks, taught, *details, strict=True
        ):
            if (key := (task, doc, nth)) not in items:
                items[key] = len(texts)
                texts.append([tasks.index(task), _cut(question), _cut(gold)])
            row = [items[key], names.index(outcome), mark, known]
            for margin, answer in zip(detail[::2], detail[1::2], strict=True):
                row.append(None if pd.isna(margin) else round(float(margin), 2))
                row.append(None if pd.isna(answer) else answers.setdefault(_brief(answer), len(answers)))
            rows.append(row)
        model, compressor, corpus, seed = keys
        groups.append({"name": f"{model} / {compressor} / {corpus} / seed {seed}", "rows": rows})
    return {
        "tasks": tasks, "outcomes": names, "methods": ["compressed" if m == "none" else m for m in shown],
        "detailed": [shown.index(m) for m in detailed], "texts": texts, "answers": list(answers), "groups": groups,
        "dropped": dropped,
    }  # fmt: skip


def _marks(part: pd.DataFrame, columns: list[str]) -> pd.Series:
    """One string per row: 1 for true, 0 for false, - for unknown."""
    marks = [part[name].map({True: "1", False: "0"}).fillna("-") for name in columns]
    return pd.concat(marks, axis=1).apply("".join, axis=1)


def _column(part: pd.DataFrame, name: str) -> pd.Series:
    return part[name] if name in part else pd.Series(None, part.index, dtype=object)


def _brief(answer: str) -> str:
    answer = str(answer).strip()
    return answer if len(answer) <= ANSWER else answer[:ANSWER] + " …"


def _cut(text: str) -> str:
    text = str(text)
    return text if len(text) <= QUESTION else "… " + text[-QUESTION:]

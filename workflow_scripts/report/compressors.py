"""Compressed models side by side, before any recovery, with the cost and the engine of each.

One row per compressed copy with a cell of its own. Errors and times stand in compression.json, scores in the cell.
"""

import numpy as np
import pandas as pd

from workflow_scripts.judge.perplexity import compared, references
from workflow_scripts.judge.results import Results
from workflow_scripts.plan.layout import Cell, result_of
from workflow_scripts.report.rendering import environment, number, pipe, records

PLACE = ("model", "compressor", "corpus", "seed", "engine", "format")
PERPLEXITY = ("ppl/", "ppl reference/")  # how columns begin
NOTES = (
    "Without recovery. engine: own, optimum's GPTQQuantizer with GPTQModel, or llm-compressor; settings stand in "
    "config.yaml. bits: stored per weight of the decoder's linears, overhead included. layer error: ‖WX − QX‖² / "
    "‖WX‖², mean over linears, measured by the same code for every engine; without calibration ‖W − Q‖² / ‖W‖².",
    "ppl: perplexity per token on each corpus, windowed (the model's BOS before every window); ppl reference: with one "
    "BOS before the whole text, as in published figures, if the model has a BOS. solve: the engine's own time for all "
    "linears; job: with forward passes, loading and writing. Times can be compared only if host and threads are the "
    "same and nothing else ran.",
)
# Column -> its head, factor and digits as shown.
OF_CHECKPOINTS = {"all_bits": ("all bits", 1, 2), "as_dense": ("as dense, %", 100, 1)}
NOTE_ON_CHECKPOINTS = (
    "engine external: a checkpoint that somebody else compressed. format: how it stores its weights, what its "
    "makers quantise while it runs, and what of that is not reproduced. bits: per weight of the dense model's "
    "linears. all bits: per weight of the whole checkpoint, embeddings included. as dense: the share of its tensors "
    "that are the dense model's."
)


def compressors(results: Results, records: dict[str, dict], settings: dict[str, dict]) -> pd.DataFrame:
    """records: path of each compression.json -> its content; settings: the catalogue's compressors.

    Columns: PLACE (seed only if copies of several are there, format only if one is somebody else's checkpoint), bits,
    OF_CHECKPOINTS likewise, zeros (share), layer_error, ppl/<corpus>, ppl reference/<corpus>, accuracy (mean over
    tasks), solve_seconds, job_seconds; NaN if a cell is missing.
    """
    rows = []
    for path, record in records.items():
        copy = Cell.of({**result_of(path)[1], "method": "none"})
        layers = record["layers"]
        if not layers:  # dense
            continue
        engine = settings[copy.compressor].get("engine", "own")
        row: dict = {name: copy.axes[name] for name in PLACE[:4]} | {"engine": engine}
        row |= of_checkpoint(record["checkpoint"]) if "checkpoint" in record else {}
        errors = [layer["error"] for layer in layers if layer["error"] is not None]
        row |= {
            "bits": record["effective_bits"],
            "zeros": float(np.mean([layer["sparsity"] for layer in layers])),
            "layer_error": float(np.mean(errors)) if errors else None,
        }
        if evaluation := results.evaluations.get(copy):
            row |= {f"ppl/{name}": value["token"] for name, value in compared(evaluation).items()}
            row |= {f"ppl reference/{name}": value["token"] for name, value in references(evaluation).items()}
            row["accuracy"] = evaluation["average"]
        row["solve_seconds"] = sum(layer["seconds"] for layer in layers)
        row["job_seconds"] = record["manifest"]["seconds"]
        rows.append(row)
    table = pd.DataFrame(rows)
    shown = {"seed": len({row["seed"] for row in rows}) > 1, "format": "format" in table}
    order = [
        *(name for name in PLACE if shown.get(name, True)),
        "bits",
        *(name for name in OF_CHECKPOINTS if name in table),
        "zeros",
        "layer_error",
        *sorted(c for c in map(str, table) if c.startswith(PERPLEXITY[0])),
        *sorted(c for c in map(str, table) if c.startswith(PERPLEXITY[1])),
        "accuracy",
    ]
    return table.reindex(columns=[*order, "solve_seconds", "job_seconds"])


def of_checkpoint(checkpoint: dict) -> dict:
    """A table's entries for a checkpoint that somebody else compressed: engine, format and OF_CHECKPOINTS."""
    named = f"{checkpoint['format']} ({checkpoint['bits']})"
    if simulated := checkpoint.get("simulated"):
        named += f"; at run time: {simulated}"
    if runtime := checkpoint["runtime_quantisation"]:
        named += f"; not reproduced: {runtime}"
    if checkpoint["compared"] and not checkpoint["equal"]:
        named += "; no tensor is the dense model's"
    if checkpoint["compared"] and len(checkpoint["equal"]) == checkpoint["compared"]:
        named += "; every tensor that was compared is the dense model's"
    if (others := checkpoint.get("other_settings")) and not checkpoint["distilled"]:
        named += f"; config.json has another {', '.join(others)} than the dense model's"
    return {
        "engine": "external",
        "format": named,
        "all_bits": checkpoint["bits_per_weight"],
        "as_dense": len(checkpoint["equal"]) / checkpoint["compared"] if checkpoint["compared"] else None,
    }


def copy_columns(table: pd.DataFrame) -> list[str]:
    """The columns that identify a row's copy."""
    return [name for name in PLACE if name in table]


def columns(table: pd.DataFrame) -> dict[str, tuple[str, float, int]]:
    """Column -> its head, factor and digits as shown."""
    shown: dict[str, tuple[str, float, int]] = {"bits": ("bits", 1, 2)}
    shown |= {name: head for name, head in OF_CHECKPOINTS.items() if name in table}
    shown["zeros"] = ("zeros, %", 100, 1)
    shown["layer_error"] = ("layer error, %", 100, 2)
    shown |= {name: (name.replace("/", " "), 1, 2) for name in map(str, table) if name.startswith(PERPLEXITY)}
    shown["accuracy"] = ("accuracy, %", 100, 2)
    return shown | {"solve_seconds": ("solve, s", 1, 1), "job_seconds": ("job, s", 1, 0)}


def to_csv(table: pd.DataFrame, grid: str, missing: str = "", command: str = "snakemake") -> str:
    """Shares as fractions, times in seconds, empty if there is no number."""
    return table.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def to_markdown(table: pd.DataFrame, grid: str, missing: str = "", command: str = "snakemake") -> str:
    shown = columns(table)
    lines = ["# Compressed models", "", f"Grid `{grid}`; made by `{command}`.", ""]
    places = copy_columns(table)
    lines += [pipe([*places, *(head for head, _, _ in shown.values())])]
    lines += [pipe(["---"] * len(places) + ["--:"] * len(shown))]
    for row in records(table):
        values = [number(row[c] and f * row[c], digits) for c, (_, f, digits) in shown.items()]
        lines.append(pipe([*("" if row[name] is None else str(row[name]) for name in places), *values]))
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(table, missing))]) + "\n"


def to_html(table: pd.DataFrame, grid: str, missing: str = "", command: str = "snakemake") -> str:
    """One page with a sortable table that needs nothing beside itself."""
    template = environment().get_template("compressors_page.html.j2")
    return template.render(
        rows=records(table),
        columns=columns(table),
        place=copy_columns(table),
        grid=grid,
        command=command,
        notes=_notes(table, missing),
    )


def _notes(table: pd.DataFrame, missing: str) -> list[str]:
    """The notes, and `Results.missing_in_words` if cells are missing."""
    return [*NOTES, *([NOTE_ON_CHECKPOINTS] if "format" in table else []), *filter(None, [missing])]


RENDERERS = {"csv": to_csv, "md": to_markdown, "html": to_html}

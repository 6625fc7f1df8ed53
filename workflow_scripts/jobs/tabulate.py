"""Rule `tabulate`: verdict.json -> Tables 1 to 3 (CSV, Markdown, LaTeX, HTML), changes, compressors."""

from pathlib import Path

from workflow_scripts.files.artifacts import atomic_path
from workflow_scripts.files.job import run
from workflow_scripts.plan import layout
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.report import changes, compressors
from workflow_scripts.report.data import MeasuredFiles, read_grid
from workflow_scripts.report.rendering import RENDERERS
from workflow_scripts.report.tables import build_tables


def main(verdict: str, catalogue: dict, measured: MeasuredFiles, outputs: list[str]) -> None:
    """catalogue: {methods, compressors, tasks} that it uses; measured:
    the compressions; outputs: any of table{1,2,3}.{csv,md,tex,html}, {changes,compressors}.{csv,md,html}."""
    data = read_grid(verdict, catalogue, measured)
    results = data.results
    tables = {f"table{table.number}": table for table in build_tables(data)}
    moved = changes.changes(data.verdict["changes"])
    compared = compressors.compressors(results, data.records("compression"), data.compressors)
    for output in map(Path, outputs):
        kind = output.suffix[1:]
        about = (results.grid, results.missing_in_words(), data.command(layout.table(output.stem, kind)))
        if output.stem == "changes":
            text = changes.RENDERERS[kind](moved, *about)
        elif output.stem == "compressors":
            text = compressors.RENDERERS[kind](compared, *about)
        else:
            text = RENDERERS[kind](tables[output.stem])
        with atomic_path(output) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run(main, unchanged("tabulate"))

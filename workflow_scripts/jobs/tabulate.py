"""Rule `tabulate`: evaluations, verdict.json -> Tables 1 to 3 (CSV, Markdown, LaTeX, HTML), changes, compressors."""

from pathlib import Path

from workflow_scripts.files.artifacts import atomic_path, read_json
from workflow_scripts.files.job import run
from workflow_scripts.judge.paper import read_tables
from workflow_scripts.judge.results import read_results
from workflow_scripts.report import changes, compressors
from workflow_scripts.report.rendering import RENDERERS
from workflow_scripts.report.tables import build_tables


def main(
    cells: list[str], verdict: str, catalogue: dict, outputs: list[str], compressions: list[str] = ()
) -> None:
    """cells: paths of all cells that the grid plans; catalogue: {methods, compressors, tasks} that it uses;
    outputs: any of table{1,2,3}.{csv,md,tex,html}, {changes,compressors}.{csv,md,html}; compressions: JSON files."""
    results, judged = read_results(cells), read_json(verdict, schema="verdict")
    about = (results.grid, results.missing_in_words(), judged["settings"]["command"])
    tables = build_tables(results, judged, **catalogue, printed=read_tables())
    by_name = {f"table{table.number}": table for table in tables}
    moved = changes.changes(results)
    records = {path: read_json(path, schema="compression") for path in compressions}
    compared = compressors.compressors(results, records, catalogue["compressors"])
    for output in map(Path, outputs):
        kind = output.suffix[1:]
        if output.stem == "changes":
            text = changes.RENDERERS[kind](moved, *about)
        elif output.stem == "compressors":
            text = compressors.RENDERERS[kind](compared, *about)
        else:
            text = RENDERERS[kind](by_name[output.stem])
        with atomic_path(output) as temporary:
            temporary.write_text(text)


if __name__ == "__main__":
    run(main)

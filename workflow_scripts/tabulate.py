"""Rule `tabulate`: evaluations and verdict.json -> Tables 1 to 3 as CSV, Markdown, LaTeX and HTML."""

from pathlib import Path

from workflow_scripts.analyze.paper import read_tables
from workflow_scripts.analyze.rendering import RENDERERS
from workflow_scripts.analyze.results import read_results
from workflow_scripts.analyze.tables import build_tables
from workflow_scripts.artifacts import atomic_path, read_json
from workflow_scripts.job import job


def main(cells: list[str], verdict: str, catalogue: dict, outputs: list[str]) -> None:
    """cells: paths of all cells that the grid plans; catalogue: {methods, compressors, tasks} that it uses;
    outputs: any of table{1,2,3}.{csv,md,tex,html}."""
    results = read_results(cells)
    tables = build_tables(results, read_json(verdict, schema="verdict"), **catalogue, printed=read_tables())
    by_name = {f"table{table.number}": table for table in tables}
    for output in map(Path, outputs):
        with atomic_path(output) as temporary:
            temporary.write_text(RENDERERS[output.suffix[1:]](by_name[output.stem]))


if __name__ == "__main__":
    with job(snakemake):
        args = snakemake.params.args
        main(args["cells"], snakemake.input.verdict, args["catalogue"], list(snakemake.output))

"""Rule `draw_page`: everything that a grid measured -> one self-contained HTML page."""

from pathlib import Path

import pandas as pd

from workflow_scripts.analyze.page import build_page
from workflow_scripts.analyze.paper import read_tables
from workflow_scripts.analyze.results import read_results
from workflow_scripts.analyze.tables import build_tables
from workflow_scripts.artifacts import atomic_path, read_json
from workflow_scripts.job import job


def main(
    cells: list[str], verdict: str, ledger: str, audit: str, figures: list[str], trainings: list[str],
    catalogue: dict, output: str, description: str = "",
) -> None:  # fmt: skip
    """cells: paths of all cells that the grid plans; catalogue: {methods, compressors, tasks} that it uses;
    figures: SVG files named like the figures; trainings: training.json files; description: the grid's, one line."""
    results, judged = read_results(cells), read_json(verdict, schema="verdict")
    page = build_page(
        results, judged, pd.read_parquet(ledger), read_json(audit, schema="audit"),
        build_tables(results, judged, **catalogue, printed=read_tables()), catalogue["methods"],
        {Path(figure).stem: Path(figure) for figure in figures},
        {path: read_json(path, schema="training") for path in trainings}, description,
    )  # fmt: skip
    with atomic_path(output) as temporary:
        temporary.write_text(page)


if __name__ == "__main__":
    with job(snakemake):
        args = snakemake.params.args
        main(
            args["cells"], snakemake.input.verdict, snakemake.input.ledger, snakemake.input.audit,
            list(snakemake.input.figures), list(snakemake.input.get("trainings", [])), args["catalogue"],
            snakemake.output[0], args["description"],
        )  # fmt: skip

"""Rule `draw_page`: everything that a grid measured -> one self-contained HTML page."""

from pathlib import Path

import pandas as pd

from workflow_scripts.files.artifacts import atomic_path, read_json
from workflow_scripts.files.job import job
from workflow_scripts.judge.paper import read_tables
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.config import load
from workflow_scripts.plan.forecast import Forecast, foreseen
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.report.page import build_page
from workflow_scripts.report.tables import build_tables


def main(
    cells: list[str], verdict: str, ledger: str, audit: str, figures: list[str], measured: dict[str, list[str]],
    catalogue: dict, output: str, description: str = "", forecast: Forecast | None = None,
    planned: dict[str, int] | None = None, blocks: dict[str, list[str]] | None = None,
) -> None:  # fmt: skip
    """cells: paths of all cells that the grid plans; catalogue: {methods, compressors, tasks} that it uses;
    figures: SVG files named like the figures; measured: schema (compression, training, similarity, latency) -> JSON
    files; description: the grid's, one line; forecast: what the grid was expected to cost;
    planned: how many measurements of similarity and latency the grid plans; blocks: {counted, left_out}, the grid's."""
    results, judged = read_results(cells), read_json(verdict, schema="verdict")
    page = build_page(
        results, judged, pd.read_parquet(ledger), read_json(audit, schema="audit"),
        build_tables(results, judged, **catalogue, printed=read_tables()), catalogue["methods"],
        {Path(figure).stem: Path(figure) for figure in figures},
        {schema: {path: read_json(path, schema=schema) for path in paths} for schema, paths in measured.items()},
        description, forecast, planned, blocks,
    )  # fmt: skip
    with atomic_path(output) as temporary:
        temporary.write_text(page)


if __name__ == "__main__":
    with job(snakemake):
        args, inputs = snakemake.params.args, snakemake.input
        kinds = {"compression": "compressions", "training": "trainings", "similarity": "similarities",
                 "latency": "latencies"}  # fmt: skip
        main(
            args["cells"], inputs.verdict, inputs.ledger, inputs.audit, list(inputs.figures),
            {schema: list(inputs.get(name, [])) for schema, name in kinds.items()}, args["catalogue"],
            snakemake.output[0], args["description"], foreseen(Plan(load(snakemake.config)), snakemake.wildcards.grid),
            args["planned"], args["blocks"],
        )  # fmt: skip

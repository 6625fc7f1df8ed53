"""Rule `draw_page`: everything that a grid measured -> one self-contained HTML page."""

from pathlib import Path

import pandas as pd

from workflow_scripts.files.artifacts import atomic_path, read_json
from workflow_scripts.files.job import run
from workflow_scripts.judge.paper import read_tables
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.config import load
from workflow_scripts.plan.forecast import foreseen
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.report.page import build_page
from workflow_scripts.report.tables import build_tables


def main(
    cells: list[str], verdict: str, ledger: str, audit: str, figures: list[str], catalogue: dict, output: str,
    description: str = "", compressions: list[str] = (), trainings: list[str] = (), similarities: list[str] = (),
    latencies: list[str] = (), planned: dict[str, int] | None = None, blocks: dict[str, list[str]] | None = None,
    config: dict | None = None, grid: str | None = None,
) -> None:  # fmt: skip
    """cells: paths of all cells that the grid plans; catalogue: {methods, compressors, tasks} that it uses;
    figures: SVG files named like the figures; compressions, trainings, similarities, latencies: JSON
    files; description: the grid's, one line; config, grid: tell what the grid was expected to cost;
    planned: how many measurements of similarity and latency the grid plans; blocks: {counted, left_out}, the grid's."""
    measured = {
        "compression": compressions,
        "training": trainings,
        "similarity": similarities,
        "latency": latencies,
    }
    forecast = foreseen(Plan(load(config)), grid) if config else None
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
    run(main)

"""Rule `draw_page`: everything that a grid measured -> one self-contained HTML page."""

from dataclasses import dataclass, field
from pathlib import Path

from workflow_scripts.files.artifacts import atomic_path, read_json
from workflow_scripts.files.job import run
from workflow_scripts.files.sealed_tables import read_table
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.config import load
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.plan.forecast import foreseen
from workflow_scripts.plan.kinds import of_model
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.report.data import MeasuredFiles, read_grid
from workflow_scripts.report.page import PageData, build_page


@dataclass
class Made:
    """Paths of what other rules made of the grid; figures: SVG files named like the figures."""

    verdict: str
    ledger: str
    audit: str
    figures: list[str]


@dataclass
class Planned:
    """The plan of the grid: one line; its measurements of similarity and latency; its blocks, {counted,
    left_out}; the configuration and the grid's name, which tell what it was expected to cost; the equivalences by which
    results of an older code were adopted (plan/adopted.py)."""

    description: str = ""
    planned: dict[str, int] | None = None
    blocks: dict[str, list[str]] | None = None
    config: dict | None = None
    grid: str = ""
    adopted: list[dict] = field(default_factory=list)


def main(
    cells: list[str], catalogue: dict, made: Made, measured: MeasuredFiles, plan: Planned, output: str
) -> None:
    """cells: paths of all cells that the grid plans; catalogue: {methods, compressors, tasks} that it uses."""
    whole = Plan(load(plan.config)) if plan.config else None
    data = PageData(
        read_grid(made.verdict, catalogue, measured, plan.planned),
        read_table(made.ledger),
        evaluations=read_results(cells).evaluations,
        audit=read_json(made.audit, schema="audit"),
        figures={Path(figure).stem: Path(figure) for figure in made.figures},
        description=plan.description,
        blocks=plan.blocks,
        forecast=foreseen(whole, plan.grid) if whole else None,
        adopted=plan.adopted,
        kinds=(
            {cell: of_model(whole.evaluation_kind(cell), cell.model) for cell in whole.cells(plan.grid)}
            if whole
            else {}
        ),
        expected=whole.grid(plan.grid).expected if whole else None,
    )
    with atomic_path(output) as temporary:
        temporary.write_text(build_page(data), encoding="utf-8")


if __name__ == "__main__":
    run(main, unchanged("draw_page"))

"""Rules `plot_<figure>`: evaluations, verdict.json and measurements -> one figure as SVG and PDF."""

from workflow_scripts.files.job import run
from workflow_scripts.report.data import MeasuredFiles, read_grid
from workflow_scripts.report.figures import draw


def main(
    figure: str,
    cells: list[str],
    verdict: str,
    catalogue: dict,
    measured: MeasuredFiles,
    planned: dict[str, int],
    outputs: list[str],
) -> None:
    """figure: a name of report/figures.py; cells: paths of all cells that the grid plans; catalogue: {methods,
    compressors, tasks} that it uses; planned: how many measurements of similarity and latency the grid plans."""
    draw(figure, read_grid(cells, verdict, catalogue, measured, planned), outputs)


if __name__ == "__main__":
    run(main)

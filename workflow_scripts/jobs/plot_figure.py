"""Rules `plot_<figure>`: verdict.json and measurements -> one figure as SVG and PDF."""

from workflow_scripts.files.job import run
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.report.data import MeasuredFiles, read_grid
from workflow_scripts.report.figures import draw


def main(
    figure: str,
    verdict: str,
    catalogue: dict,
    measured: MeasuredFiles,
    planned: dict[str, int],
    outputs: list[str],
) -> None:
    """figure: a name of report/figures.py; catalogue: {methods,
    compressors, tasks} that it uses; planned: how many measurements of similarity and latency the grid plans."""
    draw(figure, read_grid(verdict, catalogue, measured, planned), outputs)


if __name__ == "__main__":
    run(main, unchanged("plot_figure"))

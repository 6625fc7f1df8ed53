"""Rules `plot_<figure>`: evaluations, verdict.json and measurements -> one figure as SVG and PDF."""

from workflow_scripts.files.artifacts import read_json
from workflow_scripts.files.job import run
from workflow_scripts.judge.paper import read_tables
from workflow_scripts.judge.results import read_results
from workflow_scripts.report.figure_style import FigureData
from workflow_scripts.report.figures import draw


def main(
    figure: str, cells: list[str], verdict: str, pair: dict, catalogue: dict, outputs: list[str],
    trainings: list[str] = (), compressions: list[str] = (), similarities: list[str] = (), latencies: list[str] = (),
    planned: dict[str, int] | None = None,
) -> None:  # fmt: skip
    """figure: a name of report/figures.py; cells: paths of all cells that the grid plans; catalogue: {methods,
    compressors, tasks} that it uses; trainings, compressions, similarities, latencies: JSON files, none if nothing was
    measured; planned: how many measurements of similarity and latency the grid plans."""
    data = FigureData(
        read_results(cells), read_json(verdict, schema="verdict"), **catalogue, printed=read_tables(), pair=pair,
        trainings={path: read_json(path, schema="training") for path in trainings},
        compressions={path: read_json(path, schema="compression") for path in compressions},
        similarities=[read_json(path, schema="similarity") for path in similarities],
        latencies=[read_json(path, schema="latency") for path in latencies], planned=planned or {},
    )  # fmt: skip
    draw(figure, data, list(outputs))


if __name__ == "__main__":
    run(main)

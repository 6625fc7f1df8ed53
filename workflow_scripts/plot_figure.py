"""Rules `plot_<figure>`: evaluations, verdict.json and measurements -> one figure as SVG and PDF."""

from workflow_scripts.analyze.figure_style import FigureData
from workflow_scripts.analyze.figures import draw
from workflow_scripts.analyze.paper import read_tables
from workflow_scripts.analyze.results import read_results
from workflow_scripts.artifacts import read_json
from workflow_scripts.job import job


def main(
    figure: str, cells: list[dict], verdict: str, pair: dict, catalogue: dict, paper: str, outputs: list[str],
    trainings: list[str] = (), similarities: list[str] = (), latencies: list[str] = (),
) -> None:  # fmt: skip
    """figure: a name of analyze/figures.py; catalogue: {methods, compressors, tasks} of the grid; paths otherwise."""
    data = FigureData(
        read_results(cells), read_json(verdict, schema="verdict"), **catalogue, printed=read_tables(paper), pair=pair,
        trainings={path: read_json(path, schema="training") for path in trainings},
        similarities=[read_json(path, schema="similarity") for path in similarities],
        latencies=[read_json(path, schema="latency") for path in latencies],
    )  # fmt: skip
    draw(figure, data, list(outputs))


if __name__ == "__main__":
    with job(snakemake):
        main(
            snakemake.params.figure, snakemake.params.cells, snakemake.input.verdict, snakemake.params.pair,
            snakemake.params.catalogue, snakemake.params.paper, list(snakemake.output),
            list(snakemake.input.get("trainings", [])), list(snakemake.input.get("similarities", [])),
            list(snakemake.input.get("latencies", [])),
        )  # fmt: skip

"""Rule `plot_figures`: verdict.json and measurements -> every figure as SVG and PDF."""

from collections import defaultdict
from pathlib import Path

from workflow_scripts.files.job import run
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.report.data import MeasuredFiles, read_grid
from workflow_scripts.report.figures import draw


def main(
    verdict: str, catalogue: dict, measured: MeasuredFiles, planned: dict[str, int], outputs: list[str]
) -> None:
    """catalogue: {methods, compressors, tasks} that the verdict uses; planned: how many measurements of similarity and
    latency the grid plans; outputs: <name of report/figures.py>.{svg,pdf}."""
    data = read_grid(verdict, catalogue, measured, planned)
    files = defaultdict(list)
    for output in outputs:
        files[Path(output).stem].append(output)
    for name, forms in files.items():
        try:
            draw(name, data, forms)
        except Exception as error:  # the job's line names its first output, whichever figure fails
            raise RuntimeError(f"{name}: {type(error).__name__}: {error}") from error


if __name__ == "__main__":
    run(main, unchanged("plot_figures"))

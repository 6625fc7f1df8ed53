"""Rule `judge`: evaluations -> verdict.json."""

from workflow_scripts.analyze.judgement import judge_grid
from workflow_scripts.analyze.results import read_results
from workflow_scripts.artifacts import write_json
from workflow_scripts.job import job


def main(cells: list[str], pair: dict[str, str], output: str) -> None:
    """cells: paths of all cells that the grid plans; pair: {prompt: method, lora: method}."""
    write_json(output, judge_grid(read_results(cells), pair), schema="verdict")


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.params.args["cells"], snakemake.params.args["pair"], snakemake.output[0])

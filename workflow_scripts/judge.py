"""Rule `judge`: evaluations -> verdict.json."""

from workflow_scripts.analyze.judgement import judge_grid
from workflow_scripts.analyze.results import read_results
from workflow_scripts.artifacts import write_json
from workflow_scripts.job import job


def main(cells: list[dict], pair: dict[str, str], output: str) -> None:
    """cells: the grid's plan (grid, model, compressor, corpus, method, seed, path); pair: {prompt, lora}."""
    write_json(output, judge_grid(read_results(cells), pair), schema="verdict")


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.params.cells, snakemake.params.pair, snakemake.output[0])

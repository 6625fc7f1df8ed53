"""Rule `judge`: evaluations -> verdict.json."""

from collections.abc import Collection

from workflow_scripts.files.artifacts import write_json
from workflow_scripts.files.job import job
from workflow_scripts.judge.judgement import judge_grid
from workflow_scripts.judge.results import read_results
from workflow_scripts.report.tables import sparsity


def main(
    cells: list[str],
    pair: dict[str, str],
    output: str,
    sparse: Collection[str] = (),
    command: str = "snakemake",
) -> None:
    """cells: paths of all cells that the grid plans; pair: {prompt: method, lora: method}; sparse: the compressors
    that prune; command: makes a file of the grid again."""
    verdict = judge_grid(read_results(cells), pair, sparse=sparse, command=command)
    write_json(output, verdict, schema="verdict")


if __name__ == "__main__":
    with job(snakemake):
        args = snakemake.params.args
        sparse = [name for name, settings in args["catalogue"]["compressors"].items() if sparsity(settings)]
        main(args["cells"], args["pair"], snakemake.output[0], sparse, snakemake.params.command)

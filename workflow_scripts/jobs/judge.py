"""Rule `judge`: evaluations -> verdict.json."""

from workflow_scripts.files.artifacts import write_json
from workflow_scripts.files.job import run
from workflow_scripts.judge.judgement import judge_grid
from workflow_scripts.judge.results import read_results


def main(
    cells: list[str], pair: dict[str, str], catalogue: dict, output: str, command: str = "snakemake"
) -> None:
    """cells: paths of all cells that the grid plans; pair: {prompt: method, lora: method}; catalogue: {methods,
    compressors, tasks} that the grid uses; command: makes a file of the grid again."""
    verdict = judge_grid(read_results(cells), pair, catalogue, command=command)
    write_json(output, verdict, schema="verdict")


if __name__ == "__main__":
    run(main)

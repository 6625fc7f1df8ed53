"""Rule `judge`: evaluations -> verdict.json."""

from workflow_scripts.files.artifacts import write_json
from workflow_scripts.files.job import run
from workflow_scripts.judge.judgement import judge_grid
from workflow_scripts.judge.results import read_results
from workflow_scripts.report.tables import sparsity


def main(
    cells: list[str],
    pair: dict[str, str],
    output: str,
    catalogue: dict | None = None,
    command: str = "snakemake",
) -> None:
    """cells: paths of all cells that the grid plans; pair: {prompt: method, lora: method}; catalogue: {methods,
    compressors, tasks} that it uses; command: makes a file of the grid again."""
    used = (catalogue or {}).get("compressors", {})
    sparse = [name for name, settings in used.items() if sparsity(settings)]
    verdict = judge_grid(read_results(cells), pair, sparse=sparse, command=command)
    write_json(output, verdict, schema="verdict")


if __name__ == "__main__":
    run(main)

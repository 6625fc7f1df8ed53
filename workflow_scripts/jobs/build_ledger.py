"""Rule `build_ledger`: evaluations and answers.parquet -> ledger.parquet."""

from workflow_scripts.files.job import run
from workflow_scripts.files.sealed_tables import read_table, write_table
from workflow_scripts.judge.ledger import add_answers, build
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.digests import unchanged


def main(cells: list[str], pair: dict[str, str], answers: str, output: str) -> None:
    """cells: paths of all cells that the grid plans; pair: {prompt: method, lora: method}."""
    ledger = add_answers(build(read_results(cells), pair), read_table(answers))
    write_table(output, ledger)


if __name__ == "__main__":
    run(main, unchanged("build_ledger"))

"""Rule `build_ledger`: evaluations and answers.parquet -> ledger.parquet."""

import pandas as pd

from workflow_scripts.files.artifacts import atomic_path
from workflow_scripts.files.job import run
from workflow_scripts.judge.ledger import add_answers, build
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.digests import unchanged


def main(cells: list[str], pair: dict[str, str], answers: str, output: str) -> None:
    """cells: paths of all cells that the grid plans; pair: {prompt: method, lora: method}."""
    ledger = add_answers(build(read_results(cells), pair), pd.read_parquet(answers))
    with atomic_path(output) as temporary:
        ledger.to_parquet(temporary, index=False)


if __name__ == "__main__":
    run(main, unchanged("build_ledger"))

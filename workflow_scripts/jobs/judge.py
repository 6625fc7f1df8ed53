"""Rule `judge`: evaluations and ledger.parquet -> verdict.json."""

import pandas as pd

from workflow_scripts.files.artifacts import write_json
from workflow_scripts.files.job import run
from workflow_scripts.judge.judgement import Question, judge_grid
from workflow_scripts.judge.results import read_results


def main(cells: list[str], question: Question, catalogue: dict, ledger: str, output: str) -> None:
    """cells: paths of all cells that the grid plans; catalogue: {methods, compressors, tasks} that the grid uses."""
    verdict = judge_grid(read_results(cells), question, catalogue, ledger=pd.read_parquet(ledger))
    write_json(output, verdict, schema="verdict")


if __name__ == "__main__":
    run(main)

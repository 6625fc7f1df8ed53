"""Rule `judge`: evaluations and ledger.parquet -> verdict.json."""

from pathlib import Path

from workflow_scripts.files.artifacts import write_json
from workflow_scripts.files.job import run
from workflow_scripts.files.sealed_tables import read_table
from workflow_scripts.judge.judgement import Question, judge_grid
from workflow_scripts.judge.results import read_results, refuse_other_recipes
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.plan.layout import QUESTIONS
from workflow_scripts.plan.questions import late_changes


def main(
    cells: list[str],
    question: Question,
    catalogue: dict,
    ledger: str,
    output: str,
    cell_recipes: dict[str, str] | None = None,
) -> None:
    """cells: paths of all cells that the grid plans; catalogue: {methods, compressors, tasks} that the grid uses;
    cell_recipes: those that were planned, by path; empty in a rebuild."""
    results = read_results(cells)
    refuse_other_recipes(results, cell_recipes or {})
    verdict = judge_grid(results, question, catalogue, ledger=read_table(ledger))
    late = late_changes(Path(output).with_name(QUESTIONS.name))
    write_json(output, verdict | {"late_changes": late}, schema="verdict")


if __name__ == "__main__":
    run(main, unchanged("judge"))

"""Rule `find_answers`: training text and benchmarks -> answers.parquet: which items' answers stand in the text."""

from pathlib import Path

from workflow_scripts.files.job import run
from workflow_scripts.files.members import ITEMS, text_of
from workflow_scripts.files.sealed_tables import write_table
from workflow_scripts.judge.answers import find
from workflow_scripts.judge.open_book import add_passages
from workflow_scripts.judge.results import read_results
from workflow_scripts.judge.strata import add
from workflow_scripts.plan.digests import unchanged


def main(
    cells: list[str],
    corpora: dict[str, list[str]],
    benchmarks: dict[str, str],
    output: str,
    strata: dict[str, dict] | None = None,
    contexts: dict[str, str] | None = None,
) -> None:
    """cells: paths of all cells that the grid plans; corpora: a path's corpus -> manifests of each that the pair's
    adapters are trained on there; benchmarks: task -> manifest; strata: task -> fields of its items (judge/strata.py);
    contexts: task -> template of its passage (judge/open_book.py).
    """
    texts = {
        name: [Path(manifest).with_name(text_of("train")) for manifest in manifests]
        for name, manifests in corpora.items()
    }
    data = {task: Path(manifest).with_name(ITEMS) for task, manifest in benchmarks.items()}
    results = read_results(cells)
    answers = find(results, texts, data)
    if strata:
        answers = add(answers, results, texts, data, strata)
    if contexts:
        answers = add_passages(answers, results, data, contexts)
    write_table(output, answers)


if __name__ == "__main__":
    run(main, unchanged("find_answers"))

"""Rule `find_answers`: training text and benchmarks -> answers.parquet: which items' answers stand in the text."""

from pathlib import Path

from workflow_scripts.analyze.answers import find
from workflow_scripts.analyze.results import read_results
from workflow_scripts.artifacts import atomic_path
from workflow_scripts.job import job


def main(cells: list[str], corpora: dict[str, str], benchmarks: dict[str, str], output: str) -> None:
    """cells: paths of all cells that the grid plans; corpora: name -> train.jsonl; benchmarks: task -> data.jsonl."""
    with atomic_path(output) as temporary:
        find(read_results(cells), corpora, benchmarks).to_parquet(temporary, index=False)


if __name__ == "__main__":
    with job(snakemake):
        args = snakemake.params.args
        texts = {
            kind: {name: str(Path(manifest).with_name(file)) for name, manifest in args[kind].items()}
            for kind, file in (("corpora", "train.jsonl"), ("benchmarks", "data.jsonl"))
        }
        main(args["cells"], output=snakemake.output[0], **texts)

"""Rule `build_ledger`: evaluations -> ledger.parquet."""

from pathlib import Path

from workflow_scripts.analyze.ledger import add_answers, build
from workflow_scripts.analyze.results import read_results
from workflow_scripts.artifacts import atomic_path
from workflow_scripts.job import job


def main(
    cells: list[str], pair: dict[str, str], output: str,
    corpora: dict[str, str] | None = None, benchmarks: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """cells: paths of all cells that the grid plans; pair: {prompt: method, lora: method}; corpora: name ->
    train.jsonl, benchmarks: task -> data.jsonl, to look for the answers in the training text (without: unknown)."""
    ledger = add_answers(build(read_results(cells), pair), corpora or {}, benchmarks or {})
    with atomic_path(output) as temporary:
        ledger.to_parquet(temporary, index=False)


if __name__ == "__main__":
    with job(snakemake):
        args = snakemake.params.args
        texts = {
            kind: {name: str(Path(manifest).with_name(file)) for name, manifest in args[kind].items()}
            for kind, file in (("corpora", "train.jsonl"), ("benchmarks", "data.jsonl"))
        }
        main(args["cells"], args["pair"], snakemake.output[0], **texts)

"""Rule `build_ledger`: evaluations -> ledger.parquet."""

from workflow_scripts.analyze.ledger import build
from workflow_scripts.analyze.results import read_results
from workflow_scripts.artifacts import atomic_path
from workflow_scripts.job import job


def main(cells: list[dict], pair: dict[str, str], output: str) -> None:
    """cells: the grid's plan (grid, model, compressor, corpus, method, seed, path); pair: {prompt, lora}."""
    ledger = build(read_results(cells), pair)
    with atomic_path(output) as temporary:
        ledger.to_parquet(temporary, index=False)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.params.cells, snakemake.params.pair, snakemake.output[0])

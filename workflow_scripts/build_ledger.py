"""Rule `build_ledger`: evaluations -> ledger.parquet."""

from workflow_scripts.analyze.ledger import build
from workflow_scripts.analyze.results import read_results
from workflow_scripts.artifacts import atomic_path
from workflow_scripts.job import job


def main(cells: list[str], pair: dict[str, str], output: str) -> None:
    """cells: paths of all cells that the grid plans; pair: {prompt: method, lora: method}."""
    ledger = build(read_results(cells), pair)
    with atomic_path(output) as temporary:
        ledger.to_parquet(temporary, index=False)


if __name__ == "__main__":
    with job(snakemake):
        main(snakemake.params.args["cells"], snakemake.params.args["pair"], snakemake.output[0])

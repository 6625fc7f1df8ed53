"""Evaluate one cell: the grid's tasks 0-shot through lm-eval, perplexity on held-out text; JSON and samples."""

import time
from pathlib import Path

from workflow_scripts.files import locks
from workflow_scripts.files.job import job
from workflow_scripts.kernels.allocator import keep_memory


def main(
    model: str, compressed: str, adapters: list[str], benchmarks: list[str], corpora: list[str],
    output: str, samples: str, *, cell: dict, method: dict, tasks: dict, evaluation: dict,
    recipe: str, code: str, threads: int = 1, device: str | None = None,
) -> None:  # fmt: skip
    """Evaluate `cell` {grid, model, compressor, corpus, method, seed}: write `output` (JSON) and `samples` (Parquet).

    model, compressed, adapters, benchmarks, corpora: folders (resources/models/<name>, ...). method, tasks, evaluation:
    slices of the configuration.
    """
    started = time.time()
    keep_memory()
    with locks.hold(output):
        import torch

        from workflow_scripts.evaluate.cell import evaluate_cell
        from workflow_scripts.evaluate.loading import CellFiles

        torch.set_num_threads(threads)
        trained_on = Path(model).parents[1] / "corpora" / cell["corpus"]
        evaluate_cell(
            CellFiles(Path(model), Path(compressed), [Path(adapter) for adapter in adapters]),
            [Path(folder) for folder in benchmarks], [Path(folder) for folder in corpora], trained_on,
            cell, method, tasks, evaluation, recipe, code, threads, Path(output), Path(samples),
            device=torch.device(device) if device else None, imports=time.time() - started,
        )  # fmt: skip


if __name__ == "__main__":
    with job(snakemake):
        folders = {
            name: [str(Path(file).parent) for file in snakemake.input[name]]
            for name in ("adapters", "benchmarks", "corpora")
        }
        main(
            str(Path(snakemake.input.model).parent), str(Path(snakemake.input.compression).parent),
            output=snakemake.output.evaluation, samples=snakemake.output.samples,
            cell={**dict(snakemake.wildcards), "seed": int(snakemake.wildcards.seed)},
            threads=snakemake.threads, **folders, **snakemake.params.args,
        )  # fmt: skip

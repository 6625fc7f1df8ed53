"""Evaluate one cell: the grid's tasks 0-shot through lm-eval, perplexity on held-out text; JSON and samples."""

from workflow_scripts.evaluate.settings import CellSettings, EvaluationData
from workflow_scripts.files import locks
from workflow_scripts.files.job import run
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.kernels.allocator import collector_at_rest, keep_memory
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.recover.model_files import ModelFiles


def main(
    files: ModelFiles,
    data: EvaluationData,
    settings: CellSettings,
    cell: dict,
    made: Provenance,
    output: str,
    samples: str,
) -> None:
    """Evaluate `cell` {grid, model, compressor, corpus, method, seed}: write `output` (JSON) and `samples` (Parquet).

    The lock comes first: a second writer is refused before it loads any library. evaluate/cell.py does the work.
    """
    keep_memory()
    with locks.hold(output):
        with collector_at_rest():
            from workflow_scripts.evaluate.cell import evaluate_cell

        evaluate_cell(files, data, settings, cell, made, output, samples)


if __name__ == "__main__":
    run(main, unchanged("evaluate_cell"))

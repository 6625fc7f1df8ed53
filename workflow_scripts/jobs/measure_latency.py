"""Measure the inference latency of every recovery method on one model (paper, 3.3), in one process."""

import tempfile
import time
from pathlib import Path

from workflow_scripts.files import artifacts, locks
from workflow_scripts.files.job import job


def main(
    model: str, compressed: str, output: str, *, place: dict, methods: dict, batch: int, sequence: int, generate: int,
    repeats: int, precision: str, recipe: str, code: str, threads: int = 1, device: str | None = None,
) -> None:  # fmt: skip
    """Write `output`. place: {grid, model, compressor, corpus, seed}. methods: slices by name, members' included.

    batch, sequence, generate: sequences, text tokens of each, generated tokens; precision: fp32 or bf16.
    """
    started = time.time()
    with locks.hold(output):
        import torch

        from workflow_scripts.compress.checkpoint import load_compressed
        from workflow_scripts.evaluate.latency import measure, variants
        from workflow_scripts.evaluate.loading import CellFiles
        from workflow_scripts.kernels.device import default_device
        from workflow_scripts.kernels.dtypes import DTYPES
        from workflow_scripts.sources.models import load_tokenizer

        torch.set_num_threads(threads)
        target = torch.device(device) if device else default_device()
        base = load_compressed(model, compressed, dtype=DTYPES[precision], device=target)
        shape = {
            "batch": batch,
            "sequence": sequence,
            "generate": generate,
            "repeats": repeats,
            "precision": precision,
        }
        with tempfile.TemporaryDirectory() as folder:
            made = variants(base, load_tokenizer(model), methods, Path(folder), batch, sequence)
            rows = measure(made, methods, target, generate, repeats)
        record = {
            "place": place,
            "shape": shape,
            "latencies": rows,
            "manifest": artifacts.manifest(
                recipe=recipe, code=code, config={"methods": methods, **shape},
                inputs=CellFiles(Path(model), Path(compressed), []).inputs(), seed=place["seed"], device=str(target),
                threads=threads, started=started,
            ),
        }  # fmt: skip
        artifacts.write_json(output, record, "latency")


if __name__ == "__main__":
    with job(snakemake):
        main(
            str(Path(snakemake.input.model).parent), str(Path(snakemake.input.compression).parent),
            snakemake.output.latency, place={**dict(snakemake.wildcards), "seed": int(snakemake.wildcards.seed)},
            threads=snakemake.threads, **snakemake.params.args,
        )  # fmt: skip

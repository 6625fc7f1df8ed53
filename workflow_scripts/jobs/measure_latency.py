"""Measure the inference latency of every recovery method on one model (paper, 3.3), in one process."""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from workflow_scripts.evaluate.settings import LatencyShape
from workflow_scripts.files import artifacts, locks
from workflow_scripts.files.job import run
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.recover.model_files import ModelFiles


def main(
    files: ModelFiles, output: str, cell: dict, methods: dict, shape: LatencyShape, made: Provenance
) -> None:
    """Write `output`. cell: {grid, model, compressor, corpus, seed}. methods: slices by name, members' included."""
    with locks.hold(output):
        import torch

        from workflow_scripts.compress.stored_model import load_compressed
        from workflow_scripts.evaluate.latency import measure, variants
        from workflow_scripts.kernels.device import chosen_device
        from workflow_scripts.kernels.dtypes import DTYPES
        from workflow_scripts.sources.models import load_tokenizer

        torch.set_num_threads(made.threads)
        device = chosen_device(made.device)
        dtype = DTYPES[shape.precision]
        base = load_compressed(files.model, files.compressed, dtype, device, activations=False)
        tokenizer = load_tokenizer(files.model)
        with tempfile.TemporaryDirectory() as folder:
            timed = variants(base, tokenizer, methods, Path(folder), shape.batch, shape.sequence)
            rows = measure(timed, methods, device, shape.generate, shape.repeats)
        config = {"methods": methods, **asdict(shape)}
        record = {
            "place": cell,
            "shape": asdict(shape),
            "latencies": rows,
            "manifest": replace(made, device=str(device)).manifest(config, files.inputs()),
        }
        artifacts.write_json(output, record, "latency")


if __name__ == "__main__":
    run(main, unchanged("measure_latency"))

"""Compress a model, or read a checkpoint that somebody else compressed; write weights.safetensors, compression.json."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.compress.stored_model import dense_hash, save_compressed
from workflow_scripts.compress.task import Compressed, CompressionTask, Machine, Sources
from workflow_scripts.files import artifacts, locks
from workflow_scripts.files.job import run
from workflow_scripts.files.members import text_of
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.files.work_folders import clear_work, work_folder
from workflow_scripts.kernels.device import default_device
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.sources.fetch import recorded_files
from workflow_scripts.sources.models import verify

UNLIMITED = Machine()


def main(
    sources: Sources,
    output: str,
    compressor: dict,
    made: Provenance,
    calibration: dict | None = None,
    machine: Machine = UNLIMITED,
) -> None:
    """Compress the model of `sources` and write `output`, a compression.json, with the weights beside it.

    compressor, calibration: slices of the configuration; `engine` of the former, or else its algorithm, names a module
    of compress/engines/. made.seed: of the calibration draw, None for 0. made.device: where layers are worked on, None
    for a GPU if there is one.
    """
    torch.set_num_threads(made.threads)
    settings = {key: value for key, value in compressor.items() if key != "engine"}
    name = compressor.get("engine", compressor["algorithm"])
    compress = engine(name)
    elsewhere = name in ("optimum", "llmcompressor", "external")
    device = made.device or ("cpu" if elsewhere else default_device().type)
    seed = made.seed or 0
    made = replace(made, seed=seed, device=device)
    asked, folder = CompressorSettings(**settings), Path(output).parent
    inputs = {"model": dense_hash(sources.model)}
    if sources.corpus is not None and asked.calibrated:
        inputs["corpus"] = recorded_files(sources.corpus)[text_of("train")]
    if sources.checkpoint is not None:
        inputs["checkpoint"] = verify(sources.checkpoint)["weights_sha256"]
    with locks.hold(folder):
        key = artifacts.digest([inputs, compressor, calibration, seed, made.code, device, made.threads])
        work = work_folder(folder, key)
        found = compress(
            CompressionTask(sources, asked, calibration, seed, work, device, made.threads, machine)
        )
        manifest = made.manifest({"compressor": compressor, "calibration": calibration}, inputs)
        manifest["libraries"] |= found.versions
        save_compressed(folder, found, settings, sources.model, manifest)
        clear_work(folder)


def engine(name: str) -> Callable[[CompressionTask], Compressed]:
    """The `compress` of an engine, or of an algorithm that has an engine of its own; only that engine is loaded."""
    if name == "optimum":
        from workflow_scripts.compress.engines.optimum import compress
    elif name == "llmcompressor":
        from workflow_scripts.compress.engines.llmcompressor import compress
    elif name == "external":
        from workflow_scripts.compress.engines.external import compress
    elif name == "drop-layers":
        from workflow_scripts.compress.engines.drop_layers import compress
    elif name == "svd":
        from workflow_scripts.compress.engines.svd import compress
    else:
        from workflow_scripts.compress.engines.own import compress
    return compress


if __name__ == "__main__":
    run(main, unchanged("compress_model"))

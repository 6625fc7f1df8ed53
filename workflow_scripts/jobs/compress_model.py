"""Compress a model's decoder linears, calibrated on a corpus; write weights.safetensors and compression.json."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from workflow_scripts.compress.checkpoint import dense_hash, save_compressed
from workflow_scripts.compress.settings import Compressor
from workflow_scripts.compress.task import Compressed, Machine, Task
from workflow_scripts.files import artifacts, checkpoints, locks
from workflow_scripts.files.job import Folder, run
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.kernels.device import default_device
from workflow_scripts.plan.digests import unchanged

UNLIMITED = Machine()


def main(
    model: Folder,
    corpus: Folder | None,
    output: str,
    compressor: dict,
    made: Provenance,
    calibration: dict | None = None,
    machine: Machine = UNLIMITED,
) -> None:
    """Compress `model` and write `output`, a compression.json, with the weights beside it.

    corpus: None if nothing is calibrated. compressor, calibration: slices of the configuration; the key `engine` of the
    former names a module of compress/engines/. made.seed: of the calibration draw, None for 0. made.device: where
    layers are worked on, None for a GPU if there is one.
    """
    torch.set_num_threads(made.threads)
    settings = {key: value for key, value in compressor.items() if key != "engine"}
    name = compressor.get("engine", "own")
    compress = engine(name)
    device = made.device or ("cpu" if name == "optimum" else default_device().type)
    seed = made.seed or 0
    made = replace(made, seed=seed, device=device)
    asked, folder = Compressor(**settings), Path(output).parent
    inputs = {"model": dense_hash(model)}
    if corpus is not None and asked.calibrated:
        inputs["corpus"] = artifacts.read_json(Path(corpus) / "manifest.json")["files"]["train.jsonl"]
    with locks.hold(folder):
        key = artifacts.digest([inputs, compressor, calibration, seed, made.code, device, made.threads])
        work = checkpoints.work_folder(folder, key)
        task = Task(model, corpus, asked, calibration, seed, work, device, made.threads, machine)
        found = compress(task)
        manifest = made.manifest({"compressor": compressor, "calibration": calibration}, inputs)
        manifest["libraries"] |= found.versions
        save_compressed(folder, found, settings, model, manifest)
        checkpoints.clear_work(folder)


def engine(name: str) -> Callable[[Task], Compressed]:
    """The `compress` of compress/engines/<name>.py; only that engine is loaded."""
    if name == "optimum":
        from workflow_scripts.compress.engines.optimum import compress
    else:
        from workflow_scripts.compress.engines.own import compress
    return compress


if __name__ == "__main__":
    run(main, unchanged("compress_model"))

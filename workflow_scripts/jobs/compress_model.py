"""Compress a model's decoder linears, calibrated on a corpus; write weights.safetensors and compression.json.

A run that was killed continues after the last finished layer (checkpoints under work/) and ends in the same weights.
"""

import math
import sys
import time
from pathlib import Path

import torch

from workflow_scripts.compress.checkpoint import dense_bits, dense_hash, save_compressed
from workflow_scripts.compress.decoder import decoder_layers, get_weight, layer_linears
from workflow_scripts.compress.settings import Compressor
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.walk import FinishedLayers, walk
from workflow_scripts.files import artifacts, checkpoints, locks
from workflow_scripts.files.job import job
from workflow_scripts.kernels.device import default_device
from workflow_scripts.sources.corpora import read_documents, token_windows
from workflow_scripts.sources.models import adds_bos, load_tokenizer, most_positions, verify

SEED = 0  # of the calibration draw: compressed models have no seed of their own, adapters and cells have


def main(
    model: str, corpus: str | None, output: str, *, compressor: dict, calibration: dict | None = None,
    recipe: str, code: str, threads: int = 1, device: str | None = None, activation_memory: float = math.inf,
) -> None:  # fmt: skip
    """Compress `model` and write `output`, a compression.json, with the weights beside it.

    model, corpus: folders (resources/models/<name>, resources/corpora/<name>; no corpus where nothing is calibrated).
    compressor, calibration: slices of the configuration. device: where layers are worked on (None: a GPU if any).
    activation_memory: GiB; larger calibration activations lie in a file under work/.
    """
    started = time.time()
    torch.set_num_threads(threads)
    device = device or default_device().type
    settings, folder = Compressor(**compressor), Path(output).parent
    inputs = {"model": dense_hash(model)}
    if settings.calibrated:
        inputs["corpus"] = artifacts.read_json(Path(corpus) / "manifest.json")["files"]["train.jsonl"]
    with locks.hold(folder):
        key = artifacts.digest([inputs, compressor, calibration, SEED, code, device, threads])
        skeleton = Skeleton(model, verify(model)["remote_code"])
        layers = decoder_layers(skeleton.model)
        windows, drawn = None, None
        if settings.calibrated:
            positions = most_positions(skeleton.model)
            windows, drawn = calibration_windows(model, corpus, calibration, positions)
        parts, records = [], []
        if settings.algorithm != "dense":
            finished = FinishedLayers(checkpoints.work_folder(folder, key))
            records = walk(skeleton, windows, settings, finished, device, activation_memory * 2**30, log=_log)
            parts = [finished.path(index) for index in range(len(layers))]
        manifest = artifacts.manifest(
            recipe=recipe, code=code, config={"compressor": compressor, "calibration": calibration},
            inputs=inputs, seed=SEED, device=device, threads=threads, started=started,
        )  # fmt: skip
        finish(folder, model, layers, parts, records, compressor, drawn, manifest)


def finish(
    folder: Path, model: str, layers, parts: list, records: list, compressor: dict, drawn: dict | None, manifest: dict
) -> None:  # fmt: skip
    """Save what was made of the dense `model` with its decoder `layers`, and remove the checkpoints."""
    origin = {"name": Path(model).name, "weights_sha256": dense_hash(model)}
    weights = sum(get_weight(m).numel() for layer in layers for m in layer_linears(layer).values())
    save_compressed(folder, parts, records, compressor, drawn, origin, weights, dense_bits(model), manifest)
    checkpoints.clear_work(folder)


def calibration_windows(
    model: str, corpus: str, calibration: dict, positions: int | None
) -> tuple[torch.Tensor, dict]:
    """Calibration windows (count, length) of the corpus' train split, and how they were drawn.

    ValueError where they are longer than the model's `positions` (None: not known).
    """
    if positions and calibration["length"] > positions:
        raise ValueError(
            f"calibration.length: {calibration['length']} tokens exceed the model's {positions} positions"
        )
    tokenizer = load_tokenizer(model)
    count, length, bos = calibration["windows"], calibration["length"], adds_bos(tokenizer)
    windows = token_windows(read_documents(corpus, "train"), tokenizer, length, count, SEED, bos)
    drawn = {"corpus": Path(corpus).name, "windows": count, "length": length, "tokens": windows.numel()}
    return windows, drawn | {"add_bos": bos, "seed": SEED}


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    with job(snakemake):
        main(
            str(Path(snakemake.input.model).parent),
            str(Path(snakemake.input.corpus).parent) if snakemake.input.corpus else None,
            snakemake.output.compression,
            threads=snakemake.threads, activation_memory=snakemake.config["activation_memory"], **snakemake.params.args,
        )  # fmt: skip

"""Compress a model's decoder linears with optimum's GPTQQuantizer; the same files as `compress_model` leaves.

optimum keeps no checkpoints: a run that was killed starts again.
"""

import sys
import time
from pathlib import Path

import torch

from workflow_scripts.compress.checkpoint import dense_hash
from workflow_scripts.compress.decoder import decoder_layers, refuse_what_cannot_be
from workflow_scripts.compress.engines.optimum import interpreter, put, quantize
from workflow_scripts.compress.settings import Compressor
from workflow_scripts.compress.walk import FinishedLayers
from workflow_scripts.files import artifacts, checkpoints, locks
from workflow_scripts.files.job import job
from workflow_scripts.jobs.compress_model import SEED, calibration_windows, finish
from workflow_scripts.sources.models import load_dense, most_positions, verify


def main(
    model: str, corpus: str, output: str, *, compressor: dict, calibration: dict, recipe: str, code: str,
    python: str, threads: int = 1,
) -> None:  # fmt: skip
    """As `compress_model.main`; compressor has `engine: optimum`, python is the interpreter of its environment."""
    started = time.time()
    torch.set_num_threads(threads)
    own = {key: value for key, value in compressor.items() if key != "engine"}
    settings, folder, python = Compressor(**own), Path(output).parent, interpreter(python)
    inputs = {"model": dense_hash(model)}
    inputs["corpus"] = artifacts.read_json(Path(corpus) / "manifest.json")["files"]["train.jsonl"]
    with locks.hold(folder):
        work = checkpoints.work_folder(
            folder, artifacts.digest([inputs, compressor, calibration, SEED, code])
        )
        dense = load_dense(model)
        windows, drawn = calibration_windows(model, corpus, calibration, most_positions(dense))
        layers = decoder_layers(dense)
        refuse_what_cannot_be(layers, settings, windows.numel())
        remote_code = verify(model)["remote_code"]
        found, versions = quantize(dense, model, windows, settings, python, work, threads, remote_code)
        finished = FinishedLayers(work)
        records = put(
            dense, windows, found, settings, finished, log=lambda line: print(line, file=sys.stderr)
        )
        parts = [finished.path(index) for index in range(len(layers))]
        manifest = artifacts.manifest(
            recipe=recipe, code=code, config={"compressor": compressor, "calibration": calibration},
            inputs=inputs, seed=SEED, threads=threads, started=started,
        )  # fmt: skip
        manifest["libraries"] |= {f"optimum's {name}": number for name, number in versions.items()}
        finish(folder, model, layers, parts, records, own, drawn, manifest)


if __name__ == "__main__":
    with job(snakemake):
        main(
            str(Path(snakemake.input.model).parent), str(Path(snakemake.input.corpus).parent),
            snakemake.output.compression, python=snakemake.config["optimum_python"], threads=snakemake.threads,
            **snakemake.params.args,
        )  # fmt: skip

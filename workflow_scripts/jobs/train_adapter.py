"""Make one adapter of a compressed model: LoRA, prompt and prefix are trained, EoRA is computed.

Writes the adapter in PEFT's format and training.json beside it; the folder is complete or absent. A run that was
killed continues from its checkpoint under work/ and ends in the same bits (same machine, threads and library lock).
"""

from dataclasses import replace
from pathlib import Path

import torch

from workflow_scripts.files import artifacts
from workflow_scripts.files.job import run
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.files.members import TRAINING
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.files.work_folders import work_folder
from workflow_scripts.kernels.allocator import keep_memory
from workflow_scripts.kernels.device import default_device
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.recover.making import Request, make_adapter
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.recover.texts import Texts
from workflow_scripts.sources.fetch import recorded_files


def main(
    files: ModelFiles,
    texts: Texts,
    output: str,
    method: dict,
    training: dict,
    checkpoint_minutes: float,
    made: Provenance,
) -> None:
    """Make the adapter of `method` with `training` (slices of the configuration) and write `output`, a training.json.

    made.seed: of text, order and start, with the method's `seed_offset`. made.device: None takes a GPU if there is one.
    The last checkpoint stays until a cell reads the adapter: the scheduler may still call this job failed (its time
    ended in the last second, its node died), and then Snakemake deletes the finished folder.
    """
    keep_memory()
    torch.set_num_threads(made.threads)
    folder, made = Path(output).parent, replace(made, device=made.device or default_device().type)
    inputs = files.inputs() | texts.inputs()
    model = recorded_files(files.model)  # config.json and tokenizer too
    assert made.seed is not None  # a wildcard of the rule
    request = Request(method, training, checkpoint_minutes, made.seed + method.get("seed_offset", 0))
    with whole_folder(folder) as finished:
        asked = [method, training, texts.wordings, texts.scored, texts.calibration, request.seed]
        key = [model, inputs, asked, made.code, made.device, made.threads]
        kept = work_folder(folder, artifacts.digest(key))
        record = make_adapter(files, texts, request, made, inputs, kept, finished)
        artifacts.write_json(finished / TRAINING, record, "training")


if __name__ == "__main__":
    run(main, unchanged("train_adapter"))

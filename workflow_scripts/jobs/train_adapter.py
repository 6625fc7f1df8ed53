"""Train one adapter on a compressed model: LoRA, prompt or prefix.

Writes the adapter in PEFT's format and training.json beside it; the folder is complete or absent. A run that was
killed continues from its checkpoint under work/ and ends in the same bits (same machine, threads and library lock).
"""

import math
import resource
from dataclasses import replace
from pathlib import Path

import torch

from workflow_scripts.compress.checkpoint import load_compressed
from workflow_scripts.files import artifacts, checkpoints
from workflow_scripts.files.job import Folder, run
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.kernels.allocator import keep_memory
from workflow_scripts.kernels.device import default_device
from workflow_scripts.kernels.dtypes import DTYPES
from workflow_scripts.recover.adapters import create, paper_formula, save, trained_parameters
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.recover.training import Learner, State, TrainingError, loss_curve, train
from workflow_scripts.recover.windows import training_windows
from workflow_scripts.sources.models import adds_bos, load_tokenizer


def main(
    files: ModelFiles,
    corpus: Folder,
    output: str,
    method: dict,
    training: dict,
    checkpoint_minutes: float,
    made: Provenance,
) -> None:
    """Train `method` with `training` (slices of the configuration) and write `output`, a training.json.

    made.seed: of text, order and start, with the method's `seed_offset`. made.device: None takes a GPU if there is one.
    """
    keep_memory()
    torch.set_num_threads(made.threads)
    device, folder = made.device or default_device().type, Path(output).parent
    text = artifacts.read_json(corpus / "manifest.json")["files"]["train.jsonl"]
    inputs = files.inputs() | {"corpus": text}
    model = artifacts.read_json(files.model / "manifest.json")[
        "files"
    ]  # config.json and tokenizer among them
    assert made.seed is not None  # a wildcard of the rule
    seed = made.seed + method.get("seed_offset", 0)
    with whole_folder(folder) as finished:
        key = [model, inputs, method, training, seed, made.code, device, made.threads]
        kept = checkpoints.work_folder(folder, artifacts.digest(key))
        base = load_compressed(files.model, files.compressed, DTYPES[training["precision"]], device)
        tokenizer = load_tokenizer(files.model)
        windows, heldout = training_windows(corpus, tokenizer, training, seed)
        adapted = create(base, method, seed, windows[0])
        if not method.get("trained", True):
            windows = windows[:0]
        settings = training | {"checkpoint_minutes": checkpoint_minutes}
        state, losses = trained(Learner(adapted), settings, windows, heldout, seed, kept)
        save(adapted, finished, files.model.name)
        used = {"method": method, "training": training, "bos": adds_bos(tokenizer)}
        record = {
            "method": method,
            "training": training,
            **course(state, training, windows.numel()),
            "heldout_loss": losses,
            "parameters": {
                "trainable": sum(parameter.numel() for parameter in trained_parameters(adapted)),
                "paper_formula": paper_formula(method, base.config),
            },
            "seconds": round(state.seconds, 2),
            "peak_memory_mb": _peak_memory_mb(device),
            "base_sha256": inputs["compressed"],
            "adapter_sha256": artifacts.sha256_file(finished / "adapter_model.safetensors"),
            "manifest": replace(made, device=device).manifest(used, inputs),
        }
        artifacts.write_json(finished / "training.json", record, "training")
    checkpoints.clear_work(folder)


def trained(
    learner: Learner, training: dict, windows: torch.Tensor, heldout: torch.Tensor, seed: int, kept: Path
) -> tuple[State, dict[str, float]]:
    """Train the learner; where it ended, and the held-out losses without adapter, before and after.

    kept: folder of its checkpoint. TrainingError if a held-out loss is not finite.
    """
    losses = {
        "base": learner.heldout_loss(heldout, training["micro_batch"], with_adapter=False),
        "before": learner.heldout_loss(heldout, training["micro_batch"]),
    }
    _require_finite(
        losses, "before training: the model's weights or activations overflow; try precision fp32"
    )
    state = train(learner, training, windows, seed, kept)
    losses["after"] = learner.heldout_loss(heldout, state.micro_batch)
    _require_finite(
        losses,
        f"after {state.step} steps with learning rates up to {training['learning_rate']:.3g}; "
        f"try a lower learning rate, or precision fp32 (a restart as it is would continue from {kept})",
    )
    return state, losses


def course(state: State, training: dict, tokens: int) -> dict:
    """What the record says of the steps: `tokens` seen, steps, micro batch and the loss curve."""
    step_tokens = training["batch_size"] * training["sequence_length"]
    return {
        "tokens_seen": tokens,
        "steps": state.step,
        "micro_batch": state.micro_batch,
        "loss_curve": loss_curve(state.losses, step_tokens, tokens),
    }


def _require_finite(losses: dict[str, float], when: str) -> None:
    """TrainingError if a held-out loss is not finite."""
    for name, loss in losses.items():
        if not math.isfinite(loss):
            raise TrainingError(f"the held-out loss ({name}) is {loss} {when}")


def _peak_memory_mb(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    run(main)

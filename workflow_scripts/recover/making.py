"""One adapter from its texts to its record: LoRA, prompt, prefix and others of PEFT are trained, EoRA is computed."""

import math
import resource
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedConfig

from workflow_scripts.compress.stored_model import load_compressed
from workflow_scripts.files.artifacts import sha256_file
from workflow_scripts.files.members import ADAPTER_WEIGHTS
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.kernels.dtypes import DTYPES
from workflow_scripts.recover.adapters import create, paper_formula, save, trained_parameters
from workflow_scripts.recover.distillation import Teacher
from workflow_scripts.recover.learner import Learner
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.recover.texts import Texts
from workflow_scripts.recover.training import State, TrainingError, loss_curve, train
from workflow_scripts.sources.models import adds_bos, load_dense, load_tokenizer


@dataclass(frozen=True)
class Request:
    """method, training: slices of the configuration. seed: of text, order and start."""

    method: dict
    training: dict
    checkpoint_minutes: float
    seed: int


def make_adapter(
    files: ModelFiles,
    texts: Texts,
    request: Request,
    made: Provenance,
    inputs: dict[str, str],
    kept: Path,
    folder: Path,
) -> dict:
    """Write the adapter to `folder` in PEFT's format; returns its training.json.

    inputs: hashes by name. kept: folder of its checkpoint; a run that was killed continues from there and ends in the
    same bits. TrainingError if it cannot be trained.
    """
    method, training, device = request.method, request.training, made.device or "cpu"
    repair = texts.repaired(files, method, made, kept)
    base = load_compressed(files.model, files.compressed, DTYPES[training["precision"]], device)
    tokenizer = load_tokenizer(files.model)
    windows, heldout, told = texts.windows(tokenizer, method, training, request.seed)
    adapted = create(base, method, request.seed, windows[0] if len(windows) else None)
    if repair is not None:
        repair.put(adapted, trained_on=method["kind"] != "eora")
    settings = training | {"checkpoint_minutes": request.checkpoint_minutes}
    learner = Learner(adapted, _teacher(files, training, device) if len(windows) else None)
    state, losses = _trained(learner, settings, windows, heldout, request.seed, kept)
    save(adapted, folder, files.model.name)
    used = {"method": method, "training": training, "bos": adds_bos(tokenizer)}
    return {
        "method": method,
        "training": training,
        **_course(state, training, windows.numel()),
        **({"items": {"told": len(told.facts), "left_out": told.left_out}} if told is not None else {}),
        **({"repair": repair.summary()} if repair is not None else {}),
        "heldout_loss": losses,
        "parameters": _counts(adapted, method, base.config),
        "peak_memory_mb": _peak_memory_mb(device),
        "base_sha256": inputs["compressed"],
        "adapter_sha256": sha256_file(folder / ADAPTER_WEIGHTS),
        "manifest": made.manifest(used, inputs),
    }


def _counts(adapted: PeftModel, method: dict, config: PreTrainedConfig) -> dict[str, int | None]:
    """Parameters of an adapter, really and by the paper's appendix."""
    trainable = sum(parameter.numel() for parameter in trained_parameters(adapted))
    return {"trainable": trainable, "paper_formula": paper_formula(method, config)}


def _teacher(files: ModelFiles, training: dict, device: str) -> Teacher | None:
    """The dense model, if the objective is its distribution; it may be the trained model's own: the dense control."""
    if training.get("objective") != "kl_dense":
        return None
    return Teacher(load_dense(files.model, dtype=DTYPES[training["precision"]], device=device), training)


def _trained(
    learner: Learner, training: dict, windows: torch.Tensor, heldout: torch.Tensor, seed: int, kept: Path
) -> tuple[State, dict[str, float]]:
    """Train the learner, if `training` has tokens; where it ended, and the held-out losses without adapter, before and
    after.

    kept: folder of its checkpoint. TrainingError if a held-out loss is not finite.
    """
    losses = {
        "base": learner.heldout_loss(heldout, training["micro_batch"], with_adapter=False),
        "before": learner.heldout_loss(heldout, training["micro_batch"]),
    }
    _require_finite(
        losses, "before training: the model's weights or activations overflow; try precision fp32"
    )
    if "tokens" not in training:  # nothing is trained
        losses["after"] = losses["before"]
        return State(micro_batch=training["micro_batch"]), losses
    state = train(learner, training, windows, seed, kept)
    losses["after"] = learner.heldout_loss(heldout, state.micro_batch)
    _require_finite(
        losses,
        f"after {state.step} steps with learning rates up to {training['learning_rate']:.3g}; "
        f"try a lower learning rate, or precision fp32 (a restart as it is would continue from {kept})",
    )
    return state, losses


def _course(state: State, training: dict, tokens: int) -> dict:
    """The steps as the record has them: `tokens` seen, steps, micro batch, seconds and the loss curve."""
    step_tokens = training.get("batch_size", 1) * training["sequence_length"]
    return {
        "tokens_seen": tokens,
        "steps": state.step,
        "micro_batch": state.micro_batch,
        "seconds": round(state.seconds, 2),
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

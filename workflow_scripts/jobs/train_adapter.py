"""Make one adapter of a compressed model: LoRA, prompt and prefix are trained, EoRA is computed.

Writes the adapter in PEFT's format and training.json beside it; the folder is complete or absent. A run that was
killed continues from its checkpoint under work/ and ends in the same bits (same machine, threads and library lock).
"""

import math
import resource
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from workflow_scripts.compress.checkpoint import load_compressed
from workflow_scripts.compress.task import calibration_windows
from workflow_scripts.files import artifacts, checkpoints
from workflow_scripts.files.job import Folder, run
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.files.members import ADAPTER_WEIGHTS, COMPRESSION, ITEMS, TRAINING, text_of
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.kernels.allocator import keep_memory
from workflow_scripts.kernels.device import default_device
from workflow_scripts.kernels.dtypes import DTYPES
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.recover.adapters import create, paper_formula, save, trained_parameters
from workflow_scripts.recover.distillation import Teacher
from workflow_scripts.recover.learner import Learner
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.recover.training import State, TrainingError, loss_curve, train
from workflow_scripts.recover.windows import (
    fact_windows,
    family_windows,
    heldout_windows,
    training_windows,
)
from workflow_scripts.sources.fetch import recorded_files
from workflow_scripts.sources.models import adds_bos, load_dense, load_tokenizer

if TYPE_CHECKING:
    from workflow_scripts.recover.eora import Repair


@dataclass(frozen=True)
class Texts:
    """Text that an adapter is made from.

    corpus: folder of the training text, or of a task whose items are written in `wordings`. scored: how many items of a
    task the grid scores (None: all). family: folders of tasks whose other items are the training text; wordings are
    then by task, and the corpus lends its held-out text. calibration_text,
    calibration: for a repair (EoRA), folder of the corpus in the adapter's path and the grid's {windows, length}; a
    copy that was calibrated itself names its own. activation_memory: GiB of calibration activations that stay in
    memory; no result depends on it.
    """

    corpus: Folder
    wordings: list[str] | dict[str, list[str]] | None = None
    family: list[Folder] = field(default_factory=list)
    scored: dict[str, int | None] = field(default_factory=dict)
    calibration_text: Folder | None = None
    calibration: dict | None = None
    activation_memory: float = math.inf

    def inputs(self) -> dict[str, str]:
        """Hashes by name."""
        found = {"corpus": self.corpus, "calibration text": self.calibration_text}
        found |= {f"items of {folder.name}": folder for folder in self.family}
        return {name: _text_hash(corpus) for name, corpus in found.items() if corpus is not None}

    def repaired(self, files: ModelFiles, method: dict, made: Provenance, kept: Path) -> "Repair | None":
        """The repair of the linears that the method adapts, on the windows that calibrated the copy; else on windows
        drawn by made.seed. None if nothing is repaired."""
        if self.calibration_text is None or self.calibration is None:
            return None
        from workflow_scripts.recover.eora import repair

        drawn = artifacts.read_json(files.compressed / COMPRESSION)["calibration"]
        asked = drawn or self.calibration | {"seed": made.seed}
        windows, drawn = calibration_windows(files.model, self.calibration_text, asked, asked["seed"])
        found = repair(files, windows, method, made.device or "cpu", kept, self.activation_memory)
        return replace(found, calibration=drawn)


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
    """
    keep_memory()
    torch.set_num_threads(made.threads)
    device, folder = made.device or default_device().type, Path(output).parent
    made = replace(made, device=device)
    inputs = files.inputs() | texts.inputs()
    model = recorded_files(files.model)  # config.json and tokenizer too
    assert made.seed is not None  # a wildcard of the rule
    seed = made.seed + method.get("seed_offset", 0)
    with whole_folder(folder) as finished:
        asked = [method, training, texts.wordings, texts.scored, texts.calibration, seed]
        key = [model, inputs, asked, made.code, device, made.threads]
        kept = checkpoints.work_folder(folder, artifacts.digest(key))
        found = texts.repaired(files, method, made, kept)
        base = load_compressed(files.model, files.compressed, DTYPES[training["precision"]], device)
        tokenizer = load_tokenizer(files.model)
        windows, heldout = windows_of(texts, tokenizer, method, training, seed)
        adapted = create(base, method, seed, windows[0] if len(windows) else None)
        if found is not None:
            found.put(adapted, trained_on=method["kind"] != "eora")
        settings = training | {"checkpoint_minutes": checkpoint_minutes}
        learner = Learner(adapted, teacher(files, training, device))
        state, losses = trained(learner, settings, windows, heldout, seed, kept)
        save(adapted, finished, files.model.name)
        used = {"method": method, "training": training, "bos": adds_bos(tokenizer)}
        record = {
            "method": method,
            "training": training,
            **course(state, training, windows.numel()),
            **({"repair": found.summary()} if found is not None else {}),
            "heldout_loss": losses,
            "parameters": _counts(adapted, method, base.config),
            "peak_memory_mb": _peak_memory_mb(device),
            "base_sha256": inputs["compressed"],
            "adapter_sha256": artifacts.sha256_file(finished / ADAPTER_WEIGHTS),
            "manifest": made.manifest(used, inputs),
        }
        artifacts.write_json(finished / TRAINING, record, "training")
    checkpoints.clear_work(folder)


def _counts(adapted: PeftModel, method: dict, config: PreTrainedConfig) -> dict[str, int | None]:
    """Parameters of an adapter, really and by the paper's appendix."""
    trainable = sum(parameter.numel() for parameter in trained_parameters(adapted))
    return {"trainable": trainable, "paper_formula": paper_formula(method, config)}


def teacher(files: ModelFiles, training: dict, device: str) -> Teacher | None:
    """The dense model, if the objective is its distribution; it may be the trained model's own: the dense control."""
    if training.get("objective") != "kl_dense":
        return None
    return Teacher(load_dense(files.model, dtype=DTYPES[training["precision"]], device=device), training)


def _text_hash(corpus: Path) -> str:
    """SHA-256 of a corpus' training text, or of a task's items."""
    files = recorded_files(corpus)
    return files[text_of("train") if text_of("train") in files else ITEMS]


def windows_of(
    texts: Texts, tokenizer: PreTrainedTokenizerBase, method: dict, training: dict, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows that the method is trained on, none for a method that isn't, and held-out windows."""
    corpus = texts.corpus
    if method["kind"] == "eora":
        heldout = heldout_windows(corpus, tokenizer, training)
        return heldout[:0], heldout
    if isinstance(texts.wordings, dict):
        windows = family_windows(texts.family, tokenizer, training, seed, texts.wordings, texts.scored)
        heldout = heldout_windows(corpus, tokenizer, training)
    elif texts.wordings is not None:
        part = method["corpus"]["part"]
        asked = texts.scored[corpus.name]
        windows, heldout = fact_windows(corpus, tokenizer, training, seed, part, texts.wordings, asked)
    else:
        windows, heldout = training_windows(corpus, tokenizer, training, seed)
    return windows if method.get("trained", True) else windows[:0], heldout


def trained(
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


def course(state: State, training: dict, tokens: int) -> dict:
    """What the record says of the steps: `tokens` seen, steps, micro batch, seconds and the loss curve."""
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


if __name__ == "__main__":
    run(main, unchanged("train_adapter"))

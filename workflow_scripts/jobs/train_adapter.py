"""Train one adapter on a compressed model: LoRA, prompt or prefix.

Writes the adapter in PEFT's format and training.json beside it; the folder is complete or absent. A run that was
killed continues from its checkpoint under work/ and ends in the same bits (same machine, threads and library lock).
"""

import math
import resource
import time
from pathlib import Path

import torch

from workflow_scripts.compress.checkpoint import dense_hash, load_compressed
from workflow_scripts.files import artifacts, checkpoints
from workflow_scripts.files.job import job
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.kernels.allocator import keep_memory
from workflow_scripts.kernels.device import default_device
from workflow_scripts.kernels.dtypes import DTYPES
from workflow_scripts.recover.adapters import create, paper_formula, save, trained_parameters
from workflow_scripts.recover.training import Learner, TrainingError, loss_curve, train
from workflow_scripts.sources.corpora import read_documents, token_windows
from workflow_scripts.sources.models import adds_bos, load_tokenizer


def main(
    model: str, compressed: str, corpus: str, output: str, *,
    method: dict, training: dict, checkpoint_minutes: float, seed: int, recipe: str, code: str, threads: int = 1,
    device: str | None = None,
) -> None:  # fmt: skip
    """Train `method` with `training` (slices of the configuration) and write `output`, a training.json.

    model, compressed, corpus: folders (resources/models/<name>, results/<grid>/compressed/..., resources/corpora/...).
    device: None takes a GPU if there is one.
    """
    started = time.time()
    keep_memory()
    torch.set_num_threads(threads)
    device = device or default_device().type
    folder = Path(output).parent
    inputs = {
        "model": dense_hash(model),
        "compressed": artifacts.read_json(Path(compressed) / "compression.json", "compression")[
            "weights_sha256"
        ],
        "corpus": artifacts.read_json(Path(corpus) / "manifest.json")["files"]["train.jsonl"],
    }
    files = artifacts.read_json(Path(model) / "manifest.json")[
        "files"
    ]  # config.json and tokenizer among them
    with whole_folder(folder) as finished:
        kept = checkpoints.work_folder(
            folder, artifacts.digest([files, inputs, method, training, seed, code, device, threads])
        )
        base = load_compressed(model, compressed, dtype=DTYPES[training["precision"]], device=device)
        tokenizer = load_tokenizer(model)
        windows, heldout = _text(corpus, tokenizer, training, seed)

        adapted = create(base, method, seed, windows[0])
        learner = Learner(adapted)
        losses = {
            "base": learner.heldout_loss(heldout, training["micro_batch"], with_adapter=False),
            "before": learner.heldout_loss(heldout, training["micro_batch"]),
        }
        _require_finite(
            losses, "before training: the model's weights or activations overflow; try precision fp32"
        )
        if not method.get("trained", True):
            windows = windows[:0]
        state = train(learner, training | {"checkpoint_minutes": checkpoint_minutes}, windows, seed, kept)
        losses["after"] = learner.heldout_loss(heldout, state.micro_batch)
        _require_finite(
            losses,
            f"after {state.step} steps with learning rates up to {training['learning_rate']:.3g}; "
            f"try a lower learning rate, or precision fp32 (a restart as it is would continue from {kept})",
        )

        save(adapted, finished, Path(model).name)
        record = {
            "method": method,
            "training": training,
            "tokens_seen": windows.numel(),
            "steps": state.step,
            "micro_batch": state.micro_batch,
            "loss_curve": loss_curve(
                state.losses, training["batch_size"] * training["sequence_length"], windows.numel()
            ),
            "heldout_loss": losses,
            "parameters": {
                "trainable": sum(parameter.numel() for parameter in trained_parameters(adapted)),
                "paper_formula": paper_formula(method, base.config),
            },
            "seconds": round(state.seconds, 2),
            "peak_memory_mb": _peak_memory_mb(device),
            "base_sha256": inputs["compressed"],
            "adapter_sha256": artifacts.sha256_file(finished / "adapter_model.safetensors"),
            "manifest": artifacts.manifest(
                recipe=recipe, code=code, inputs=inputs,
                config={"method": method, "training": training, "bos": adds_bos(tokenizer)},
                seed=seed, device=device, threads=threads, started=started,
            ),
        }  # fmt: skip
        artifacts.write_json(finished / "training.json", record, "training")
    checkpoints.clear_work(folder)


def _require_finite(losses: dict[str, float], when: str) -> None:
    """TrainingError where a held-out loss is not finite."""
    for name, loss in losses.items():
        if not math.isfinite(loss):
            raise TrainingError(f"the held-out loss ({name}) is {loss} {when}")


def _text(corpus: str, tokenizer, training: dict, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Training windows (N, T) drawn by the seed, and held-out windows that are the same for every adapter.

    A text that holds fewer windows than the budget asks for is read in epochs, each in an order of its own.
    """
    length, bos = training["sequence_length"], adds_bos(tokenizer)
    count = max(1, training["tokens"] // length)
    documents = read_documents(corpus, "train")
    scarce = sum(map(len, documents)) < 10 * count * length  # characters; a token is rarely more than ten
    windows = token_windows(documents, tokenizer, length, None if scarce else count, seed, bos)
    order = torch.Generator().manual_seed(seed)
    epochs = [torch.arange(len(windows))]
    while len(epochs) * len(windows) < count:
        epochs.append(torch.randperm(len(windows), generator=order))
    windows = windows[torch.cat(epochs)[:count]]
    documents = read_documents(corpus, "heldout")
    return windows, token_windows(documents, tokenizer, length, training["heldout_windows"], 0, bos)


def _peak_memory_mb(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    with job(snakemake):
        main(
            *(str(Path(snakemake.input[name]).parent) for name in ("model", "compression", "corpus")),
            snakemake.output.training,
            checkpoint_minutes=snakemake.params.checkpoint_minutes, seed=int(snakemake.wildcards.seed),
            threads=snakemake.threads, **snakemake.params.args,
        )  # fmt: skip

"""llm-compressor's `oneshot` with a recipe on given token windows: a program that runs in its environment.

    python -P llmcompressor_worker.py TASK.json

TASK: model (folder), remote_code, windows (safetensors, `windows` (count, length)), recipe (YAML file), output
(folder), versions, reason (files), seed, threads. Writes a checkpoint in the format of compressed-tensors to `output`,
and the libraries' versions as JSON; if it can't, `reason` says why. It imports nothing of this package, whose libraries
the other environment (envs/llmcompressor.lock) lacks.
"""

import ctypes
import json
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any


def main(path: str) -> None:
    task = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        compress(task)
    except Exception as error:  # in one line for the process that started this one; in full here
        reason = (str(error).strip().splitlines() or ["no words"])[0][:300]
        Path(task["reason"]).write_text(f"{type(error).__name__}: {reason}", encoding="utf-8")
        raise


def compress(task: dict[str, Any]) -> None:
    import torch
    from llmcompressor import oneshot
    from llmcompressor.pipelines.cache import IntermediatesCache
    from safetensors.torch import load_file
    from torch.utils.data import DataLoader
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(task["threads"])
    if not torch.accelerator.is_available():  # version 0.14.0.1 pins memory (AWQ) for a GPU that isn't there
        IntermediatesCache.pin_memory = lambda *arguments: None
    model = AutoModelForCausalLM.from_pretrained(
        task["model"],
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=task["remote_code"],
    )
    windows = load_file(task["windows"])["windows"]
    rows: Any = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in windows]
    torch.manual_seed(task["seed"])
    oneshot(
        model=model,
        tokenizer=task["model"],
        dataset=DataLoader(rows, batch_size=1),
        recipe=task["recipe"],
        output_dir=task["output"],
    )
    libraries = ("llmcompressor", "compressed-tensors", "torch", "transformers")
    Path(task["versions"]).write_text(
        json.dumps({name: version(name) for name in libraries}), encoding="utf-8"
    )


if __name__ == "__main__":
    if sys.platform == "linux":  # a killed job leaves no process behind that computes on
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    main(sys.argv[1])

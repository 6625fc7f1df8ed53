"""Formats that their libraries read, in an environment that has these: compressed-tensors, bitsandbytes, ModelOpt."""

import json
from pathlib import Path

import torch

from workflow_scripts.compress.environments import interpreter, run_there
from workflow_scripts.compress.foreign import worker


def read_elsewhere(form: str, source: Path, work: Path, python: str) -> dict[str, str]:
    """Write the float32 weights of the checkpoint in `source` to the folder `work`; returns the versions of the
    libraries that read it.

    python: the interpreter of `make optimum`. CompressionError if it is missing, or if the reading fails there.
    """
    order = {
        "format": form,
        "source": str(source.resolve()),
        "destination": str(work.resolve()),
        "versions": str(work.resolve() / "versions.json"),
        "threads": torch.get_num_threads(),
    }
    there = interpreter(python, f"a checkpoint in the format {form}")
    run_there(f"the reader of {form}", there, worker.__file__, order, work)
    return json.loads((work / "versions.json").read_text(encoding="utf-8"))

"""llm-compressor with a recipe of its own, in an environment of its own (envs/README.md).

It gets the same dense weights and calibration windows as every engine. The checkpoint that it writes is then read and
checked as if somebody else had made it.
"""

import os
import shutil
from dataclasses import replace

import yaml
from safetensors.torch import save_file

from workflow_scripts.compress.engines import llmcompressor_worker
from workflow_scripts.compress.engines.external import stored_whole
from workflow_scripts.compress.environments import interpreter, run_there
from workflow_scripts.compress.settings import CompressionError
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.task import Compressed, CompressionTask
from workflow_scripts.files.artifacts import read_json
from workflow_scripts.sources.models import most_positions, verify


def compress(task: CompressionTask) -> Compressed:
    """The model of `task` by the recipe in its settings, stored whole.

    llm-compressor keeps no checkpoints: a run that was killed starts again. CompressionError if it stops.
    """
    python = interpreter(task.machine.llmcompressor_python, "engine llmcompressor", "llmcompressor")
    remote_code = verify(task.model)["remote_code"]
    windows, drawn = task.windows(most_positions(Skeleton(task.model, remote_code).model))
    work = task.work.absolute()
    save_file({"windows": windows}, work / "windows.safetensors")
    (work / "recipe.yaml").write_text(yaml.safe_dump(task.settings.recipe, sort_keys=False), encoding="utf-8")
    shutil.rmtree(work / "made", ignore_errors=True)
    order = {
        "model": os.path.abspath(task.model),
        "remote_code": remote_code,
        "windows": str(work / "windows.safetensors"),
        "recipe": str(work / "recipe.yaml"),
        "output": str(work / "made"),
        "versions": str(work / "versions.json"),
        "seed": task.seed,
        "threads": task.threads,
    }
    run_there("llm-compressor", python, llmcompressor_worker.__file__, order, work)
    source = {"source": "engine", "revision": None, "origin": {"engine": "llmcompressor"}}
    found = stored_whole(task, work / "made", source, python)
    _refuse_dense(found)
    versions = {
        f"llm-compressor's {name}": number for name, number in read_json(work / "versions.json").items()
    }
    return replace(found, drawn=drawn, versions=versions)


def _refuse_dense(found: Compressed) -> None:
    """CompressionError for a recipe whose modifiers had nothing to do: llm-compressor passes over targets that match no
    linear."""
    about = found.whole.checkpoint if found.whole else None
    if about and about["compared"] == len(about["equal"]) and not about["simulated"]:
        raise CompressionError(
            "the recipe left every tensor as it was in the dense model; look at its targets and ignore lists"
        )

"""Folders below work/ in which an unfinished artefact keeps its checkpoints, never inside a declared output.

Snakemake deletes declared outputs before it runs a rule again; what lies under work/ survives a killed job.
"""

import os
import shutil
from pathlib import Path

from workflow_scripts.files.members import WORK


def work_folder(artifact: str | Path, key: str = "") -> Path:
    """work/<path of the artefact>/<key>/: checkpoints.

    `key` is a digest of inputs, settings and code: another key never sees these checkpoints.
    """
    folder = work_root(artifact) / key[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def clear_work(artifact: str | Path) -> None:
    """Remove an artefact's checkpoints once it is complete."""
    shutil.rmtree(work_root(artifact), ignore_errors=True)


def work_root(artifact: str | Path) -> Path:
    """work/<path of the artefact>: the folder of all its checkpoints."""
    artifact = Path(os.path.abspath(artifact))
    try:
        return WORK / artifact.relative_to(Path.cwd())
    except ValueError:  # an artefact outside the working directory
        return WORK / artifact.relative_to(artifact.anchor)

"""The device of a job for which none is named: a GPU if there is one."""

import os
import platform

import torch

from workflow_scripts.files.artifacts import ArtifactError

PRETENDED = "DISPLACED_PRETENDED_GPU"  # set if SLURM's GPUs are known to be none, as in tests/slurm


def chosen_device(asked: str | None) -> torch.device:
    """The device of this name, or the default one if none is asked for."""
    return torch.device(asked) if asked else default_device()


def default_device() -> torch.device:
    """The first GPU, or the CPU; ArtifactError if SLURM gave this job GPUs and PyTorch sees none.

    Such a job would compute for days on the CPU beside idle GPUs, and nobody would be told.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if _given() and not os.environ.get(PRETENDED):
        raise ArtifactError(
            f"SLURM gave this job a GPU on {platform.node()}, but PyTorch sees none: look at nvidia-smi there, install "
            "envs/cuda.lock, or keep jobs from that node (`extra: --exclude=<node>` in profiles/slurm/site.yaml)"
        )
    return torch.device("cpu")


def _given() -> bool:
    """True if SLURM gave this job GPUs: two lists of their numbers, and how many they are."""
    numbers = any(os.environ.get(name) for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS"))
    return numbers or os.environ.get("SLURM_GPUS_ON_NODE", "0") not in ("", "0")

"""A job that was given a GPU and sees none stops, and says where."""

import platform

import pytest
import torch

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.kernels.device import PRETENDED, default_device


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE", PRETENDED):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value"), [("SLURM_JOB_GPUS", "0"), ("SLURM_STEP_GPUS", "2,3"), ("SLURM_GPUS_ON_NODE", "1")]
)
def test_a_gpu_that_is_given_must_be_seen(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ArtifactError, match=f"a GPU on {platform.node()}, but PyTorch sees none"):
        default_device()
    monkeypatch.setenv(PRETENDED, "1")
    assert default_device() == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_device() == torch.device("cuda")


def test_without_a_gpu_the_cpu_computes(monkeypatch):
    assert default_device() == torch.device("cpu")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "0")
    assert default_device() == torch.device("cpu")

"""Tiny learners and their training text."""

import hashlib
from pathlib import Path

import torch

from tests import tiny_settings
from tests.tiny_models import VOCABULARY, tiny_llama
from workflow_scripts.recover import adapters, training
from workflow_scripts.recover.learner import Learner

ROOT = Path(__file__).parents[3]
LORA = tiny_settings.LORA | {"dropout": 0.2}
PROMPT = {"kind": "prompt", "tokens": 6, "init": "vocabulary", "trained": True}
PREFIX = {"kind": "prefix", "tokens": 6, "init": "text"}
SETTINGS = {
    "batch_size": 4,
    "micro_batch": 2,
    "learning_rate": 1e-2,
    "warmup": 0.1,
    "schedule": "cosine",
    "weight_decay": 1e-5,
    "checkpoint_minutes": 10,
}


def make_windows(steps=6):
    return torch.randint(VOCABULARY, (4 * steps, 12), generator=torch.Generator().manual_seed(3))


def make_learner(method, model=None):
    return Learner(adapters.create(model or tiny_llama(), method, 0, make_windows()[0]))


def fingerprint(learner):
    digest = hashlib.sha256()
    for parameter in learner.parameters:
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def saved_step(checkpoint: Path) -> int:
    return training._intact(checkpoint, "cpu")["state"]["step"]

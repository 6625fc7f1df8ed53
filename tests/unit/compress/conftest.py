"""Fetched sources, and a working directory of its own."""

import shutil

import pytest

from tests import tiny
from tests.tiny_copies import fetch_corpus, fetch_model
from tests.unit.compress.stored import change, coarse


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders of a tiny model and corpus, fetched as local sources."""
    root = tmp_path_factory.mktemp("sources")
    fetch_model(tiny.write_model(root / "local-model"), root / "model")
    fetch_corpus(root / "corpus")
    return root


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory of its own: checkpoints lie in work/."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def made(sources, here):
    """A checkpoint: the dense model in bfloat16, its first linear rounded coarsely."""
    folder = shutil.copytree(sources / "local-model", here / "made")
    change(folder, lambda tensors: {name: coarse(name, tensor) for name, tensor in tensors.items()})
    return folder

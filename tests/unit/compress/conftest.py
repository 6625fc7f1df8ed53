"""Fetched sources, and a working directory of its own."""

import shutil

import pytest

from tests import tiny
from tests.unit.compress.stored import change, coarse
from workflow_scripts.sources import corpora, models


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders of a tiny model and corpus, fetched as local sources."""
    root = tmp_path_factory.mktemp("sources")
    model, corpus = tiny.write_model(root / "local-model"), tiny.write_corpus(root / "text.jsonl")
    models.fetch("tiny", {"source": "local", "path": str(model)}, root / "model", root, recipe="r", code="c")
    corpora.fetch(
        "words", {"source": "local", "path": str(corpus)}, root / "corpus", root, recipe="r", code="c"
    )
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

"""Fetched sources, and a working directory of its own."""

import pytest

from tests import tiny
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

"""A tiny Llama and a corpus, fetched as local sources; tokens to run it on."""

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from workflow_scripts.sources import corpora, models


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    folder = tiny.write_model(root / "local")
    models.fetch("tiny", {"source": "local", "path": str(folder)}, root / "model", root, recipe="r", code="c")
    text = {"source": "local", "path": str(tiny.write_corpus(root / "text.jsonl"))}
    corpora.fetch("words", text, root / "corpus", root, recipe="r", code="c")
    return root


@pytest.fixture
def tokens(tmp_path):
    drawn = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    save_file({"tokens": drawn}, tmp_path / "tokens.safetensors")
    return drawn

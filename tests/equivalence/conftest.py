"""A tiny Llama and a corpus, fetched as local sources; tokens to run it on."""

import pytest
import torch
from safetensors.torch import save_file

from tests import tiny
from tests.tiny_copies import fetch_corpus, fetch_model


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    fetch_model(tiny.write_model(root / "local"), root / "model")
    fetch_corpus(root / "corpus")
    return root


@pytest.fixture
def tokens(tmp_path):
    drawn = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    save_file({"tokens": drawn}, tmp_path / "tokens.safetensors")
    return drawn

"""A tiny model's folder, as somebody gives it."""

import pytest

from tests.unit.sources.test_models import make_llama, make_tokenizer


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "given"
    make_llama().save_pretrained(folder)
    make_tokenizer(bos=True).save_pretrained(folder)
    return folder

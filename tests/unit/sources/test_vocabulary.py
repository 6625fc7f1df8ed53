"""Every token id that a model's tokenizer or configuration gives has a row of its embeddings."""

import json

import pytest

from tests import tiny_gguf
from tests.tiny import change_json
from tests.unit.sources.test_models import MADE, make_tokenizer
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources import models as sources


def fetched(given):
    spec = {"source": "local", "path": str(given)}
    return sources.fetch("tiny", spec, given.parent / "out", given.parent, **MADE)


def refused(given, said):
    with pytest.raises(ArtifactError, match=f"tiny: {given}: .*{said}"):
        fetched(given)
    assert not (given.parent / "out").exists()


def with_vocabulary(given, **tokens):
    read = json.loads((given / "tokenizer.json").read_text())
    read["model"]["vocab"] |= tokens
    (given / "tokenizer.json").write_text(json.dumps(read))


@pytest.mark.parametrize("index", [100, 150, 10**6])
def test_a_token_beyond_the_embeddings_is_refused_at_the_fetch(index, given):
    with_vocabulary(given, w95=index)
    refused(given, rf"its tokenizer gives 'w95' the id {index}, but its embeddings have 100 rows \(0 to 99\)")


@pytest.mark.parametrize("special", [False, True])
def test_an_added_token_beyond_the_embeddings_is_refused_too(special, given):
    tokenizer = make_tokenizer(bos=True)
    tokenizer.add_tokens(["<extra>"], special_tokens=special)
    tokenizer.save_pretrained(given)
    refused(given, "its tokenizer gives '<extra>' the id 100")


def test_the_place_of_an_image_needs_no_row(given):
    """Gemma 3's small models have none for `<image_soft_token>`."""
    tokenizer = make_tokenizer(bos=True)
    tokenizer.add_tokens(["<image_soft_token>"], special_tokens=True)
    tokenizer.save_pretrained(given)
    change_json(given / "tokenizer_config.json", image_token="<image_soft_token>")
    fetched(given)


@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("key", "value"),
    [("bos_token_id", 100), ("eos_token_id", [2, 10**9]), ("eos_token_id", -1), ("pad_token_id", -2)],
)
def test_a_special_id_beyond_the_embeddings_is_refused(file, key, value, given):
    change_json(given / file, **{key: value})
    refused(given, rf"{file}: `{key}` is -?\d+, but its embeddings have 100 rows")


@pytest.mark.parametrize("value", ["1", [1, 1.5], [True]])
def test_a_special_id_that_is_no_whole_number_is_refused(value, given):
    """transformers checks config.json, and takes anything of generation_config.json: no answer would end there."""
    change_json(given / "generation_config.json", eos_token_id=value)
    refused(given, r"generation_config.json: `eos_token_id` is .*, but its embeddings have 100 rows")


def test_no_padding_may_be_written_as_minus_one(given):
    change_json(given / "config.json", pad_token_id=-1)
    change_json(given / "generation_config.json", pad_token_id=-1)
    fetched(given)


def test_a_token_that_transformers_adds_to_a_gguf_file_is_left_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_gguf.write(tmp_path / "tiny.gguf")
    spec = {"source": "gguf", "path": str(tmp_path / "tiny.gguf")}
    sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)
    assert sources.load_tokenizer(tmp_path / "out").get_vocab() == {
        token: index for index, token in enumerate(["a", "b", "<s>", "</s>", "ab"])
    }

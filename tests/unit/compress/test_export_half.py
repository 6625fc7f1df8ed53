"""Exports of half-precision models: exact, or in float32 and said so; and one linear in memory at a time."""

import functools
import json
import weakref

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests import tiny, tiny_copies
from tests.tiny_copies import fetch_corpus, fetch_model
from tests.unit.compress.stored import HALF as SPARSE
from tests.unit.compress.test_export import GPTQ, HALF, RTN, read_bitmask, read_gptq, read_packed
from workflow_scripts.compress import stored_model
from workflow_scripts.compress.decoder import decoder_layers, get_weight, layer_linears
from workflow_scripts.compress.stored_model import load_compressed
from workflow_scripts.files import artifacts
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import export_model

SETTINGS = {"gptq": GPTQ | {"static_groups": True}, "rtn": RTN, "magnitude": HALF, "sparsegpt": SPARSE}
PREFIX = "model.decoder.layers"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A tiny OPT (linears in multiples of 32) in bfloat16, one in float16, a corpus."""
    root = tmp_path_factory.mktemp("sources")
    for name in ("bfloat16", "float16"):
        folder = tiny.write_model(root / f"local-{name}", "opt")
        AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, name)).save_pretrained(folder)
        assert fetch_model(folder, root / name)["dtype"] == name
    fetch_corpus(root / "corpus")
    return root


@pytest.fixture(scope="module")
def compressed(sources, tmp_path_factory):
    """(dense dtype, settings' name) -> folder of the compressed model, made once."""
    root = tmp_path_factory.mktemp("compressed")

    @functools.cache
    def make(source, name):
        return tiny_copies.compressed(sources / source, root / f"{source}-{name}", SETTINGS[name])

    return make


def exported(sources, compressed, source, name, form, folder):
    """(export.json, config.json, tensors) of an export, and the model that was evaluated (float32)."""
    place = compressed(source, name)
    export_model.main(sources / source, place, folder / "export.json", form=form, made=Provenance("r", "c"))
    record = artifacts.read_json(folder / "export.json", schema="export")
    config = json.loads((folder / "config.json").read_text())
    found = record, config, load_file(folder / "model.safetensors")
    return found, load_compressed(sources / source, place)


@pytest.mark.parametrize(
    ("source", "name", "dtype"),
    [
        ("bfloat16", "gptq", "float32"),
        ("float16", "gptq", "float32"),
        ("bfloat16", "sparsegpt", "float32"),  # values are float16, which bfloat16 does not hold
        ("float16", "sparsegpt", "float16"),
        ("bfloat16", "magnitude", "bfloat16"),
        ("float16", "magnitude", "float16"),
    ],
)
def test_a_plain_folder_of_a_half_precision_model_is_exact(
    source, name, dtype, sources, compressed, tmp_path, capfd
):
    folder = tmp_path / "plain"
    (record, config, tensors), expected = exported(sources, compressed, source, name, "plain", folder)
    assert record["dtype"] == config["dtype"] == dtype
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    reason = None
    if dtype != source:
        reason = f"layer 0, linear self_attn.k_proj is not exact in the dense model's {source}"
        assert f"Written in float32: {reason}" in capfd.readouterr().err
    assert record["reason"] == reason
    found = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    assert found.keys() == expected.state_dict().keys()
    assert all(torch.equal(found[key].float(), value) for key, value in expected.state_dict().items())


@pytest.mark.parametrize(
    ("source", "name", "form", "dtype", "read"),
    [
        ("bfloat16", "gptq", "gptq_v2", "bfloat16", read_gptq),  # what is packed has no part in the choice
        ("float16", "gptq", "gptq_v2", "float16", read_gptq),
        ("bfloat16", "rtn", "compressed-tensors", "bfloat16", read_packed),
        ("float16", "gptq", "compressed-tensors", "float16", read_packed),
        ("bfloat16", "sparsegpt", "compressed-tensors", "float32", read_bitmask),
        ("float16", "sparsegpt", "compressed-tensors", "float16", read_bitmask),
        ("bfloat16", "magnitude", "compressed-tensors", "bfloat16", read_bitmask),
    ],
)
def test_a_packed_weight_of_a_half_precision_model_is_the_evaluated_one(
    source, name, form, dtype, read, sources, compressed, tmp_path
):
    (record, config, tensors), model = exported(sources, compressed, source, name, form, tmp_path / form)
    assert record["dtype"] == config["dtype"] == dtype
    for index, layer in enumerate(decoder_layers(model)):
        for key, linear in layer_linears(layer).items():
            read_back = read(tensors, f"{PREFIX}.{index}.{key}", config["quantization_config"])
            assert torch.equal(read_back, get_weight(linear)), key
    embedding = tensors["model.decoder.embed_tokens.weight"]
    assert embedding.dtype == getattr(torch, dtype)
    assert torch.equal(embedding.float(), model.model.decoder.embed_tokens.weight)


def test_a_dense_model_whose_files_are_wider_than_its_configuration_says_is_written_in_float32(
    sources, tmp_path
):
    local = tiny.write_model(tmp_path / "local", "opt")
    tiny.change_json(local / "config.json", dtype="float16")
    tensors = load_file(local / "model.safetensors")
    tensors = {key: value.half() if "embed" in key else value for key, value in tensors.items()}
    save_file(tensors, local / "model.safetensors", metadata={"format": "pt"})
    fetch_model(local, tmp_path / "mixed")
    tiny_copies.compressed(tmp_path / "mixed", tmp_path / "c", HALF)
    folder = tmp_path / "plain"
    export_model.main(
        tmp_path / "mixed", tmp_path / "c", folder / "export.json", form="plain", made=Provenance("r", "c")
    )
    record = artifacts.read_json(folder / "export.json", schema="export")
    assert record["dtype"] == "float32"
    assert record["reason"] == "the dense model's files hold float32 where its config.json says float16"
    expected = load_compressed(tmp_path / "mixed", tmp_path / "c").state_dict()
    found = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("name", "form"), [("gptq", "gptq_v2"), ("gptq", "plain"), ("sparsegpt", "compressed-tensors")]
)
def test_linears_are_converted_one_by_one(name, form, sources, compressed, tmp_path, monkeypatch):
    unpacked, most, real = [], [], stored_model.from_stored

    def watched(*arguments):
        most.append(sum(reference() is not None for reference in unpacked))
        stored = real(*arguments)
        unpacked.append(weakref.ref(stored.weight))
        return stored

    place = compressed("float16", name)
    monkeypatch.setattr(stored_model, "from_stored", watched)
    export_model.main(
        sources / "float16", place, tmp_path / "e" / "export.json", form=form, made=Provenance("r", "c")
    )
    assert len(most) >= 12 and max(most) == 1  # the one that the loop is about to let go

"""Foreign checkpoints as plain folders: format plain."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests import tiny
from tests.tiny import change_json
from workflow_scripts.compress.foreign import reading, worker
from workflow_scripts.compress.foreign.formats import Format, identify
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources.weights import stored


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A tiny model saved in bfloat16."""
    folder = tiny.write_model(tmp_path_factory.mktemp("foreign") / "model")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def source(made, tmp_path):
    return shutil.copytree(made, tmp_path / "source")


def read(source, tmp_path):
    destination = tmp_path / "plain"
    destination.mkdir()
    return reading.read_folder(source, destination), destination


def test_plain_weights_are_read_to_the_bit(source, tmp_path):
    assert identify(source) == Format("plain", None, "bfloat16")
    record, plain = read(source, tmp_path)
    held, found = load_file(source / "model.safetensors"), load_file(plain / "model.safetensors")
    assert held.keys() == found.keys()
    for name, tensor in held.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], tensor.float())
    assert record["format"] == "plain"
    assert record["bits_per_weight"] == 16
    assert record["bytes_on_disk"] == sum(tensor.nbytes for tensor in held.values())
    assert record["modules"]["model.layers.1.self_attn.q_proj"] == 2 * 32 * 32
    assert sum(record["modules"].values()) == record["bytes_on_disk"]  # there is no bias
    config = json.loads((plain / "config.json").read_text())
    assert config["dtype"] == "float32" and config["num_hidden_layers"] == 2
    assert (plain / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_large_weights_lie_in_shards_that_transformers_loads(source, tmp_path, monkeypatch):
    _, whole = read(source, tmp_path)
    monkeypatch.setattr(reading, "SHARD", 40_000)
    (tmp_path / "more").mkdir()
    record, shards = read(whole, tmp_path / "more")
    files = sorted(shards.glob("*.safetensors"))
    assert len(files) > 1 and all(file.stat().st_size < 60_000 for file in files)
    assert record["bits_per_weight"] == 32
    one, other = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (whole, shards))
    assert all(torch.equal(one[name], other[name]) for name in one)


def rewrite(source, change):
    tensors = load_file(source / "model.safetensors")
    change(tensors)
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})


def test_values_that_are_not_finite_are_refused_by_name(source, tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite(source, lambda tensors: tensors[name].view(-1)[7:8].fill_(float("nan")))
    with pytest.raises(ArtifactError, match=f"{name} holds NaN or infinite"):
        read(source, tmp_path)


def test_integers_without_a_quantisation_are_refused_by_name(source, tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"

    def change(tensors):
        tensors[name] = tensors[name].to(torch.int8)

    rewrite(source, change)
    with pytest.raises(ArtifactError, match=f"model.safetensors: {name} is of type I8"):
        read(source, tmp_path)


@pytest.mark.parametrize("change", [-1, 1], ids=["cut short", "too long"])
def test_a_file_of_another_size_than_promised_is_refused(source, tmp_path, change):
    file = source / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] if change < 0 else data + b" ")
    with pytest.raises(ArtifactError, match=r"model\.safetensors: (cut short|has \d+ bytes)"):
        read(source, tmp_path)


def test_a_shard_without_a_promised_tensor_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "SHARD", 40_000)
    _, shards = read(source, tmp_path)
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.layers.7.weight"] = sorted(set(index["weight_map"].values()))[0]
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ArtifactError, match=r"00001-of-\d+\.safetensors: lacks the tensor model\.layers\.7\.weight"
    ):
        stored(shards)


def test_a_tensor_in_two_shards_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "SHARD", 40_000)
    _, shards = read(source, tmp_path)
    first, second = sorted(shards.glob("*.safetensors"))[:2]
    twice = next(iter(load_file(first)))
    save_file(load_file(second) | {twice: load_file(first)[twice] + 1}, second)
    with pytest.raises(
        ArtifactError, match=rf"00002-of-\d+\.safetensors: holds {twice}, and so does model-00001"
    ):
        stored(shards)


def test_an_unknown_format_is_refused_by_name(source):
    change_json(source / "config.json", quantization_config={"quant_method": "mystery"})
    with pytest.raises(
        ArtifactError, match=r"quantization_config: 'mystery' is a format that nothing here reads"
    ):
        identify(source)


@pytest.mark.parametrize(
    ("scales", "words"),
    [
        (None, "is missing"),
        (torch.ones(3), r"is torch\.float32 \(3,\)"),
        (torch.ones(4).int(), r"is torch\.int32 \(4,\)"),
    ],
)
def test_an_8_bit_linear_of_bitsandbytes_needs_a_scale_of_each_row(scales, words, tmp_path):
    tensors = {"fc.weight": torch.ones(4, 8, dtype=torch.int8), "norm.weight": torch.ones(4)}
    worker._require_rows(tmp_path, tensors | {"fc.SCB": torch.ones(4)})
    with pytest.raises(SystemExit, match=rf"fc\.SCB {words}; fc\.weight has 4 rows, each with a scale"):
        worker._require_rows(tmp_path, tensors | ({} if scales is None else {"fc.SCB": scales}))

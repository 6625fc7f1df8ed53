"""The walk over any decoder: what it finds, what it refuses, that a killed run ends in the same weights."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from workflow_scripts.compress.decoder import Activations, decoder_layers, get_weight, layer_linears
from workflow_scripts.compress.settings import CompressionError, Compressor
from workflow_scripts.compress.walk import FinishedLayers, walk

COMMON = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
LLAMA_GROUPS = [("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)]
NEOX_GROUPS = [("query_key_value",), ("dense",), ("dense_h_to_4h",), ("dense_4h_to_h",)]
FAMILIES = {
    "llama": ({"num_key_value_heads": 2, "tie_word_embeddings": True}, LLAMA_GROUPS),
    "mistral": ({"num_key_value_heads": 2, "sliding_window": 8}, LLAMA_GROUPS),
    "qwen3": ({"num_key_value_heads": 2, "head_dim": 8}, LLAMA_GROUPS),
    "gemma": ({"num_key_value_heads": 1, "head_dim": 8}, LLAMA_GROUPS),
    "gemma3_text": (
        {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 8,
         "layer_types": ["sliding_attention", "full_attention"]},
        LLAMA_GROUPS,
    ),
    "opt": (
        {"ffn_dim": 64, "word_embed_proj_dim": 32},
        [("q_proj", "k_proj", "v_proj"), ("out_proj",), ("fc1",), ("fc2",)],
    ),
    "gpt_neox": ({}, NEOX_GROUPS),
    "phi": ({}, [("q_proj", "k_proj", "v_proj", "fc1"), ("dense",), ("fc2",)]),
    "gpt2": (GPT2, [("c_attn",), ("c_proj",), ("c_fc",), ("c_proj",)]),
}  # fmt: skip
W3 = Compressor("gptq", bits=3, group_size=24, act_order=True, static_groups=True, damping=0.01)
HALF = Compressor("sparsegpt", sparsity=0.5, damping=0.01)


def tiny(family="llama", **changes):
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**COMMON, **FAMILIES[family][0], **changes})
    return AutoModelForCausalLM.from_config(config).eval()


def windows(count=9, length=32):
    return torch.randint(3, 96, (count, length), generator=torch.Generator().manual_seed(1))


def silent(line):
    pass


def weights(model):
    layers = decoder_layers(model)
    return {
        (i, n): get_weight(m).clone()
        for i, layer in enumerate(layers)
        for n, m in layer_linears(layer).items()
    }


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_chain_of_layers_is_the_model(family, monkeypatch):
    monkeypatch.setattr(
        "workflow_scripts.compress.decoder.BATCH_TOKENS", 4 * 32
    )  # 9 windows: batches of 4, 4 and 1
    model, text = tiny(family), windows()
    layers = decoder_layers(model)
    activations = Activations(model, layers, text)
    for index, layer in enumerate(layers):
        groups = activations.hessians(index, layer, layer_linears(layer))
        assert [tuple(n.split(".")[-1] for n in names) for names in groups] == FAMILIES[family][1]
        assert {hessian.tokens for hessian in groups.values()} == {9 * 32}
        activations.advance(index, layer)
    outputs = []
    layers[-1].register_forward_hook(
        lambda m, a, out: outputs.append(out[0] if isinstance(out, tuple) else out)
    )
    model(input_ids=text)
    torch.testing.assert_close(torch.cat(activations.hidden), outputs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_is_compressed_and_only_in_its_decoder_linears(family, tmp_path):
    model, dense = tiny(family), tiny(family)
    _, records = walk(model, windows(), W3, FinishedLayers(tmp_path), log=silent)
    before, after = weights(dense), weights(model)
    assert [(record["layer"], record["linear"]) for record in records] == list(before)
    for record in records:
        key = record["layer"], record["linear"]
        assert record["shape"] == list(after[key].shape)
        assert record["levels"] <= 8 and 0 < record["error"] < 0.2 and record["damping"] == 0.01
        assert not torch.equal(before[key], after[key])
    linears = {id(m.weight) for layer in decoder_layers(model) for m in layer_linears(layer).values()}
    for (name, new), old in zip(model.named_parameters(), dense.parameters(), strict=True):
        assert id(new) in linears or torch.equal(new, old), name


@torch.no_grad()
def test_each_layer_is_calibrated_on_the_compressed_ones_before_it(tmp_path):
    model, text = tiny(), windows()
    dense = copy.deepcopy(model)
    _, records = walk(model, text, HALF, FinishedLayers(tmp_path), log=silent)
    layers, expected = decoder_layers(dense), weights(dense)[1, "mlp.down_proj"].double()
    inputs = []
    layers[0].load_state_dict(decoder_layers(model)[0].state_dict())  # the first compressed, the second dense
    layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda m, args: inputs.append(args[0].flatten(0, 1).double())
    )
    dense(input_ids=text)
    ours = weights(model)[1, "mlp.down_proj"].double()
    error = ((ours - expected) @ inputs[0].T).square().sum() / (expected @ inputs[0].T).square().sum()
    assert records[-1]["linear"] == "mlp.down_proj"
    assert records[-1]["error"] == pytest.approx(error.item(), rel=1e-4)


@torch.no_grad()
def test_true_sequential_calibrates_on_the_compressed_linears_of_the_same_layer(tmp_path):
    model, text = tiny(num_hidden_layers=1), windows()
    dense = copy.deepcopy(model)
    settings = Compressor("gptq", bits=3, damping=0.01, true_sequential=True)
    _, records = walk(model, text, settings, FinishedLayers(tmp_path), log=silent)
    original = weights(dense)[0, "mlp.down_proj"].double()
    decoder_layers(dense)[0].load_state_dict(decoder_layers(model)[0].state_dict())
    inputs = []
    dense.model.layers[0].mlp.down_proj.register_forward_pre_hook(
        lambda m, a: inputs.append(a[0].flatten(0, 1).double())
    )
    dense(input_ids=text)
    ours = weights(model)[0, "mlp.down_proj"].double()
    error = ((ours - original) @ inputs[0].T).square().sum() / (original @ inputs[0].T).square().sum()
    assert records[-1]["error"] == pytest.approx(error.item(), rel=1e-4)


@pytest.mark.parametrize("settings", [W3, HALF], ids=["gptq", "sparsegpt"])
def test_a_killed_run_continues_and_ends_in_the_same_weights(settings, tmp_path):
    whole, whole_records = walk(tiny(), windows(), settings, FinishedLayers(tmp_path / "whole"), log=silent)

    class Killed(FinishedLayers):
        def save(self, index, *stored):
            super().save(index, *stored)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk(tiny(), windows(), settings, Killed(tmp_path / "killed"), log=silent)
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["layer-0000.safetensors"]
    lines = []
    model = tiny()
    rest, records = walk(model, windows(), settings, FinishedLayers(tmp_path / "killed"), log=lines.append)
    assert "from checkpoint" in lines[0] and "from checkpoint" not in lines[1]
    assert rest.keys() == whole.keys() and all(torch.equal(rest[key], whole[key]) for key in whole)
    assert [r | {"seconds": 0} for r in records] == [r | {"seconds": 0} for r in whole_records]


@pytest.mark.parametrize("damage", ["cut short", "changed", "no checksum"])
def test_a_damaged_layer_checkpoint_is_computed_again(damage, tmp_path):
    whole, _ = walk(tiny(), windows(), W3, FinishedLayers(tmp_path), log=silent)
    file = tmp_path / "layer-0001.safetensors"
    if damage == "no checksum":
        save_file(load_file(file), file, metadata={"records": "[]"})
    else:
        data = file.read_bytes()
        file.write_bytes(data[:-10] if damage == "cut short" else data[:-1] + bytes([data[-1] ^ 1]))
    lines = []
    again, _ = walk(tiny(), windows(), W3, FinishedLayers(tmp_path), log=lines.append)
    assert "from checkpoint" in lines[0] and "from checkpoint" not in lines[1]
    assert all(torch.equal(again[key], whole[key]) for key in whole)


def test_baselines_need_no_text(tmp_path):
    for settings in (Compressor("rtn", bits=3, group_size=24), Compressor("magnitude", sparsity=0.5)):
        _, records = walk(tiny(), None, settings, FinishedLayers(tmp_path / settings.algorithm), log=silent)
        assert len(records) == 14 and all(0 < record["error"] < 0.2 for record in records)
        assert records[0]["damping"] is None


def test_trouble_names_layer_and_linear(tmp_path):
    with pytest.raises(
        CompressionError, match=r"layer 0, linear mlp.down_proj: 48 calibration tokens for 64 inputs"
    ):
        walk(tiny(), windows(2, 24), W3, FinishedLayers(tmp_path / "few"), log=silent)
    model = tiny()
    decoder_layers(model)[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(
        CompressionError, match=r"layer 1, linear mlp.gate_proj \+ mlp.up_proj: the dense weight"
    ):
        walk(model, windows(), W3, FinishedLayers(tmp_path / "nan"), log=silent)
    model = tiny()
    model.model.embed_tokens.weight.data[:] = float("inf")
    with pytest.raises(
        CompressionError, match=r"layer 0, linear self_attn.q_proj .*NaN or infinite activations"
    ):
        walk(model, windows(), W3, FinishedLayers(tmp_path / "inf"), log=silent)


def test_fused_experts_are_refused(tmp_path):
    config = AutoConfig.for_model("mixtral", **COMMON, num_key_value_heads=2, num_local_experts=4)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(CompressionError, match=r"outside nn.Linear and Conv1D \(MixtralDecoderLayer\)"):
        walk(model, windows(), W3, FinishedLayers(tmp_path), log=silent)


def test_a_decoder_that_works_between_its_layers_is_refused(tmp_path):
    model = tiny()
    decoder_layers(model)[1].register_forward_pre_hook(lambda m, args: (args[0] * 1.0, *args[1:]))
    with pytest.raises(CompressionError, match="changes hidden states between layers"):
        walk(model, windows(), W3, FinishedLayers(tmp_path), log=silent)

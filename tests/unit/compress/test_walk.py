"""The walk over any decoder: what it finds, what it refuses, that a killed run ends in the same weights."""

import dataclasses
import os
import tempfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.unit.compress.walked import (
    COMMON,
    FAMILIES,
    HALF,
    W3,
    rebuilt,
    silent,
    stored,
    tiny,
    untimed,
    walked,
    walked_in_memory,
    weights,
    windows,
)
from workflow_scripts.compress.decoder import Activations, decoder_layers, layer_linears
from workflow_scripts.compress.settings import CompressionError, CompressorSettings
from workflow_scripts.compress.walk import FinishedLayers, compress_layer, compress_linears, walk


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_the_chain_of_layers_is_the_model(family, monkeypatch):
    # 9 windows: batches of 4, 4 and 1.
    monkeypatch.setattr("workflow_scripts.compress.decoder.BATCH_TOKENS", 4 * 32)
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
        lambda m, a, out: outputs.append(out[0] if isinstance(out, tuple | list) else out)
    )
    model(input_ids=text)
    torch.testing.assert_close(torch.cat(list(activations.hidden)), outputs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_read_layer_by_layer_gives_the_same_bits_as_one_in_memory(family, tmp_path):
    tensors, records = walked(tiny(family), tmp_path, W3)
    expected, expected_records = walked_in_memory(tiny(family), windows(), W3)
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)
    assert untimed(records) == untimed(expected_records)


def test_only_the_layer_that_is_worked_on_is_in_memory(tmp_path, monkeypatch):
    skeleton = stored(tiny(num_hidden_layers=5, tie_word_embeddings=False), tmp_path)
    assert len(skeleton.files) == 1
    held = []

    def watched(index, layer, *arguments):
        real = {name for name, p in skeleton.model.named_parameters() if not p.is_meta}
        held.append((index, {name.split(".")[2] if ".layers." in name else name for name in real}))
        return compress_layer(index, layer, *arguments)

    monkeypatch.setattr("workflow_scripts.compress.walk.compress_layer", watched)
    walk(skeleton, windows(), W3, FinishedLayers(tmp_path), log=silent)
    assert held == [(index, {str(index)}) for index in range(5)]
    assert all(parameter.is_meta for parameter in skeleton.model.parameters())


@pytest.mark.parametrize("settings", [W3, HALF], ids=["gptq", "sparsegpt"])
def test_activations_in_a_file_change_nothing(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("workflow_scripts.compress.decoder.BATCH_TOKENS", 4 * 32)  # batches of 4, 4 and 1
    size = windows().numel() * 32 * 4  # bytes
    files = []
    real = tempfile.TemporaryFile
    monkeypatch.setattr(
        "workflow_scripts.compress.decoder.tempfile.TemporaryFile",
        lambda **options: files.append(real(**options)) or files[-1],
    )
    held, records = walked(tiny(), tmp_path / "held", settings, memory=size)
    assert not files
    filed, filed_records = walked(tiny(), tmp_path / "filed", settings, memory=size - 1)
    assert len(files) == 1 and os.fstat(files[0].fileno()).st_size == size
    assert all(torch.equal(held[key], filed[key]) for key in held)
    assert untimed(records) == untimed(filed_records)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_is_compressed_and_only_in_its_decoder_linears(family, tmp_path):
    dense = tiny(family)
    tensors, records = walked(tiny(family), tmp_path, W3)
    model = rebuilt(tiny(family), tensors, records, W3)
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
    dense, text = tiny(), windows()
    tensors, records = walked(tiny(), tmp_path, HALF)
    model = rebuilt(tiny(), tensors, records, HALF)
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
    dense, text = tiny(num_hidden_layers=1), windows()
    settings = CompressorSettings("gptq", bits=3, damping=0.01, true_sequential=True)
    tensors, records = walked(tiny(num_hidden_layers=1), tmp_path, settings)
    model = rebuilt(tiny(num_hidden_layers=1), tensors, records, settings)
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
    whole, whole_records = walked(tiny(), tmp_path / "whole", settings)
    skeleton = stored(tiny(), tmp_path)

    class Killed(FinishedLayers):
        def save(self, index, *stored):
            super().save(index, *stored)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        walk(skeleton, windows(), settings, Killed(tmp_path / "killed"), log=silent)
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["layer-0000.safetensors"]
    lines = []
    rest, records = walked(tiny(), tmp_path / "killed", settings, log=lines.append)
    assert "from checkpoint" in lines[0] and "from checkpoint" not in lines[1]
    assert rest.keys() == whole.keys() and all(torch.equal(rest[key], whole[key]) for key in whole)
    assert untimed(records) == untimed(whole_records)


@pytest.mark.parametrize("damage", ["cut short", "changed", "no checksum"])
def test_a_damaged_layer_checkpoint_is_computed_again(damage, tmp_path):
    whole, _ = walked(tiny(), tmp_path, W3)
    file = tmp_path / "layer-0001.safetensors"
    if damage == "no checksum":
        save_file(load_file(file), file, metadata={"records": "[]"})
    else:
        data = file.read_bytes()
        file.write_bytes(data[:-10] if damage == "cut short" else data[:-1] + bytes([data[-1] ^ 1]))
    lines = []
    again, _ = walked(tiny(), tmp_path, W3, log=lines.append)
    assert "from checkpoint" in lines[0] and "from checkpoint" not in lines[1]
    assert all(torch.equal(again[key], whole[key]) for key in whole)


def test_baselines_need_no_text(tmp_path):
    for settings in (
        CompressorSettings("rtn", bits=3, group_size=24),
        CompressorSettings("magnitude", sparsity=0.5),
    ):
        skeleton = stored(tiny(), tmp_path)
        records = walk(skeleton, None, settings, FinishedLayers(tmp_path / settings.algorithm), log=silent)
        assert len(records) == 14 and all(0 < record["error"] < 0.2 for record in records)
        assert records[0]["damping"] is None


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_bf16_forward_passes_leave_the_solve_in_float32(family, tmp_path, monkeypatch):
    solved, ran = [], set()

    def watched(weights, H, settings):
        solved.append({H.dtype, *(weight.dtype for weight in weights)})
        dense.extend(weights)
        return real(weights, H, settings)

    class Watched(Activations):
        def run(self, index, layer, batch):
            output = super().run(index, layer, batch)
            ran.update({output.dtype, self.hidden[batch].dtype})
            return output

    dense, real = [], compress_linears
    monkeypatch.setattr("workflow_scripts.compress.walk.compress_linears", watched)
    monkeypatch.setattr("workflow_scripts.compress.walk.Activations", Watched)
    settings = dataclasses.replace(W3, forward="bf16")
    tensors, records = walked(tiny(family), tmp_path / "bf16", settings)
    assert ran == {torch.bfloat16} and all(dtypes == {torch.float32} for dtypes in solved)
    originals = weights(tiny(family)).values()
    assert all(any(torch.equal(weight, original) for original in originals) for weight in dense)
    monkeypatch.undo()
    _, full = walked(tiny(family), tmp_path / "fp32", W3)
    for half, exact in zip(records, full, strict=True):
        assert half["error"] == pytest.approx(exact["error"], rel=0.1) and half["error"] != exact["error"]
    again, _ = walked(tiny(family), tmp_path / "bf16", settings)  # from checkpoints
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_trouble_names_layer_and_linear(tmp_path):
    model = tiny()
    decoder_layers(model)[1].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(
        CompressionError, match=r"layer 1, linear mlp.gate_proj \+ mlp.up_proj: the dense weight"
    ):
        walked(model, tmp_path / "nan", W3)
    model = tiny()
    model.model.embed_tokens.weight.data[:] = float("inf")
    with pytest.raises(
        CompressionError, match=r"layer 0, linear self_attn.q_proj .*NaN or infinite activations"
    ):
        walked(model, tmp_path / "inf", W3)


@pytest.mark.parametrize(
    "settings",
    [
        CompressorSettings("rtn", bits=3),
        CompressorSettings("magnitude", sparsity=0.5),
        CompressorSettings("wanda", sparsity=0.5),
        W3,
        HALF,
    ],
    ids=lambda settings: settings.algorithm,
)
def test_weights_that_are_no_numbers_or_too_large_to_store_are_named(settings, tmp_path):
    model = tiny()
    weight = decoder_layers(model)[1].mlp.down_proj.weight.data
    weight[0, 0] = float("nan")
    with pytest.raises(CompressionError, match=r"layer 1, linear mlp.down_proj: the dense weight holds NaN"):
        walked(model, tmp_path / "nan", settings)
    weight[0] = 1e5
    if settings.bits:
        walked(model, tmp_path / "large", settings)
        return
    with pytest.raises(CompressionError, match=r"layer 1, linear mlp.down_proj: .*beyond float16"):
        walked(model, tmp_path / "large", settings)


def test_a_full_disk_is_named_with_what_helps(tmp_path, monkeypatch):
    class Full:
        def seek(self, offset):
            pass

        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("workflow_scripts.compress.decoder.tempfile.TemporaryFile", lambda **options: Full())
    with pytest.raises(
        CompressionError, match=r"GiB of calibration activations .*No space left.*activation_memory"
    ):
        walked(tiny(), tmp_path, W3, memory=0)


def test_fused_experts_are_refused(tmp_path):
    config = AutoConfig.for_model("mixtral", **COMMON, num_key_value_heads=2, num_local_experts=4)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(CompressionError, match=r"outside nn.Linear and Conv1D \(MixtralDecoderLayer\)"):
        walked(model, tmp_path, W3)


class Untouched(FinishedLayers):
    def save(self, index, *stored):
        pytest.fail("a layer was compressed before the refusal")


def test_what_can_not_be_compressed_is_refused_before_the_first_layer(tmp_path):
    mixture = {
        "num_key_value_heads": 2,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [0],
    }
    config = AutoConfig.for_model("qwen2_moe", **COMMON, **mixture)
    skeleton = stored(AutoModelForCausalLM.from_config(config), tmp_path)
    with pytest.raises(
        CompressionError, match=r"layer 1, mlp.experts.gate_up_proj: .*\(Qwen2MoeDecoderLayer\)"
    ):
        walk(skeleton, windows(), W3, Untouched(tmp_path), log=silent)
    pattern = CompressorSettings("wanda", pattern="5:32")
    skeleton = stored(tiny(intermediate_size=72), tmp_path)
    with pytest.raises(
        CompressionError, match=r"layer 0, linear mlp.down_proj: 72 columns are no multiple of .*5:32"
    ):
        walk(skeleton, windows(), pattern, Untouched(tmp_path), log=silent)


def test_a_decoder_that_works_between_its_layers_is_refused(tmp_path):
    skeleton = stored(tiny(), tmp_path)
    layers = decoder_layers(skeleton.model)
    layers[1].register_forward_pre_hook(lambda m, args: (args[0] * 1.0, *args[1:]))
    with pytest.raises(CompressionError, match="changes hidden states between layers"):
        walk(skeleton, windows(), W3, FinishedLayers(tmp_path), log=silent)

"""With optimum's environment (`make optimum`): weights and inputs as compressed-tensors has them."""

import json
import shutil
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny_settings
from tests.equivalence.optimum import MARKS, read, there
from tests.tiny import change_json
from tests.tiny_copies import compressed
from tests.tiny_settings import RTN
from workflow_scripts.compress.export_formats import to_words
from workflow_scripts.compress.foreign.activations import read_activations
from workflow_scripts.compress.settings import CompressionError
from workflow_scripts.compress.stored_model import load_compressed
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import export_model
from workflow_scripts.kernels.activations import Scheme, attach, rounded

pytestmark = MARKS
GPTQ = tiny_settings.GPTQ | {"static_groups": True}
CALIBRATION = {"windows": 8, "length": 32}


@pytest.mark.parametrize(
    "settings",
    [
        RTN | {"symmetric": True},
        RTN | {"bits": 2, "group_size": 16},
        RTN | {"bits": 5},
        RTN | {"bits": 8},
        GPTQ,
    ],
    ids=["w4-symmetric", "w2-g16", "w5", "w8", "w3-static"],
)
def test_a_pack_quantized_export_is_read_back_to_the_bit(settings, sources, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, made = compressed(sources / "model", tmp_path / "compressed", settings), Provenance("r", "c")
    out = tmp_path / "exported"
    export_model.main(sources / "model", folder, out / "export.json", form="compressed-tensors", made=made)
    record, found = read(out, tmp_path)
    assert (record["format"], record["runtime_quantisation"]) == ("compressed-tensors", None)
    assert record["libraries"]["compressed-tensors"] == "0.19.0"
    expected = load_compressed(sources / "model", tmp_path / "compressed").state_dict()
    assert found.keys() == expected.keys() - {"lm_head.weight"}  # which is the embedding
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    config = json.loads((out / "config.json").read_text())
    (group,) = config["quantization_config"]["config_groups"].values()
    group["weights"]["num_bits"] = 2 if group["weights"]["num_bits"] == 8 else 8
    (out / "config.json").write_text(json.dumps(config))
    (tmp_path / "again").mkdir()
    with pytest.raises(CompressionError, match=r"weight_packed is .*; \d bits, as config\.json says, of \("):
        read(out, tmp_path / "again")


MIXED = """
import sys, torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config, preset_name_to_scheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
source, out, expected = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
groups = {
    "float4": preset_name_to_scheme("NVFP4", ["re:.*q_proj"]),
    "power4": preset_name_to_scheme("MXFP4A16", ["re:.*k_proj"]),
    "float8": preset_name_to_scheme("FP8_DYNAMIC", ["re:.*up_proj"]),
    "int8": preset_name_to_scheme("W8A8", ["re:.*down_proj"]),
    "int4": preset_name_to_scheme("W4A16_ASYM", ["re:.*gate_proj"]),
}
groups["int4"].weights.group_size = 16
apply_quantization_config(model, QuantizationConfig(config_groups=groups, ignore=["lm_head"]))
torch.manual_seed(0)
weights = {}
for name, module in model.named_modules():
    if scheme := getattr(module, "quantization_scheme", None):
        scale, zero = module.weight_scale, getattr(module, "weight_zero_point", None)
        whole = getattr(module, "weight_global_scale", None)
        if whole is not None:
            whole.data.fill_(3.7)  # no power of two: its product with a scale is no bfloat16
            module.input_global_scale.data.fill_(1.0)
        steps = torch.rand(scale.shape) * 0.02 + 0.004
        if whole is not None:
            steps = (steps * 3.7).to(torch.float8_e4m3fn).float()
        if name.endswith("k_proj"):
            steps = 2.0 ** torch.log2(steps).floor()
        scale.data.copy_(steps)
        if zero is not None:
            zero.data.copy_(torch.randint(-4, 4, zero.shape) if name.endswith("gate_proj") else torch.zeros(zero.shape))
        weights[name + ".weight"] = fake_quantize(
            module.weight.data, scale.data, None if zero is None else zero.data, scheme.weights, global_scale=whole
        ).contiguous()
save_file(weights, expected)
compressor = ModelCompressor.from_pretrained_model(model)
compressor.compress_model(model)
model.save_pretrained(out)
compressor.update_config(out)
"""


def test_each_linear_of_compressed_tensors_is_read_by_its_own_scheme(sources, tmp_path):
    out = tmp_path / "mixed"
    there(MIXED, sources / "local", out, tmp_path / "expected.safetensors")
    record, found = read(out, tmp_path)
    expected, dense = (
        load_file(tmp_path / "expected.safetensors"),
        load_file(sources / "local/model.safetensors"),
    )
    assert len(expected) == 10  # 5 linears in each of 2 layers
    for name, tensor in found.items():
        assert torch.equal(tensor, expected.get(name, dense[name])), name
    assert "activations 4-bit float, groups of 16, dynamic" in record["simulated"]
    assert "activations 8-bit int, one scale per token, dynamic" in record["simulated"]
    assert record["runtime_quantisation"] is None


def int4(weight, group):
    """A linear's tensors in pack-quantized, its columns in the groups (columns,) `group` of 16, and what they hold."""
    scale = weight[:, group.argsort(stable=True)].unflatten(1, (-1, 16)).abs().amax(-1) / 7
    codes = (weight / scale[:, group]).round().clamp(-8, 7)
    tensors = {
        "weight_packed": to_words((codes + 8).to(torch.uint8), 4),
        "weight_scale": scale,
        "weight_shape": torch.tensor(weight.shape),
        "weight_g_idx": group.int(),
    }
    return tensors, codes * scale[:, group]


def int8(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    codes = (weight / scale).round()
    zero = torch.zeros(scale.shape, dtype=torch.int8)
    return {"weight": codes.to(torch.int8), "weight_scale": scale, "weight_zero_point": zero}, codes * scale


def test_layouts_of_2024_are_read(sources, tmp_path):
    """Keys and tensors that compressed-tensors wrote once and 0.19 does not take: `compression_config`, columns in
    groups of another order, zero points of a symmetric grid, scales of a cache on attention modules."""
    out = shutil.copytree(sources / "local", tmp_path / "old")
    dense, tensors, expected = load_file(out / "model.safetensors"), {}, {}
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for name, weight in dense.items():
        linear = name.removesuffix(".weight")
        packed = {}
        if name.endswith("down_proj.weight"):
            packed, expected[name] = int4(weight, order // 16)
        elif name.endswith("up_proj.weight"):
            packed, expected[name] = int4(weight, torch.arange(32) // 16)
        elif name.endswith("q_proj.weight"):
            packed, expected[name] = int8(weight)
        tensors |= {f"{linear}.{part}": tensor for part, tensor in packed.items()} or {name: weight}
    for layer, part in product(range(2), "kv"):
        tensors[f"model.layers.{layer}.self_attn.{part}_scale"] = torch.ones(1)
    common = {
        "type": "int",
        "symmetric": True,
        "block_structure": None,
        "observer": "minmax",
        "dynamic": False,
    }
    four = {"weights": common | {"num_bits": 4, "strategy": "group", "group_size": 16, "actorder": "group"}}
    eight = {"weights": common | {"num_bits": 8, "strategy": "channel", "group_size": None}}
    said = {
        "quant_method": "compressed-tensors",
        "format": "mixed-precision",
        "config_groups": {
            "0": four | {"targets": ["re:.*(down|up)_proj"], "format": "pack-quantized"},
            "1": eight | {"targets": ["re:.*q_proj"], "format": "int-quantized"},
        },
        "kv_cache_scheme": common | {"type": "float", "num_bits": 8, "strategy": "tensor"},
        "ignore": ["lm_head"],
        "quantization_status": "frozen",
        "global_compression_ratio": 1.2,
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    change_json(out / "config.json", compression_config=said)
    record, found = read(out, tmp_path)
    assert record["runtime_quantisation"] == "KV cache 8-bit float, one scale per tensor, static"
    assert found.keys() == dense.keys() and len(expected) == 6
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected.get(name, dense[name]), rtol=1e-6, atol=0)
    zero = "model.layers.0.self_attn.q_proj.weight_zero_point"
    save_file(tensors | {zero: tensors[zero] + 1}, out / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "again").mkdir()
    with pytest.raises(CompressionError, match=rf"{zero} is not 0, and config\.json says `symmetric`"):
        read(out, tmp_path / "again")


ROUNDING = """
import json, sys, torch
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from safetensors.torch import load_file, save_file
inputs, outputs, *names = sys.argv[1:]
values, found, said = load_file(inputs)["values"], {}, {}
for name in names:
    arguments = preset_name_to_scheme(name.removesuffix("-asymmetric"), ["Linear"]).input_activations
    arguments.symmetric = not name.endswith("-asymmetric")
    whole = torch.tensor([315.103]) if name == "NVFP4" else None
    scale, zero = compute_dynamic_scales_and_zp(values, arguments, None, global_scale=whole)
    found[name] = fake_quantize(values.clone(), scale, zero, arguments, global_scale=whole)
    said[name] = {"arguments": arguments.model_dump(mode="json")}
    if whole is not None:
        said[name]["global_scale"] = whole.item()
save_file(found, outputs)
with open(outputs + ".json", "w") as file:
    json.dump({f"layers.0.{name}": each for name, each in said.items()}, file)
"""
DYNAMIC = ["W8A8", "W8A8-asymmetric", "FP8_DYNAMIC", "NVFP4", "MXFP4", "MXFP8", "W4AFP8"]


def test_inputs_are_rounded_to_the_bit_as_by_compressed_tensors(tmp_path):
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(2, 50, 576, generator=draw) * 8 * torch.rand(2, 50, 1, generator=draw)
    save_file({"values": values}, tmp_path / "values.safetensors")
    there(ROUNDING, tmp_path / "values.safetensors", tmp_path / "rounded", *DYNAMIC)
    entry, _ = read_activations(tmp_path / "rounded.json")
    for name, theirs in load_file(tmp_path / "rounded").items():
        given = dict(entry["linears"][f"layers.0.{name}"])
        scheme = Scheme(**entry["schemes"][given.pop("scheme")])
        assert torch.equal(rounded(values, scheme, **given), theirs), name


RUNNING = """
import sys, torch
from functools import partial
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.nvfp4 import base
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
source, out, scheme, tokens, logits = sys.argv[1:]
base.unpack_fp4_from_uint8 = partial(base.unpack_fp4_from_uint8, dtype=torch.float32)  # its bfloat16 rounds
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
named = preset_name_to_scheme(scheme, ["Linear"])
apply_quantization_config(model, QuantizationConfig(config_groups={"all": named}, ignore=["lm_head"]))
torch.manual_seed(0)
for name, module in model.named_modules():
    if not getattr(module, "quantization_scheme", None):
        continue
    weight, args = module.weight.data, named.weights
    if hasattr(module, "weight_global_scale"):
        module.weight_global_scale.data.copy_(generate_gparam(weight.min(), weight.max()))
        module.input_global_scale.data.fill_(100 + 400 * torch.rand(()))
    if hasattr(module, "input_scale"):
        module.input_scale.data.fill_(0.01 + 0.01 * torch.rand(()))
    groups = weight.unflatten(-1, (-1, args.group_size)) if args.group_size else weight
    low, high = groups.amin(-1), groups.amax(-1)
    if args.strategy == "tensor":
        low, high = weight.amin(), weight.amax()
    scale, _ = calculate_qparams(low, high, args, getattr(module, "weight_global_scale", None))
    module.weight_scale.data.copy_(scale.reshape(module.weight_scale.shape))
compressor = ModelCompressor.from_pretrained_model(model)
compressor.compress_model(model)
model.save_pretrained(out)
compressor.update_config(out)
compressor.decompress_model(model)
for parameter in model.parameters():
    parameter.data = parameter.data.float()
with torch.inference_mode():
    given = load_file(tokens)["tokens"]
    exact = model(given).logits
    for module in model.modules():
        module.quantization_enabled = False
    save_file({"logits": exact, "weights alone": model(given).logits}, logits)
"""


@pytest.mark.parametrize("scheme", ["W8A8", "FP8", "NVFP4"])
def test_a_model_runs_with_the_rounded_inputs_of_compressed_tensors(scheme, sources, tokens, tmp_path):
    """Both run one checkpoint in float32. With rounded inputs a last bit can become a step, hence the tolerance."""
    out, dense = tmp_path / "made", tmp_path / "dense"
    shutil.copytree(sources / "local", dense)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(dense, hidden_size=128, intermediate_size=256, head_dim=32)
    AutoModelForCausalLM.from_config(config).save_pretrained(dense)
    logits = tmp_path / "logits.safetensors"
    there(RUNNING, dense, out, scheme, tmp_path / "tokens.safetensors", logits)
    shutil.copy(dense / "tokenizer.json", out)
    record, _ = read(out, tmp_path)
    assert record["simulated"].startswith("activations ") and record["runtime_quantisation"] is None
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    theirs = {name: tensor.log_softmax(-1) for name, tensor in load_file(logits).items()}
    with torch.inference_mode():
        assert (model(tokens).logits.log_softmax(-1) - theirs["weights alone"]).abs().max() < 1e-4
        ours = attach(model)(tokens).logits.log_softmax(-1)
    apart = (theirs["logits"] - theirs["weights alone"]).abs()
    off = (ours - theirs["logits"]).abs()
    assert off.mean() < 1e-4 and off.mean() < apart.mean() / 50


def test_a_missing_tensor_is_named_and_not_drawn_at_random(sources, tmp_path):
    out = tmp_path / "mixed"
    there(MIXED, sources / "local", out, tmp_path / "expected.safetensors")
    tensors = load_file(out / "model.safetensors")
    name = next(name for name in tensors if name.endswith("q_proj.weight_packed"))
    tensors[name.replace("q_proj", "qproj")] = tensors.pop(name)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    linear = name.removesuffix(".weight_packed")
    said = f"compressed-tensors stopped: .*{linear} has no weight_packed, which nvfp4-pack-quantized needs"
    with pytest.raises(CompressionError, match=said):
        read(out, tmp_path)

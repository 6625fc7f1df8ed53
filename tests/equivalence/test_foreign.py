"""With optimum's environment (`make optimum`): checkpoints of other libraries, read as these libraries read them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests import tiny
from workflow_scripts.compress.checkpoint import load_compressed
from workflow_scripts.compress.export_formats import to_gptq
from workflow_scripts.compress.foreign.activations import read_activations
from workflow_scripts.compress.foreign.packed import unpacked
from workflow_scripts.compress.foreign.reading import read_folder
from workflow_scripts.compress.quantizer import Quantized
from workflow_scripts.compress.settings import CompressionError
from workflow_scripts.compress.task import Sources
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import compress_model, export_model
from workflow_scripts.kernels.activations import Scheme, attach, rounded
from workflow_scripts.sources import corpora, models

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-optimum" / "bin" / "python"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="optimum's environment is not there: make optimum"),
]
RTN = {"algorithm": "rtn", "bits": 4, "group_size": None, "symmetric": False, "clip": "none"}
GPTQ = {
    "algorithm": "gptq",
    "bits": 3,
    "group_size": 16,
    "symmetric": False,
    "act_order": True,
    "static_groups": True,
    "clip": "none",
    "damping": 0.01,
    "block_size": 128,
    "true_sequential": False,
}
CALIBRATION = {"windows": 8, "length": 32}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    folder = tiny.write_model(root / "local")
    models.fetch("tiny", {"source": "local", "path": str(folder)}, root / "model", root, recipe="r", code="c")
    text = {"source": "local", "path": str(tiny.write_corpus(root / "text.jsonl"))}
    corpora.fetch("words", text, root / "corpus", root, recipe="r", code="c")
    return root


def there(program, *arguments):
    """Run a program in optimum's environment."""
    variables = os.environ | {"TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([PYTHON, "-P", "-c", program, *map(str, arguments)], check=True, env=variables)


def read(source, tmp_path):
    """The record and the weights of a checkpoint that this package has read."""
    plain = tmp_path / "plain"
    plain.mkdir()
    record = read_folder(source, plain, str(PYTHON))
    config = json.loads((plain / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"
    return record, load_file(plain / "model.safetensors")


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
    calibrated, made = settings["algorithm"] == "gptq", Provenance("r", "c")
    compress_model.main(
        Sources(sources / "model", sources / "corpus" if calibrated else None),
        tmp_path / "compressed" / "compression.json",
        compressor=settings,
        calibration=CALIBRATION if calibrated else None,
        made=made,
    )
    out = tmp_path / "exported"
    export_model.main(
        sources / "model",
        tmp_path / "compressed",
        out / "export.json",
        form="compressed-tensors",
        made=made,
    )
    record, found = read(out, tmp_path)
    assert (record["format"], record["runtime_quantisation"]) == ("compressed-tensors", None)
    assert record["libraries"]["compressed-tensors"] == "0.19.0"
    expected = load_compressed(sources / "model", tmp_path / "compressed").state_dict()
    assert found.keys() == expected.keys() - {"lm_head.weight"}  # which is the embedding
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


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


BITSANDBYTES = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
source, out, bits, tokens, logits = sys.argv[1:]
four = dict(bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
config = BitsAndBytesConfig(load_in_4bit=True, **four) if bits == "4" else BitsAndBytesConfig(load_in_8bit=True)
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, quantization_config=config, device_map="cpu")
model.save_pretrained(out)
model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, device_map="cpu")
with torch.inference_mode():
    save_file({"logits": model(load_file(tokens)["tokens"]).logits.float()}, logits)
"""


@pytest.fixture
def tokens(tmp_path):
    drawn = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    save_file({"tokens": drawn}, tmp_path / "tokens.safetensors")
    return drawn


def by_bitsandbytes(bits, sources, tmp_path):
    """Of a model whose linears have at least 64 inputs, which is bitsandbytes' group."""
    dense, out = tmp_path / "dense", tmp_path / "made"
    shutil.copytree(sources / "local", dense)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    config = AutoConfig.from_pretrained(dense, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(dense)
    there(
        BITSANDBYTES,
        dense,
        out,
        bits,
        tmp_path / "tokens.safetensors",
        tmp_path / "logits.safetensors",
    )
    return out, load_file(tmp_path / "logits.safetensors")["logits"]


def test_nf4_weights_are_those_stored(sources, tokens, tmp_path):
    """bitsandbytes' own products on a CPU round them to bfloat16, so logits differ."""
    out, logits = by_bitsandbytes(4, sources, tmp_path)
    record, found = read(out, tmp_path)
    assert (record["format"], record["runtime_quantisation"]) == ("bitsandbytes", None)
    stored, name = load_file(out / "model.safetensors"), "model.layers.0.mlp.up_proj"
    assert record["modules"][name] > 128 * 64 // 2  # with its statistics
    packed = stored[f"{name}.weight"].flatten()
    codes = torch.stack([packed >> 4, packed & 15], 1).view(-1, 64).long()  # 64 weights share a scale
    exact = stored[f"{name}.weight.quant_map"][codes] * stored[f"{name}.weight.absmax"][:, None]
    assert torch.equal(found[f"{name}.weight"], exact.view(128, 64))
    with torch.inference_mode():
        ours = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)(tokens).logits
    torch.testing.assert_close(ours, logits, rtol=0, atol=0.01 * logits.abs().max().item())


def test_int8_weights_are_those_stored(sources, tokens, tmp_path):
    out, _ = by_bitsandbytes(8, sources, tmp_path)
    record, found = read(out, tmp_path)
    assert record["runtime_quantisation"].startswith("activations 8-bit int per token")
    stored = load_file(out / "model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    exact = stored[f"{name}.weight"].double() * stored[f"{name}.SCB"].double()[:, None] / 127
    torch.testing.assert_close(found[f"{name}.weight"].double(), exact, rtol=1e-6, atol=0)


VALUES = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def modelopt(folder, weight, algorithm):
    """`weight`'s linears by name in ModelOpt's layout, random; the weights that they stand for."""
    draw, stored, expected = torch.Generator().manual_seed(0), {}, {}
    for name, (rows, columns) in weight.items():
        base = name.removesuffix(".weight")
        stored[f"{base}.input_scale"] = torch.tensor(0.5)
        if algorithm == "FP8":
            codes = torch.randn(rows, columns, generator=draw).to(torch.float8_e4m3fn)
            stored |= {name: codes, f"{base}.weight_scale": torch.tensor(0.013)}
            expected[name] = codes.float() * torch.tensor(0.013)
            continue
        nibbles = torch.randint(0, 16, (rows, columns), generator=draw)
        scale = (torch.rand(rows, columns // 16, generator=draw) + 0.1).to(torch.float8_e4m3fn)
        whole = torch.tensor(0.0123)
        stored |= {
            name: (nibbles[:, ::2] | nibbles[:, 1::2] << 4).to(torch.uint8),
            f"{base}.weight_scale": scale,
            f"{base}.weight_scale_2": whole,
        }
        expected[name] = VALUES[nibbles] * (scale.float() * whole).repeat_interleave(16, 1)
    return stored, expected


@pytest.mark.parametrize("algorithm", ["NVFP4", "FP8"])
@pytest.mark.parametrize("place", ["config.json", "hf_quant_config.json"])
def test_modelopt(algorithm, place, sources, tmp_path):
    out, dense = tmp_path / "made", load_file(sources / "local/model.safetensors")
    AutoModelForCausalLM.from_pretrained(sources / "local").save_pretrained(out)
    linears = {name: tensor.shape for name, tensor in dense.items() if name.endswith("_proj.weight")}
    stored, expected = modelopt(out, linears, algorithm)
    rest = {name: tensor for name, tensor in dense.items() if name not in linears}
    save_file(stored | rest, out / "model.safetensors", metadata={"format": "pt"})
    said = {"quant_algo": algorithm, "kv_cache_quant_algo": None}
    if place == "config.json":
        config = json.loads((out / place).read_text())
        (out / place).write_text(
            json.dumps(config | {"quantization_config": {"quant_method": "modelopt"} | said})
        )
    else:
        (out / place).write_text(json.dumps({"quantization": said}))
    record, found = read(out, tmp_path)
    assert (record["format"], record["runtime_quantisation"]) == ("modelopt", f"activations {algorithm}")
    assert found.keys() == dense.keys()
    assert all(torch.equal(tensor, expected.get(name, rest.get(name))) for name, tensor in found.items())


GPTQMODEL = """
import json, sys, torch
from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm, pack_awq
from gptqmodel.utils.model_dequant import dequantize_model
from safetensors.torch import load_file, save_file
folder, out = sys.argv[1:]
dequantize_model(folder, out, target_dtype=torch.float32)
torch.manual_seed(0)
found = {}
for bits in (3, 4, 8):
    codes, zeros = torch.randint(0, 2**bits, (64, 96)), torch.randint(0, 2**bits, (2, 96))
    qweight, qzeros = pack_awq(codes, zeros, bits)
    scales = torch.rand(2, 96).half()
    weight = dequantize_gemm(qweight, qzeros, scales.float(), bits, 32).T.contiguous()
    found |= {f"{bits}.qweight": qweight, f"{bits}.qzeros": qzeros, f"{bits}.scales": scales, f"{bits}.weight": weight}
save_file(found, out + "/awq.safetensors")
"""


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_and_awq_are_read_as_gptqmodel_reads_them(bits, version, tmp_path):
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2**bits, (64, 96), dtype=torch.uint8, generator=draw)
    zero = torch.randint(1, 2**bits, (64, 2), generator=draw).float()
    scale = torch.rand(64, 2, generator=draw).half().float()
    group = (torch.arange(96) // 64)[torch.randperm(96, generator=draw)]
    linear = to_gptq(Quantized(codes, scale, zero, group, bits), version)
    form = "gptq" if version == 1 else "gptq_v2"
    config = {"quant_method": "gptq", "bits": bits, "checkpoint_format": form}
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    (source / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}))
    tensors = {f"fc.{part}": tensor for part, tensor in linear.items()}
    save_file(tensors, source / "model.safetensors")
    there(GPTQMODEL, source, out)
    headers = {name: {"dtype": "I32"} for name in tensors}
    ours = dict(unpacked(headers, tensors.__getitem__, form, config))
    assert torch.equal(ours["fc.weight"], load_file(out / "model.safetensors")["fc.weight"])
    awq = load_file(out / "awq.safetensors")
    for width in (3, 4, 8):
        parts = {f"fc.{part}": awq[f"{width}.{part}"] for part in ("qweight", "qzeros", "scales")}
        found = dict(unpacked({name: {"dtype": "I32"} for name in parts}, parts.__getitem__, "awq", {}))
        assert torch.equal(found["fc.weight"], awq[f"{width}.weight"]), width

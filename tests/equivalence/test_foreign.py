"""With optimum's environment (`make optimum`): checkpoints of other libraries, read as these libraries read them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.equivalence.optimum import MARKS, read, there
from workflow_scripts.compress.export_formats import to_gptq
from workflow_scripts.compress.foreign.packed import unpacked
from workflow_scripts.compress.quantizer import Quantized
from workflow_scripts.compress.settings import CompressionError

pytestmark = MARKS
BITSANDBYTES = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
source, out, bits, tokens, logits, scales = sys.argv[1:]
four = dict(bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
four["bnb_4bit_use_double_quant"] = scales == "twice"
config = BitsAndBytesConfig(load_in_4bit=True, **four) if bits == "4" else BitsAndBytesConfig(load_in_8bit=True)
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, quantization_config=config, device_map="cpu")
model.save_pretrained(out)
model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, device_map="cpu")
with torch.inference_mode():
    save_file({"logits": model(load_file(tokens)["tokens"]).logits.float()}, logits)
"""


def by_bitsandbytes(bits, sources, tmp_path, twice=False):
    """Of a model whose linears have at least 64 inputs, which is bitsandbytes' group. twice: scales are codes too."""
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
        "twice" if twice else "once",
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


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("nested_absmax", None, "is missing; its state asks for 1"),
        ("absmax", lambda tensor: tensor[:-1], "holds 127 values; its state asks for 128"),
        (
            "quant_state.bitsandbytes__fp4",
            "nf4",
            "is of fp4, and config.json's bnb_4bit_quant_type is another",
        ),
    ],
)
def test_statistics_that_are_not_those_of_the_state_are_named(part, change, words, sources, tokens, tmp_path):
    """Without the second level of scales bitsandbytes would take their codes for scales."""
    out, _ = by_bitsandbytes(4, sources, tmp_path, twice=True)
    tensors, name = load_file(out / "model.safetensors"), "model.layers.0.mlp.up_proj.weight"
    if change == "nf4":
        tensors[f"{name}.{part}"] = tensors.pop(f"{name}.quant_state.bitsandbytes__nf4")
    elif change is None:
        del tensors[f"{name}.{part}"]
    else:
        tensors[f"{name}.{part}"] = change(tensors[f"{name}.{part}"]).contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CompressionError, match=rf"{name}.* {words}"):
        read(out, tmp_path)


def test_int8_weights_are_those_stored(sources, tokens, tmp_path):
    out, _ = by_bitsandbytes(8, sources, tmp_path)
    record, found = read(out, tmp_path)
    assert record["runtime_quantisation"].startswith("activations 8-bit int per token")
    stored = load_file(out / "model.safetensors")
    name = "model.layers.1.mlp.down_proj"
    exact = stored[f"{name}.weight"].double() * stored[f"{name}.SCB"].double()[:, None] / 127
    torch.testing.assert_close(found[f"{name}.weight"].double(), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [(None, "is missing"), (lambda scales: scales[:-1], r"is torch\.float32 \(127,\)")],
    ids=["without", "too few"],
)
def test_an_8_bit_linear_without_a_scale_of_each_row_is_named(change, words, sources, tokens, tmp_path):
    out, _ = by_bitsandbytes(8, sources, tmp_path)
    tensors, name = load_file(out / "model.safetensors"), "model.layers.0.mlp.up_proj"
    scales = tensors.pop(f"{name}.SCB")
    if change is not None:
        tensors[f"{name}.SCB"] = change(scales).contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CompressionError, match=rf"{name}\.SCB {words}; {name}\.weight has 128 rows"):
        read(out, tmp_path)


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

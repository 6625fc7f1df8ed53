"""The format of a checkpoint by its config.json and the names of its files, without any tensor."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from workflow_scripts.compress.foreign.formats import Format, identify
from workflow_scripts.files.artifacts import ArtifactError

GROUP = {
    "targets": ["Linear"],
    "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64},
}
TOKEN = {"num_bits": 8, "type": "int", "strategy": "token", "dynamic": True}
BYTE = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False}
PACKED = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"0": GROUP}}


def rotated(location):
    return {
        "transform_config": {
            "config_groups": {"R": {"apply": [{"location": "weight_output"}, {"location": location}]}}
        }
    }


@pytest.fixture
def folder(tmp_path):
    def write(quantised=None, files=("model.safetensors",), **others):
        said = {} if quantised is None else {"quantization_config": quantised}
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | said | others))
        for name in files:
            (tmp_path / name).write_bytes(b"")
        return tmp_path

    return write


def test_what_is_no_configuration_is_named(folder):
    for quantised, said in (
        ([1], r"config\.json: quantization_config: is a list, no object"),
        ({"quant_method": ["gptq"]}, r"\['gptq'\] is a format that nothing here reads"),
        (
            {"quant_method": "fp8", "weight_block_size": 128},
            r"quantization_config: can't be read \(TypeError",
        ),
        (
            PACKED | {"config_groups": {"0": {"weights": {"type": "int"}}}},
            r"can't be read \(KeyError: 'num_bits'\)",
        ),
        (PACKED | {"config_groups": [GROUP]}, r"can't be read \(AttributeError"),
    ):
        with pytest.raises(ArtifactError, match=said):
            identify(folder(quantised))
    for content in ("{}", "[]", '{"quantization": "FP8"}'):
        place = folder()
        (place / "hf_quant_config.json").write_text(content)
        with pytest.raises(ArtifactError, match=r"hf_quant_config\.json: holds no object `quantization`"):
            identify(place)


CASES = {
    "gptq": (
        {"quant_method": "gptq", "bits": 4, "group_size": 128},
        Format("gptq", None, "4-bit integers, groups of 128"),
    ),
    "gptq_v2": (
        {"quant_method": "gptq", "bits": 3, "group_size": -1, "checkpoint_format": "gptq_v2"},
        Format("gptq_v2", None, "3-bit integers, one group per row"),
    ),
    "awq": (
        {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "GEMM", "zero_point": True},
        Format("awq", None, "4-bit integers, groups of 64"),
    ),
    "auto-round": (
        {"quant_method": "auto-round", "bits": 2, "group_size": 64, "packing_format": "auto_round:auto_gptq"},
        Format("auto-round-gptq", None, "2-bit integers, groups of 64"),
    ),
    "auto-round, awq": (
        {"quant_method": "auto-round", "bits": 4, "group_size": -1, "packing_format": "auto_round:auto_awq"},
        Format("auto-round-awq", None, "4-bit integers, one group per row"),
    ),
    "fp8": (
        {"quant_method": "fp8", "weight_block_size": [128, 64], "activation_scheme": "dynamic"},
        Format("fp8", "activations 8-bit float, dynamic", "8-bit float, one scale per block of 128 x 64"),
    ),
    "nf4": (
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        Format("bitsandbytes", None, "nf4, groups of 64"),
    ),
    "int8": (
        {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 5.0},
        Format(
            "bitsandbytes",
            "activations 8-bit int per token, those of 5.0 and more in 16 bits",
            "8-bit integers, one scale per row",
        ),
    ),
    "modelopt": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"},
        Format("modelopt", "activations NVFP4, KV cache FP8", "NVFP4"),
    ),
    "compressed-tensors": (
        PACKED,
        Format("compressed-tensors", None, "4-bit int, groups of 64"),
    ),
    "rotated weights": (
        PACKED | rotated("weight_input"),
        Format("compressed-tensors", None, "4-bit int, groups of 64"),
    ),
    "activations and cache": (
        PACKED | {"config_groups": {"0": GROUP | {"input_activations": TOKEN}}, "kv_cache_scheme": BYTE},
        Format(
            "compressed-tensors",
            "KV cache 8-bit float, one scale per tensor, static",
            "4-bit int, groups of 64",
            "activations 8-bit int, one scale per token, dynamic",
        ),
    ),
    "sparse-bitmask": (
        {"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-bitmask"}},
        Format("sparse-bitmask", None, "kept weights and a bit for each place"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_configuration_tells_the_format(name, folder):
    quantised, expected = CASES[name]
    assert identify(folder(quantised)) == expected


def test_modelopts_older_file_tells_it_too(folder):
    made = folder()
    (made / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    assert identify(made) == Format("modelopt", "activations FP8", "FP8")


def test_autogptqs_older_file_tells_it_too(folder):
    made = folder(files=())
    (made / "quantize_config.json").write_text(json.dumps({"bits": 3, "group_size": 64, "desc_act": True}))
    save_file({"a.weight": torch.ones(2)}, made / "model.safetensors")
    assert identify(made).name == "plain"
    save_file({"a.g_idx": torch.zeros(2, dtype=torch.int32)}, made / "model.safetensors")
    assert identify(made) == Format("gptq", None, "3-bit integers, groups of 64")


@pytest.mark.parametrize(
    ("said", "older", "agree"),
    [
        ({}, {"bits": 4, "checkpoint_format": "gptq_v2"}, False),
        ({"checkpoint_format": "gptq_v2"}, {"bits": 4}, False),
        ({}, {"bits": 4, "checkpoint_format": "gptq", "quant_method": "gptq"}, True),
        ({"format": "gptq_v2"}, {"checkpoint_format": "gptq_v2"}, True),
    ],
)
def test_two_files_that_name_other_layouts_of_gptq_are_refused(said, older, agree, folder):
    made = folder({"quant_method": "gptq", "bits": 4} | said)
    (made / "quantize_config.json").write_text(json.dumps(older))
    if agree:
        assert identify(made).name.startswith("gptq")
        return
    with pytest.raises(
        ArtifactError, match=r"quantize_config\.json: the layout is gptq.*, and gptq.* in config"
    ):
        identify(made)


REFUSED = {
    "layout of gptq": ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
    "layout of awq": (
        {"quant_method": "awq", "version": "gemv"},
        "version 'gemv': of AWQ's layouts, gemm is read",
    ),
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "quant_algo 'W4A8_AWQ'.*NVFP4, FP8"),
    "packing": (
        PACKED | {"format": "marlin-24"},
        "format 'marlin-24': of compressed-tensors'.*pack-quantized",
    ),
    "sparsity": (
        PACKED | {"sparsity_config": {"format": "sparse-24-bitmask"}},
        "sparsity_config: format 'sparse-24",
    ),
    "rotation": (
        PACKED | rotated("input"),
        "transform_config: input rotates activations while the model runs",
    ),
    "blocks": (
        {"quant_method": "fp8", "weight_block_size": [128, 128, 128]},
        r"weight_block_size \[128, 128, 128\]: two sizes, like \[128, 128\]",
    ),
    "packing of auto-round": (
        {"quant_method": "auto-round", "packing_format": "auto_round:fp8_static"},
        "packing_format 'auto_round:fp8_static': of AutoRound's.*; save it again as",
    ),
    "activations of auto-round": (
        {"quant_method": "auto-round", "act_bits": 8},
        "act_bits 8: activations are",
    ),
    "rotations of auto-round": (
        {"quant_method": "auto-round", "rotation_config": {"x": 1}},
        "rotation_config: it rotates activations",
    ),
    "gpt-oss": ({"quant_method": "mxfp4"}, "quant_method 'mxfp4' is gpt-oss's, a mixture of experts"),
    "another": ({"quant_method": "aqlm"}, "'aqlm' is a format that nothing here reads; known: plain, gptq"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_with_file_and_key(name, folder):
    quantised, words = REFUSED[name]
    with pytest.raises(ArtifactError, match=rf"config\.json: quantization_config: {words}"):
        identify(folder(quantised))


def test_code_of_its_own_is_refused(folder):
    made = folder(auto_map={"AutoModelForCausalLM": "modeling.Other"})
    with pytest.raises(
        ArtifactError, match=r"config\.json: `auto_map` names Python code of the checkpoint's own"
    ):
        identify(made)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "weights.pt"])
def test_pickled_weights_are_refused_by_name(name, folder):
    with pytest.raises(ArtifactError, match=rf"{name}: pickled weights can run code"):
        identify(folder(files=(name,)))


def test_no_heavy_library_is_imported():
    program = "import sys, workflow_scripts.compress.foreign.formats; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

"""Settings of each algorithm, and ways to change a folder's weights."""

import torch
from safetensors.torch import load_file, save_file

from tests import tiny_settings

GPTQ = tiny_settings.GPTQ | {"group_size": 24, "static_groups": True}
HALF = {
    "algorithm": "sparsegpt",
    "sparsity": 0.5,
    "pattern": None,
    "bits": None,
    "damping": 0.01,
    "block_size": 128,
    "true_sequential": False,
}
SETTINGS = {
    "dense": {"algorithm": "dense"},
    "gptq": GPTQ,
    "gptq-moving-groups": GPTQ | {"static_groups": False},
    "gptq-w8": GPTQ | {"bits": 8, "group_size": None},
    "sparsegpt": HALF,
    "sparsegpt-2of4": HALF | {"sparsity": None, "pattern": "2:4"},
    "sparsegpt-2of4-w4": HALF | {"pattern": "2:4", "bits": 4},
    "wanda": {"algorithm": "wanda", "sparsity": 0.5, "pattern": None},
    "magnitude": {"algorithm": "magnitude", "sparsity": 0.5, "pattern": None},
    "rtn": {"algorithm": "rtn", "bits": 3, "group_size": None, "symmetric": False, "clip": "none"},
}


def coarse(name, tensor):
    tensor = (tensor * 64).round() / 64 if name == "model.layers.0.self_attn.q_proj.weight" else tensor
    return tensor.to(torch.bfloat16)


def change(folder, function):
    tensors = function(load_file(folder / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")

"""Parts that compressors of the folder form share: the tensors of a dense model in files, a layer at a time."""

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from workflow_scripts.compress.skeleton import Skeleton


def record(layer: int, linear: str, weight: torch.Tensor, error: float | None, seconds: float = 0.0) -> dict:
    """The entry in compression.json of a linear (rows, columns) of a model that is stored whole."""
    return {
        "layer": layer,
        "linear": linear,
        "shape": list(weight.shape),
        "error": error,
        "damping": None,
        "dead_columns": 0,
        "levels": None,
        "sparsity": (weight == 0).sum().item() / weight.numel(),
        "seconds": round(seconds, 3),
    }


def tensors_of(layer: nn.Module, path: str) -> dict[str, torch.Tensor]:
    """The tensors of a loaded layer by the names that they have at `path` of a model."""
    return {f"{path}.{name}": tensor.cpu().contiguous() for name, tensor in layer.state_dict().items()}


def save_outside(skeleton: Skeleton, layers: nn.ModuleList, file: Path) -> None:
    """Write all tensors that lie in no decoder layer; of tied ones, those that the dense model's files hold."""
    skeleton.load(skeleton.model, but=(layers,))
    inside = {id(tensor) for tensor in layers.state_dict(keep_vars=True).values()}
    stored = {name for targets in skeleton.files.values() for name in targets.values()}
    tensors = skeleton.model.state_dict(keep_vars=True).items()
    save_file({n: t.contiguous() for n, t in tensors if id(t) not in inside and n in stored}, file)
    skeleton.release(skeleton.model)


def config_of(skeleton: Skeleton, kept: list[int] | None = None) -> dict:
    """The dense model's config.json in float32, for the layers that are kept (None: all)."""
    config = copy.deepcopy(skeleton.model.config)
    decoder = config.get_text_config(decoder=True)
    count = decoder.num_hidden_layers
    if kept is not None:
        for name, value in decoder.to_dict().items():  # what each layer is, like sliding or full attention
            if isinstance(value, list) and len(value) == count:
                setattr(decoder, name, [value[index] for index in kept])
        decoder.num_hidden_layers = len(kept)
    return config.to_diff_dict() | {"dtype": "float32"}

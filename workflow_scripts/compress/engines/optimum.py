"""optimum's GPTQQuantizer with GPTQModel, in an environment of its own (envs/README.md).

It gets the same dense weights and calibration windows. Its packed tensors are read back and stored in this package's
format.
Reconstruction errors are measured here, by the same code on the same inputs as for the own engine.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel

from workflow_scripts.compress.bit_packing import from_stored, to_stored
from workflow_scripts.compress.decoder import (
    Activations,
    count_weights,
    decoder_layers,
    get_weight,
    layer_linears,
    refuse_what_cannot_be,
    set_weight,
)
from workflow_scripts.compress.engines import optimum_worker
from workflow_scripts.compress.environments import interpreter, run_there
from workflow_scripts.compress.export_formats import from_gptq
from workflow_scripts.compress.hessian import reconstruction_error
from workflow_scripts.compress.settings import CompressionError, CompressorSettings
from workflow_scripts.compress.solver import SolvedLinear
from workflow_scripts.compress.task import Compressed, CompressionTask
from workflow_scripts.compress.walk import FinishedLayers, measure
from workflow_scripts.files.job import log
from workflow_scripts.sources.models import load_dense, most_positions, verify


def compress(task: CompressionTask) -> Compressed:
    """The model of `task` by optimum, its layers in files of `task.work`.

    optimum keeps no checkpoints: a run that was killed starts again.
    """
    python = interpreter(task.machine.optimum_python, "engine optimum")
    dense = load_dense(task.model)
    windows, drawn = task.windows(most_positions(dense))
    layers = decoder_layers(dense)
    refuse_what_cannot_be(layers, task.settings, windows.numel())
    save_file({"windows": windows}, task.work / "windows.safetensors")
    solved, versions = quantize(task, block_of(dense), python)
    finished = FinishedLayers(task.work)
    records = keep_solutions(dense, windows, solved, task.settings, finished, log=log)
    parts = [finished.path(index) for index in range(len(layers))]
    numbers = {f"optimum's {name}": number for name, number in versions.items()}
    return Compressed(parts, records, count_weights(layers), drawn, numbers)


def block_of(model: PreTrainedModel) -> str:
    """Name of the model's list of decoder layers."""
    layers = decoder_layers(model)
    return next(name for name, module in model.named_modules() if module is layers)


def quantize(task: CompressionTask, block: str, python: str) -> tuple[dict, dict[str, str]]:
    """Run optimum's worker on the windows that lie in `task.work`, in a process of the interpreter `python`.

    block: name of the list of decoder layers. Returns {linear's name below it: (tensors, seconds, damping)} and the
    versions of its libraries.
    """
    output = task.work / "packed.safetensors"
    run_there("optimum", python, optimum_worker.__file__, _order(task, block, output), task.work)
    with safe_open(output, "pt") as handle:
        about = {key: json.loads(handle.metadata()[key]) for key in ("solved", "versions")}
        found = {}
        for name, (seconds, damping) in about["solved"].items():
            tensors = {part: handle.get_tensor(f"{name}.{part}") for part in optimum_worker.PARTS}
            found[name.removeprefix(f"{block}.")] = (tensors, seconds, damping)
    return found, about["versions"]


def _order(task: CompressionTask, block: str, output: Path) -> dict:
    """The task that optimum_worker.py reads."""
    asked = ("bits", "group_size", "damping", "act_order", "symmetric", "true_sequential")
    return {
        "model": os.path.abspath(task.model),
        "remote_code": verify(task.model)["remote_code"],
        "threads": task.threads,
        "windows": os.path.abspath(task.work / "windows.safetensors"),
        "output": os.path.abspath(output),
        "block": block,
        **{key: getattr(task.settings, key) for key in asked},
    }


@torch.no_grad()
def keep_solutions(
    dense: PreTrainedModel,
    windows: torch.Tensor,
    found: dict,
    settings: CompressorSettings,
    finished: FinishedLayers,
    log: Callable[[str], None] = print,
) -> list[dict]:
    """Write optimum's solutions into the dense model and `finished`, layer by layer; returns records as `walk` does."""
    layers = decoder_layers(dense)
    activations = Activations(dense, layers, windows)
    all_records = []
    for index, layer in enumerate(layers):
        linears = layer_linears(layer)
        tensors: dict[str, torch.Tensor] = {}
        records = {}
        groups = activations.hessians(index, layer, linears)
        for position, names in enumerate(list(groups)):
            hessian = groups.pop(names)
            if settings.true_sequential and position:
                hessian = activations.hessians(index, layer, {n: linears[n] for n in names})[names]
            H = hessian.matrix()
            for name in names:
                if f"{index}.{name}" not in found:
                    raise CompressionError(f"layer {index}, linear {name}: optimum left it as it was")
                packed, measured = _put_linear(linears[name], found[f"{index}.{name}"], H, settings)
                records[name] = {"layer": index, "linear": name, **measured}
                tensors |= {f"{index}.{name}.{part}": tensor for part, tensor in packed.items()}
        if index + 1 < len(layers):
            activations.advance(index, layer)
        finished.save(index, tensors, [records[name] for name in linears])
        all_records += [records[name] for name in linears]
        errors = ", ".join(f"{r['linear'].split('.')[-1]} {r['error']:.4f}" for r in records.values())
        log(f"layer {index + 1}/{len(layers)}: error {errors}")
    return all_records


def _put_linear(
    linear: torch.nn.Module, solution: tuple, H: torch.Tensor, settings: CompressorSettings
) -> tuple[dict[str, torch.Tensor], dict]:
    """Write optimum's solution of one linear into it; the stored tensors and the figures of its record."""
    tensors, seconds, damping = solution
    assert settings.bits is not None  # a Compressor refuses gptq without
    weight = get_weight(linear).float().clone()
    quantized = from_gptq(tensors, settings.bits)
    packed = to_stored(SolvedLinear(quantized.dequantize(), quantized), settings)
    stored = from_stored(packed, weight.shape[1], settings)
    set_weight(linear, stored.weight)
    return packed, {
        "shape": list(weight.shape),
        "error": reconstruction_error(weight, stored.weight, H),
        "damping": damping,
        "dead_columns": int((H.diagonal() == 0).sum()),
        **measure(stored),
        "seconds": seconds,
    }

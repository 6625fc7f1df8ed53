"""The other engine: optimum's GPTQQuantizer with GPTQModel, in an environment of its own (envs/README.md).

It gets the same dense weights and calibration windows; what it packed is read back and stored in this package's format.
Reconstruction errors are measured here, by the same code on the same inputs as for the own engine.
"""

import json
import os
import subprocess
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from workflow_scripts.compress.bit_packing import pack, unpack
from workflow_scripts.compress.decoder import (
    Activations,
    decoder_layers,
    get_weight,
    layer_linears,
    set_weight,
)
from workflow_scripts.compress.engines import optimum_worker
from workflow_scripts.compress.export_formats import from_gptq
from workflow_scripts.compress.hessian import reconstruction_error
from workflow_scripts.compress.settings import CompressionError, Compressor
from workflow_scripts.compress.solver import Solved
from workflow_scripts.compress.walk import FinishedLayers, measure


def interpreter(path: str) -> str:
    """The Python of optimum's environment, as an absolute path; CompressionError with the command that makes it."""
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise CompressionError(
            f"engine optimum runs in an environment of its own, and its Python {path} is not there: `make optimum` "
            "makes it; one that stands elsewhere is named by the key `optimum_python` of the configuration"
        )
    return os.path.abspath(path)


def quantize(
    dense, folder, windows, settings: Compressor, python: str, work: Path, threads: int, remote_code: bool
):
    """Run optimum on the dense model's `folder`: {linear's full name: (tensors, seconds, damping)} and its versions."""
    layers = decoder_layers(dense)
    save_file({"windows": windows}, work / "windows.safetensors")
    task = {
        "model": os.path.abspath(folder), "remote_code": remote_code, "threads": threads,
        "windows": os.path.abspath(work / "windows.safetensors"),
        "output": os.path.abspath(work / "packed.safetensors"),
        "block": next(name for name, module in dense.named_modules() if module is layers),
        "bits": settings.bits, "group_size": settings.group_size, "damping": settings.damping,
        "act_order": settings.act_order, "symmetric": settings.symmetric, "true_sequential": settings.true_sequential,
    }  # fmt: skip
    (work / "task.json").write_text(json.dumps(task))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "GPTQMODEL_CPU_WORKERS": str(threads), "GPTQMODEL_DISABLE_PACK_EXT": "1", "TORCHDYNAMO_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    command = [python, "-P", optimum_worker.__file__, str(work / "task.json")]
    code = subprocess.run(command, env=environment, check=False).returncode
    if code:
        raise CompressionError(f"optimum stopped with exit code {code}; its own words stand above in the log")
    with safe_open(task["output"], "pt") as handle:
        about = {key: json.loads(handle.metadata()[key]) for key in ("solved", "versions")}
        found = {}
        for name, (seconds, damping) in about["solved"].items():
            tensors = {part: handle.get_tensor(f"{name}.{part}") for part in optimum_worker.PARTS}
            found[name.removeprefix(f"{task['block']}.")] = (tensors, seconds, damping)
    return found, about["versions"]


@torch.no_grad()
def put(dense, windows, found: dict, settings: Compressor, finished: FinishedLayers, log=print) -> list[dict]:
    """Write what optimum found into the dense model and `finished`, layer by layer; returns records as `walk` does."""
    layers = decoder_layers(dense)
    activations = Activations(dense, layers, windows)
    all_records = []
    for index, layer in enumerate(layers):
        linears, tensors_of_layer, records = layer_linears(layer), {}, {}
        groups = activations.hessians(index, layer, linears)
        for position, names in enumerate(list(groups)):
            hessian = groups.pop(names)
            if settings.true_sequential and position:
                hessian = activations.hessians(index, layer, {n: linears[n] for n in names})[names]
            H = hessian.matrix()
            for name in names:
                if f"{index}.{name}" not in found:
                    raise CompressionError(f"layer {index}, linear {name}: optimum left it as it was")
                tensors, seconds, damping = found[f"{index}.{name}"]
                weight = get_weight(linears[name]).float().clone()
                quantized = from_gptq(tensors, settings.bits)
                packed = pack(Solved(quantized.dequantize(), quantized), settings)
                stored = unpack(packed, weight.shape[1], settings)
                set_weight(linears[name], stored.weight)
                records[name] = {
                    "layer": index, "linear": name, "shape": list(weight.shape),
                    "error": reconstruction_error(weight, stored.weight, H), "damping": damping,
                    "dead_columns": int((H.diagonal() == 0).sum()), **measure(stored), "seconds": seconds,
                }  # fmt: skip
                tensors_of_layer |= {f"{index}.{name}.{part}": tensor for part, tensor in packed.items()}
        if index + 1 < len(layers):
            activations.advance(index, layer)
        finished.save(index, tensors_of_layer, [records[name] for name in linears])
        all_records += [records[name] for name in linears]
        errors = ", ".join(f"{r['linear'].split('.')[-1]} {r['error']:.4f}" for r in records.values())
        log(f"layer {index + 1}/{len(layers)}: error {errors}")
    return all_records

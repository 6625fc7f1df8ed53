"""The walk: decoder layers in order, each calibrated on the output of the compressed layers before it."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from workflow_scripts.compress import baselines
from workflow_scripts.compress.bit_packing import from_stored, to_stored
from workflow_scripts.compress.decoder import (
    Activations,
    cast,
    decoder_layers,
    get_weight,
    layer_linears,
    refuse_what_cannot_be,
    set_weight,
)
from workflow_scripts.compress.hessian import Hessian, reconstruction_error
from workflow_scripts.compress.settings import OBS, CompressionError, CompressorSettings
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.solver import Solution, SolvedLinear, solve
from workflow_scripts.files.artifacts import atomic_path
from workflow_scripts.kernels.allocator import return_memory


class FinishedLayers:
    """Checkpoints: per finished layer its packed tensors and records, a file each in a work folder."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    def path(self, index: int) -> Path:
        return self.folder / f"layer-{index:04d}.safetensors"

    def save(self, index: int, tensors: dict[str, torch.Tensor], records: list[dict]) -> None:
        text = json.dumps(records)
        with atomic_path(self.path(index)) as temporary:
            save_file(
                tensors, temporary, metadata={"records": text, "sha256": _content_sha256(tensors, text)}
            )

    def load(self, index: int) -> tuple[dict[str, torch.Tensor], list[dict]] | None:
        """A finished layer; None if it is not there, was cut short or changed: it is computed again."""
        if not self.path(index).exists():
            return None
        try:
            with safe_open(self.path(index), "pt") as handle:
                metadata = handle.metadata()
            tensors = load_file(self.path(index))
            intact = metadata["sha256"] == _content_sha256(tensors, metadata["records"])
        except (SafetensorError, KeyError, TypeError):
            intact = False
        return (tensors, json.loads(metadata["records"])) if intact else None


def _content_sha256(tensors: dict[str, torch.Tensor], records: str) -> str:
    """SHA-256 over a layer's tensors (name, type, shape, bytes) and its records."""
    found = hashlib.sha256(records.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        found.update(
            tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
        )
    return found.hexdigest()


@torch.no_grad()
def walk(
    skeleton: Skeleton,
    windows: torch.Tensor | None,
    settings: CompressorSettings,
    finished: FinishedLayers,
    device: torch.device | str = "cpu",
    memory: float = math.inf,
    log: Callable[[str], None] = print,
) -> list[dict]:
    """Compress a model into `finished`, a file per decoder layer; returns one record per linear {layer, linear, shape,
    error, damping, dead_columns, levels, sparsity, seconds}.

    Only the layer that is worked on is in memory. windows: calibration token ids (count, length); None for algorithms
    that look at no activations: their `error` is then ||W - Q||^2 / ||W||^2. Activations of more than `memory` bytes
    lie in a file beside the finished layers, which aren't computed again. The weights that later layers see are those
    rebuilt from the packed form. `log` gets a line per layer.
    """
    layers = decoder_layers(skeleton.model)
    refuse_what_cannot_be(layers, settings, math.inf if windows is None else windows.numel())
    activations = None
    if settings.calibrated:
        assert windows is not None
        activations = embed(skeleton, layers, windows, settings, device, memory, finished.folder)
    all_records: list[dict] = []
    started = time.monotonic()
    for index, layer in enumerate(layers):
        skeleton.load(layer)
        layer.to(device)
        stored = finished.load(index)
        if resumed := stored is not None:
            cast(layer, settings.dtype)
            for record in stored[1]:
                _put(layer, record["linear"], stored[0], record, settings)
        else:
            stored = compress_layer(index, layer, activations, settings)
            finished.save(index, *stored)
        if activations and index + 1 < len(layers):
            activations.advance(index, layer)
        skeleton.release(layer)
        return_memory()
        all_records += stored[1]
        passed = time.monotonic() - started
        errors = ", ".join(f"{record['linear'].split('.')[-1]} {record['error']:.4f}" for record in stored[1])
        log(
            f"layer {index + 1}/{len(layers)}{' (from checkpoint)' if resumed else ''}: error {errors}; "
            f"{passed:.0f} s, about {passed / (index + 1) * (len(layers) - index - 1):.0f} s left"
        )
    return all_records


def embed(
    skeleton: Skeleton,
    layers: nn.ModuleList,
    windows: torch.Tensor,
    settings: CompressorSettings,
    device: torch.device | str,
    memory: float,
    folder: Path,
) -> Activations:
    """Activations that enter the first layer; all weights outside the layers are read for them, but for the head's."""
    model = skeleton.model
    head = model.get_output_embeddings()
    skeleton.load(model, but=(layers, head) if head is not None else (layers,))
    skeleton.load(layers[0])
    cast(model, settings.dtype)
    activations = Activations(model, layers, windows, device, memory, folder)
    skeleton.release(model)
    return activations


def compress_layer(
    index: int, layer: nn.Module, activations: Activations | None, settings: CompressorSettings
) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Compress one decoder layer in place; returns its packed tensors and records."""
    linears = layer_linears(layer)
    dense = {name: get_weight(linear) for name, linear in linears.items()}
    cast(layer, settings.dtype)
    tensors: dict[str, torch.Tensor] = {}
    records: dict[str, dict] = {}
    groups: dict[tuple[str, ...], Hessian | None] = {(name,): None for name in linears}
    if activations:
        groups = {**activations.hessians(index, layer, linears)}
    for position, names in enumerate(list(groups)):
        started = time.monotonic()
        hessian = groups.pop(names)
        if activations and settings.true_sequential and position:
            hessian = activations.hessians(index, layer, {name: linears[name] for name in names})[names]
        weights = [dense.pop(name).clone() for name in names]
        try:
            H = _matrix(hessian, settings) if hessian else None
            hessian = None  # its sum is as large as H
            solution = compress_linears(weights, H, settings)
        except CompressionError as error:
            raise CompressionError(f"layer {index}, linear {' + '.join(names)}: {error}") from None
        for name, weight, solved in zip(names, weights, solution.linears, strict=True):
            packed = {
                f"{index}.{name}.{part}": tensor for part, tensor in to_stored(solved, settings).items()
            }
            record: dict[str, Any] = {"layer": index, "linear": name, "shape": list(weight.shape)}
            stored = _put(layer, name, packed, record, settings)
            if not torch.isfinite(stored.weight).all():
                raise CompressionError(
                    f"layer {index}, linear {name}: a kept weight is beyond float16, in which it is stored"
                )
            record["error"] = reconstruction_error(weight, stored.weight, H)
            if not math.isfinite(record["error"]):  # before the layer is kept, not when all are written
                raise CompressionError(
                    f"layer {index}, linear {name}: its error is {record['error']}; check the calibration activations"
                )
            record |= {"damping": solution.damping, "dead_columns": solution.dead_columns}
            record |= measure(stored)
            tensors |= {key: tensor.cpu() for key, tensor in packed.items()}
            records[name] = record
        seconds = (time.monotonic() - started) / len(names)
        for name in names:
            records[name]["seconds"] = round(seconds, 3)
    return tensors, [records[name] for name in linears]


def _matrix(hessian: Hessian, settings: CompressorSettings) -> torch.Tensor:
    """H; refused if it comes from fewer tokens than it has columns, since it is singular then."""
    settings.refuse_tokens(hessian.tokens, len(hessian.total))
    return hessian.matrix()


def compress_linears(
    weights: list[torch.Tensor], H: torch.Tensor | None, settings: CompressorSettings
) -> Solution:
    """Compress the weights (rows_k, columns) of linears with one input of Hessian H."""
    if settings.algorithm in OBS:
        assert H is not None  # such an algorithm is calibrated
        return solve(weights, H, settings, half=True)
    if not all(torch.isfinite(weight).all() for weight in weights):
        raise CompressionError("the dense weight holds NaN or infinite values")
    if settings.algorithm == "wanda":
        assert H is not None
        pruned = [baselines.wanda(weight, H.diagonal(), settings) for weight in weights]
        return Solution(pruned, dead_columns=int((H.diagonal() == 0).sum()))
    if settings.algorithm == "magnitude":
        return Solution([baselines.magnitude(weight, settings) for weight in weights])
    if settings.algorithm == "rtn":
        return Solution([baselines.round_to_nearest(weight, settings, half=True) for weight in weights])
    raise CompressionError(f"{settings.algorithm}: compress_linears calls no function for this algorithm")


def _put(
    layer: nn.Module, name: str, tensors: dict, record: dict, settings: CompressorSettings
) -> SolvedLinear:
    """Write the weight that the packed tensors stand for into a layer's linear."""
    prefix = f"{record['layer']}.{name}."
    parts = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    stored = from_stored(parts, record["shape"][1], settings)
    set_weight(layer.get_submodule(name), stored.weight)
    return stored


def measure(stored: SolvedLinear) -> dict:
    """Distinct levels of the fullest grid (None if not quantised) and share of zeros of a stored weight."""
    zeros = (stored.weight == 0).sum().item()
    return {
        "levels": stored.quantized.levels() if stored.quantized else None,
        "sparsity": zeros / stored.weight.numel(),
    }

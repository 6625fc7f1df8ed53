"""Truncated singular value decomposition of each decoder linear.

W = U diag(s) V', of which the r largest singular values stay: the best approximation of rank r in the Frobenius norm
(Eckart and Young 1936). Its factors have r (rows + columns) weights; the stored model holds their product, so that any
program loads it. A linear whose factors would be no smaller stays as it is.
"""

import time

import torch

from workflow_scripts.compress.decoder import (
    count_weights,
    decoder_layers,
    get_weight,
    layer_linears,
    set_weight,
)
from workflow_scripts.compress.hessian import reconstruction_error
from workflow_scripts.compress.settings import CompressionError, CompressorSettings
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.stored_model import dense_bits
from workflow_scripts.compress.task import Compressed, CompressionTask, Whole
from workflow_scripts.compress.walk import FinishedLayers
from workflow_scripts.compress.whole import config_of, record, save_outside, tensors_of
from workflow_scripts.files.job import log
from workflow_scripts.sources.models import verify


def rank_of(rows: int, columns: int, settings: CompressorSettings) -> int | None:
    """The rank of a linear; None if its two factors would be no smaller than the linear itself."""
    rank = settings.rank
    if rank is None:
        assert settings.ratio is not None  # a Compressor refuses svd without either
        rank = max(1, int(settings.ratio * rows * columns / (rows + columns)))
    return rank if rank * (rows + columns) < rows * columns else None


def truncate(weight: torch.Tensor, rank: int) -> torch.Tensor:
    """The best approximation of `weight` (rows, columns) of this rank."""
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


@torch.no_grad()
def compress(task: CompressionTask) -> Compressed:
    """The model of `task` with linears of lower rank, its tensors in files of `task.work`.

    A run that was killed continues after the last finished layer.
    """
    skeleton = Skeleton(task.model, verify(task.model)["remote_code"])
    layers, finished = decoder_layers(skeleton.model), FinishedLayers(task.work)
    outside = task.work / "outside.safetensors"
    save_outside(skeleton, layers, outside)
    records, size = [], 0
    for index, layer in enumerate(layers):
        stored = finished.load(index)
        if stored is None:
            skeleton.load(layer)
            layer.to(task.device)
            mine = _truncate_layer(index, layer, task.settings)
            finished.save(index, tensors_of(layer, skeleton.paths[id(layer)]), mine)
            skeleton.release(layer)
        else:
            mine = stored[1]
        records += mine
        for each in mine:
            rows, columns = each["shape"]
            rank = rank_of(rows, columns, task.settings)
            size += rows * columns if rank is None else rank * (rows + columns)
        errors = ", ".join(f"{each['linear'].split('.')[-1]} {each['error']:.4f}" for each in mine)
        log(f"layer {index + 1}/{len(layers)}: error {errors}")
    size = round(size * dense_bits(task.model) / 8)
    parts = [outside, *(finished.path(index) for index in range(len(layers)))]
    whole = Whole(config_of(skeleton), size, list(range(len(layers))))
    return Compressed(parts, records, count_weights(layers), whole=whole)


def _truncate_layer(index: int, layer: torch.nn.Module, settings: CompressorSettings) -> list[dict]:
    """Truncate a layer's linears in place; a record per linear."""
    records = []
    for name, linear in layer_linears(layer).items():
        started, weight = time.monotonic(), get_weight(linear).clone()
        if not torch.isfinite(weight).all():
            raise CompressionError(
                f"layer {index}, linear {name}: the dense weight holds NaN or infinite values"
            )
        rank = rank_of(weight.shape[0], weight.shape[1], settings)
        lower = weight if rank is None else truncate(weight, rank)
        set_weight(linear, lower)
        error = reconstruction_error(weight, lower, None)
        records.append(record(index, name, lower, error, time.monotonic() - started))
    return records

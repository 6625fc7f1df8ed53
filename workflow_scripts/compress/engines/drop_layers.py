"""Decoder layers left out: those that change their input least, or those that are named.

Influence of layer i: BI_i = 1 - mean over tokens of cos(x, y), x its input and y its output in the dense model. The
layers of the lowest influence go, all at once. Source: Men et al. 2024, ShortGPT.
"""

import math

import torch
from safetensors.torch import save_file

from workflow_scripts.compress.decoder import (
    Activations,
    count_weights,
    decoder_layers,
    get_weight,
    layer_linears,
)
from workflow_scripts.compress.settings import CompressionError
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.stored_model import dense_bits
from workflow_scripts.compress.task import Compressed, CompressionTask, Whole
from workflow_scripts.compress.walk import embed
from workflow_scripts.compress.whole import config_of, record, save_outside, tensors_of
from workflow_scripts.files.job import log
from workflow_scripts.kernels.packed_linears import PackedLinears
from workflow_scripts.sources.models import most_positions, verify


@torch.no_grad()
def compress(task: CompressionTask) -> Compressed:
    """The model of `task` without some of its layers, its tensors in files of `task.work`."""
    settings = task.settings
    skeleton = Skeleton(task.model, verify(task.model)["remote_code"])
    layers = decoder_layers(skeleton.model)
    dropped, influence, drawn = settings.layers or [], None, None
    if beyond := [index for index in dropped if index >= len(layers)]:
        raise CompressionError(
            f"layers: {beyond[0]} is not allowed; the model has the layers 0 to {len(layers) - 1}"
        )
    if (leaving := settings.count or len(dropped)) >= len(layers):
        raise CompressionError(f"{leaving} layers can't be left out: the model has {len(layers)}")
    if settings.count:
        windows, drawn = task.windows(most_positions(skeleton.model))
        activations = embed(
            skeleton,
            layers,
            windows,
            settings,
            task.device,
            task.machine.activation_memory * 2**30,
            task.work,
        )
        influence = influences(skeleton, activations, task.device)
        dropped = sorted(range(len(layers)), key=lambda index: influence[index])[: settings.count]
        log(f"influence: {', '.join(f'{value:.4f}' for value in influence)}")
    kept = [index for index in range(len(layers)) if index not in dropped]
    log(f"left out: layers {', '.join(map(str, sorted(dropped)))}")
    path = skeleton.paths[id(layers)]
    records, size, parts = [], 0, [task.work / "outside.safetensors"]
    save_outside(skeleton, layers, parts[0])
    for index, origin in enumerate(kept):
        layer = layers[origin]
        skeleton.load(layer)
        parts.append(task.work / f"layer-{index:04d}.safetensors")
        save_file(tensors_of(layer, f"{path}.{index}"), parts[-1])
        for name, linear in layer_linears(layer).items():
            records.append(record(index, name, get_weight(linear), error=0.0))
            size += get_weight(linear).numel()
        skeleton.release(layer)
    size = round(size * dense_bits(task.model) / 8)
    whole = Whole(config_of(skeleton, kept), size, kept, influence=influence)
    return Compressed(parts, records, count_weights(layers), drawn, whole=whole)


@torch.no_grad()
def influences(skeleton: Skeleton, activations: Activations, device: str) -> list[float]:
    """BI of each decoder layer, in order, over all calibration tokens; a layer at a time is in memory."""
    found = []
    for index, layer in enumerate(decoder_layers(skeleton.model)):
        skeleton.load(layer)
        layer.to(device)
        cosines, tokens = 0.0, 0
        with PackedLinears(layer).in_use():
            for batch in range(len(activations.hidden)):
                before = activations.hidden[batch].to(device)
                after = activations.run(index, layer, batch)
                each = torch.nn.functional.cosine_similarity(before.float(), after.float(), dim=-1)
                cosines, tokens = cosines + each.sum(dtype=torch.float64).item(), tokens + each.numel()
                activations.hidden[batch] = after
        skeleton.release(layer)
        found.append(1 - cosines / tokens)
        if not math.isfinite(found[-1]):
            raise CompressionError(
                f"layer {index}: its influence is {found[-1]}; check the calibration activations"
            )
    return found

"""A compressed model as a Hugging Face folder that other programs load; docs/howto/export.md says which.

plain               dense weights with their zeros and levels; every compressor
gptq, gptq_v2       quantised linears in GPTQ's format, version 1 or 2
compressed-tensors  quantised linears as `pack-quantized`, pruned ones as `sparse-bitmask`

Tensors that are not packed have the dense model's dtype if that holds every value exactly, else float32. Linears are
converted one by one, each in the place of the dense weight that it stands for.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from workflow_scripts.compress.decoder import decoder_layers
from workflow_scripts.compress.export_formats import GPTQ_GROUPS, to_bitmask, to_gptq, to_pack_quantized
from workflow_scripts.compress.settings import CompressionError, CompressorSettings
from workflow_scripts.compress.solver import SolvedLinear
from workflow_scripts.compress.stored_model import (
    is_whole,
    placed,
    proven,
    put_compressed,
    read_compressed,
    read_whole,
    settings_of,
)
from workflow_scripts.files.artifacts import read_json, safetensors_header, write_json
from workflow_scripts.files.members import MANIFEST
from workflow_scripts.kernels.activations import KEY
from workflow_scripts.kernels.allocator import return_memory

STORED_AS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # types of weights in safetensors' words


def export(dense_folder: Path, compressed_folder: Path, form: str, folder: Path) -> dict:
    """Write config.json, generation_config.json and safetensors to `folder`; every weight is verified before.

    Returns {dtype: of unpacked tensors; reason: why that is float32 and not the dense model's dtype, or None}.
    Raises CompressionError, naming layer and linear, if the format can't carry a weight to the last bit.
    """
    from workflow_scripts.sources.models import load_dense

    folder, place = Path(folder), Path(compressed_folder)
    if is_whole(place):
        return _export_whole(Path(dense_folder), place, form, folder)
    proof, tensors = read_compressed(dense_folder, place)
    settings, records = settings_of(proof, place), proof["layers"]
    _refuse(settings, form)
    dtype, reason = _dense_dtype(Path(dense_folder))
    inexact = None
    if dtype != torch.float32 and (form == "plain" or not settings.bits):
        inexact = _inexact(proven(tensors, records, settings, place), dtype)
    if inexact:
        reason = f"{inexact} is not exact in the dense model's {_name(dtype)}"
        dtype = torch.float32
    model = load_dense(dense_folder, dtype=dtype)
    state, config = None, None
    if form != "plain":
        state, config = _convert(model, tensors, records, settings, form, place)
    elif records:
        put_compressed(model, tensors, records, settings, place)
    model.save_pretrained(folder, state_dict=state)
    if config:
        write_json(
            folder / "config.json", read_json(folder / "config.json") | {"quantization_config": config}
        )
        if form != "compressed-tensors":
            write_json(folder / "quantize_config.json", config)
    return {"dtype": _name(dtype), "reason": reason}


def _export_whole(dense_folder: Path, place: Path, form: str, folder: Path) -> dict:
    """`export` of a model in the folder form, which has a configuration of its own."""
    from workflow_scripts.sources.models import load_whole

    read_whole(dense_folder, place)
    if form != "plain":
        raise CompressionError(f"a model that is stored whole is no {form}; export plain")
    dtype, reason = _dense_dtype(dense_folder)
    model = load_whole(place)
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor.to(dtype).float(), tensor):
            reason = f"{name} is not exact in the dense model's {_name(dtype)}"
            dtype = torch.float32
            break
    exported = load_whole(place, dtype)
    if hasattr(exported.config, KEY):  # known here alone; the exported weights are used with plain inputs
        delattr(exported.config, KEY)
    exported.save_pretrained(folder)
    return {"dtype": _name(dtype), "reason": reason}


def _refuse(settings: CompressorSettings, form: str) -> None:
    """CompressionError for settings that a format doesn't know, before anything is loaded."""
    if form == "plain":
        return
    if settings.algorithm == "dense" or (form != "compressed-tensors" and not settings.bits):
        raise CompressionError(f"{settings.algorithm} without bits is no {form}; export plain")
    if form != "compressed-tensors" and settings.group_size not in GPTQ_GROUPS:
        known = ", ".join(str(size) for size in GPTQ_GROUPS if size)
        raise CompressionError(f"group_size {settings.group_size}: GPTQ's readers know {known}, or none")


def _dense_dtype(folder: Path) -> tuple[torch.dtype, str | None]:
    """The dtype that a dense model's config.json names; float32, and why, if its files hold another."""
    named = read_json(folder / MANIFEST)["dtype"] or "float32"
    held = {
        entry["dtype"]
        for file in folder.glob("*.safetensors")
        for entry in safetensors_header(file)[0].values()
    }
    others = sorted(STORED_AS[kind] for kind in held if STORED_AS.get(kind, named) != named)
    if others and named != "float32":  # which holds them all
        return (
            torch.float32,
            f"the dense model's files hold {', '.join(others)} where its config.json says {named}",
        )
    return getattr(torch, named), None


def _inexact(linears: Iterable[tuple[dict, SolvedLinear]], dtype: torch.dtype) -> str | None:
    """The first of the stored linears that `dtype` doesn't hold to the last bit; None if it holds all."""
    for record, linear in linears:
        if not torch.equal(linear.weight.to(dtype).float(), linear.weight):
            return f"layer {record['layer']}, linear {record['linear']}"
    return None


@torch.no_grad()
def _convert(
    model: PreTrainedModel,
    tensors: dict,
    records: list[dict],
    settings: CompressorSettings,
    form: str,
    place: Path,
) -> tuple[dict, dict]:
    """The model's state with each linear's weight replaced by the format's tensors, and the quantization_config.

    The model loses those weights on the way: afterwards only its configuration is of use.
    """
    zeros = [tensor for key, tensor in tensors.items() if key.endswith(".zero")]
    groups = [tensor for key, tensor in tensors.items() if key.endswith(".group")]
    symmetric = not settings.bits or all(bool((zero == 2 ** (settings.bits - 1)).all()) for zero in zeros)
    in_order = all(bool((group.diff() >= 0).all()) for group in groups)
    layers, state, converted = decoder_layers(model), model.state_dict(), set()
    prefix = next(name for name, module in model.named_modules() if module is layers)
    for module, record, linear in placed(model, tensors, records, settings, place):
        name = f"{prefix}.{record['layer']}.{record['linear']}"
        if type(module) is not nn.Linear:
            kind = type(module).__name__
            raise CompressionError(f"{name}: a {kind} is no torch Linear, which {form} is for; export plain")
        try:
            if form != "compressed-tensors":
                assert linear.quantized is not None  # it has bits, which `placed` proved
                found = to_gptq(linear.quantized, 2 if form == "gptq_v2" else 1)
            elif linear.quantized:
                found = to_pack_quantized(linear.quantized, settings.group_size, symmetric)
            else:
                found = to_bitmask(linear.weight.to(module.weight.dtype))
        except CompressionError as error:
            raise CompressionError(f"{name}: {error}") from None
        module.weight = nn.Parameter(torch.empty_like(module.weight, device="meta"), requires_grad=False)
        del state[f"{name}.weight"]
        state |= {f"{name}.{part}": tensor for part, tensor in found.items()}
        converted.add(name)
        return_memory()  # freed blocks lie between those that stay
    if form != "compressed-tensors":
        return state, _gptq_config(settings, form, symmetric, in_order)
    if not settings.bits:
        return state, _sparse_config(records, settings)
    rest = [n for n, module in model.named_modules() if type(module) is nn.Linear and n not in converted]
    return state, _quantized_config(settings, symmetric, rest)


def _gptq_config(settings: CompressorSettings, form: str, symmetric: bool, in_order: bool) -> dict:
    """`desc_act` says that g_idx is not in order; an order of processing alone leaves no trace in the format."""
    return {
        "quant_method": "gptq",
        "bits": settings.bits,
        "group_size": settings.group_size or -1,
        "desc_act": not in_order,
        "act_group_aware": False,
        "sym": symmetric,
        "damp_percent": settings.damping or 0.01,
        "true_sequential": settings.true_sequential,
        "static_groups": settings.static_groups,
        "lm_head": False,
        "format": form,
        "checkpoint_format": form,
        "meta": {"quantizer": ["displaced"]},
    }


def _quantized_config(settings: CompressorSettings, symmetric: bool, rest: list[str]) -> dict:
    weights = {
        "num_bits": settings.bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "group" if settings.group_size else "channel",
        "group_size": settings.group_size,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": rest,
    }


def _sparse_config(records: list[dict], settings: CompressorSettings) -> dict:
    """No key beside these two: compressed-tensors would look for a quantisation."""
    sizes = [record["shape"][0] * record["shape"][1] for record in records]
    zeros = sum(round(record["sparsity"] * size) for record, size in zip(records, sizes, strict=True))
    sparsity = {
        "format": "sparse-bitmask",
        "sparsity_structure": settings.pattern or "unstructured",
        "targets": ["Linear"],
        "global_sparsity": zeros / sum(sizes),
        "ignore": [],
    }
    return {"quant_method": "compressed-tensors", "sparsity_config": sparsity}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

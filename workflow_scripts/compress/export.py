"""A compressed model as a Hugging Face folder that other programs load; docs/howto/export.md says which.

plain               dense weights with their zeros and levels, in the dense model's dtype; every compressor
gptq, gptq_v2       quantised linears in GPTQ's format, version 1 or 2
compressed-tensors  quantised linears as `pack-quantized`, pruned ones as `sparse-bitmask`
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from workflow_scripts.artifacts import read_json, write_json
from workflow_scripts.compress.checkpoint import PROOF, WEIGHTS, load_compressed
from workflow_scripts.compress.decoder import decoder_layers
from workflow_scripts.compress.packing import unpack
from workflow_scripts.compress.settings import CompressionError, Compressor
from workflow_scripts.compress.words import GPTQ_GROUPS, to_bitmask, to_gptq, to_pack_quantized


def export(dense_folder, compressed_folder, form: str, folder) -> None:
    """Write config.json, generation_config.json and safetensors to `folder`; the compressed model is verified first.

    Raises CompressionError, naming layer and linear, for what the format can't carry to the last bit.
    """
    folder, proof = Path(folder), read_json(Path(compressed_folder) / PROOF, schema="compression")
    settings = Compressor(**proof["compressor"])
    dtype = getattr(torch, read_json(Path(dense_folder) / "manifest.json")["dtype"] or "float32")
    model = load_compressed(dense_folder, compressed_folder, dtype=dtype)
    state, config = None, None
    if form != "plain":
        state, config = _compressed_state(model, compressed_folder, proof["layers"], settings, form)
    model.save_pretrained(folder, state_dict=state)
    if config:
        write_json(
            folder / "config.json", read_json(folder / "config.json") | {"quantization_config": config}
        )
        if form != "compressed-tensors":
            write_json(folder / "quantize_config.json", config)


def _compressed_state(
    model, compressed_folder, records, settings: Compressor, form: str
) -> tuple[dict, dict]:
    """The model's state with each linear's weight replaced by the format's tensors, and the quantization_config."""
    if settings.algorithm == "dense" or (form != "compressed-tensors" and not settings.bits):
        raise CompressionError(f"{settings.algorithm} without bits is no {form}; export plain")
    if form != "compressed-tensors" and settings.group_size not in GPTQ_GROUPS:
        known = ", ".join(str(size) for size in GPTQ_GROUPS if size)
        raise CompressionError(f"group_size {settings.group_size}: GPTQ's readers know {known}, or none")
    layers = decoder_layers(model)
    prefix = next(name for name, module in model.named_modules() if module is layers)
    stored, state = load_file(Path(compressed_folder) / WEIGHTS), model.state_dict()
    solved = {}
    for record in records:
        key, name = f"{record['layer']}.{record['linear']}.", f"{prefix}.{record['layer']}.{record['linear']}"
        if type(model.get_submodule(name)) is not nn.Linear:
            kind = type(model.get_submodule(name)).__name__
            raise CompressionError(f"{name}: a {kind} is no torch Linear, which {form} is for; export plain")
        parts = {k.removeprefix(key): v for k, v in stored.items() if k.startswith(key)}
        solved[name] = unpack(parts, record["shape"][1], settings)
    grids = [linear.quantized for linear in solved.values() if linear.quantized]
    symmetric = all(bool((grid.zero == 2 ** (grid.bits - 1)).all()) for grid in grids)
    in_order = all(bool((grid.group.diff() >= 0).all()) for grid in grids)
    for name, linear in solved.items():
        try:
            if form != "compressed-tensors":
                tensors = to_gptq(linear.quantized, 2 if form == "gptq_v2" else 1)
            elif linear.quantized:
                tensors = to_pack_quantized(linear.quantized, settings.group_size, symmetric)
            else:
                tensors = to_bitmask(linear.weight.to(state[f"{name}.weight"].dtype))
        except CompressionError as error:
            raise CompressionError(f"{name}: {error}") from None
        del state[f"{name}.weight"]
        state |= {f"{name}.{part}": tensor for part, tensor in tensors.items()}
    if form != "compressed-tensors":
        return state, _gptq_config(settings, form, symmetric, in_order)
    if not grids:
        return state, _sparse_config(solved, settings)
    rest = [n for n, module in model.named_modules() if type(module) is nn.Linear and n not in solved]
    return state, _quantized_config(settings, symmetric, rest)


def _gptq_config(settings: Compressor, form: str, symmetric: bool, in_order: bool) -> dict:
    """`desc_act` says that g_idx is not in order; an order of processing alone leaves no trace in the format."""
    return {
        "quant_method": "gptq", "bits": settings.bits, "group_size": settings.group_size or -1,
        "desc_act": not in_order, "act_group_aware": False, "sym": symmetric, "damp_percent": settings.damping or 0.01,
        "true_sequential": settings.true_sequential, "static_groups": settings.static_groups, "lm_head": False,
        "format": form, "checkpoint_format": form, "meta": {"quantizer": ["displaced"]},
    }  # fmt: skip


def _quantized_config(settings: Compressor, symmetric: bool, rest: list[str]) -> dict:
    size = settings.group_size
    weights = {
        "num_bits": settings.bits, "type": "int", "symmetric": symmetric, "strategy": "group" if size else "channel",
        "group_size": size, "dynamic": False,
    }  # fmt: skip
    return {
        "quant_method": "compressed-tensors", "quantization_status": "compressed", "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": rest,
    }  # fmt: skip


def _sparse_config(solved: dict, settings: Compressor) -> dict:
    """No key beside these two: compressed-tensors would look for a quantisation."""
    zeros = sum(int((linear.weight == 0).sum()) for linear in solved.values())
    sparsity = {
        "format": "sparse-bitmask", "sparsity_structure": settings.pattern or "unstructured", "targets": ["Linear"],
        "global_sparsity": zeros / sum(linear.weight.numel() for linear in solved.values()), "ignore": [],
    }  # fmt: skip
    return {"quant_method": "compressed-tensors", "sparsity_config": sparsity}

"""Formats that pack each linear on its own, read linear by linear: GPTQ, AWQ, FP8, sparse bitmask.

w = scale (code - zero) in float32, which holds it exactly: a code less a zero has at most 9 bits, a float16 scale 11.

gptq            qweight, qzeros, scales, g_idx as in export_formats.py. Version 1 keeps zero - 1, modulo 2^bits.
awq             layout `gemm`: qweight (in, out b / 32), qzeros (groups, out b / 32), scales (groups, out). With 4 bits,
                eight columns lie in the order 0 2 4 6 1 3 5 7. Sources: llm-awq's and GPTQModel's packing.
auto-round      the same two; of GPTQ's without g_idx: columns in order, in groups of group_size. Version 1's zeros
                are not taken modulo 2^bits, as in AutoRound's own module (qlinear_torch_zp).
fp8             weight float8; weight_scale_inv, despite its name a factor, per block of weight_block_size or per
                tensor. The last block of a side may be cut short. Source: DeepSeek-V3's dequantisation kernel.
sparse-bitmask  compressed-tensors up to 0.14, as in export_formats.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from workflow_scripts.compress.export_formats import GPTQ_BITS, WORD, from_bitmask, from_gptq, from_words
from workflow_scripts.compress.quantizer import Quantized
from workflow_scripts.files.artifacts import ArtifactError

AWQ_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # where each of eight columns lies in its word
Parts = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """The tensors in which a format keeps a linear: one that shows it, the others, and the weight (out, in) of all."""

    known_by: str
    others: tuple[str, ...]
    weight: Callable[[Parts, dict], torch.Tensor]


def unpacked(
    headers: dict[str, dict],
    get: Callable[[str], torch.Tensor],
    form: str,
    config: dict,
    placeless: Callable[[list[str]], set[str]] = lambda names: set(),
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a checkpoint in the format `form`, each linear's weight in place of its parts.

    headers: name -> {dtype, ...} of all tensors; get: the tensor of a name; config: the checkpoint's
    quantization_config. placeless: those of some names for which the architecture has no place. AutoGPTQ gave every
    linear a bias: one without a place is left out if it is 0. ArtifactError names the linear that is incomplete or of
    another layout; it says so too if none is packed.
    """
    layout = LAYOUTS[form]
    linears = {name.rpartition(".")[0] for name, entry in headers.items() if _tells(name, entry, layout)}
    if not linears:
        raise ArtifactError(
            f"config.json says {form}, and no linear is packed so (by its {layout.known_by}); remove "
            "`quantization_config` if the weights are plain"
        )
    biases = [name for name in headers if name.endswith(".bias") and name.rpartition(".")[0] in linears]
    spare = placeless(biases) if biases else set()
    for name in headers:
        linear, _, part = name.rpartition(".")
        if (name in spare and not get(name).any()) or (form == "fp8" and part in CACHE):
            continue
        if linear not in linears or part not in (layout.known_by, *layout.others):
            yield name, get(name)
        elif part == layout.known_by:
            names = [each for each in (part, *layout.others) if f"{linear}.{each}" in headers]
            try:
                weight = layout.weight({each: get(f"{linear}.{each}") for each in names}, config)
            except KeyError as error:
                raise ArtifactError(f"{linear} has no {error.args[0]}, which {form} needs") from None
            except ArtifactError as error:
                raise ArtifactError(f"{linear}: {error}") from None
            yield f"{linear}.weight", weight


def _tells(name: str, entry: dict, layout: Layout) -> bool:
    """True if a tensor tells that its linear is packed; a plain `weight` is none."""
    if name.rpartition(".")[2] != layout.known_by:
        return False
    return layout.known_by != "weight" or entry["dtype"].startswith("F8")


def _gptq(parts: Parts, config: dict) -> torch.Tensor:
    quantized = _as_gptq(parts, config)
    quantized.zero = (quantized.zero + 1) % 2**quantized.bits
    return quantized.dequantize()


def _gptq_v2(parts: Parts, config: dict) -> torch.Tensor:
    return _as_gptq(parts, config).dequantize()


def _auto_round(parts: Parts, config: dict) -> torch.Tensor:
    quantized = _as_gptq(_in_order(parts, config), config)
    quantized.zero = quantized.zero + 1
    return quantized.dequantize()


def _auto_round_v2(parts: Parts, config: dict) -> torch.Tensor:
    return _gptq_v2(_in_order(parts, config), config)


def _in_order(parts: Parts, config: dict) -> Parts:
    """The parts with the group of each column, if they lack it."""
    if "g_idx" in parts:
        return parts
    for part in ("scales", "qzeros", "qweight"):
        _require(parts, part, (None, None))
    groups, rows = parts["scales"].shape
    bits = _bits(parts["qzeros"], 1, rows)
    columns, size = WORD * len(parts["qweight"]) // bits, config.get("group_size")
    if not isinstance(size, int) or -(-columns // max(size, 1)) != groups:  # another one for this linear
        if columns % groups:
            raise ArtifactError(f"{columns} columns in {groups} groups; group_size {size} makes others")
        size = columns // groups
    return parts | {"g_idx": torch.arange(columns, dtype=torch.int32) // size}


def _as_gptq(parts: Parts, config: dict) -> Quantized:
    _require(parts, "scales", (None, None))
    _require(parts, "g_idx", (None,))
    columns, (groups, rows) = len(parts["g_idx"]), parts["scales"].shape
    bits = _bits(parts["qweight"], 0, columns)
    _require(parts, "qweight", (None, rows))
    _require(parts, "qzeros", (groups, -(-rows * bits // WORD)))
    _refuse_another(config, bits, columns, groups)
    named = parts["g_idx"].unique()
    if not 0 <= named[0] <= named[-1] < groups:
        raise ArtifactError(f"g_idx names groups from {named[0]} to {named[-1]} of {groups}")
    # Zeros alone stand for columns in order in some kernels, for group 0 in others.
    if len(named) < groups:
        raise ArtifactError(f"g_idx names {len(named)} of {groups} groups, so kernels read it differently")
    return from_gptq(parts, bits)


def _require(parts: Parts, part: str, shape: tuple[int | None, ...]) -> None:
    """ArtifactError for a tensor of another shape (None: any size but 0), or scales that are no floats or
    all 0, others that are no integers."""
    tensor = parts[part]
    fits = tensor.dim() == len(shape) and all(
        held == asked if asked is not None else held for held, asked in zip(tensor.shape, shape, strict=True)
    )
    if not fits or tensor.is_floating_point() != (part == "scales"):
        asked = ", ".join("n" if size is None else str(size) for size in shape)
        kind = "floats" if part == "scales" else "integers"
        raise ArtifactError(f"{part} is {tensor.dtype} {tuple(tensor.shape)}; ({asked}) {kind} are needed")
    if part == "scales" and not tensor.any():  # no maker writes it: a file that was made but never filled
        raise ArtifactError(f"scales {tuple(tensor.shape)} are all 0, and so would its weight be")


def _awq(parts: Parts, config: dict) -> torch.Tensor:
    _require(parts, "scales", (None, None))
    _require(parts, "qweight", (None, None))
    qweight, scales = parts["qweight"], parts["scales"].float()
    columns, (groups, rows) = len(qweight), scales.shape
    bits = _bits(qweight, 1, rows)
    _require(parts, "qzeros", (groups, qweight.shape[1]))
    codes, zeros = (from_words(parts[part], bits, rows).float() for part in ("qweight", "qzeros"))
    if bits == 4:
        order = torch.arange(rows).view(-1, len(AWQ_PLACES))[:, AWQ_PLACES].flatten()
        codes, zeros = codes[:, order], zeros[:, order]
    _refuse_another(config, bits, columns, groups)
    if columns % groups:
        raise ArtifactError(f"{columns} columns in {groups} groups; AWQ has equal ones")
    zeros, scales = (part.repeat_interleave(columns // groups, 0) for part in (zeros, scales))
    return ((codes - zeros) * scales).T


def _bits(qweight: torch.Tensor, packed: int, values: int) -> int:
    """Bits of each of `values` that lie in qweight's words along its dimension `packed`."""
    bits, rest = divmod(WORD * qweight.shape[packed], values)
    if qweight.dtype != torch.int32 or rest or bits not in GPTQ_BITS:
        raise ArtifactError(
            f"qweight {qweight.dtype} {tuple(qweight.shape)} for {values} values is no packing of "
            f"{', '.join(map(str, GPTQ_BITS))} bits in words of {WORD}"
        )
    return bits


def _refuse_another(config: dict, bits: int, columns: int, groups: int) -> None:
    """ArtifactError if the tensors hold other bits or groups than config.json says; it may say others for a few linears
    (GPTQModel's `dynamic`, AutoRound's `extra_config`)."""
    if config.get("dynamic") or config.get("extra_config"):
        return
    named, size = config.get("bits"), config.get("group_size")
    if named is not None and named != bits:
        raise ArtifactError(f"config.json says {named} bits, its tensors hold {bits}")
    if isinstance(size, int):
        asked = 1 if size < 1 else -(-columns // size)
        if asked != groups:
            raise ArtifactError(
                f"config.json says groups of {size}, which are {asked}; its tensors hold {groups}"
            )


def _fp8(parts: Parts, config: dict) -> torch.Tensor:
    weight = parts["weight"].float()
    scale = parts["weight_scale_inv"] if "weight_scale_inv" in parts else parts["weight_scale"]
    if scale.dtype == torch.uint8:  # powers of two, by their exponents
        scale = scale.view(torch.float8_e8m0fnu)
    scale = scale.float()
    if scale.numel() == 1:
        return weight * scale.reshape(())
    block = config.get("weight_block_size") or (1, weight.shape[-1])
    if weight.dim() != 2 or list(scale.shape) != [
        -(-n // size) for n, size in zip(weight.shape, block, strict=True)
    ]:
        raise ArtifactError(
            f"scales {tuple(scale.shape)} of a weight {tuple(weight.shape)} are not one per block of {tuple(block)}"
        )
    rows, columns = weight.shape
    return weight * scale.repeat_interleave(block[0], 0)[:rows].repeat_interleave(block[1], 1)[:, :columns]


def _bitmask(parts: Parts, config: dict) -> torch.Tensor:
    try:
        return from_bitmask(parts)
    except (RuntimeError, LookupError, ValueError) as error:
        if isinstance(error, KeyError):
            raise
        held = ", ".join(f"{part} {tuple(tensor.shape)}" for part, tensor in parts.items())
        raise ArtifactError(f"{held} don't fit together") from error


CACHE = ("k_scale", "v_scale", "q_scale", "kv_scale")  # of FP8 caches, which stay in float32 here
SCALES = ("weight_scale_inv", "weight_scale", "activation_scale", "input_scale")
LAYOUTS = {
    "gptq": Layout("qweight", ("qzeros", "scales", "g_idx"), _gptq),
    "gptq_v2": Layout("qweight", ("qzeros", "scales", "g_idx"), _gptq_v2),
    "auto-round-gptq": Layout("qweight", ("qzeros", "scales", "g_idx"), _auto_round),
    "auto-round-gptq_v2": Layout("qweight", ("qzeros", "scales", "g_idx"), _auto_round_v2),
    "auto-round-awq": Layout("qweight", ("qzeros", "scales"), _awq),
    "awq": Layout("qweight", ("qzeros", "scales"), _awq),
    "fp8": Layout("weight", SCALES, _fp8),
    "sparse-bitmask": Layout("bitmask", ("compressed", "row_offsets", "shape"), _bitmask),
}

"""Weights in 32-bit words, as GPTQ checkpoints and compressed-tensors store them.

Both lay b-bit values one after the other, lowest bit first, across the borders of words (3 bits: 32 values, 3 words).

GPTQ, per linear: qweight (in b / 32, out) packed along the inputs, qzeros (groups, out b / 32) along the outputs,
scales (groups, out) float16, g_idx (in,) int32. Version 1 (`gptq`) stores zero - 1, which has no room for a zero point
of 0; version 2 (`gptq_v2`) stores the zero point. Sources: AutoGPTQ's and GPTQModel's `pack`.

compressed-tensors, `pack-quantized` (0.18): weight_packed (out, ceil(in b / 32)), weight_scale (out, groups),
weight_zero_point (ceil(out b / 32), groups) packed along the outputs, weight_shape. Groups lie in the columns' order:
weight_g_idx went with 0.19.
`sparse-bitmask` (up to 0.14): compressed (values), bitmask (out, ceil(in / 8)), row_offsets, shape.
"""

from collections.abc import Iterable

import torch

from workflow_scripts.compress.bit_packing import pack_bits, unpack_bits
from workflow_scripts.compress.quantizer import Quantized
from workflow_scripts.compress.settings import CompressionError

WORD = 32
GPTQ_BITS = (2, 3, 4, 8)  # read by transformers and optimum
GPTQ_GROUPS = (None, 16, 32, 64, 128, 256, 512, 1024)  # read by GPTQModel's kernels


def to_words(values: torch.Tensor, bits: int) -> torch.Tensor:
    """values (rows, n) < 2^bits -> (rows, ceil(n bits / 32)) int32."""
    rows, count = values.shape
    start = torch.arange(count) * bits
    word, offset = start // WORD, start % WORD
    shifted = values.to(torch.int64) << offset
    packed = torch.zeros(rows, -(-count * bits // WORD) + 1, dtype=torch.int64)
    packed.index_add_(1, word, shifted & 0xFFFFFFFF)
    packed.index_add_(1, word + 1, shifted >> WORD)
    return packed[:, :-1].to(torch.int32)  # keeps the lower 32 bits


def from_words(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The inverse of to_words: (rows, count) uint8."""
    start = torch.arange(count) * bits
    word, offset = start // WORD, start % WORD
    long = words.to(torch.int64) & 0xFFFFFFFF
    long = torch.cat([long, long.new_zeros(len(long), 1)], 1)
    both = long[:, word] | long[:, word + 1] << WORD
    return (both >> offset & (1 << bits) - 1).to(torch.uint8)


def to_gptq(quantized: Quantized, version: int) -> dict[str, torch.Tensor]:
    """The tensors of one linear; CompressionError if the format can't carry it exactly."""
    (rows, columns), bits, zero = quantized.codes.shape, quantized.bits, quantized.zero.to(torch.int64)
    if bits not in GPTQ_BITS:
        raise CompressionError(f"{bits} bits: GPTQ's readers know {_listed(GPTQ_BITS)}")
    if rows % WORD or columns % WORD:
        raise CompressionError(f"shape ({rows}, {columns}): GPTQ needs multiples of {WORD}")
    if not torch.equal(quantized.scale.half().float(), quantized.scale.float()):
        raise CompressionError(
            "a scale is no float16, which is all that GPTQ stores; export compressed-tensors"
        )
    if version == 1 and (zero == 0).any():
        raise CompressionError(
            f"{int((zero == 0).sum())} zero points are 0, which GPTQ's version 1 can't store (it keeps zero - 1); "
            "export gptq_v2"
        )
    return {
        "qweight": to_words(quantized.codes, bits).T.contiguous(),
        "qzeros": to_words(zero.T - (2 - version), bits),
        "scales": quantized.scale.T.half().contiguous(),
        "g_idx": quantized.group.to(torch.int32),
    }


def from_gptq(tensors: dict[str, torch.Tensor], bits: int) -> Quantized:
    """A linear of version 2."""
    scale, columns = tensors["scales"].T.contiguous(), len(tensors["g_idx"])
    codes = from_words(tensors["qweight"].T, bits, columns)
    zero = from_words(tensors["qzeros"], bits, len(scale)).T.contiguous()
    return Quantized(codes, scale.float(), zero.float(), tensors["g_idx"].long(), bits)


def to_pack_quantized(quantized: Quantized, size: int | None, symmetric: bool) -> dict[str, torch.Tensor]:
    """The tensors of one linear in compressed-tensors; size: columns of a group, symmetric: zeros are 2^(bits - 1)."""
    (rows, columns), groups = quantized.codes.shape, quantized.scale.shape[1]
    if groups > 1 and size and columns % size:
        raise CompressionError(
            f"{columns} columns in groups of {size}: compressed-tensors needs equal groups"
        )
    if (quantized.group.diff() < 0).any():
        raise CompressionError(
            "groups in the order of processing: compressed-tensors dropped them; export gptq_v2"
        )
    tensors = {
        "weight_packed": to_words(quantized.codes, quantized.bits),
        "weight_scale": quantized.scale.contiguous(),
        "weight_shape": torch.tensor([rows, columns]),
    }
    if not symmetric:
        tensors["weight_zero_point"] = to_words(quantized.zero.T, quantized.bits).T.contiguous()
    return tensors


def to_bitmask(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors of one pruned linear (out, in) in compressed-tensors."""
    kept = weight != 0
    counts = kept.sum(1)
    return {
        "compressed": weight[kept],
        "bitmask": pack_bits(kept.to(torch.uint8), 1)[0],
        "row_offsets": counts.cumsum(0) - counts,
        "shape": torch.tensor(weight.shape),
    }


def from_bitmask(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """The weight (out, in) that to_bitmask stored."""
    rows, columns = tensors["shape"].tolist()
    kept = unpack_bits(tensors["bitmask"][None], columns).bool()
    weight = tensors["compressed"].new_zeros(rows, columns)
    weight[kept] = tensors["compressed"]
    return weight


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))

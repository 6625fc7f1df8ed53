"""The stored form of a compressed linear: bit planes of codes with scales and zeros, or a bitmask with values.

Quantised: codes (bits, rows, ceil(columns / 8)) uint8, plane b holding bit b of eight codes a byte, first column
lowest; scale (rows, groups) float16 where that is exact, else float32; zero (rows, groups) uint8; group (columns,)
int32 only if it isn't column // group_size. Pruned: mask (1, rows, ceil(columns / 8)), values float16, row-major.
"""

import numpy as np
import torch

from workflow_scripts.compress.quantizer import Quantized
from workflow_scripts.compress.settings import Compressor
from workflow_scripts.compress.solver import Solved


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """codes (rows, columns) < 2^bits, uint8 -> bit planes (bits, rows, ceil(columns / 8)) uint8."""
    planes = [np.packbits(codes.numpy() >> bit & 1, axis=1, bitorder="little") for bit in range(bits)]
    return torch.from_numpy(np.ascontiguousarray(np.stack(planes)))


def unpack_bits(planes: torch.Tensor, columns: int) -> torch.Tensor:
    """The inverse of pack_bits: (rows, columns) uint8."""
    codes = np.zeros((planes.shape[1], columns), np.uint8)
    for bit, plane in enumerate(planes.numpy()):
        codes |= np.unpackbits(plane, axis=1, count=columns, bitorder="little") << bit
    return torch.from_numpy(codes)


def pack(solved: Solved, settings: Compressor) -> dict[str, torch.Tensor]:
    """Tensors that are stored for one linear. Values of a pruned one are rounded to float16."""
    if solved.quantized is None:
        kept = solved.weight.cpu() != 0
        return {"mask": pack_bits(kept.to(torch.uint8), 1), "values": solved.weight.cpu()[kept].half()}
    quantized = solved.quantized
    scale, group = quantized.scale.cpu().float(), quantized.group.cpu()
    stored = {
        "codes": pack_bits(quantized.codes.cpu(), quantized.bits),
        "scale": scale.half() if torch.equal(scale.half().float(), scale) else scale,
        "zero": quantized.zero.cpu().to(torch.uint8),
    }
    if not torch.equal(group, _groups_in_order(len(group), settings)):
        stored["group"] = group.to(torch.int32)
    return stored


def _groups_in_order(columns: int, settings: Compressor) -> torch.Tensor:
    return torch.arange(columns) // (settings.group_size or columns)


def unpack(stored: dict[str, torch.Tensor], columns: int, settings: Compressor) -> Solved:
    """The linear that `pack` stored; weight (rows, columns) float32."""
    if "mask" in stored:
        kept = unpack_bits(stored["mask"], columns).bool()
        weight = torch.zeros(kept.shape)
        weight[kept] = stored["values"].float()
        return Solved(weight)
    group = stored["group"].long() if "group" in stored else _groups_in_order(columns, settings)
    quantized = Quantized(
        unpack_bits(stored["codes"], columns), stored["scale"].float(), stored["zero"].float(), group,
        len(stored["codes"]),
    )  # fmt: skip
    return Solved(quantized.dequantize(), quantized)

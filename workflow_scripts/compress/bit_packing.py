"""The stored form of a compressed linear: bit planes of codes with scales and zeros, or a bitmask with values.

Quantised: codes (bits, rows, ceil(columns / 8)) uint8, plane b holding bit b of eight codes a byte, first column
lowest; scale (rows, groups) float16 if that is exact, else float32; zero (rows, groups) uint8; group (columns,)
int32 only if it isn't column // group_size. Pruned: mask (1, rows, ceil(columns / 8)), values float16, row-major.
"""

import torch

from workflow_scripts.compress.quantizer import Quantized
from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.compress.solver import SolvedLinear

# Constants for eight bytes as one int64. EACH: the lowest bit of each byte. GATHER: a factor that gathers these bits in
# the highest byte of the product. SPREAD: the bit that each of eight copies of a byte keeps. CARRY: a summand that
# carries any bit to the highest of its byte.
EACH, GATHER, SPREAD, CARRY = 0x0101010101010101, 0x0102040810204080, -0x7FBFDFEFF7FBFDFF, 0x7F7F7F7F7F7F7F7F
# Weights that are packed at a time. A CPU keeps this many in its cache: five times as fast as all at once.
PIECE = {"cpu": 2**17, "cuda": 2**62}


def pack_bits(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """codes (rows, columns) < 2^bits, uint8 -> bit planes (bits, rows, ceil(columns / 8)) uint8, where codes lie."""
    rows, columns = codes.shape
    planes = codes.new_empty(bits, rows, -(-columns // 8))
    at_once = max(1, PIECE[codes.device.type] // columns)
    for piece, plane in zip(codes.split(at_once), planes.split(at_once, dim=1), strict=True):
        padded = codes.new_zeros(len(piece), 8 * planes.shape[2])
        padded[:, :columns] = piece
        eights = padded.view(torch.int64)
        for bit in range(bits):
            plane[bit] = (eights >> bit & EACH) * GATHER >> 56
    return planes


def unpack_bits(planes: torch.Tensor, columns: int) -> torch.Tensor:
    """The inverse of pack_bits: (rows, columns) uint8."""
    codes = planes.new_empty(planes.shape[1], columns)
    at_once = max(1, PIECE[planes.device.type] // columns)
    for piece, part in zip(planes.split(at_once, dim=1), codes.split(at_once), strict=True):
        eights = torch.zeros(piece.shape[1:], dtype=torch.int64, device=planes.device)
        for bit, plane in enumerate(piece):
            eights |= ((plane.long() * EACH & SPREAD) + CARRY >> 7 & EACH) << bit
        part[:] = eights.view(torch.uint8)[:, :columns]
    return codes


def to_stored(solved: SolvedLinear, settings: CompressorSettings) -> dict[str, torch.Tensor]:
    """Tensors that are stored for one linear, on its device. Values of a pruned one are rounded to float16."""
    if solved.quantized is None:
        kept = solved.weight != 0
        return {"mask": pack_bits(kept.to(torch.uint8), 1), "values": solved.weight[kept].half()}
    quantized = solved.quantized
    scale, group = quantized.scale.float(), quantized.group
    stored = {
        "codes": pack_bits(quantized.codes, quantized.bits),
        "scale": scale.half() if torch.equal(scale.half().float(), scale) else scale,
        "zero": quantized.zero.to(torch.uint8),
    }
    if not torch.equal(group, _groups_in_order(group, settings)):
        stored["group"] = group.to(torch.int32)
    return stored


def _groups_in_order(like: torch.Tensor, settings: CompressorSettings) -> torch.Tensor:
    """Group of each column (columns,) if neighbours share one, on the device of `like` (columns,)."""
    return torch.arange(len(like), device=like.device) // (settings.group_size or len(like))


def from_stored(stored: dict[str, torch.Tensor], columns: int, settings: CompressorSettings) -> SolvedLinear:
    """The linear that `to_stored` stored, on the tensors' device; weight (rows, columns) float32."""
    if "mask" in stored:
        kept = unpack_bits(stored["mask"], columns).bool()
        weight = torch.zeros(kept.shape, device=kept.device)
        weight[kept] = stored["values"].float()
        return SolvedLinear(weight)
    codes = unpack_bits(stored["codes"], columns)
    group = stored["group"].long() if "group" in stored else _groups_in_order(codes[0], settings)
    scale, zero = stored["scale"].float(), stored["zero"].float()
    quantized = Quantized(codes, scale, zero, group, len(stored["codes"]))
    return SolvedLinear(quantized.dequantize(), quantized)


def misshapen(stored: dict[str, torch.Tensor], rows: int, columns: int) -> str | None:
    """Why stored tensors are not the form above of a weight (rows, columns); None if they are."""
    row = -(-columns // 8)

    def other(part: str, dtype: torch.dtype, *shape: int) -> str | None:
        tensor = stored[part]
        if (tensor.dtype, tensor.shape) != (dtype, shape):
            return f"{part} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {shape}"
        return None

    if stored.keys() == {"mask", "values"}:
        if problem := other("mask", torch.uint8, 1, rows, row):
            return problem
        return other("values", torch.float16, int(unpack_bits(stored["mask"], columns).sum()))
    if stored.keys() - {"group"} != {"codes", "scale", "zero"}:
        return f"the stored tensors ({', '.join(sorted(stored)) or 'none'}) don't make a weight"
    scale, planes = stored["scale"], min(8, max(1, len(stored["codes"])))
    grids = scale.shape[-1] if scale.dim() else 0
    expected: list[tuple[str, torch.dtype, *tuple[int, ...]]]
    expected = [("codes", torch.uint8, planes, rows, row), ("zero", torch.uint8, rows, grids)]
    expected.append(("scale", torch.float16 if scale.dtype == torch.float16 else torch.float32, rows, grids))
    if "group" in stored:
        expected.append(("group", torch.int32, columns))
    if problem := next(filter(None, (other(*each) for each in expected)), None):
        return problem
    if "group" in stored and not 0 <= int(stored["group"].min()) <= int(stored["group"].max()) < grids:
        return f"a column's group is none of the {grids} stored"
    return None

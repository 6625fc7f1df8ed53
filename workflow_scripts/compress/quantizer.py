"""Uniform grids: fit, round, dequantise (the `Quantizer` of IST-DASLab/gptq, per row or per group of columns)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

SMALLEST_HALF, LARGEST_HALF = 2.0**-14, 65504.0  # float16's range of normal numbers
# Clipping search: power of the error, steps from 1 down to 0.2 of the range.
CLIP_SEARCH = {"mse": (2.4, 100), "hessian": (2.0, 25)}
# Weights whose clipping is searched together on a CPU: few calls, and the tries stay in its cache.
SEARCHED = 2**20
# Weights whose levels are counted together; a CPU keeps this many in its cache.
COUNTED = {"cpu": 2**18, "cuda": 2**26}

Grid = tuple[torch.Tensor, torch.Tensor]  # scale and zero


@dataclass
class Quantized:
    """A weight on its grids: w = scale (code - zero).

    codes (rows, columns) uint8; scale (rows, groups) float; zero (rows, groups) float holding integers;
    group (columns,) int64: the group of each column.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    group: torch.Tensor
    bits: int

    def dequantize(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """(rows, columns), computed in the scale's dtype (float16 scales: float32), then cast to `dtype`."""
        work = torch.float32 if self.scale.dtype == torch.float16 else self.scale.dtype
        scale, zero = (part.to(work).index_select(1, self.group) for part in (self.scale, self.zero))
        weight = self.codes.to(work).sub_(zero).mul_(scale)
        return weight if dtype is None else weight.to(dtype)

    def levels(self) -> int:
        """Largest number of distinct values that one grid (a row's group) really holds."""
        groups, most = self.scale.shape[1], 0
        at_once = max(1, COUNTED[self.codes.device.type] // self.codes.shape[1])
        for codes in self.codes.split(at_once):
            grids = torch.arange(len(codes), device=codes.device)[:, None] * groups + self.group
            seen = torch.zeros(len(codes) * groups, 2**self.bits, dtype=torch.uint8, device=codes.device)
            seen.view(-1)[(grids << self.bits) + codes] = 1
            most = max(most, int(seen.sum(1).max()))
        return most


def round_to_grid(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    """scale (clamp(round(x / scale) + zero, 0, 2^bits - 1) - zero), broadcast."""
    return (x / scale).round_().clamp_(*grid_ends(zero, bits)).mul_(scale)


def read_codes(
    Q: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, group: torch.Tensor, bits: int
) -> Quantized:
    """Codes of Q (rows, columns), which lies on the grids scale, zero (rows, groups); group (columns,)."""
    codes = torch.round(Q / scale[:, group]) + zero[:, group]
    return Quantized(codes.to(torch.uint8), scale, zero, group, bits)


def grid_ends(zero: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest multiple of the scale on grids with these zeros."""
    return -zero, (2**bits - 1) - zero


def fit_grid(
    x: torch.Tensor,
    bits: int,
    symmetric: bool,
    clip: str = "none",
    half: bool = False,
    importance: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Grid of each row of x (rows, n): scale and zero, both (rows,), in x's dtype.

    The range [min(x, 0), max(x, 0)] is spread over 2^bits levels; zero is always a level. With `clip` the range is
    shrunk by the factor that minimises sum_j v_j |x_j - q(x_j)|^p: "mse" is the reference's search (p = 2.4, v = 1),
    "hessian" takes p = 2 and v = `importance` (n,). `half` rounds scales to float16 if that is a normal number, so
    that the stored scales are those solved for.
    """
    top = 2**bits - 1
    low, high = x.amin(1).clamp(max=0), x.amax(1).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = torch.where(low < 0, -high, low)
    empty = high - low < top * torch.finfo(low.dtype).tiny  # of steps that no normal number holds
    low, high = torch.where(empty, -1.0, low), torch.where(empty, 1.0, high)

    # A tensor on x's device: a GPU would divide by a plain number by multiplying with its rounded reciprocal.
    steps = low.new_tensor(top)

    def grid(low: torch.Tensor, high: torch.Tensor) -> Grid:
        scale = (high - low) / steps
        if half:
            normal = (scale >= SMALLEST_HALF) & (scale <= LARGEST_HALF)
            scale = torch.where(normal, scale.half().to(scale.dtype), scale)
        zero = torch.full_like(scale, (top + 1) / 2) if symmetric else torch.round(-low / scale)
        return scale, zero

    if clip == "none":
        return grid(low, high)
    count = len(x) if x.device.type != "cpu" else max(1, SEARCHED // x.shape[1])
    found = [
        _search(*parts, grid, top, clip, importance)
        for parts in zip(x.split(count), low.split(count), high.split(count), strict=True)
    ]
    return torch.cat([scale for scale, _ in found]), torch.cat([zero for _, zero in found])


def _search(
    x: torch.Tensor,
    low: torch.Tensor,
    high: torch.Tensor,
    grid: Callable[[torch.Tensor, torch.Tensor], Grid],
    top: int,
    clip: str,
    importance: torch.Tensor | None,
) -> Grid:
    """Grids of x (rows, n): of `clip`'s shrunk ranges [low, high] (rows,), which `grid` makes grids of, the best."""
    power, steps = CLIP_SEARCH[clip]
    best, scale, zero = torch.full_like(low, torch.inf), *grid(low, high)
    exact, off = torch.empty_like(x), torch.empty_like(x)  # in steps of the grid
    for step in range(steps * 4 // 5):
        shrink = 1 - step / steps
        tried_scale, tried_zero = grid(shrink * low, shrink * high)
        torch.div(x, tried_scale[:, None], out=exact).add_(tried_zero[:, None])
        torch.round(exact, out=off).clamp_(0, top).sub_(exact)
        off = off.square_() if power == 2 else off.abs_().pow_(power)
        error = off.sum(1) if importance is None else off @ importance
        error *= tried_scale**power
        better = error < best
        best = torch.where(better, error, best)
        scale = torch.where(better, tried_scale, scale)
        zero = torch.where(better, tried_zero, zero)
    return scale, zero


def fit_groups(
    weight: torch.Tensor,
    group_size: int | None,
    bits: int,
    symmetric: bool,
    clip: str = "none",
    half: bool = False,
    importance: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Grids of all groups of `group_size` columns (the last may be ragged): scale, zero, each (rows, groups)."""
    size = group_size or weight.shape[1]
    parts: Sequence[torch.Tensor | None] = [None] * -(-weight.shape[1] // size)
    if importance is not None:
        parts = importance.split(size)
    pieces = zip(weight.split(size, dim=1), parts, strict=True)
    fitted = [fit_grid(piece, bits, symmetric, clip, half, part) for piece, part in pieces]
    return torch.stack([scale for scale, _ in fitted], 1), torch.stack([zero for _, zero in fitted], 1)

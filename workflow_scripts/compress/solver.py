"""One optimal-brain-surgeon solver for GPTQ, SparseGPT and both together.

min_Q ||W X - Q X||^2 column by column (Frantar et al. 2022, arXiv:2210.17323; 2023, arXiv:2301.00774): with U the
upper Cholesky factor of H^-1, column i is rounded or pruned to q, and e = (w - q) / U_ii is spread over the columns
that are still free, W[:, i:] -= e U[i, i:].

The linears that share an input share H, the factorisation and one loop: their rows are stacked. Inside, weights lie
transposed (columns, rows), so that a column of W is contiguous.
"""

from dataclasses import dataclass

import torch

from workflow_scripts.compress.hessian import inverse_factor
from workflow_scripts.compress.quantizer import Quantized, fit_grid, fit_groups, grid_ends, read_codes
from workflow_scripts.compress.settings import CompressionError, CompressorSettings
from workflow_scripts.compress.tile import Tile, TileSolver

EQUAL = 0.01  # share of equal scores above which they are no coincidence of rounding: in bfloat16 weights it is 0.0005
TILE = 32  # columns updated one by one; the rest of the block follows in one matrix product


@dataclass
class SolvedLinear:
    """One compressed linear: `weight` (rows, columns) in the solver's dtype, its grids if it was quantised."""

    weight: torch.Tensor
    quantized: Quantized | None = None


@dataclass
class Solution:
    linears: list[SolvedLinear]
    damping: float | None = None  # used, not asked for
    dead_columns: int = 0


def solve(
    weights: list[torch.Tensor], H: torch.Tensor, settings: CompressorSettings, half: bool = False
) -> Solution:
    """Compress the weights (rows_k, columns) of linears that share the input with Hessian H (columns, columns).

    Works in H's dtype. `half` rounds grid scales to float16 before they are used. Raises CompressionError for a
    non-finite H or weight, a Cholesky that never succeeds, columns that the n:m pattern doesn't divide.
    """
    stacked = torch.cat([weight.to(H.dtype) for weight in weights])  # (R, C)
    rows = [len(weight) for weight in weights]
    if not torch.isfinite(H).all():
        raise CompressionError("H holds NaN or infinite values; check the calibration activations")
    if not torch.isfinite(stacked).all():
        raise CompressionError("the dense weight holds NaN or infinite values")
    settings.refuse_columns(len(H))

    H = H.clone()
    dead = H.diagonal() == 0
    H.diagonal()[dead] = 1
    order = torch.arange(len(H), device=H.device)
    if settings.act_order:
        order = H.diagonal().argsort(descending=True, stable=True)
        H = H[order][:, order]
    U, damping = inverse_factor(H, settings.damping)
    W = stacked.T.clone()  # (C, R)
    W[dead] = 0
    grids = Grids(stacked, W, U.diagonal(), order, settings, half) if settings.bits else None
    W = W[order]
    Q = _sweep(W, U, rows, grids, settings)

    restore = order.argsort()
    Q = Q[restore].T
    group = grids.group[restore] if grids else None
    linears, start = [], 0
    for count in rows:
        part = slice(start, start + count)
        if grids is None or group is None:
            linears.append(SolvedLinear(Q[part].contiguous()))
        else:
            linears.append(grids.read_back(Q[part], part, group))
        start += count
    return Solution(linears, damping, int(dead.sum()))


def _sweep(
    W: torch.Tensor, U: torch.Tensor, rows: list[int], grids: "Grids | None", settings: CompressorSettings
) -> torch.Tensor:
    """The sweep over columns. W (C, R) is used up; returns Q (C, R), both in processing order."""
    Q = torch.empty_like(W)
    m = settings.n_of_m[1]
    tile, size = TILE // m * m or m, settings.block_size // m * m or m  # of whole m columns
    solve_tile = TileSolver(tile, settings.n_of_m if settings.pattern else None)
    for start in range(0, len(W), size):
        stop = min(start + size, len(W))
        block, E = W[start:stop].clone(), torch.empty_like(W[start:stop])  # (B, R)
        factor = U[start:stop, start:stop]
        mask = None
        if settings.pattern:
            mask = torch.zeros_like(block, dtype=torch.bool)
        elif settings.sparsity is not None:
            scores = (block / factor.diagonal()[:, None]).square().split(rows, dim=1)
            mask = torch.cat([smallest(part, settings.sparsity) for part in scores], 1)
        if grids:
            grids.fit(start, stop, W)
        for first in range(0, stop - start, tile):
            last = min(first + tile, stop - start)
            here, there = slice(first, last), slice(start + first, start + last)
            grid = grids.of_columns(there) if grids else ()
            pruned = None if mask is None else mask[here]
            solve_tile(Tile(block[here], Q[there], E[here], factor[here, here], pruned, grid))
            block[last:].addmm_(factor[here, last:].T, E[here], alpha=-1)
        W[stop:].addmm_(U[start:stop, stop:].T, E, alpha=-1)
    return Q


def smallest(scores: torch.Tensor, sparsity: float) -> torch.Tensor:
    """True at the entries to prune: all up to the (int(n s) + 1)-th smallest of n, inclusive, as in the reference.

    If more than EQUAL of all equal that one, only the first of them are pruned, until int(n s) are: all of them could
    be the whole layer.
    """
    count = int(scores.numel() * sparsity)
    threshold = scores.flatten().kthvalue(count + 1).values
    below, equal = scores < threshold, scores == threshold
    many = equal.sum() > max(1, EQUAL * scores.numel())
    room = torch.where(many, count - below.sum(), equal.sum())
    return below | (equal & (equal.flatten().cumsum(0).view(scores.shape) <= room))


class Grids:
    """Scale and zero of every row and group during the sweep; stored (groups, R) so that a group is contiguous.

    One grid per row is fitted on the untouched weights. Group grids are fitted either all before the sweep, by
    original columns (static), or each when the sweep reaches its first column, by processed columns.
    With clip "hessian" a column's rounding error counts 1 / U_ii^2: what it costs in ||WX - QX||^2 after the columns
    that follow it have made up for it.
    """

    def __init__(
        self,
        untouched: torch.Tensor,
        W: torch.Tensor,
        diagonal: torch.Tensor,
        order: torch.Tensor,
        settings: CompressorSettings,
        half: bool,
    ):
        """untouched (R, C); W (C, R) with dead columns zeroed, not yet reordered; diagonal: of U, as processed."""
        assert settings.bits is not None  # else there are no grids
        self.bits = settings.bits
        self.size = settings.group_size or len(W)
        self.static = settings.static_groups or not settings.group_size
        # Of each column, in processing order: on the device, and on the host.
        self.group = (order if self.static else torch.arange(len(order), device=order.device)) // self.size
        self.groups = self.group.tolist()
        self.options = (self.bits, settings.symmetric, settings.clip, half)
        self.importance: torch.Tensor | None = None  # (C,) as processed
        if settings.clip == "hessian":
            self.importance = diagonal.square().reciprocal()
        if self.static:
            importance = self.importance[order.argsort()] if self.importance is not None else None
            fitted_on = W.T if settings.group_size else untouched
            scale, zero = fit_groups(fitted_on, settings.group_size, *self.options, importance)
            self.scale, self.zero = scale.T.contiguous(), zero.T.contiguous()
        else:
            self.scale = W.new_ones(-(-len(W) // self.size), W.shape[1])
            self.zero = torch.zeros_like(self.scale)
        self.low, self.high = grid_ends(self.zero, self.bits)

    def fit(self, start: int, stop: int, W: torch.Tensor) -> None:
        """Fit the grids of the groups that begin in a block, if they are not static; W (C, R) as updated up to it."""
        if self.static:
            return
        for first in range(-(-start // self.size) * self.size, stop, self.size):
            group, here = first // self.size, slice(first, first + self.size)
            importance = self.importance[here] if self.importance is not None else None
            self.scale[group], self.zero[group] = fit_grid(W[here].T, *self.options, importance)
            self.low[group], self.high[group] = grid_ends(self.zero[group], self.bits)

    def of_columns(self, columns: slice) -> tuple[torch.Tensor, ...]:
        """Scale, smallest and largest value, each (columns, R), of these columns in processing order."""
        groups = self.groups[columns]
        if min(groups) == max(groups):  # a view
            return tuple(
                part[groups[0]].expand(len(groups), -1) for part in (self.scale, self.low, self.high)
            )
        chosen = self.group[columns]
        return tuple(part.index_select(0, chosen) for part in (self.scale, self.low, self.high))

    def read_back(self, Q: torch.Tensor, rows: slice, group: torch.Tensor) -> SolvedLinear:
        """Codes of the rows of Q (rows, columns), which lie on the grids, and the weight that they rebuild."""
        scale, zero = self.scale[:, rows].T.contiguous(), self.zero[:, rows].T.contiguous()
        quantized = read_codes(Q, scale, zero, group, self.bits)
        return SolvedLinear(quantized.dequantize(), quantized)

"""A few columns of the solver's sweep, one by one; on a GPU all of them as one CUDA graph.

A column takes about seven operations on as many numbers as there are rows, which a GPU does faster than a host can
launch them. A graph is launched as a whole.
"""

from dataclasses import dataclass
from itertools import repeat

import torch

Columns = tuple[int, int] | None  # n of each m columns are pruned


@dataclass
class Tile:
    """Tensors of T columns and R rows. w, q and e (T, R): weights, results and errors; factor (T, T).

    mask (T, R) bool is True at what is pruned; grid holds scale, smallest and largest value, each (T, R).
    """

    w: torch.Tensor
    q: torch.Tensor
    e: torch.Tensor
    factor: torch.Tensor
    mask: torch.Tensor | None
    grid: tuple[torch.Tensor, ...] = ()

    def inputs(self) -> list[torch.Tensor]:
        return [self.w, self.factor, *self.grid, *([] if self.mask is None else [self.mask])]

    def solve(self, n_of_m: Columns) -> None:
        """Round or prune the columns of w in turn; each error goes on to the columns behind. Uses up w.

        With `n_of_m` the mask is filled, too: n of each m columns, at the first of them, by what they cost then.
        """
        w, factor, mask = self.w, self.factor, self.mask
        d = factor.diagonal()  # divides as a tensor: a GPU multiplies by the rounded reciprocal of a number
        grid = zip(*(part.unbind() for part in self.grid), strict=True) if self.grid else repeat(())
        columns = zip(w.unbind(), self.q.unbind(), self.e.unbind(), d.unbind(), grid, strict=False)
        for i, (column, q, e, divisor, ends) in enumerate(columns):
            if n_of_m and mask is not None and i % n_of_m[1] == 0:
                here = slice(i, i + n_of_m[1])
                score = (w[here] / d[here, None]).square()
                mask[here].scatter_(0, score.topk(n_of_m[0], dim=0, largest=False).indices, True)
            kept = column if mask is None else column.masked_fill(mask[i], 0)
            if ends:
                scale, low, high = ends
                torch.div(kept, scale, out=q).round_().clamp_(low, high).mul_(scale)
            else:
                q.copy_(kept)
            torch.sub(column, q, out=e).div_(divisor)
            w[i + 1 :].addr_(factor[i, i + 1 :], e, alpha=-1)


class TileSolver:
    """`Tile.solve`. A GPU's first tile of `size` columns is recorded, and replayed for all tiles that follow."""

    def __init__(self, size: int, n_of_m: Columns):
        self.size, self.n_of_m = size, n_of_m
        self.recorded: tuple[Tile, torch.cuda.CUDAGraph] | None = None

    def __call__(self, tile: Tile) -> None:
        if not tile.w.is_cuda or len(tile.w) != self.size:
            tile.solve(self.n_of_m)
            return
        own, graph = self.recorded = self.recorded or self._record(tile)
        for there, here in zip(own.inputs(), tile.inputs(), strict=True):
            there.copy_(here)
        graph.replay()
        tile.q.copy_(own.q)
        tile.e.copy_(own.e)

    def _record(self, like: Tile) -> tuple[Tile, torch.cuda.CUDAGraph]:
        """A graph of memory of its own: it reads and writes the same addresses whenever it is replayed."""
        mask = None if like.mask is None else like.mask.clone()
        w, q, e, factor = (part.clone() for part in (like.w, like.q, like.e, like.factor))
        own = Tile(w, q, e, factor, mask, tuple(part.clone() for part in like.grid))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(like.w.device):  # the stream that is recorded is the current device's
            own.solve(self.n_of_m)  # a kernel is loaded at its first launch, which a recording does not allow
            # The thread alone: others may copy meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                own.solve(self.n_of_m)
        return own, graph

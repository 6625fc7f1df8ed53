"""The compressor slice of config.yaml as one frozen value, with the checks that need more than a schema."""

from dataclasses import dataclass

import torch

from workflow_scripts.kernels.dtypes import DTYPES

OBS = ("gptq", "sparsegpt")  # algorithms that invert the Hessian
CALIBRATED = (*OBS, "wanda", "drop-layers", "recipe")  # algorithms that look at activations
# Algorithms whose result is a whole model with a config.json of its own.
WHOLE = ("drop-layers", "svd", "external", "recipe")
ALGORITHMS = (*OBS, "wanda", "rtn", "magnitude", "dense", *WHOLE)


class CompressionError(RuntimeError):
    """A layer can't be compressed as asked; the message names the linear, the value and a right one."""


@dataclass(frozen=True)
class CompressorSettings:
    """Settings of one compression algorithm. A key that the algorithm doesn't know keeps its neutral value.

    bits, group_size   levels 2^bits on one grid per row (group_size None) or per group_size columns
    symmetric, clip    grid round zero; `mse` searches the clipping range
    act_order          columns in order of falling diag(H); static_groups fixes all group grids before the loop
    sparsity, pattern  share of zeros, or "n:m": n zeros in each m columns
    damping            percdamp: share of mean(diag H) added to the diagonal
    block_size         columns per lazy update and per SparseGPT mask; of an n:m pattern, as many whole m as it holds
    true_sequential    inside a decoder layer, each linear sees the outputs of the compressed ones before it
    forward            precision of the calibration's forward passes, fp32 or bf16; H and the solve are always fp32
    count, layers      decoder layers left out: the most redundant ones, or these
    rank, ratio        of a linear's two factors; part of its weights that they have
    distilled          an external checkpoint need not resemble the dense model
    recipe             llm-compressor's, as its YAML file holds it
    """

    algorithm: str
    bits: int | None = None
    group_size: int | None = None
    symmetric: bool = False
    clip: str = "none"
    act_order: bool = False
    static_groups: bool = False
    sparsity: float | None = None
    pattern: str | None = None
    damping: float = 0.0
    block_size: int = 128
    true_sequential: bool = False
    forward: str = "fp32"
    count: int | None = None
    layers: list[int] | None = None
    rank: int | None = None
    ratio: float | None = None
    distilled: bool = False
    recipe: dict | None = None

    def __post_init__(self) -> None:
        if self.algorithm in ("gptq", "rtn") and self.bits is None:
            raise CompressionError(f"{self.algorithm}: bits is missing; choose 2 to 8")
        if (
            self.algorithm in ("sparsegpt", "magnitude", "wanda")
            and self.sparsity is None
            and not self.pattern
        ):
            raise CompressionError(f"{self.algorithm}: sparsity and pattern are both missing; name one")
        if self.pattern and not 0 < self.n_of_m[0] < self.n_of_m[1]:
            raise CompressionError(f"pattern {self.pattern}: n must lie between 1 and m - 1")
        for algorithm, one, other in (("drop-layers", "count", "layers"), ("svd", "rank", "ratio")):
            if self.algorithm == algorithm and (getattr(self, one) is None) == (getattr(self, other) is None):
                raise CompressionError(f"{algorithm}: give either {one} or {other}")
        if self.pattern and self.act_order:
            raise CompressionError("act_order scatters the m columns of a pattern; choose one of the two")

    @property
    def n_of_m(self) -> tuple[int, int]:
        """(n, m) of pattern "n:m"; (0, 1), which prunes nothing, if unstructured."""
        if not self.pattern:
            return 0, 1
        n, m = (int(part) for part in self.pattern.split(":"))
        return n, m

    def refuse_columns(self, columns: int) -> None:
        """CompressionError for a number of columns that an n:m pattern doesn't divide."""
        if self.pattern and columns % self.n_of_m[1]:
            raise CompressionError(f"{columns} columns are no multiple of the pattern {self.pattern}'s m")

    def refuse_tokens(self, tokens: float, columns: int) -> None:
        """CompressionError for fewer calibration tokens than a linear has inputs, where H must not be singular."""
        if self.algorithm in OBS and tokens < columns:
            raise CompressionError(
                f"{tokens} calibration tokens for {columns} inputs leave H singular; "
                f"calibrate on at least {columns} tokens (calibration: windows x length)"
            )

    @property
    def calibrated(self) -> bool:
        return self.algorithm in CALIBRATED and self.layers is None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and activations in forward passes."""
        return DTYPES[self.forward]

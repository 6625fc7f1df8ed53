"""The baselines that every paper compares with: round to nearest, magnitude, Wanda. No weight is updated."""

import torch

from workflow_scripts.compress.quantizer import fit_groups, read_codes, round_to_grid
from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.compress.solver import SolvedLinear, smallest


def round_to_nearest(weight: torch.Tensor, settings: CompressorSettings, half: bool = False) -> SolvedLinear:
    """Each weight (rows, columns) to the nearest level of its row's or group's grid."""
    columns, bits = weight.shape[1], settings.bits
    assert bits is not None  # a Compressor refuses rtn without
    scale, zero = fit_groups(weight, settings.group_size, bits, settings.symmetric, settings.clip, half)
    group = torch.arange(columns, device=weight.device) // (settings.group_size or columns)
    Q = round_to_grid(weight, scale[:, group], zero[:, group], bits)
    quantized = read_codes(Q, scale, zero, group, bits)
    return SolvedLinear(quantized.dequantize(), quantized)


def magnitude(weight: torch.Tensor, settings: CompressorSettings) -> SolvedLinear:
    """Prune the smallest |w| of the whole layer, by the rule of `smallest`; or n of m."""
    score = weight.abs()
    if settings.pattern:
        return SolvedLinear(weight.masked_fill(_n_of_m(score, settings), 0))
    assert settings.sparsity is not None  # a Compressor has it or a pattern
    return SolvedLinear(weight.masked_fill(smallest(score, settings.sparsity), 0))


def wanda(weight: torch.Tensor, diagonal: torch.Tensor, settings: CompressorSettings) -> SolvedLinear:
    """Prune the int(columns s) smallest |w_ij| ||x_j|| of each row (Sun et al. 2023, arXiv:2306.11695), or n of m.

    `diagonal` (columns,) is diag(H), proportional to ||x_j||^2.
    """
    score = weight.abs() * diagonal.sqrt()
    if settings.pattern:
        return SolvedLinear(weight.masked_fill(_n_of_m(score, settings), 0))
    assert settings.sparsity is not None  # a Compressor has it or a pattern
    pruned = score.argsort(dim=1, stable=True)[:, : int(score.shape[1] * settings.sparsity)]
    return SolvedLinear(weight.scatter(1, pruned, 0))


def _n_of_m(score: torch.Tensor, settings: CompressorSettings) -> torch.Tensor:
    """True at the n smallest of each m columns of score (rows, columns)."""
    (rows, columns), (n, m) = score.shape, settings.n_of_m
    settings.refuse_columns(columns)
    smallest = score.view(rows, -1, m).topk(n, dim=2, largest=False)[1]
    return (
        torch.zeros(rows, columns // m, m, dtype=torch.bool, device=score.device)
        .scatter_(2, smallest, True)
        .view(rows, columns)
    )

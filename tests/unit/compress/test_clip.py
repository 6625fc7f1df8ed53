"""`clip: hessian` against plain loops: one grid, and a solve whose groups' grids are fitted on the way."""

import pytest
import torch

from tests.unit.compress.test_solver import problem
from workflow_scripts.compress.quantizer import fit_grid
from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.compress.solver import solve

TOP = 7  # of 3 bits


def nearest(x, scale, zero):
    return scale * (min(max(round(x / scale) + zero, 0), TOP) - zero)


def loop_grid(row, importance, symmetric=False):
    """(scale, zero): of 20 ranges, from the whole one in steps of 1/25, the one of least sum_j v_j (x_j - q(x_j))^2."""
    low, high = min(0.0, *row), max(0.0, *row)
    if symmetric:
        high = max(-low, high)
        low = -high if low < 0 else low
    best = None
    for step in range(20):
        shrink = 1 - step / 25
        scale = shrink * (high - low) / TOP
        zero = (TOP + 1) // 2 if symmetric else round(-shrink * low / scale)
        error = sum(v * (x - nearest(x, scale, zero)) ** 2 for x, v in zip(row, importance, strict=True))
        if best is None or error < best[0]:
            best = error, scale, zero
    return best[1:]


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_grid_is_that_of_the_least_weighted_error(symmetric):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(24, 40, dtype=torch.float64, generator=draw) ** 3
    importance = torch.rand(40, dtype=torch.float64, generator=draw) ** 4
    scale, zero = fit_grid(x, 3, symmetric, "hessian", importance=importance)
    expected = [loop_grid(row, importance.tolist(), symmetric) for row in x.tolist()]
    torch.testing.assert_close(scale, torch.tensor([s for s, _ in expected], dtype=torch.float64))
    assert zero.tolist() == [z for _, z in expected]
    equal = [loop_grid(row, [1.0] * 40, symmetric) for row in x.tolist()]
    assert sum(a != b for a, b in zip(expected, equal, strict=True)) > 5  # the weighting counts here


@pytest.mark.parametrize("act_order", [False, True])
def test_moving_groups_are_clipped_by_what_their_own_columns_cost(act_order):
    W, H = problem(rows=6)
    H *= torch.linspace(0.2, 5, 72)[:, None] * torch.linspace(0.2, 5, 72)  # costs differ among groups
    settings = CompressorSettings(
        "gptq", bits=3, group_size=24, block_size=24, damping=0.01, clip="hessian", act_order=act_order
    )
    solved = solve([W], H, settings).linears[0]

    order = H.diagonal().argsort(descending=True) if act_order else torch.arange(72)
    damped = (H + 0.01 * H.diagonal().mean() * torch.eye(72))[order][:, order]
    U = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    W, Q, grids = W[:, order].clone(), torch.zeros_like(W), []
    for i in range(72):
        if i % 24 == 0:
            importance = [1 / U[j, j].item() ** 2 for j in range(i, i + 24)]
            grids.append([loop_grid(row, importance) for row in W[:, i : i + 24].tolist()])
        for row, grid in enumerate(grids[-1]):
            Q[row, i] = nearest(W[row, i].item(), *grid)
            W[row, i:] -= (W[row, i] - Q[row, i]) / U[i, i] * U[i, i:]
    torch.testing.assert_close(solved.weight[:, order], Q, rtol=1e-9, atol=1e-9)
    scales = torch.tensor([[scale for scale, _ in group] for group in grids], dtype=torch.float64).T
    torch.testing.assert_close(solved.quantized.scale, scales)

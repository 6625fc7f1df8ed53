"""The solver where the golden data don't reach: properties, ragged groups, joint problems, numerical trouble."""

import pytest
import torch

from workflow_scripts.compress import baselines
from workflow_scripts.compress.hessian import Hessian, inverse_factor, invert_upper, reconstruction_error
from workflow_scripts.compress.quantizer import Quantized, fit_grid, fit_groups, round_to_grid
from workflow_scripts.compress.settings import ALGORITHMS, WHOLE, CompressionError, CompressorSettings
from workflow_scripts.compress.solver import solve
from workflow_scripts.compress.walk import compress_linears

GPTQ = {"algorithm": "gptq", "bits": 3, "damping": 0.01}
SPARSE = {"algorithm": "sparsegpt", "sparsity": 0.5, "damping": 0.01}


def problem(rows=16, columns=72, seed=0):
    """W (rows, columns) and H of correlated inputs, float64."""
    draw = torch.Generator().manual_seed(seed)
    W = torch.randn(rows, columns, dtype=torch.float64, generator=draw)
    X = torch.randn(columns, columns, dtype=torch.float64, generator=draw) @ torch.randn(
        columns, 400, dtype=torch.float64, generator=draw
    )
    return W, 2 * X @ X.T / 400


def test_factor_is_the_upper_cholesky_factor_of_the_inverse():
    _, H = problem()
    U, damping = inverse_factor(H, 0.01)
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(len(H))
    torch.testing.assert_close(U, torch.linalg.cholesky(torch.linalg.inv(damped), upper=True))
    assert damping == 0.01


# Below, just above and twice above the width that is not halved.
@pytest.mark.parametrize("columns", [1, 257, 700])
def test_a_triangle_is_inverted_by_halves(columns):
    draw = torch.Generator().manual_seed(0)
    R = torch.randn(columns, columns, dtype=torch.float64, generator=draw).triu() / columns
    R.diagonal().abs_().add_(1)
    inverse = invert_upper(R)
    torch.testing.assert_close(R @ inverse, torch.eye(columns, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(inverse, inverse.triu())


@pytest.mark.parametrize("columns", [72, 600])
def test_the_error_is_that_of_the_outputs(columns):
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(columns, 900, dtype=torch.float64, generator=draw)
    W, Q = torch.randn(2, 16, columns, dtype=torch.float64, generator=draw)
    error = ((W @ X - Q @ X).square().sum() / (W @ X).square().sum()).item()
    assert reconstruction_error(W, Q, 2 * X @ X.T) == pytest.approx(error, rel=1e-12)


def test_failing_cholesky_grows_the_damping_and_reports_it():
    # Positive definite from damping 0.05 on.
    H = torch.tensor([[1.0, 1.05], [1.05, 1.0]], dtype=torch.float64)
    U, damping = inverse_factor(H, 0.01)
    assert damping == pytest.approx(0.08)
    torch.testing.assert_close(U.T @ U @ (H + 0.08 * torch.eye(2)), torch.eye(2, dtype=torch.float64))


def test_hopeless_cholesky_is_an_error():
    with pytest.raises(CompressionError, match="every doubling up to 1"):
        inverse_factor(torch.tensor([[1.0, 5.0], [5.0, 1.0]]), 0.01)


def test_hessian_is_the_mean_over_sequences_in_any_batching():
    x = torch.randn(6, 5, 300, generator=torch.Generator().manual_seed(1))
    whole, parts = Hessian(300), Hessian(300)
    whole.add_batch(x)
    for part in x.split((1, 3, 2)):
        parts.add_batch(part)
    expected = 2 / 6 * x.flatten(0, 1).double().T @ x.flatten(0, 1).double()
    for hessian in (whole, parts):
        torch.testing.assert_close(hessian.matrix().double(), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(hessian.matrix(), hessian.matrix().T)
    assert (parts.sequences, parts.tokens) == (6, 30)


def test_hessian_refuses_what_it_cannot_use():
    hessian = Hessian(4)
    with pytest.raises(CompressionError, match="no calibration token"):
        hessian.matrix()
    hessian.add_batch(torch.tensor([[[1.0, 2.0, float("nan"), 0.0]]]))
    with pytest.raises(CompressionError, match="NaN"):
        hessian.matrix()


def test_with_uncorrelated_inputs_gptq_is_rounding_to_nearest():
    W, _ = problem()
    settings = CompressorSettings(**GPTQ, group_size=24, static_groups=True)
    ours = solve([W], torch.eye(72, dtype=torch.float64), settings).linears[0].weight
    nearest = baselines.round_to_nearest(W, CompressorSettings("rtn", bits=3, group_size=24)).weight
    assert torch.equal(ours, nearest)


@pytest.mark.parametrize("group_size", [None, 32, 64, 100])
@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("static_groups", [False, True])
def test_weights_lie_on_their_grids_with_any_group_size(group_size, act_order, static_groups):
    W, H = problem()
    settings = CompressorSettings(
        **GPTQ, group_size=group_size, act_order=act_order, static_groups=static_groups
    )
    solved = solve([W], H, settings).linears[0]
    grid = solved.quantized
    assert grid.scale.shape == (16, -(-72 // (group_size or 72)))  # the last group is ragged
    assert grid.group.bincount().max() == min(group_size or 72, 72)
    assert torch.equal(
        solved.weight, grid.scale[:, grid.group] * (grid.codes.double() - grid.zero[:, grid.group])
    )
    assert grid.levels() <= 8
    nearest = baselines.round_to_nearest(W, CompressorSettings("rtn", bits=3, group_size=group_size)).weight
    assert reconstruction_error(W, solved.weight, H) < reconstruction_error(W, nearest, H)


@pytest.mark.parametrize("block_size", [1, 7, 32, 200])
def test_gptq_does_not_depend_on_the_block_size(block_size):
    W, H = problem()
    one = solve([W], H, CompressorSettings(**GPTQ, block_size=128)).linears[0].weight
    other = solve([W], H, CompressorSettings(**GPTQ, block_size=block_size)).linears[0].weight
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        CompressorSettings(**GPTQ, act_order=True),
        CompressorSettings(**GPTQ, group_size=32, clip="mse"),
        CompressorSettings(**SPARSE, block_size=32),
        CompressorSettings(**SPARSE, pattern="2:4"),
        CompressorSettings(**SPARSE, bits=4),
    ],
)
def test_linears_that_share_an_input_are_solved_as_if_alone(settings):
    W, H = problem()
    parts = [W[:5], W[5:6], W[6:]]
    together = solve(parts, H, settings).linears
    for part, solved in zip(parts, together, strict=True):
        alone = solve([part], H, settings).linears[0].weight
        torch.testing.assert_close(solved.weight, alone, rtol=0, atol=1e-12)


def test_sparsity_and_patterns_are_kept_to_with_a_grid_on_top():
    W, H = problem(columns=96)
    half = solve([W], H, CompressorSettings(**SPARSE, block_size=32)).linears[0].weight
    # The reference prunes one entry more than int(n s) per block.
    assert [(part == 0).sum().item() for part in half.split(32, dim=1)] == [257, 257, 257]
    for pattern, n, m in (("2:4", 2, 4), ("4:8", 4, 8), ("1:3", 1, 3), ("5:6", 5, 6)):
        settings = CompressorSettings("sparsegpt", pattern=pattern, damping=0.01, block_size=96, bits=4)
        solved = solve([W], H, settings).linears[0]
        assert ((solved.weight == 0).view(16, -1, m).sum(2) >= n).all()
        assert solved.quantized.levels() <= 16


@pytest.mark.parametrize(("pattern", "block_size"), [("2:4", 30), ("2:3", 128), ("5:9", 32), ("7:36", 8)])
def test_a_pattern_does_not_depend_on_the_block_size(pattern, block_size):
    W, H = problem()
    one, other = (
        solve([W], H, CompressorSettings("sparsegpt", pattern=pattern, damping=0.01, block_size=size))
        .linears[0]
        .weight
        for size in (72, block_size)
    )
    n, m = map(int, pattern.split(":"))
    assert ((other == 0).view(16, -1, m).sum(2) == n).all()
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_dead_columns_are_zeroed_and_counted():
    W, H = problem()
    H[:, [3, 40]] = 0
    H[[3, 40]] = 0
    solution = solve([W], H, CompressorSettings(**GPTQ))
    assert solution.dead_columns == 2
    assert (solution.linears[0].weight[:, [3, 40]] == 0).all()


def test_numerical_trouble_is_named():
    W, H = problem()
    with pytest.raises(CompressionError, match="H holds NaN"):
        solve([W], H * float("inf"), CompressorSettings(**GPTQ))
    with pytest.raises(CompressionError, match="dense weight holds NaN"):
        solve([W * float("nan")], H, CompressorSettings(**GPTQ))
    with pytest.raises(CompressionError, match="72 columns are no multiple of the pattern 3:5's m"):
        solve([W], H, CompressorSettings(**SPARSE, pattern="3:5", block_size=125))


def test_settings_that_make_no_sense_are_refused():
    for settings in (
        {"algorithm": "gptq"},
        {"algorithm": "wanda"},
        {"algorithm": "sparsegpt", "pattern": "4:4"},
    ):
        with pytest.raises(CompressionError):
            CompressorSettings(**settings)
    with pytest.raises(TypeError, match="magic"):
        CompressorSettings("gptq", bits=3, magic=True)


def test_grids_hold_zero_and_survive_empty_and_one_sided_rows():
    x = torch.stack(
        [torch.zeros(8), torch.linspace(1, 2, 8), torch.linspace(-2, -1, 8), torch.linspace(-1, 3, 8)]
    )
    for symmetric in (False, True):
        scale, zero = fit_grid(x, 3, symmetric)
        assert (scale > 0).all() and (zero == zero.round()).all() and (zero >= 0).all() and (zero <= 7).all()
        assert (round_to_grid(torch.zeros(4), scale, zero, 3) == 0).all()
    scale, zero = fit_grid(x, 3, False)
    torch.testing.assert_close(scale, torch.tensor([2.0, 2.0, 2.0, 4.0]) / 7)
    assert zero[1:].tolist() == [0, 7, 2]


def test_half_scales_are_exact_in_float16_unless_they_would_be_subnormal():
    x = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    scale, _ = fit_grid(x, 3, False, "none", True)
    assert torch.equal(scale.half().float(), scale)
    tiny, _ = fit_grid(x * 1e-6, 3, False, "none", True)
    assert (tiny > 0).all() and (tiny < 2**-14).all()


def test_clipping_never_has_the_larger_error_in_its_own_norm():
    x = torch.randn(32, 64, generator=torch.Generator().manual_seed(0)) ** 3
    plain, clipped = (
        (round_to_grid(x, *(part[:, None] for part in fit_grid(x, 3, False, clip)), 3) - x)
        .abs()
        .pow(2.4)
        .sum(1)
        for clip in ("none", "mse")
    )
    assert (clipped <= plain).all() and clipped.sum() < 0.95 * plain.sum()


@pytest.mark.parametrize("group_size", [None, 24])
@pytest.mark.parametrize("static_groups", [False, True])
def test_clipping_by_the_hessian_lowers_the_layer_error(group_size, static_groups):
    W, H = problem(rows=64)
    errors = {}
    for clip in ("none", "mse", "hessian"):
        settings = CompressorSettings(
            **GPTQ,
            group_size=group_size,
            act_order=True,
            static_groups=static_groups,
            clip=clip,
            block_size=24,
        )
        errors[clip] = reconstruction_error(W, solve([W], H, settings).linears[0].weight, H)
    assert errors["hessian"] < errors["none"] and errors["hessian"] < 1.05 * errors["mse"]


def test_ragged_groups_have_grids_of_their_own():
    W, _ = problem()
    scale, zero = fit_groups(W, 32, 3, False)
    assert scale.shape == zero.shape == (16, 3)
    torch.testing.assert_close(scale[:, 2], fit_grid(W[:, 64:], 3, False)[0])


def test_baselines_prune_by_their_scores():
    W = torch.tensor([[4.0, -1.0, 3.0, 2.0], [0.5, 8.0, -7.0, 6.0]])
    everywhere = baselines.magnitude(W, CompressorSettings("magnitude", sparsity=0.25)).weight
    assert everywhere.tolist() == [[4, 0, 3, 0], [0, 8, -7, 6]]  # int(8 * 0.25) + 1 entries
    per_row = baselines.wanda(
        W, torch.tensor([1.0, 100.0, 1.0, 1.0]), CompressorSettings("wanda", sparsity=0.5)
    ).weight
    assert per_row.tolist() == [[4, -1, 0, 0], [0, 8, -7, 0]]
    pattern = baselines.magnitude(W, CompressorSettings("magnitude", pattern="1:2")).weight
    assert pattern.tolist() == [[4, 0, 3, 0], [0, 8, -7, 0]]


def test_rows_of_denormal_weights_are_as_empty_ones():
    W = torch.randn(4, 16)
    W[1] *= 1e-40  # below float32's normal numbers: no step of a grid is one
    scale, zero = fit_grid(W, 8, symmetric=False)
    assert (scale >= torch.finfo(torch.float32).tiny).all()
    assert (round_to_grid(W, scale[:, None], zero[:, None], 8)[1] == 0).all()


def test_levels_are_counted_up_to_all_of_eight_bits():
    codes = torch.arange(300).remainder(256).to(torch.uint8)[None].repeat(2, 1)
    codes[1] = 7
    group = torch.arange(300) // 150
    whole = Quantized(codes, torch.ones(2, 1), torch.zeros(2, 1), torch.zeros(300, dtype=torch.long), 8)
    halves = Quantized(codes, torch.ones(2, 2), torch.zeros(2, 2), group, 8)
    assert (whole.levels(), halves.levels()) == (256, 150)


def test_an_error_that_rounding_makes_negative_is_none():
    """Calibration on one repeated token leaves H with rank 1; a loss outside of it is 0 up to float32's rounding."""
    for seed in range(50):
        random = torch.Generator().manual_seed(seed)
        x, lost = torch.randn(64, generator=random), torch.randn(4, 64, generator=random)
        lost -= (lost @ x)[:, None] * x / (x @ x)
        weight = torch.randn(4, 64, generator=random)
        assert 0 <= reconstruction_error(weight, weight - lost, 2 * torch.outer(x, x)) < 1e-3


@pytest.mark.parametrize("algorithm", sorted({*ALGORITHMS} - {"dense", *WHOLE}))
def test_every_algorithm_has_its_solver_and_no_other_is_taken_in_its_place(algorithm):
    W, H = problem()
    settings = CompressorSettings(
        algorithm, **({"bits": 3} if algorithm in ("gptq", "rtn") else {"sparsity": 0.5})
    )
    W, H = W.float(), H.float() + 0.1 * torch.eye(len(H))
    (solved,) = compress_linears([W], H, settings).linears
    assert (solved.quantized is not None) == (algorithm in ("gptq", "rtn"))
    object.__setattr__(settings, "algorithm", "unheard-of")
    with pytest.raises(CompressionError, match="unheard-of: compress_linears calls no function"):
        compress_linears([W], H, settings)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.7])
def test_a_few_equal_weights_are_pruned_together_as_in_the_reference(share):
    """Weights of a bfloat16 model: some hundred of a layer share each magnitude."""
    draw = torch.Generator().manual_seed(0)
    W = torch.randn(96, 512, generator=draw).bfloat16().float()
    threshold = W.abs().flatten().sort().values[int(W.numel() * share)]
    assert (W.abs() == threshold).sum() > 1
    found = baselines.magnitude(W, CompressorSettings("magnitude", sparsity=share)).weight
    torch.testing.assert_close(found, W.masked_fill(W.abs() <= threshold, 0), rtol=0, atol=0)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.7])
@pytest.mark.parametrize("levels", [[1.0], [-1.0, 1.0], [1.0, 2.0], [0.0, 1.0, 2.0]])
def test_equal_weights_lose_the_asked_share_and_no_more(levels, share):
    """The reference prunes all that equal the threshold: of equal weights the whole layer."""
    W = torch.tensor(levels).repeat(8, 60)
    count = int(W.numel() * share)
    zeros = (W == 0).sum().item()
    found = baselines.magnitude(W, CompressorSettings("magnitude", sparsity=share)).weight
    assert (found == 0).sum().item() == max(count, zeros)
    assert W[found == 0].abs().max() <= W[found != 0].abs().min()
    (solved,) = solve([W], torch.eye(W.shape[1]), CompressorSettings(**SPARSE | {"sparsity": share})).linears
    assert (solved.weight == 0).float().mean().item() == pytest.approx(
        max(share, zeros / W.numel()), abs=0.01
    )

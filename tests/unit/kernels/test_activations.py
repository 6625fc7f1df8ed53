"""Inputs of linears that are rounded while the model runs, against the formulas written out value by value."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.tiny_models import tiny_llama
from workflow_scripts.kernels.activations import KEY, Scheme, attach, attached, rounded

FLOAT8 = sorted(
    {
        value
        for value in torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().tolist()
        if value == value  # no NaN
    }
)
FLOAT4 = sorted({sign * size for sign in (-1, 1) for size in (0, 0.5, 1, 1.5, 2, 3, 4, 6)})
SCHEMES = {
    "W8A8": Scheme("int", 8),
    "W8A8, with zero points": Scheme("int", 8, symmetric=False),
    "W4A4 integers in groups": Scheme("int", 4, group_size=8),
    "FP8": Scheme("float", 8),
    "FP8 in groups": Scheme("float", 8, group_size=16),
    "NVFP4": Scheme("float", 4, group_size=16, scale_type="float8"),
    "MXFP4": Scheme("float", 4, group_size=32, scale_type="power"),
    "MXFP8": Scheme("float", 8, group_size=32, scale_type="power"),
}


def values(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.randn(*shape) * torch.rand(shape[0], *[1] * (len(shape) - 1)).mul(4).exp()


def nearest(grid, value):
    """The grid's value nearest to `value`; of two, that at an even place from 0, whose mantissa is even."""
    best = min(abs(each - value) for each in grid)
    close = [each for each in grid if abs(each - value) == best]
    zero = grid.index(0)
    return next((each for each in close if (grid.index(each) - zero) % 2 == 0), close[0])


def expected(row, scheme, global_scale):
    """One group of values, rounded with a scale of its own, in float32: the largest may lie on a tie."""
    row = [np.float32(value) for value in row]
    if scheme.type == "int":
        low, high = -(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1) - 1
        grid = [float(code) for code in range(low, high + 1)]
    else:
        grid = FLOAT8 if scheme.bits == 8 else FLOAT4
        low, high = grid[0], grid[-1]
    smallest, largest = min(0.0, *row), max(0.0, *row)
    extent, zero = max(-smallest, largest), 0
    if scheme.scale_type == "power":
        exponent = next(e for e in range(-140, 140) if extent < 1.75 * 2.0**e)  # rounded up from 1.75 on
        scale = 2.0 ** (exponent - (8 if scheme.bits == 8 else 2))
    elif scheme.symmetric:
        scale = np.float32(extent) / np.float32((high - low) / 2)
    else:
        scale = np.float32(largest - smallest) / np.float32(high - low)
        zero = round(max(low, min(high, low - smallest / scale)))
    if scheme.scale_type == "float8":
        scale = np.float32(nearest(FLOAT8, scale * np.float32(global_scale))) / np.float32(global_scale)
    codes = [nearest(grid, max(low, min(high, each / np.float32(scale) + np.float32(zero)))) for each in row]
    return [float((code - zero) * scale) for code in codes]


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_each_scheme_is_its_formula(scheme):
    global_scale = 37.0 if scheme.scale_type == "float8" else 1.0
    held = values(6, 96)
    found = rounded(held, scheme, global_scale=global_scale)
    size = scheme.group_size or 96
    groups = held.reshape(-1, size).tolist()
    asked = torch.tensor([expected(group, scheme, global_scale) for group in groups]).reshape(6, 96)
    torch.testing.assert_close(found, asked, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found, held)


def test_a_given_scale_serves_every_token():
    held = values(4, 16)
    found = rounded(held, Scheme("float", 8), scale=0.5)
    assert torch.equal(found, (held / 0.5).clamp(-448, 448).to(torch.float8_e4m3fn).float() * 0.5)
    found = rounded(held, Scheme("int", 8, symmetric=False), scale=0.25, zero=3.0)
    assert torch.equal(found, ((held / 0.25 + 3).clamp(-128, 127).round() - 3) * 0.25)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_zeros_stay_zeros(scheme):
    held = torch.zeros(3, 64)
    assert torch.equal(rounded(held, scheme), held)


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
def test_a_token_does_not_depend_on_its_neighbours(scheme):
    held = values(2, 5, 64)
    together = rounded(held, scheme)
    assert torch.equal(together[1, 3], rounded(held[1, 3][None], scheme)[0])
    assert torch.equal(together, rounded(held.reshape(10, 64), scheme).reshape(2, 5, 64))


def test_columns_that_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="40 columns are no multiple of the group size 16"):
        rounded(values(2, 40), Scheme("float", 4, group_size=16))


def test_half_precision_is_kept():
    assert rounded(values(2, 32).bfloat16(), Scheme("int", 8)).dtype == torch.bfloat16


# ------------------------------------------------------------------------------------------------ models

LINEAR = "model.layers.1.mlp.up_proj"


def with_rounded_inputs(**given):
    model = tiny_llama().eval()
    said = {"schemes": [{"type": "int", "bits": 4}], "linears": {LINEAR: {"scheme": 0, **given}}}
    setattr(model.config, KEY, said)
    return attach(model)


def test_the_named_linear_gets_rounded_inputs_and_no_other():
    model, plain = with_rounded_inputs(), tiny_llama().eval()
    assert attached(model) and not attached(plain)
    seen = {}
    for each in (model, plain):
        for name, module in each.named_modules():
            if isinstance(module, nn.Linear):
                module.register_forward_hook(
                    lambda module, inputs, output, key=(each is model, name): seen.update(
                        {key: (*inputs, output)}
                    )
                )
        with torch.no_grad():
            each(torch.arange(8)[None])
    inputs, output = seen[False, LINEAR]
    got, made = seen[True, LINEAR]
    assert torch.equal(got, rounded(inputs, Scheme("int", 4)))
    assert torch.equal(made, plain.get_submodule(LINEAR)(got)) and not torch.equal(made, output)
    before = "model.layers.1.self_attn.o_proj"
    assert torch.equal(seen[True, before][1], seen[False, before][1])


def test_a_model_without_such_an_entry_is_left_alone():
    assert not attached(attach(tiny_llama()))


def test_gradients_pass_as_if_nothing_were_rounded():
    model = with_rounded_inputs(scale=0.5)
    linear = model.get_submodule(LINEAR)
    held = values(3, linear.in_features).requires_grad_()
    linear(held).sum().backward()
    torch.testing.assert_close(held.grad, linear.weight.sum(0).expand_as(held))

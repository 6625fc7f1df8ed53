"""Three products in bfloat16 against the product in float64: as close as float32's, forward and backward."""

import pytest
import torch
from torch import nn

from tests.pretend_gpus import gpu
from tests.tiny_models import FAMILIES
from workflow_scripts.kernels.exact_linear import exact_linears
from workflow_scripts.recover.prompt_bank import encode

GPU = "cuda:0"


@pytest.fixture
def problem(monkeypatch):
    torch.manual_seed(0)
    linear = nn.Linear(300, 200).to(torch.bfloat16).requires_grad_(False)
    x = torch.randn(2, 7, 300) * torch.logspace(-4, 4, 300)  # of all sizes
    with gpu(monkeypatch):
        yield linear.to(GPU), x.to(GPU).requires_grad_(), torch.randn(2, 7, 200).to(GPU)


def both(linear, x, outer) -> list[torch.Tensor]:
    y = linear(x)
    [gradient] = torch.autograd.grad(y, x, outer)
    return [y.detach().double(), gradient.double()]


def test_a_linear_in_bfloat16_takes_float32_and_is_as_exact_as_float32(problem):
    linear, x, outer = problem
    wide = nn.Linear(300, 200).to(GPU)
    wide.load_state_dict(linear.state_dict())
    of_float32 = both(wide, x, outer)
    exact = both(wide.double(), x.double(), outer.double())
    with exact_linears(linear) as changed:
        assert changed == {linear}
        ours = both(linear, x, outer)
    for found, float32, right in zip(ours, of_float32, exact, strict=True):
        bound = (float32 - right).abs().max()
        assert found.shape == right.shape and 0 < (found - right).abs().max() <= 2 * bound
        # the difference that rounding to bfloat16 alone makes
        assert (right.bfloat16().double() - right).abs().max() > 1e3 * bound


def test_only_frozen_linears_in_bfloat16_without_hooks_are_changed_and_all_come_back(problem):
    linear, x, _ = problem
    hooked, trained, wide = (nn.Linear(300, 200).to(torch.bfloat16).to(GPU) for _ in range(3))
    hooked.requires_grad_(False).forward = hooked.forward
    model = nn.ModuleList([linear, hooked, trained, wide.float().requires_grad_(False)])
    with pytest.raises(ZeroDivisionError), exact_linears(model) as changed:
        assert changed == {linear}
        linear(x)
        raise ZeroDivisionError
    assert "forward" not in vars(linear) and "forward" in vars(hooked)
    with pytest.raises(RuntimeError, match="dtype"):
        linear(x)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_encodes_a_prompt_as_the_processor_does(family, monkeypatch):
    """Keys, values and the prompt's gradient; the processor copies the weights."""
    prompt, found = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)), {}
    with gpu(monkeypatch):
        for device in ("cpu", GPU):
            model = FAMILIES[family]().to(torch.bfloat16).requires_grad_(False).to(device)
            leaf = prompt.clone().to(device).requires_grad_()
            keys, values = encode(model, leaf)
            sum((states.float() ** 2).sum() for states in (*keys, *values)).backward()
            states = torch.cat([states.flatten() for states in (*keys, *values)])
            found[device] = states.detach().float().cpu(), leaf.grad.cpu()
    (states, gradient), (on_gpu, gradient_there) = found["cpu"], found[GPU]
    assert (
        (on_gpu - states).abs() <= 2**-7 * states.abs()
    ).all()  # a last bit where a value lies between two
    torch.testing.assert_close(gradient_there, gradient, rtol=1e-2, atol=1e-3 * gradient.abs().max().item())

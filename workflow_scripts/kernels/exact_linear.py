"""A linear with weights in bfloat16 on inputs in float32, as exact as in float32 and, on a GPU, faster.

A number in float32 is the sum of three in bfloat16, whose products with weights in bfloat16 are exact in float32. So
three such products, summed in float32, stand for the one in float32: a GPU makes no copy of the weights and has tensor
cores for it. PyTorch (`out_dtype` of `torch.mm`) offers it on GPUs alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@contextmanager
def exact_linears(root: nn.Module) -> Iterator[set[nn.Linear]]:
    """Inside, frozen linears of a GPU in bfloat16 below `root` take and give float32. Yields them.

    Not those with a forward pass of their own, as accelerate's hooks between GPUs.
    """
    linears = (module for module in root.modules() if type(module) is nn.Linear)
    changed = {
        module
        for module in linears
        if module.weight.is_cuda
        and module.weight.dtype == torch.bfloat16
        and not (module.weight.requires_grad and torch.is_grad_enabled())
        and "forward" not in vars(module)
    }
    for module in changed:
        vars(module)["forward"] = partial(exact_linear, module.weight, module.bias)
    try:
        yield changed
    finally:
        for module in changed:
            del vars(module)["forward"]


def exact_linear(weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """x (..., in) float32, weight (out, in) bfloat16: x W^T + b (..., out) in float32. Gradients reach x alone."""
    product: Tensor = _Product.apply(x, weight)
    return product if bias is None else product + bias.float()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return in_three(x, weight.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return in_three(gradient, ctx.saved_tensors[0]), None


def in_three(x: Tensor, matrix: Tensor) -> Tensor:
    """x (..., n) float32 times matrix (n, m) bfloat16, in float32."""
    rows = x.reshape(-1, x.shape[-1])
    parts = rows.new_empty(3, *rows.shape, dtype=torch.bfloat16)
    rest = parts[0].copy_(rows)
    for part in parts[1:]:
        rows = rows - rest
        rest = part.copy_(rows)
    products = torch.mm(parts.flatten(0, 1), matrix, out_dtype=torch.float32)
    return products.view(3, len(rows), -1).sum(0).view(*x.shape[:-1], -1)

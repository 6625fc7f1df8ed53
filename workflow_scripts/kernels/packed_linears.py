"""Linear layers over weights that oneDNN has packed, on a CPU.

PyTorch hands float32 products to MKL, which lays the weights out anew at every call. oneDNN over weights that were
packed once is 1.1 to 1.2 times as fast for hundreds of rows on an AMD EPYC (Zen 4), 1.5 times and more for an output
head of 49,152 rows and for few rows at a time, as in generation. The sums are float32 as before, in another order.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

MOST_BYTES = 4 * 2**30  # of packed copies beside the weights: more belongs on an accelerator
NARROWEST = 32  # rows or columns of a weight below which packing gains nothing (LoRA's factors)


class PackedLinears:
    """A model's frozen linear layers on a CPU with packed copies of their weights; none elsewhere, or if too large.

    differentiable: outputs have gradients in the inputs, for which the transposed weights are packed too; layers whose
    own weights want a gradient are left alone.
    """

    def __init__(self, model: nn.Module, differentiable: bool = False):
        kinds = []
        if torch.backends.mkldnn.is_available():
            kinds = [torch.float32] + [torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()
        layers = [
            module
            for module in model.modules()
            if type(module) is nn.Linear
            and "forward" not in vars(module)  # hooks of others, as accelerate's on a model that it spread
            and module.weight.device.type == "cpu"
            and module.weight.dtype in kinds
            and min(module.weight.shape) >= NARROWEST
            and not (differentiable and any(p.requires_grad for p in module.parameters()))
        ]
        copies = 2 if differentiable else 1
        if copies * sum(layer.weight.numel() * layer.weight.itemsize for layer in layers) > MOST_BYTES:
            layers = []
        self._layers = [(layer, _state(layer.weight), _product(layer, differentiable)) for layer in layers]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the model's linear layers use their packed weights.

        RuntimeError if weights were replaced or written to since; a write through `.data` leaves no trace to find.
        """
        if any(state != _state(layer.weight) for layer, state, _ in self._layers):
            raise RuntimeError("the model's weights changed after they were packed; pack them again")
        for layer, _, product in self._layers:
            layer.forward = product  # type: ignore[method-assign]  # of the instance alone
        try:
            yield
        finally:
            for layer, _, _ in self._layers:
                del layer.forward  # the class's own again


def _state(weight: Tensor) -> tuple:
    """A key that changes when a weight is replaced or written to."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


@torch.no_grad()
def _product(layer: nn.Linear, differentiable: bool) -> Callable[..., Tensor]:
    packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight)
    if not differentiable:
        return partial(_multiply, packed, layer.bias)
    transposed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.T.contiguous())
    return lambda states: _Product.apply(states, packed, transposed, layer.bias)


def _multiply(packed: Tensor, bias: Tensor | None, states: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """y = x W^T + b of a frozen layer; the gradient dy W in x alone."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, packed: Tensor, transposed: Tensor, bias: Tensor | None) -> Tensor:
        ctx.transposed = transposed
        return _multiply(packed, bias, states)

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        return _multiply(ctx.transposed, None, outer.contiguous()), None, None, None

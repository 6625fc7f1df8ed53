"""Linear layers over weights that oneDNN has packed, on a CPU.

PyTorch hands float32 products to MKL, which lays the weights out anew at every call. oneDNN over weights that were
packed once is 1.2 times as fast for 400 rows on an AMD EPYC (Zen 4), 1.9 times for an output head of 49,152 rows, and
more for few rows at a time, as in generation. The sums are float32 as before, in another order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

MOST_BYTES = 4 * 2**30  # of packed copies beside the weights: more belongs on an accelerator
NARROWEST = 32  # rows or columns of a weight below which packing gains nothing (LoRA's factors)


class PackedLinears:
    """A model's linear layers on a CPU with packed copies of their weights; none elsewhere, or if too large."""

    def __init__(self, model: nn.Module):
        kinds = []
        if torch.backends.mkldnn.is_available():
            kinds = [torch.float32] + [torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()
        layers = [
            module
            for module in model.modules()
            if type(module) is nn.Linear
            and module.weight.device.type == "cpu"
            and module.weight.dtype in kinds
            and min(module.weight.shape) >= NARROWEST
        ]
        if sum(layer.weight.numel() * layer.weight.itemsize for layer in layers) > MOST_BYTES:
            layers = []
        with torch.inference_mode():
            self._packed = [(layer, *_pack(layer.weight)) for layer in layers]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, the model's linear layers use their packed weights; RuntimeError where weights changed since."""
        if any(state != _state(layer.weight) for layer, _, state in self._packed):
            raise RuntimeError(
                "the model's weights changed after they were packed; pack them again (a new scorer, say)"
            )
        for layer, packed, _ in self._packed:
            layer.forward = partial(_forward, packed, layer.bias)
        try:
            yield
        finally:
            for layer, _, _ in self._packed:
                del layer.forward  # the class's own again


def _pack(weight: torch.Tensor) -> tuple[torch.Tensor, tuple]:
    return torch.ops.mkldnn._reorder_linear_weight(weight), _state(weight)


def _state(weight: torch.Tensor) -> tuple:
    """What changes when a weight is replaced or written to."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _forward(packed: torch.Tensor, bias: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")

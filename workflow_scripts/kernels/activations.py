"""Inputs of linears rounded while the model runs, as compressed-tensors 0.19 does it (W8A8, FP8, NVFP4, MXFP4).

A checkpoint whose makers quantise activations is run so on any device, in the precision of its weights. The gradient
passes as if nothing were rounded (straight through), so that adapters and prompts can be trained.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
KEY = "activation_quantisation"  # of a folder's config.json: {"schemes": [...], "linears": {module: {"scheme", ...}}}
FLOAT8 = torch.float8_e4m3fn
LARGEST = {("float", 8): 448.0, ("float", 4): 6.0}  # of E4M3 and E2M1
EXPONENT = {8: 8, 4: 2}  # floor(log2) of these
# Between neighbours of E2M1's values; a tie goes to the even one.
MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
SMALLEST_SCALE = {"float": torch.finfo(torch.float32).eps, "float8": 0.125}  # in place of 0


@dataclass(frozen=True)
class Scheme:
    """The rounding of a linear's inputs.

    type, bits: int or float (E4M3 with 8 bits, E2M1 with 4). group_size: columns with a scale of their own; None for
    one scale per token, or the given one. symmetric: without a zero point. scale_type: float, float8 (times a global
    scale), or power (of two, microscaling).
    """

    type: str
    bits: int
    group_size: int | None = None
    symmetric: bool = True
    scale_type: str = "float"


def attach(model: Model) -> Model:
    """Round the inputs of every linear that `KEY` of the model's configuration names; the model itself."""
    asked: dict[str, Any] = getattr(model.config, KEY, None) or {"schemes": [], "linears": {}}
    schemes = [Scheme(**scheme) for scheme in asked["schemes"]]
    for name, settings in asked["linears"].items():
        given = {key: value for key, value in settings.items() if key != "scheme"}
        model.get_submodule(name).register_forward_pre_hook(_Rounding(schemes[settings["scheme"]], **given))
    return model


def attached(model: nn.Module) -> bool:
    """True if inputs of any linear of the model are rounded."""
    hooks = (hook for module in model.modules() for hook in module._forward_pre_hooks.values())
    return any(isinstance(hook, _Rounding) for hook in hooks)


class _Rounding:
    """A hook before a linear's forward pass."""

    def __init__(self, scheme: Scheme, **given: float):
        self.scheme, self.given = scheme, given

    def __call__(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (_StraightThrough.apply(inputs[0], self.scheme, self.given), *inputs[1:])


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: torch.Tensor, scheme: Scheme, given: dict[str, float]) -> torch.Tensor:
        return rounded(values, scheme, **given)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return gradients[0], None, None


@torch.no_grad()
def rounded(
    values: torch.Tensor,
    scheme: Scheme,
    scale: float | None = None,
    zero: float = 0.0,
    global_scale: float = 1.0,
) -> torch.Tensor:
    """The values (..., columns) that a linear multiplies with instead of `values`, in their dtype.

    scale, zero: given ones, None for those of each token or group. global_scale: by which float8 scales are larger.
    Computed in float32. ValueError if the columns are no multiple of the group size.
    """
    held = values.float()
    if scheme.group_size:
        if held.shape[-1] % scheme.group_size:
            raise ValueError(
                f"{held.shape[-1]} columns are no multiple of the group size {scheme.group_size}"
            )
        held = held.unflatten(-1, (-1, scheme.group_size))
    low, high = _range(scheme)
    if scale is None:
        factor, offset = _found(held, scheme, global_scale)
    else:
        factor, offset = held.new_tensor(scale), held.new_tensor(zero)
    codes = (held / factor + offset).clamp(low, high)
    if scheme.type == "int":
        codes = codes.round()
    elif scheme.bits == 8:
        codes = codes.to(FLOAT8).float()
    else:
        codes = _to_float4(codes)
    return ((codes - offset) * factor).reshape(values.shape).to(values.dtype)


def _range(scheme: Scheme) -> tuple[float, float]:
    if scheme.type == "int":
        return -(2.0 ** (scheme.bits - 1)), 2.0 ** (scheme.bits - 1) - 1
    largest = LARGEST[scheme.type, scheme.bits]
    return -largest, largest


def _found(held: torch.Tensor, scheme: Scheme, global_scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The scales of tokens or groups, and their zero points."""
    low, high = _range(scheme)
    smallest = held.amin(-1, keepdim=True).clamp(max=0)
    largest = held.amax(-1, keepdim=True).clamp(min=0)
    extent = torch.maximum(-smallest, largest)
    if scheme.scale_type == "power":
        return _power_of_two(extent, scheme.bits), torch.zeros_like(extent)
    scale = extent / ((high - low) / 2) if scheme.symmetric else (largest - smallest) / (high - low)
    offset = torch.zeros_like(scale)
    if not scheme.symmetric:
        offset = torch.nan_to_num(low - smallest / scale, nan=0.0).clamp(low, high).round()
    if scheme.scale_type == "float8":
        limit = LARGEST["float", 8]
        scale = (scale * global_scale).clamp(-limit, limit).to(FLOAT8).float()
    scale = torch.where(scale == 0, SMALLEST_SCALE[scheme.scale_type], scale)
    return scale / global_scale, offset


def _power_of_two(extent: torch.Tensor, bits: int) -> torch.Tensor:
    """Microscaling's scale: the extent's power of two, rounded up from 1.75 on, less the exponent of the type's."""
    mantissa, exponent = torch.frexp(extent)  # mantissa in [0.5, 1)
    power = exponent - 1 + (mantissa >= 0.875).int() - EXPONENT[bits]
    return torch.ldexp(torch.ones_like(extent), power.clamp(-127, 127))


def _to_float4(codes: torch.Tensor) -> torch.Tensor:
    """The nearest value of E2M1; of two equally near ones, that with an even mantissa."""
    size = codes.abs()
    steps = torch.zeros_like(size, dtype=torch.long)
    for place, middle in enumerate(MIDDLES):
        steps += size > middle if place % 2 == 0 else size >= middle
    return codes.new_tensor(VALUES)[steps] * codes.sign()

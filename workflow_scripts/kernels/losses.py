"""Token losses of a linear head without keeping its logits.

A batch of 8 x 256 tokens and a vocabulary of 49,152 makes 400 MB of float32 logits, and as much again for their
gradient. Here the head is applied to a chunk of rows at a time: what survives a chunk is one loss per token and, in
training, the gradient of the hidden states, formed while the chunk's softmax is at hand. The head itself is frozen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

# Logits alive at once: 64 MiB in float32 pass through a processor's cache, 1 GiB fill a GPU.
CHUNK_LOGITS = {"cpu": 2**24, "cuda": 2**28}
# Keys of config.json: by the first ones families multiply their logits, or divide them; tanh of the others caps them.
SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
CAPS = ("final_logit_softcapping", "logits_soft_cap")
PROBE = (-100.0, 100.0)  # logits that show both, and the share that half precision may round off
ROUNDING = 0.01


class ChangedHead(nn.Module):
    """An output layer, and what its model does around it: z = W (before h) + b, then cap tanh(scale z / cap), or
    scale z without a cap."""

    def __init__(self, layer: nn.Linear, before: float, scale: float, cap: float | None):
        super().__init__()
        self.layer, self.before, self.scale, self.cap = layer, before, scale, cap
        self.out_features = layer.out_features

    @property
    def weight(self) -> Tensor:
        return self.layer.weight

    def forward(self, hidden: Tensor) -> Tensor:
        return _changed(self.layer(hidden * self.before), self.scale, self.cap)


Head = nn.Linear | ChangedHead


def _changed(logits: Tensor, scale: float, cap: float | None = None) -> Tensor:
    scaled = logits * scale
    return scaled if cap is None else (scaled / cap).tanh() * cap


def output_head(model: PreTrainedModel) -> Head:
    """The model's output layer, with a scale of its input and a scale and a cap of its logits if the model has them.

    The model itself is asked: by a key of one name Granite divides logits, HyperCLOVA X multiplies them, and MiniCPM 3
    divides the hidden states. ValueError for a layer that is no Linear, and for what no key of config.json explains.
    """
    layer, name = model.get_output_embeddings(), type(model).__name__
    if not isinstance(layer, nn.Linear):
        raise ValueError(f"{name}: the output layer is {type(layer).__name__}, not a plain Linear")
    config = model.config.get_text_config()
    named = [value for key in SCALES if (value := getattr(config, key, None))]
    scales = [1.0, *named, *(1 / value for value in named)]
    caps = [None, *(value for key in CAPS if (value := getattr(config, key, None)))]
    hidden, entered, put, found = _observed(model, layer)
    before = min(scales, key=lambda scale: _difference(_changed(hidden, scale), entered))
    scale, cap = min(product(scales, caps), key=lambda changes: _difference(_changed(put, *changes), found))
    rests = _difference(_changed(hidden, before), entered), _difference(_changed(put, scale, cap), found)
    if max(rests) < ROUNDING:
        return layer if (before, scale, cap) == (1, 1, None) else ChangedHead(layer, before, scale, cap)
    raise ValueError(
        f"{name}: it changes the hidden states before its output layer, or the logits behind it, otherwise than by "
        f"{', '.join((*SCALES, *CAPS))} of config.json, so no adapter of it can be trained"
    )


def _difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@torch.no_grad()
def _observed(model: PreTrainedModel, layer: nn.Linear) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states that are put in place of the decoder's, those that enter the output layer (both (d,)), logits that
    are put in place of the layer's, and the model's own from them (both (V,)).

    float32, on the CPU. No weight enters: one that is NaN is found by the first step.
    """
    entered: list[Tensor] = []
    sizes = (layer.in_features, layer.out_features)
    probes = [torch.linspace(*PROBE, n, device=layer.weight.device, dtype=layer.weight.dtype) for n in sizes]

    def leave(_: nn.Module, __: tuple, output: Any) -> Any:
        output.last_hidden_state = (
            probes[0].to(output.last_hidden_state.device).expand_as(output.last_hidden_state)
        )
        return output

    def enter(_: nn.Module, args: tuple, output: Tensor) -> Tensor:
        entered.append(args[0][0, -1])
        return probes[1].expand_as(output)

    handles = [model.get_decoder().register_forward_hook(leave), layer.register_forward_hook(enter)]
    try:
        logits = model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device)).logits
    finally:
        for handle in handles:
            handle.remove()
    found = (probes[0], entered[0], probes[1], logits[0, -1])
    hidden, before, put, changed = (each.float().cpu() for each in found)
    return hidden, before, put, changed


def _chunks(hidden: Tensor, vocabulary: int) -> Iterator[slice]:
    rows, size = len(hidden), max(1, CHUNK_LOGITS[hidden.device.type] // vocabulary)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def _at_head(hidden: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """hidden (N, d) and targets (N,) where the head is: of a model on several GPUs it need not be where text enters."""
    device = head.weight.device
    return hidden.reshape(-1, hidden.shape[-1]).to(device), targets.reshape(-1).to(device)


def _require_frozen(head: Head) -> None:
    if any(parameter.requires_grad for parameter in head.parameters()):
        raise ValueError("the output layer must be frozen: this loss gives it no gradient")


@torch.no_grad()
def token_losses(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target in nats, float32.

    hidden (..., d), targets (...) -> (...): loss = logsumexp(z) - z[target] with z = head(hidden).
    """
    flat, wanted = _at_head(hidden, head, targets)
    losses = torch.empty(len(flat), dtype=torch.float32, device=flat.device)
    for rows in _chunks(flat, head.out_features):
        logits = head(flat[rows]).float()
        losses[rows] = logits.logsumexp(-1) - logits.gather(1, wanted[rows, None]).squeeze(1)
    return losses.view(targets.shape)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
        gradient = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for rows in _chunks(hidden, head.out_features):
            wanted, part = targets[rows, None], hidden[rows].detach().requires_grad_()
            with torch.enable_grad():
                scores = head(part)
            logits = scores.detach().float()
            lse = logits.logsumexp(-1, keepdim=True)
            total += (lse - logits.gather(1, wanted)).sum(dtype=torch.float64)
            probabilities = logits.sub_(lse).exp_()  # in place: the head's gradient needs no logits
            probabilities.scatter_add_(1, wanted, torch.full_like(lse, -1.0))  # softmax(z) - one_hot(target)
            (gradient[rows],) = torch.autograd.grad(scores, part, probabilities.to(scores.dtype))
        ctx.save_for_backward(gradient)
        return total.float()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer.to(gradient.dtype), None, None


def linear_cross_entropy(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """Sum of the targets' negative log-likelihoods in nats, differentiable in `hidden` alone.

    hidden (..., d), targets (...) -> scalar float32. The gradient (softmax(z) - one_hot) W is made in the forward
    pass. A head that wants a gradient of its own is a ValueError: it would silently get none.
    """
    _require_frozen(head)
    flat, wanted = _at_head(hidden, head, targets)
    return _LinearCrossEntropy.apply(flat, head, wanted)


@dataclass(frozen=True)
class Distillation:
    """Towards another model's next-token distribution.

    head: the teacher's output layer. temperature: T, by which both models' logits are divided. mixture: weight of the
    divergence; the rest is the text's own cross-entropy.
    """

    head: Head
    temperature: float = 1.0
    mixture: float = 1.0


class _LinearDistillation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Head, targets: Tensor, taught: Tensor, wanted: Distillation
    ) -> Tensor:
        gradient = torch.empty_like(hidden)
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        T, mixture = wanted.temperature, wanted.mixture
        for rows in _chunks(hidden, head.out_features):
            part = hidden[rows].detach().requires_grad_()
            with torch.enable_grad():
                scores = head(part)
            theirs = (wanted.head(taught[rows]).float() / T).log_softmax(-1)
            ours = (scores.detach().float() / T).log_softmax(-1)
            p = theirs.exp()
            total += mixture * T**2 * theirs.sub_(ours).mul_(p).sum(dtype=torch.float64)
            wish = ours.exp_().sub_(p).mul_(mixture * T)  # d loss / d logits; in place, as everything here
            if mixture < 1:
                right = targets[rows, None]
                text = scores.detach().float().log_softmax(-1)
                total -= (1 - mixture) * text.gather(1, right).sum(dtype=torch.float64)
                wish.add_(text.exp_(), alpha=1 - mixture)
                wish.scatter_add_(1, right, wish.new_full(right.shape, mixture - 1))
            (gradient[rows],) = torch.autograd.grad(scores, part, wish.to(scores.dtype))
        ctx.save_for_backward(gradient)
        return total.float()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer.to(gradient.dtype), None, None, None, None


def linear_distillation(
    hidden: Tensor, head: Head, targets: Tensor, taught: Tensor, wanted: Distillation
) -> Tensor:
    """Sum over tokens of mixture T^2 KL(p || q) + (1 - mixture) (-log q_1[target]), nats, differentiable in `hidden`.

    p = softmax(teacher's logits / T), q = softmax(logits / T), q_1 at T = 1. hidden, taught (..., d): last hidden
    states of both models; targets (...). Source: Hinton, Vinyals, Dean (2015). ValueError for heads of different
    vocabularies and for a head that wants a gradient of its own.
    """
    _require_frozen(head)
    if head.out_features != wanted.head.out_features:
        raise ValueError(
            f"the model scores {head.out_features} tokens, its teacher {wanted.head.out_features}; "
            "distillation needs one vocabulary"
        )
    flat, right = _at_head(hidden, head, targets)
    theirs, _ = _at_head(taught, head, targets)
    return _LinearDistillation.apply(flat, head, right, theirs, wanted)

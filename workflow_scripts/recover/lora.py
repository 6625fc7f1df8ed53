"""LoRA: y = W x + (alpha / r) B A x with A (r, in) and B (out, r); W frozen. Source: Hu et al. (ICLR 2022)."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import Linear
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from workflow_scripts.compress.decoder import decoder_layers, linears_of
from workflow_scripts.plan import mixtures

ALL_LINEAR = "all-linear"  # of `targets`, as plan/schema/methods.py spells it

# Names of linears that choose a mixture's experts, or weigh one.
ROUTER = re.compile(r"(^|\.)(router|gate|shared_expert_gate)(\.|$)")


def lora_config(method: dict, model: PreTrainedModel) -> LoraConfig:
    """PEFT's configuration. `targets` maps config.model_type (or `default`) to names of decoder linears.

    PEFT trains the targets that it finds and passes over the others; here a target that is no linear of the decoder
    layers is a ValueError, as is one that routes tokens to experts: it is no projection. Embedding and head are none:
    where they are tied, an adapter on one would change both when it is merged, and the head takes no gradient in
    training. The paper prints neither alpha nor dropout nor the layers; docs/explanation/definitions.md says which
    layers give its counts.
    """
    targets, model_type = method["targets"], model.config.model_type
    found = dict.fromkeys(name for layer in decoder_layers(model) for name in linears_of(layer))
    mixture = mixtures.experts(model.config.to_dict()) is not None
    linears = [name for name in found if not (mixture and ROUTER.search(name))]
    chosen = list(targets.get(model_type) or targets["default"])
    if chosen == [ALL_LINEAR]:
        chosen = linears
    if absent := [target for target in chosen if not any(_names(target, name) for name in linears)]:
        raise ValueError(
            f"targets: {model_type} has no linear {', '.join(absent)} in its decoder layers; they have "
            f"{', '.join(linears)}"
        )
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method["rank"],
        lora_alpha=method["alpha"],
        lora_dropout=method["dropout"],
        target_modules=chosen,
        layers_to_transform=method["layers"],
        bias="none",
    )


def require_layers(key: str, named: Iterable[int], model: PreTrainedModel) -> None:
    """ValueError for a layer that the model lacks: PEFT passes over it."""
    count = model.config.num_hidden_layers
    if beyond := [layer for layer in named if not 0 <= layer < count]:
        raise ValueError(f"{key}: {beyond[0]} is not allowed; the model has the layers 0 to {count - 1}")


def _names(target: str, linear: str) -> bool:
    """True if PEFT takes a target's name for this linear: its last parts are the same."""
    return f".{linear}".endswith(f".{target}")


def adapted_linears(adapted: PeftModel) -> dict[str, int]:
    """Last part of a linear's name -> how many linears of that name have factors beside them."""
    modules = (name for name, module in adapted.named_modules() if isinstance(module, LoraLayer))
    return dict(Counter(name.rpartition(".")[2] for name in modules))


def load(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with the trained A and B beside its weights (unmerged), in evaluation mode."""
    return PeftModel.from_pretrained(model, str(folder)).eval()


def merge(recovered: PeftModel) -> PreTrainedModel:
    """The plain model with (alpha / r) B A added to W: the latency of an unmerged adapter is gone."""
    return recovered.merge_and_unload(safe_merge=True)


class _AddLowRank(torch.autograd.Function):
    """y += s x A^T B^T in place: y (N, out), x (N, in), A (r, in), B (out, r).

    The products are those of PEFT's layer, each written so that the long side is read along its rows: with r = 2 a
    processor's matrix product is up to 20 times slower the other way round.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        low = x @ a.T  # (N, r)
        y.addmm_(low, b.T, alpha=scale)
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, low, a, b)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        x, low, a, b = ctx.saved_tensors
        to_low = (outer @ b.T.contiguous().T).mul_(ctx.scale)
        to_b = (low.T @ outer).mul_(ctx.scale).T
        return outer, to_low @ a, to_low.T @ x, to_b, None


def _forward(layer: Linear, adapter: str, x: Tensor) -> Tensor:
    a, b = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    # Flat: autograd can't follow a view of another function's output that changes in place.
    rows = x.flatten(0, -2)
    y = layer.base_layer(rows)
    y = _AddLowRank.apply(y, layer.lora_dropout[adapter](rows), a, b, layer.scaling[adapter])
    return y.view(*x.shape[:-1], -1)


@contextmanager
def added_in_place(adapted: PeftModel) -> Iterator[None]:
    """Inside, LoRA's layers add their share in place; one of another dtype than its base keeps PEFT's forward pass."""
    adapter = adapted.active_adapter
    layers = [
        layer
        for layer in adapted.modules()
        if type(layer) is Linear
        and "forward" not in vars(layer)  # hooks of others, as accelerate's on a model that it spread
        and adapter not in layer.lora_variant  # DoRA and the like compute more than a sum
        and layer.lora_A[adapter].weight.dtype == layer.base_layer.weight.dtype
    ]
    for layer in layers:
        layer.forward = partial(_forward, layer, adapter)  # type: ignore[method-assign]  # of the instance alone
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward

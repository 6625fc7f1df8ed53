"""Methods of PEFT by name (DoRA, IA3, ...): made from PEFT's own configuration classes, run as modules in the model."""

import importlib
import re
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.ln_tuning.layer import LNTuningLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import load_peft_weights, set_peft_model_state_dict
from transformers import PreTrainedModel

from workflow_scripts.compress.decoder import decoder_layers, layer_linears
from workflow_scripts.plan.schema.peft_types import PEFT_TYPES, problems
from workflow_scripts.recover.lora import require_layers

PEFTS_OWN_TARGETS = ("IA3",)  # whose targets are no choice among linears, but part of the method
NAMING = ("target_modules", "exclude_modules", "feedforward_modules")  # options that name modules
# Of PEFT, on options that fit their types and not each other, or not the model.
REFUSALS = (
    *(ArithmeticError, AssertionError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
    re.error,
)


def create(model: PreTrainedModel, method: dict) -> PeftModel:
    """A new adapter of method.peft_type with method.options around the model, in float32.

    ValueError for options of another type than PEFT's class says, or that PEFT refuses; for a target that no decoder
    layer has, or that lies outside of them; for a pattern that decides about no adapted module.
    """
    name, before = method["peft_type"], sums(model)
    try:
        adapted = get_peft_model(model, peft_config(method, model))
    except REFUSALS as error:
        cause = " ".join(str(error).split())
        raise ValueError(f"peft_type {name} with options {method['options']}: {cause}") from error
    require_sound(adapted, before)
    _require_used(adapted, method["options"])
    in_float32(adapted)
    return adapted


def peft_config(method: dict, model: PreTrainedModel) -> PeftConfig:
    """PEFT's configuration of method.peft_type with method.options, by default on all linears of the decoder layers,
    of LN_TUNING on their norms."""
    folder, name, fixed = PEFT_TYPES[method["peft_type"]]
    config = getattr(importlib.import_module(f"peft.tuners.{folder}.config"), name)
    options = method["options"]
    if mistakes := list(problems("method", method["peft_type"], options)):
        raise ValueError("; ".join(mistakes))
    parts = [part for layer in decoder_layers(model) for part, _ in layer.named_modules()]
    for option in NAMING:
        for target in _listed(options.get(option)):
            if not any(f".{part}".endswith(f".{target}") for part in parts):
                raise ValueError(f"options.{option}: no decoder layer of this model has a {target}")
    require_layers("options.layers_to_transform", _listed(options.get("layers_to_transform")), model)
    if "target_modules" not in options and method["peft_type"] == "LN_TUNING":
        options = options | {"target_modules": _norms(model)}
    elif "target_modules" not in options and method["peft_type"] not in PEFTS_OWN_TARGETS:
        linears = {linear for layer in decoder_layers(model) for linear in layer_linears(layer)}
        options = options | {"target_modules": sorted(linears)}
    return config(task_type="CAUSAL_LM", **fixed, **options)


def _norms(model: PreTrainedModel) -> str:
    """A pattern of PEFT's that means the norms of the decoder layers; a norm outside may have the same last name."""
    inside = {id(module) for layer in decoder_layers(model) for module in layer.modules()}
    named = ((name, module) for name, module in model.named_modules() if id(module) in inside)
    return "|".join(re.escape(name) for name, module in named if type(module).__name__.endswith("Norm"))


def _listed(named: Any) -> list:
    return list(named) if isinstance(named, list | tuple | set) else []  # a string is a pattern of PEFT's


def require_sound(adapted: PeftModel, before: dict[str, float]) -> None:
    """ValueError for an adapter outside the decoder layers, or one that changed the weights that it stands on.

    before: `sums` of the model before it was adapted. Embedding and head may be one tensor: an adapter on one would
    change both when it is merged. A changed base would not come back when the adapter is loaded.
    """
    model = cast(PreTrainedModel, adapted.get_base_model())  # PEFT calls any base a Module
    inside = {id(module) for layer in decoder_layers(model) for module in layer.modules()}
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and id(module) not in inside:
            raise ValueError(
                f"options: {name} would be adapted, which lies outside the decoder layers; name other targets"
            )
    after = sums(model)
    if changed := [name for name, total in before.items() if after.get(name) != total]:
        raise ValueError(
            f"options: this start changes the frozen model ({changed[0]}), which no saved adapter keeps"
        )


def _require_used(adapted: PeftModel, options: dict[str, Any]) -> None:
    """ValueError for a key of rank_pattern or the like from which no adapted module takes its value: none has such a
    name, or those that have it take their value from a key before."""
    modules = adapted.get_base_model().named_modules()
    names = [name for name, module in modules if isinstance(module, BaseTunerLayer)]
    for option, given in options.items():
        if option.endswith("_pattern") and isinstance(given, dict):
            before = r".*\." if option == "n_frequency_pattern" else r"(.*\.)?"  # as PEFT matches names
            used = {next((key for key in given if re.match(f"{before}({key})$", name)), "") for name in names}
            if unused := [key for key in given if key not in used]:
                named = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
                raise ValueError(
                    f"options.{option}: no adapted module takes its value from {unused[0]}; adapted are {named}"
                )


@torch.no_grad()
def sums(model: PreTrainedModel) -> dict[str, float]:
    """The sum of every weight, by its name without the parts that PEFT puts in."""
    return {
        name.replace(".base_layer", ""): parameter.sum(dtype=torch.float64).item()
        for name, parameter in model.named_parameters()
    }


def in_float32(adapted: PeftModel) -> bool:
    """Keep every trained parameter in float32, and say whether one was not: those of LN_TUNING, copies of the norms,
    have the type of the frozen model, and steps of a usual size are lost in bfloat16. Such norms compute in float32.
    """
    others = [each for each in adapted.parameters() if each.requires_grad and each.dtype != torch.float32]
    for parameter in others:
        parameter.data = parameter.data.float()
    for module in adapted.modules() if others else ():
        if isinstance(module, LNTuningLayer):
            dtype = module.get_base_layer().get_parameter("weight").dtype
            for norm in module.ln_tuning_layers.values():
                norm.register_forward_pre_hook(lambda _, inputs: tuple(each.float() for each in inputs))
                norm.register_forward_hook(lambda _, inputs, found, dtype=dtype: found.to(dtype))
    return bool(others)


def load(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with a saved adapter as modules beside its weights, in evaluation mode; the adapter in float32."""
    adapted = PeftModel.from_pretrained(model, str(folder), is_trainable=True)
    if in_float32(adapted):  # what PEFT has rounded
        set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device="cpu"))
    return adapted.requires_grad_(False).eval()

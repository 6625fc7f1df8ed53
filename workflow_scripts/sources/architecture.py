"""Whether cells of a model can be evaluated, and methods applied to it, as its class in transformers tells."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.sources.model_folder import UNBUILT, unbuilt

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

# Norms of queries and keys that IDP's scores know, as names of an attention's modules.
NORMS = "q_norm", "k_norm"


def unscorable(folder: Path) -> str | None:
    """Why no cell of a model can be evaluated, in words, as its class tells; None if it doesn't."""
    return limits(folder)[0]


def limits(folder: Path) -> tuple[str | None, dict[str, str]]:
    """Why no cell of a model can be evaluated, in words; and kind of method -> why it can't have one. None and {}, if
    its class tells of nothing.

    Rows of many documents are packed through transformers' pluggable attention, which older classes lack. Prompts stand
    before the input of the decoder, whose output training reads: it must be a module of its own. Of a model that reads
    images too, config.json holds the decoder's widths, windows and positions in a part of its own, which no check of a
    configuration reads.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    from workflow_scripts.kernels.attention_asked import unpackable

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    made: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if made is None:
        return f"transformers has no causal language model for {config.model_type}", {}
    if not getattr(made, "_supports_attention_backend", False):
        return (
            f"{made.__name__} has no pluggable attention (transformers' AttentionInterface), which packed rows need",
            {},
        )
    if (text := config.get_text_config(decoder=True)) is not config:
        return (
            f"its decoder ({text.model_type}) is a part of a model with other inputs ({config.model_type}); save the "
            "language model alone, with a config.json of its own",
            {},
        )
    try:
        with torch.device("meta"):
            # A maker's own attention (flash_attention_2) may need a library that nothing here uses.
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    except UNBUILT as error:
        return unbuilt(error), {}
    decoder, embeddings = model.get_decoder(), model.get_input_embeddings()
    if decoder is model or not any(module is embeddings for module in decoder.modules()):
        return (
            f"{made.__name__} has no decoder of its own (`get_decoder`), before which prompts would stand",
            {},
        )
    cache = DynamicCache()
    return unpackable(model, cache), _unfit(model, cache)


def _unfit(model: "PreTrainedModel", cache: "DynamicCache") -> dict[str, str]:
    """Kind of method -> why `model` can't have one. cache: keys and values of a pass, if one went to its end."""
    found = {"idp": _unselectable(model), "prefix": _unprefixed(cache)}
    if getattr(model.config, "hidden_size_per_layer_input", None):
        found["prompt"] = (
            "its layers read embeddings of their own of each token, and a prompt's vectors are of none"
        )
    return {kind: reason for kind, reason in found.items() if reason}


def _unselectable(model: "PreTrainedModel") -> str | None:
    """The difference of the first layer from those that recover/idp.py reads (OPT's are known from config.json)."""
    decoder: Any = model.get_decoder()
    if model.config.model_type == "opt":
        return None
    if not (hasattr(decoder, "layers") and hasattr(decoder, "rotary_emb")):
        return "its positions are neither rotary nor OPT's learned ones"
    layer = decoder.layers[0]
    attention: Any = getattr(layer, "self_attn", None)
    if not all(hasattr(attention, name) for name in ("q_proj", "k_proj", "head_dim")):
        return "its first layer has no attention with query and key projections of their own"
    if not hasattr(layer, "input_layernorm"):
        return "its first layer has no norm before its attention"
    if hasattr(attention, "rotary_ndims"):
        return "its first layer rotates only a part of each head, which its attention cuts off itself"
    norms = {name: module for name, module in attention.named_children() if "norm" in name}
    own = (attention.head_dim,)
    if strange := [
        name
        for name, norm in norms.items()
        if name.startswith(("q", "k"))
        and (name not in NORMS or any(w.shape != own for w in norm.parameters()))
    ]:
        return f"its first layer norms queries and keys otherwise than by {NORMS} of each head ({strange[0]})"
    return None


def _unprefixed(cache: "DynamicCache") -> str | None:
    """Why no trained keys and values can stand before a text: PEFT has one shape of them, of all layers."""
    kept = [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    if len({part.shape[1::2] for part in kept if part is not None}) > 1:
        return "its keys and values, or those of its layers, differ in heads or in width"
    return None

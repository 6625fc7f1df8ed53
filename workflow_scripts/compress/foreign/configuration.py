"""Settings of a checkpoint's config.json that change its answers, and no shape: none of them is seen in its weights."""

import math
from typing import Any

SETTINGS = (
    "model_type",
    *(
        "hidden_act",
        "hidden_activation",
        "activation_function",
        "rms_norm_eps",
        "layer_norm_eps",
        "layer_norm_epsilon",
    ),
    *("rope_parameters", "rope_theta", "rope_scaling", "partial_rotary_factor", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "sliding_window", "layer_types", "query_pre_attn_scalar"),
    *("attn_logit_softcapping", "final_logit_softcapping", "logits_scaling", "embedding_multiplier"),
    *("attention_multiplier", "residual_multiplier"),
)
TIED = "tie_word_embeddings"
PRECISION = 1e-6  # of float32, in which GGUF files keep them


def other_settings(dense: dict[str, Any], held: dict[str, Any]) -> list[str]:
    """Names of SETTINGS in which two configurations of one architecture differ, as transformers reads them.

    Layer types of another depth are no difference: a shallower model has fewer. Nor is a head that was untied, which is
    stored; one that was tied is: the embeddings stand in its place.
    """
    names = [name for name in SETTINGS if name in dense or name in held]
    if dense.get("num_hidden_layers") != held.get("num_hidden_layers"):
        names = [name for name in names if name != "layer_types"]
    others = [name for name in names if not _equal(dense.get(name), held.get(name))]
    return [*others, TIED] if held.get(TIED) and dense.get(TIED) is False else others


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=PRECISION)
    return bool(a == b)

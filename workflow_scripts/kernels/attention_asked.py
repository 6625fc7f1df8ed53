"""A pass without numbers, on the meta device: how a model's layers ask for their attention.

Packed rows (evaluate/block_attention.py) reach a model through transformers' pluggable attention alone. A layer that
takes none, or more than softmax(q k^T), makes every cell fail; so it is known once the model is fetched.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel

NAME = "asked"
# Options of an attention beside weighing by softmax(q k^T), as transformers' layers pass it on.
MORE = ("softcap", "s_aux", "position_bias")
TOKENS = 3  # of a pass

# Of each attention that was asked for: its class, its special options, and if its tokens see none ahead.
_asked: list[tuple[str, list[str], bool]] = []


def _ask(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, **options: Any
) -> tuple[Tensor, None]:
    """query (B, heads, T, d), value (B, kv_heads, S, e) -> (B, T, heads, e), empty."""
    _asked.append((type(module).__name__, special_options(options), getattr(module, "is_causal", True)))
    return query.new_empty(len(query), query.shape[2], query.shape[1], value.shape[-1]), None


AttentionInterface.register(NAME, _ask)


def special_options(options: dict) -> list[str]:
    """Names of the options that make an attention more than softmax(q k^T)."""
    return [name for name in MORE if options.get(name) is not None]


@torch.no_grad()
def unpackable(model: PreTrainedModel, cache: DynamicCache) -> str | None:
    """Why rows of many documents can't be packed for a model on the meta device, in words; None if a pass doesn't tell.

    Two passes: over a text, and over the next tokens behind its cached keys, as behind a prompt. `cache`, an empty one,
    takes up keys and values. A pass that depends on values (experts that are looped over) ends without an answer.
    """
    config, name = model.config, type(model).__name__
    layers = config.get_text_config(decoder=True).num_hidden_layers
    usual, config._attn_implementation = config._attn_implementation, NAME
    if model._can_set_experts_implementation():
        model.set_experts_implementation("batched_mm")  # whose shapes no value decides
    _asked.clear()
    try:
        for start in (0, TOKENS):
            positions = torch.arange(start, start + TOKENS, device="meta")[None]
            model(input_ids=positions, position_ids=positions, past_key_values=cache, use_cache=True)
    except NotImplementedError:  # of torch, for an operation on the meta device
        return None
    except (RuntimeError, AttributeError, LookupError, TypeError, ValueError) as error:
        if "meta tensors" in str(error):
            return None
        ended = f"{type(error).__name__}: {error}"
        return f"{name} can't read packed rows: a pass over {TOKENS} tokens, with a cache, ends in {ended}"
    finally:
        config._attn_implementation = usual
    for attention, special, causal in _asked:
        if special:
            return f"{attention} attends with {', '.join(special)}, which packed rows don't implement"
        if not causal:
            return f"{attention} attends to tokens ahead, so {name} predicts no next token"
    if (asked := len(_asked) // 2) < layers:
        return (
            f"{asked} of the {layers} layers of {name} have pluggable attention (transformers' AttentionInterface), "
            "which packed rows need: the others mix neighbouring tokens by other means"
        )
    return None

"""Every soft prompt as a prefix of keys and values that stands before the text.

A prompt of n vectors is encoded alone at positions 0..n-1, once; the text starts at position n, as in training.
In a causal model the prompt's keys and values don't depend on the text, so attending to the cached ones is exact.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin

from workflow_scripts.kernels.exact_linear import exact_linears
from workflow_scripts.plan.first_layer import one_rotary_table

# First tokens of a window that LoRA, and its teacher, read in float32 if the model is in bfloat16: on SmolLM2-135M the
# cosine of LoRA's gradient to the exact one is 0.88 without, 0.72 with one, 0.9993 to 0.9996 with two, four and eight.
OPENING = 8


@dataclass(frozen=True)
class Prefix:
    """Keys and values of one prompt; a list over layers of (1, kv_heads, n, head_dim), position-encoded."""

    name: str
    keys: list[Tensor]
    values: list[Tensor]

    @property
    def length(self) -> int:
        return self.keys[0].shape[2]


def encode(model: PreTrainedModel, embeddings: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values of `embeddings` (n, d) run alone through the decoder at positions 0..n-1.

    Returns two lists over layers of (1, kv_heads, n, head_dim) in the model's dtype. Gradients reach `embeddings`
    if wanted.
    """
    _, keys, values = exact_pass(model, embeddings[None])
    return keys, values


def exact_pass(model: PreTrainedModel, embeddings: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run `embeddings` (B, n, d) through the decoder from position 0 in float32, whatever the weights are stored in.

    Returns the last hidden states (B, n, d), and keys and values, two lists over layers of (B, kv_heads, n, head_dim),
    all in the model's dtype. In a window's first positions activations are so large that in bfloat16 the gradient of
    what stands or works there turns away: on SmolLM2-135M a prompt's has cosine 0.87 to the exact one, 0.9996 like this
    with the text behind it still in bfloat16.
    """
    decoder, cache = model.get_decoder(), DynamicCache()
    with in_float32(decoder):
        output = decoder(inputs_embeds=embeddings.float(), past_key_values=cache, use_cache=True)
    keys = [keys.to(model.dtype) for keys, _ in keys_values(cache)]
    values = [values.to(model.dtype) for _, values in keys_values(cache)]
    return output.last_hidden_state.to(model.dtype), keys, values


def behind_opening(model: PreTrainedModel, rows: Tensor, read: Callable[..., Tensor]) -> Tensor:
    """Last hidden states (B, T, d) of rows (B, T): of the first OPENING tokens by `exact_pass`, of the others by
    read(rows, keys, values) behind these."""
    opening, keys, values = exact_pass(model, model.get_input_embeddings()(rows[:, :OPENING]))
    others = rows[:, OPENING:]
    return torch.cat([opening, read(others, keys, values)], dim=1) if others.numel() else opening


def keys_values(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    """Keys and values (B, kv_heads, T, head_dim) of each layer of a cache that a pass has filled.

    ValueError for a layer without any: it keeps other states than attention's.
    """
    found = []
    for layer in cache.layers:
        if not isinstance(layer, CacheLayerMixin) or layer.keys is None or layer.values is None:
            raise ValueError(f"a cached {type(layer).__name__} holds no keys and values")
        found.append((layer.keys, layer.values))
    return found


@contextmanager
def in_float32(decoder: Module) -> Iterator[None]:
    """Inside, each module of `decoder` works with a float32 copy of its own weights, made and dropped call by call.

    Autograd keeps the weight that a copy was made from, so that never more than a module's copy exists. A GPU's linears
    need no copy (`exact_linear`).
    """
    made: dict[int, Parameter] = {}  # by the copy's storage

    def enter(module: Module, args: tuple) -> None:
        for name, weight in module.named_parameters(recurse=False):
            copy = weight.float()
            made[copy.untyped_storage().data_ptr()] = weight
            module._parameters[name] = cast(Parameter, copy)

    def leave(module: Module, args: tuple, output: object) -> None:
        for name, copy in module._parameters.items():
            if copy is not None:
                module._parameters[name] = made.pop(copy.untyped_storage().data_ptr())

    def keep(tensor: Tensor) -> Tensor | tuple:
        weight = made.get(tensor.untyped_storage().data_ptr())
        if (
            weight is None
        ):  # detached: a node that kept its own output would never be freed without a backward pass
            return tensor.detach()
        return weight, tensor.size(), tensor.stride(), tensor.storage_offset()

    def give(kept: Tensor | tuple) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        weight, *view = kept
        return weight.detach().float().as_strided(*view)

    hooks = []
    with exact_linears(decoder) as exact:
        for module in decoder.modules():
            own = module.parameters(recurse=False)
            if module not in exact and any(weight.dtype != torch.float32 for weight in own):
                hooks.append(module.register_forward_pre_hook(enter))
                hooks.append(module.register_forward_hook(leave, always_call=True))
        saved = torch.autograd.graph.saved_tensors_hooks(keep, give) if hooks else nullcontext()
        try:
            with saved:
                yield
        finally:
            for hook in hooks:
                hook.remove()


def expanded_cache(keys: Sequence[Tensor], values: Sequence[Tensor], batch: int) -> DynamicCache:
    """A fresh cache that shows the same prefix to `batch` rows; the call that uses it changes only the cache."""
    return DynamicCache(
        [(k.expand(batch, -1, -1, -1), v.expand(batch, -1, -1, -1)) for k, v in zip(keys, values)]
    )


def learned_positions(model: PreTrainedModel) -> int | None:
    """Positions a model with learned position embeddings has (OPT: 2,048); None for rotary models.

    ValueError for position embeddings of another kind (XGLM's), behind which no cached prompt is known to be exact.
    """
    table = getattr(model.get_decoder(), "embed_positions", None)
    if table is None:
        return None
    if not (hasattr(table, "num_embeddings") and hasattr(table, "offset")):
        raise ValueError(
            f"{type(model).__name__}: soft prompts can't stand before its text: its position embeddings are neither "
            "rotary nor learned as OPT's"
        )
    return table.num_embeddings - table.offset


def positions_behind_prompts(model: PreTrainedModel) -> int | None:
    """Positions that a prompt and the text behind its cached keys may have: the learned ones, or those up to which a
    rotary table is one and the same (longrope, dynamic); None for all others."""
    learned = learned_positions(model)
    return one_rotary_table(model.config.get_text_config().to_dict()) if learned is None else learned


class PromptBank:
    """The prefixes among which one is chosen per document. Nothing that is done with the bank changes it."""

    def __init__(self, prefixes: Sequence[Prefix], positions: int | None = None):
        """`positions`: how many prompt and text may have, if there is a limit (`positions_behind_prompts`)."""
        if not prefixes:
            raise ValueError("a prompt bank needs at least one prefix")
        names = [prefix.name for prefix in prefixes]
        if len(set(names)) < len(names):
            raise ValueError(f"prefixes of one bank need different names, not {names}")
        self.prefixes = tuple(prefixes)
        self.positions = positions

    def __len__(self) -> int:
        return len(self.prefixes)

    def cache(self, index: int, batch: int, text_length: int = 0) -> DynamicCache:
        """A fresh cache of prefix `index` for `batch` rows of up to `text_length` tokens (generated ones included).

        The text's positions start at `prefixes[index].length`. ValueError if they would run out.
        """
        self.require_room(index, text_length)
        prefix = self.prefixes[index]
        return expanded_cache(prefix.keys, prefix.values, batch)

    def require_room(self, index: int, text_length: int) -> None:
        """ValueError if prefix `index` and `text_length` tokens exceed the bank's positions."""
        prefix = self.prefixes[index]
        if self.positions is not None and prefix.length + text_length > self.positions:
            raise ValueError(
                f"{prefix.name}: {prefix.length} prompt positions + {text_length} text tokens exceed the model's "
                f"{self.positions} positions (learned, or of one rotary table: longrope, dynamic); cut the text to "
                f"{max(0, self.positions - prefix.length)} tokens"
            )

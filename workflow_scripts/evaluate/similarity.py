"""Figure 5: how close a cell's attention and token activations stay to the dense model's, layer by layer.

Both models read the same held-out windows, one at a time and in lockstep: only one layer's attention and activations
of either exist. Attention (heads, T, T) is taken over text tokens: a soft prompt's columns are removed and each row is
divided by what remains, so that the share which the prompt attracts doesn't count. Similarities are cosines: of each
head's whole matrix, averaged over heads and windows; of each token's output of the layer, averaged over tokens.
"""

from collections.abc import Iterator
from functools import partial

import torch
from transformers import DynamicCache

from workflow_scripts.compress.decoder import decoder_layers
from workflow_scripts.evaluate.block_attention import CausalModel
from workflow_scripts.recover.prompt_bank import PromptBank

ATTENTION = ("self_attn", "attn", "attention", "self_attention")  # names of a layer's attention
AGREEMENT = 1e-4  # by which the layers, called one by one, may differ from the model's own pass
CACHES = ("past_key_values", "past_key_value", "layer_past")  # names under which layers get the cache


def layer_states(
    model: CausalModel, window: list[int], bank: PromptBank | None = None, prompt: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Per decoder layer: attention over text (H, T, T), rows summing to 1, and the layer's output (T, d), float64.

    The model must use eager attention (`model.set_attn_implementation("eager")`), which alone returns its weights. It
    runs as a whole first, which shows what it gives to each of its layers (masks and rotary tables differ between the
    layers of some models), then layer by layer with just that. ValueError for a model that is more than its layers.
    """
    prefix = bank.prefixes[prompt].length if bank is not None else 0

    def cache() -> DynamicCache | None:
        return bank.cache(prompt, 1, len(window)) if bank is not None else None

    layers = decoder_layers(model)
    calls: list = []  # of `_keep_call`, and the last layer's output
    handles = [
        layer.register_forward_pre_hook(partial(_keep_call, calls), with_kwargs=True) for layer in layers
    ]
    handles.append(
        layers[-1].register_forward_hook(lambda module, args, output: calls.append(_hidden(output)))
    )
    try:
        model(
            input_ids=torch.tensor([window], device=model.device),
            position_ids=torch.arange(prefix, prefix + len(window), device=model.device)[None],
            past_key_values=cache(),
            use_cache=bank is not None,
        )
    finally:
        for handle in handles:
            handle.remove()
    *calls, last = calls
    hidden, again = calls[0][0], cache()
    for layer, (_, args, kwargs) in zip(layers, calls, strict=True):
        found: list[torch.Tensor | None] = []
        handle = _attention(layer).register_forward_hook(partial(_keep_weights, found))
        try:
            hidden = _hidden(
                layer(hidden, *args, **kwargs | {k: again for k in CACHES if kwargs.get(k) is not None})
            )
        finally:
            handle.remove()
        if not found or found[0] is None:
            raise ValueError(
                f"{type(model).__name__}: its attention gives no weights, which figure 5 compares"
            )
        text = found[0][0, :, :, prefix:].double()  # (H, T, T)
        yield text / text.sum(-1, keepdim=True).clamp(min=torch.finfo(text.dtype).tiny), hidden[0].double()
    if not torch.allclose(
        hidden, last.to(hidden.device), rtol=AGREEMENT, atol=AGREEMENT * float(last.abs().max())
    ):
        raise ValueError(
            f"{type(model).__name__} does more than call its layers in turn: figure 5 can't follow it"
        )


def _keep_call(calls: list, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
    """(hidden states of the first layer alone, further arguments, named ones): later layers get their own."""
    kwargs = dict(kwargs)
    hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
    calls.append((None if calls else hidden, args, kwargs))


def _hidden(output: torch.Tensor | tuple) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def _keep_weights(found: list, module: torch.nn.Module, args: tuple, output: torch.Tensor | tuple) -> None:
    found.append(output[1] if isinstance(output, tuple) else None)


def _attention(layer: torch.nn.Module) -> torch.nn.Module:
    """The self-attention of a decoder layer: its child of one of the usual names; ValueError if it has none."""
    for name, child in layer.named_children():
        if name in ATTENTION:
            return child
    raise ValueError(f"{type(layer).__name__} has no attention of a known name ({', '.join(ATTENTION)})")


@torch.inference_mode()
def layer_similarities(
    dense: CausalModel,
    model: CausalModel,
    windows: list[list[int]],
    bank: PromptBank | None = None,
    prompts: list[int] | None = None,
) -> tuple[list[float], list[float]]:
    """(attention, activations): two lists over layers of mean cosines between `model` and `dense`.

    prompts: index of the bank's prompt for each window. Equal models without a prompt give 1.
    """
    counts = [len(decoder_layers(each)) for each in (dense, model)]
    if counts[0] != counts[1]:
        raise ValueError(
            f"figure 5 compares layer by layer, and the models have {counts[0]} and {counts[1]} layers"
        )
    for each in (dense, model):
        each.set_attn_implementation("eager")
    cosine = torch.nn.functional.cosine_similarity
    attention, activations = [], []
    for n, window in enumerate(windows):
        pairs = zip(
            layer_states(dense, window),
            layer_states(model, window, bank, prompts[n] if prompts else 0),
            strict=True,
        )
        rows = [
            (
                float(cosine(a.flatten(1), b.to(a.device).flatten(1), dim=-1).mean()),
                float(cosine(x, y.to(x.device), dim=-1).mean()),
            )
            for (a, x), (b, y) in pairs
        ]
        attention.append([row[0] for row in rows])
        activations.append([row[1] for row in rows])
    return _layer_means(attention), _layer_means(activations)


def _layer_means(values: list[list[float]]) -> list[float]:
    """[window][layer] -> mean per layer."""
    return [sum(layer) / len(values) for layer in zip(*values, strict=True)]

"""Figure 5: how close a cell's attention and token activations stay to the dense model's, layer by layer.

Both models read the same held-out windows, one at a time and in lockstep: only one layer's attention and activations
of either exist. Attention (heads, T, T) is taken over text tokens: a soft prompt's columns are removed and each row is
divided by what remains, so that the share which the prompt attracts doesn't count. Similarities are cosines: of each
head's whole matrix, averaged over heads and windows; of each token's output of the layer, averaged over tokens.
"""

from collections.abc import Iterator
from functools import partial

import torch

from workflow_scripts.compress.decoder import decoder_layers
from workflow_scripts.evaluate.attention import additive


class _Entered(Exception):
    """Carries what the first decoder layer was called with."""


def layer_states(
    model, window: list[int], bank=None, prompt: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Per decoder layer: attention over text (H, T, T), rows summing to 1, and the layer's output (T, d), float64.

    The model must use eager attention (`model.set_attn_implementation("eager")`), which alone returns its weights.
    """
    prefix = bank.prefixes[prompt].length if bank is not None else 0
    cache = bank.cache(prompt, 1) if bank is not None else None
    ids = torch.tensor([window], device=model.device)
    causal = torch.ones(1, len(window), len(window), dtype=torch.bool, device=model.device).tril()
    layers = decoder_layers(model)

    def enter(module, args, kwargs):
        hidden = args[0] if args else kwargs.pop("hidden_states")
        raise _Entered(hidden, args[1:], kwargs)

    handle = layers[0].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        model(
            input_ids=ids, position_ids=torch.arange(prefix, prefix + len(window), device=model.device)[None],
            attention_mask=additive(causal, prefix, model.dtype), past_key_values=cache, use_cache=cache is not None,
        )  # fmt: skip
    except _Entered as entered:
        hidden, args, kwargs = entered.args
    finally:
        handle.remove()
    for layer in layers:
        found = []
        handle = _attention(layer).register_forward_hook(partial(_keep_weights, found))
        try:
            output = layer(hidden, *args, **kwargs)
        finally:
            handle.remove()
        hidden = output[0] if isinstance(output, tuple) else output
        text = found[0][0, :, :, prefix:].double()  # (H, T, T)
        yield text / text.sum(-1, keepdim=True).clamp(min=torch.finfo(text.dtype).tiny), hidden[0].double()


def _keep_weights(found: list, module, args, output) -> None:
    found.append(output[1])


def _attention(layer: torch.nn.Module) -> torch.nn.Module:
    """The self-attention of a decoder layer: its child that is named so (self_attn, attn, attention)."""
    return next(child for name, child in layer.named_children() if "attn" in name or "attention" in name)


@torch.inference_mode()
def layer_similarities(dense, model, windows: list[list[int]], bank=None, prompts: list[int] | None = None):
    """(attention, activations): two lists over layers of mean cosines between `model` and `dense`.

    prompts: index of the bank's prompt for each window. Equal models without a prompt give 1.
    """
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

"""Greedy generation that costs what it must: rows that have stopped leave the batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from workflow_scripts.evaluate.attention import additive
from workflow_scripts.evaluate.forward import head_at


@dataclass
class Generated:
    tokens: list[int]
    stopped: bool  # at a stop sequence or the end-of-text token; False: cut off by the cap


@torch.inference_mode()
def generate_greedy(
    model,
    contexts: list[list[int]],
    new_tokens: int,
    end_tokens: set[int],
    stops: Callable[[list[int]], bool],
    bank=None,
    prompt: int = 0,
) -> list[Generated]:
    """Continue each context greedily by at most `new_tokens` tokens, behind the bank's prompt `prompt`.

    Contexts are padded on the left, with explicit positions and an additive mask. A row stops when it emits an end
    token (not kept) or when `stops(tokens so far)` holds; then its keys and values are dropped from the cache.
    """
    device, batch = model.device, len(contexts)
    prefix = bank.prefixes[prompt].length if bank is not None else 0
    if bank is not None:
        cache = bank.cache(prompt, batch)
    else:
        from transformers import DynamicCache

        cache = DynamicCache()
    width = max(map(len, contexts))
    ids = torch.zeros(batch, width, dtype=torch.long)
    real = torch.zeros(batch, width, dtype=torch.bool)
    for b, context in enumerate(contexts):
        ids[b, width - len(context) :] = torch.tensor(context)
        real[b, width - len(context) :] = True
    ids, real = ids.to(device), real.to(device)
    steps = torch.arange(width, device=device)
    causal = steps[None, :] <= steps[:, None]  # (T, T)
    visible = causal[None] & real[:, None, :] | torch.eye(width, dtype=torch.bool, device=device)
    positions = prefix + (real.cumsum(1) - 1).clamp(min=0)

    rows = [Generated([], False) for _ in contexts]
    active = list(range(batch))
    for step in range(new_tokens):
        last = torch.arange(1, len(active) + 1, device=device) * ids.shape[1] - 1
        with head_at(model, last):
            logits = model(
                input_ids=ids, position_ids=positions, attention_mask=additive(visible, prefix, model.dtype),
                past_key_values=cache, use_cache=True,
            ).logits[0]  # (active, V)  # fmt: skip
        chosen = logits.argmax(dim=-1).tolist()
        keep = []
        for slot, (row, token) in enumerate(zip(active, chosen, strict=True)):
            if token in end_tokens:
                rows[row].stopped = True
                continue
            rows[row].tokens.append(token)
            rows[row].stopped = stops(rows[row].tokens)
            if not rows[row].stopped:
                keep.append(slot)
        if not keep or step == new_tokens - 1:
            break
        if len(keep) < len(active):
            index = torch.tensor(keep, device=device)
            for layer in cache.layers:  # each on its own GPU, where a model has several
                layer.batch_select_indices(index.to(layer.keys.device))
            real, positions = real[index], positions[index]
            active = [active[slot] for slot in keep]
        ids = torch.tensor([[chosen[slot]] for slot in keep], device=device)
        real = torch.cat([real, real.new_ones(len(active), 1)], dim=1)
        visible, positions = real[:, None, :], positions[:, -1:] + 1
    return rows

"""Prompts, contexts, banks and the two ways to the same number, for tests of IDP."""

import torch

from tests.tiny_models import VOCABULARY
from workflow_scripts.recover.idp import Selector
from workflow_scripts.recover.prompt_bank import Prefix, PromptBank, encode, learned_positions

LENGTHS = (5, 3, 8)
ROTARY = ("llama", "llama-gqa")


def make_prompts(lengths=LENGTHS, seed=1, scale=0.3):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(length, 32, generator=draw) * scale for length in lengths]


def make_contexts(lengths=(5, 10, 7), seed=2):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (length,), generator=draw).tolist() for length in lengths]


@torch.no_grad()
def make_bank(model, prompts) -> PromptBank:
    prefixes = [Prefix(f"p{i}", *encode(model, prompt)) for i, prompt in enumerate(prompts)]
    return PromptBank(prefixes, learned_positions(model))


def mixing(model, bank, contexts) -> Selector:
    """A selector whose scores are centred on these contexts, so that no prompt wins everywhere."""
    selector = Selector(model, bank)
    selector.calibrate(contexts)
    return selector


@torch.no_grad()
def prepended(model, prompt, context):
    """Logits of the text (T, V) with the prompt's embeddings before it, no cache anywhere."""
    embeddings = torch.cat([prompt.to(model.dtype), model.get_input_embeddings()(torch.tensor(context))])
    return model(inputs_embeds=embeddings[None], use_cache=False).logits[0, len(prompt) :]


@torch.no_grad()
def batched(model, bank, selector, contexts, side="right", extra=0):
    """Logits per context: rows grouped by their prompt, padded on one side, the losing prompts not in the cache."""
    indices, _ = selector.select(contexts)
    results = [None] * len(contexts)
    for index in set(indices.tolist()):
        rows = [row for row in range(len(contexts)) if indices[row] == index]
        length = max(len(contexts[row]) for row in rows) + extra
        ids, mask = torch.full((len(rows), length), 1), torch.zeros(len(rows), length, dtype=torch.long)
        spans = []
        for slot, row in enumerate(rows):
            start = 0 if side == "right" else length - len(contexts[row])
            spans.append(slice(start, start + len(contexts[row])))
            ids[slot, spans[-1]], mask[slot, spans[-1]] = torch.tensor(contexts[row]), 1
        n = bank.prefixes[index].length
        output = model(
            input_ids=ids,
            past_key_values=bank.cache(index, len(rows), length),
            attention_mask=torch.cat([torch.ones(len(rows), n, dtype=torch.long), mask], 1),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0) + n,
        )
        for slot, row in enumerate(rows):
            results[row] = output.logits[slot, spans[slot]]
    return results, indices


def assert_same(ours, reference, tolerance=1e-4):
    assert len(ours) == len(reference)
    for one, other in zip(ours, reference):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)

"""The model's side of scoring: packed rows behind a cached prompt, the head at scored positions only."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import DynamicCache

from workflow_scripts.evaluate.block_attention import CausalModel, attention_in, attention_of
from workflow_scripts.evaluate.row_packing import PackedRow
from workflow_scripts.recover.prompt_bank import PromptBank

# Positions per log-sum-exp step: their float32 logits stay in a processor's cache, and fill a GPU.
HEAD_ROWS = {"cpu": 16, "cuda": 1_024}
# Tokens per forward pass on a CPU: large enough for its matrix products, small enough for its caches.
CPU_TOKENS = 768
# Tokens of a batch that generates on a CPU: each step reads all weights, so many rows should share it.
CPU_GENERATION_TOKENS = 8_192
# Tokens per batch elsewhere: no accelerator gains from more.
MOST_TOKENS = 16_384
# Columns of a mask, per token: as long as a block can become that pays (block_attention.OVERHEAD).
MASK_COLUMNS = 2_048


@contextmanager
def head_at(model: CausalModel, positions: torch.Tensor) -> Iterator[None]:
    """Let the output head see only these flattened (batch * time) positions, as one row (1, len(positions), d).

    A pre-hook on the head itself, so whatever a family does after it (scaling, soft caps) still applies; hidden
    states take the head's dtype, so that a float32 head over a bf16 body works.
    """
    head = model.get_output_embeddings()

    def gather(module: torch.nn.Module, args: tuple) -> tuple:
        hidden = args[0].flatten(0, -2)  # of a model on several GPUs, on the last one
        hidden = hidden.index_select(0, positions.to(hidden.device))
        return (hidden.unsqueeze(0).to(module.weight.dtype), *args[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()


def log_probabilities(
    logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """log softmax(logits[rows])[targets] in float32, and whether each is its row's largest (which two may be).

    logits (N, V); rows, targets (P,) -> (P,) float32, (P,) bool. A few rows at a time, so that no second (N, V) exists.
    """
    scores = torch.empty(len(rows), dtype=torch.float32, device=logits.device)
    largest = torch.empty_like(scores)
    order = rows.argsort()
    size = HEAD_ROWS[logits.device.type]
    starts = torch.arange(0, len(logits) + size, size, device=logits.device)
    bounds = torch.searchsorted(rows[order], starts).tolist()
    for step, start in enumerate(range(0, len(logits), size)):
        part = logits[start : start + size].log_softmax(dim=-1, dtype=torch.float32)
        here = order[bounds[step] : bounds[step + 1]]
        within = rows[here] - start
        scores[here] = part[within, targets[here]]
        largest[here] = part.amax(dim=-1)[within]
    return scores, scores == largest


def first_largest(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(P,) bool: greedy decoding, which takes the first of the largest, takes the target (P,) from logits (P, V)."""
    return logits.log_softmax(dim=-1, dtype=torch.float32).argmax(dim=-1) == targets


def run_row(
    model: CausalModel,
    row: PackedRow,
    nodes: torch.Tensor,
    bank: PromptBank | None = None,
    prompt: int = 0,
    cache: DynamicCache | None = None,
) -> torch.Tensor:
    """Logits (len(nodes), V) at these nodes of a row that runs behind the bank's prompt `prompt`.

    Text starts at position n of a prompt of n tokens. `cache`, the prompt's or an empty one, takes up the row's keys
    and values; without one they are not kept.
    """
    device = model.device
    prefix = bank.prefixes[prompt].length if bank is not None else 0
    if cache is None and bank is not None:
        cache = bank.cache(prompt, 1, 1 + max(row.depths))
    with head_at(model, nodes), attention_in(model, attention_of(row, prefix, model.dtype, device)):
        output = model(
            input_ids=torch.tensor([row.tokens], device=device),
            position_ids=torch.tensor([row.depths], device=device) + prefix,
            past_key_values=cache,
            use_cache=cache is not None,
        )
    return output.logits[0]


@torch.inference_mode()
def score_row(
    model: CausalModel,
    row: PackedRow,
    targets: list[tuple[int, ...]],
    bank: PromptBank | None = None,
    prompt: int = 0,
) -> list[tuple[float, bool]]:
    """(summed log-probability in nats, all greedy) of every member sequence of `row`, in their order.

    `targets[k]` are the target tokens of the k-th member. FloatingPointError if a log-probability is not finite.
    """
    nodes = torch.tensor([node for path in row.scored for node in path], device=model.device)
    wanted = torch.tensor([token for tokens in targets for token in tokens], device=model.device)
    unique, inverse = nodes.unique(return_inverse=True)
    logits = run_row(model, row, unique, bank, prompt)
    scores, largest = (found.cpu() for found in log_probabilities(logits, inverse, wanted))
    if not scores.isfinite().all():
        raise FloatingPointError(
            "the model's log-probabilities are not finite: its weights or activations overflow"
        )
    results, start = [], 0
    for tokens in targets:
        span = slice(start, start + len(tokens))
        taken = bool(largest[span].all()) and bool(first_largest(logits[inverse[span]], wanted[span]).all())
        results.append((float(scores[span].sum()), taken))
        start += len(tokens)
    return results


def tokens_that_fit(model: CausalModel, on_cpu: int) -> int:
    """Tokens per batch: `on_cpu` on a CPU, elsewhere as many as 60 % of the free memory holds, computed, not probed.

    Per token: its logits and two float32 copies of them, activations of one layer (about 24 d + 6 MLP widths), keys
    and values of all layers, and its row of a mask as long as the longest block that pays (block_attention.OVERHEAD).
    """
    if model.device.type == "cpu":
        return on_cpu
    config = model.config.get_text_config()
    size = model.dtype.itemsize
    mlp = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", 4 * config.hidden_size)
    per_token = (
        12 * config.vocab_size
        + size * (24 * config.hidden_size + 6 * mlp + 2 * config.num_hidden_layers * config.hidden_size)
        + size * MASK_COLUMNS
    )
    free, _ = torch.cuda.mem_get_info(model.device)
    return max(1, min(MOST_TOKENS, int(0.6 * free // per_token)))


def float32_head(model: CausalModel) -> None:
    """Give a bf16 model a float32 output head of its own (untied from the embeddings), in place."""
    head = copy.deepcopy(model.get_output_embeddings()).float()
    model.set_output_embeddings(head)

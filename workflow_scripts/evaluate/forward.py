"""The model's side of scoring: tree attention over packed rows behind a cached prompt, the head where it counts."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from workflow_scripts.evaluate.packing import Row

HEAD_ROWS = 64  # positions per log-sum-exp step: their float32 logits stay in the processor's cache


@contextmanager
def head_at(model, positions: torch.Tensor) -> Iterator[None]:
    """Let the output head see only these flattened (batch * time) positions, as one row (1, len(positions), d).

    A pre-hook on the head itself, so whatever a family does after it (scaling, soft caps) still applies; hidden
    states take the head's dtype, so that a float32 head over a bf16 body works.
    """
    head = model.get_output_embeddings()

    def gather(module, args):
        hidden = args[0].flatten(0, -2).index_select(0, positions)
        return (hidden.unsqueeze(0).to(module.weight.dtype), *args[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()


def additive(visible: torch.Tensor, prefix: int, dtype: torch.dtype) -> torch.Tensor:
    """Booleans (B, T, K) -> additive mask (B, 1, T, prefix + K): 0 where seen, the lowest number elsewhere.

    The prompt's columns are seen by all. Additive because a boolean mask is silently wrong under eager attention.
    """
    batch, rows, columns = visible.shape
    mask = torch.zeros(batch, 1, rows, prefix + columns, dtype=dtype, device=visible.device)
    mask[:, 0, :, prefix:].masked_fill_(~visible, torch.finfo(dtype).min)
    return mask


def log_probabilities(
    logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """log softmax(logits[rows])[targets] and whether each target is the row's argmax, in float32.

    logits (N, V); rows, targets (P,) -> (P,) float32, (P,) bool. One pass over the logits, no (N, V) copy.
    """
    normaliser = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    best = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for start in range(0, len(logits), HEAD_ROWS):
        chunk = logits[start : start + HEAD_ROWS].float()
        normaliser[start : start + HEAD_ROWS] = torch.logsumexp(chunk, dim=-1)
        best[start : start + HEAD_ROWS] = chunk.argmax(dim=-1)
    return logits[rows, targets].float() - normaliser[rows], best[rows] == targets


@torch.inference_mode()
def score_rows(
    model, rows: list[Row], targets: list[list[int]], bank=None, prompt: int = 0
) -> list[tuple[float, bool]]:
    """(summed log-probability in nats, all greedy) of every member sequence of `rows`, in their order.

    `targets[k]` are the target tokens of the k-th member. Rows run as one batch behind the bank's prompt `prompt`;
    text starts at position n of a prompt of n tokens. Rows shorter than the longest are padded on the right with
    nodes that see only themselves and that nobody sees.
    """
    device = model.device
    cache = bank.cache(prompt, len(rows)) if bank is not None else None
    prefix = bank.prefixes[prompt].length if bank is not None else 0
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    positions = torch.full((len(rows), width), prefix, dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, : len(row)] = torch.tensor(row.tokens)
        positions[b, : len(row)] += torch.tensor(row.depths)
    mask = None
    if prefix or not (len(rows) == 1 and rows[0].is_chain()):
        visible = torch.eye(width, dtype=torch.bool).repeat(len(rows), 1, 1)
        for b, row in enumerate(rows):
            visible[b, : len(row), : len(row)] = torch.from_numpy(row.visible())
        mask = additive(visible.to(device), prefix, model.dtype)

    flat = [b * width + node for b, row in enumerate(rows) for path in row.scored for node in path]
    wanted = torch.tensor([token for tokens in targets for token in tokens], device=device)
    unique, inverse = torch.tensor(flat, device=device).unique(return_inverse=True)
    with head_at(model, unique):
        logits = model(
            input_ids=ids.to(device), position_ids=positions.to(device), attention_mask=mask, past_key_values=cache,
            use_cache=cache is not None,
        ).logits[0]  # (unique, V)  # fmt: skip
    scores, greedy = log_probabilities(logits, inverse, wanted)
    if not scores.isfinite().all():
        raise FloatingPointError(
            "the model's log-probabilities are not finite: its weights or activations overflow"
        )
    lengths = [len(tokens) for tokens in targets]
    return [
        (float(part.sum()), bool(hit.all()))
        for part, hit in zip(scores.cpu().split(lengths), greedy.cpu().split(lengths), strict=True)
    ]


def rows_that_fit(model, row_tokens: int) -> int:
    """Rows per forward pass: one on a CPU, elsewhere what fits in 60 % of the free memory, computed, not probed.

    Per token: two float32 copies of its logits, activations of one layer (about 24 d + 6 MLP widths), keys and
    values of all layers and its row of the mask.
    """
    if model.device.type == "cpu":
        return 1
    config = model.config.get_text_config()
    size = model.dtype.itemsize
    mlp = getattr(config, "intermediate_size", None) or getattr(config, "ffn_dim", 4 * config.hidden_size)
    per_token = (
        8 * config.vocab_size
        + size * (24 * config.hidden_size + 6 * mlp + 2 * config.num_hidden_layers * config.hidden_size)
        + size * row_tokens
    )
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(min(64, max(1, 0.6 * free // (per_token * row_tokens))))


def float32_head(model) -> None:
    """Give a bf16 model a float32 output head of its own (untied from the embeddings), in place."""
    head = copy.deepcopy(model.get_output_embeddings()).float()
    model.set_output_embeddings(head)

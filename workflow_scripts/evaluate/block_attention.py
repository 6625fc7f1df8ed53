"""Attention over packed rows, block by block, as one of transformers' pluggable attention functions.

A row of many documents with one mask over all of it would spend most of its attention on pairs that don't count. Here
each block of a row (row_packing.Block) attends in one call of `scaled_dot_product_attention`: its queries attend to the
prompt's columns, to the nodes above it and to itself. Grouped heads read their keys by stride, without copies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import AttentionInterface, PreTrainedModel

from workflow_scripts.evaluate.row_packing import PackedRow, RowBlock
from workflow_scripts.kernels.attention_asked import special_options
from workflow_scripts.plan import first_layer

if TYPE_CHECKING:
    from peft import PeftModel

CausalModel: TypeAlias = "PreTrainedModel | PeftModel"  # with a LoRA it is the latter
NAME, STEP = "packed_blocks", "padded_step"
# The cost of one attention call beside its pairs, in (query, key) pairs of one layer: about 50 microseconds each.
OVERHEAD = {"cpu": 1_000, "cuda": 300_000}

_row_attention: ContextVar["RowAttention"] = ContextVar("plan")
_step: ContextVar["Step"] = ContextVar("step")


class NotPackable(ValueError):
    """A model whose logits in a packed row would differ from those of each sequence alone."""


@dataclass(frozen=True)
class Call:
    """One block's attention: queries start..end-1 of the row; runs of columns, prompt first; a mask over them."""

    start: int
    end: int
    columns: tuple[tuple[int, int], ...]
    mask: torch.Tensor | None  # additive (L, columns); None: everything, or causal
    causal: bool


@dataclass
class RowAttention:
    """The attention of a row. `longest`: the most columns that one of its nodes sees. `positions`: of all columns, the
    prompt's first. `dtype`: of masks. `used`, `slid`: how many layers asked, and asked with a window."""

    calls: list[Call]
    longest: int
    positions: torch.Tensor
    dtype: torch.dtype
    used: int = 0
    slid: int = 0
    narrowed: dict[int, list[Call]] = field(default_factory=dict)

    def within(self, window: int | None) -> list[Call]:
        """The calls of a layer whose tokens see no further back than `window` positions, their own with them."""
        if not window or window >= self.longest:
            return self.calls
        if window not in self.narrowed:
            self.narrowed[window] = [self._narrow(call, window) for call in self.calls]
        return self.narrowed[window]

    def _narrow(self, call: Call, window: int) -> Call:
        prefix = len(self.positions) - self.calls[-1].end
        own = self.positions[prefix + call.start : prefix + call.end]
        seen = torch.cat([self.positions[start:end] for start, end in call.columns])
        beyond = own[:, None] - seen >= window  # (L, columns)
        if not beyond.any():
            return call
        mask = torch.zeros(beyond.shape, dtype=self.dtype) if call.mask is None else call.mask.cpu()
        if call.causal:
            beyond = beyond | torch.ones_like(beyond).triu(1)
        return replace(call, mask=mask.masked_fill(beyond, torch.finfo(self.dtype).min), causal=False)


@dataclass
class Step:
    """One token per row, at positions `at` (B, 1) behind its own text: column k of a row's `width` has position k."""

    at: torch.Tensor
    width: int
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """Additive (B, 1, 1, width): the columns up to the token's own, in a layer with a window those within it."""
        if window not in self.masks:
            columns = torch.arange(self.width, device=self.at.device)
            visible = columns <= self.at
            if window is not None:
                visible &= self.at - columns < window
            self.masks[window] = additive(visible[:, None, :], 0, dtype)
        return self.masks[window]


def additive(visible: torch.Tensor, prefix: int, dtype: torch.dtype) -> torch.Tensor:
    """Booleans (B, T, K) -> additive mask (B, 1, T, prefix + K): 0 where seen, the lowest number elsewhere.

    The prompt's columns are seen by all. Additive because a boolean mask is silently wrong under eager attention.
    """
    batch, rows, columns = visible.shape
    mask = torch.zeros(batch, 1, rows, prefix + columns, dtype=dtype, device=visible.device)
    mask[:, 0, :, prefix:].masked_fill_(~visible, torch.finfo(dtype).min)
    return mask


def attention_of(row: PackedRow, prefix: int, dtype: torch.dtype, device: torch.device) -> RowAttention:
    """The attention of `row` behind a prompt of `prefix` tokens, whose columns stand before the row's."""
    blocks = row.blocks(prefix, OVERHEAD[device.type])
    calls = [_call(row, block, prefix, dtype, device) for block in blocks]
    positions = torch.cat([torch.arange(prefix), prefix + torch.tensor(row.depths)])
    return RowAttention(calls, prefix + 1 + max(row.depths), positions, dtype)


def _call(row: PackedRow, block: RowBlock, prefix: int, dtype: torch.dtype, device: torch.device) -> Call:
    columns: list[tuple[int, int]] = []
    for start, end in ((-prefix, 0), *block.above, (block.start, block.end)):
        if start == end:
            continue
        if columns and columns[-1][1] == prefix + start:
            columns[-1] = (columns[-1][0], prefix + end)
        else:
            columns.append((prefix + start, prefix + end))
    before = sum(end - start for start, end in columns) - len(block)
    if len(block) == 1 or (block.chain and not before):
        return Call(block.start, block.end, tuple(columns), None, causal=len(block) > 1)
    if block.chain:
        visible = torch.ones(len(block), len(block), dtype=torch.bool).tril()
    else:
        visible = torch.from_numpy(row.visible(block.start, block.end))
    mask = additive(visible[None], before, dtype)[0, 0].to(device)
    return Call(block.start, block.end, tuple(columns), mask, causal=False)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, heads, T, d), key and value (1, kv_heads, prefix + T, d) -> (1, T, heads, d).

    In a layer with a sliding window tokens see so many positions back. NotPackable for a model whose attention does
    more than weigh by softmax(q k^T): score caps, sinks, position biases.
    """
    planned, window = _row_attention.get(), kwargs.get("sliding_window")
    planned.used += 1
    planned.slid += window is not None
    _refuse_more(module, kwargs)
    heads, kv_heads = query.shape[1], key.shape[1]
    groups = heads // kv_heads
    query = query[0].unflatten(0, (kv_heads, groups))  # (kv_heads, groups, T, d)
    key, value = key[0].unsqueeze(1), value[0].unsqueeze(1)  # (kv_heads, 1, prefix + T, d)
    output = query.new_empty(query.shape[2], kv_heads, groups, value.shape[-1])
    for call in planned.within(window):
        keys, values = _columns(key, call.columns), _columns(value, call.columns)
        attended = torch.nn.functional.scaled_dot_product_attention(
            query[:, :, call.start : call.end],
            keys.expand(-1, groups, -1, -1),
            values.expand(-1, groups, -1, -1),
            attn_mask=None if call.mask is None else call.mask.to(query.device),
            is_causal=call.causal,
            scale=scaling,
        )
        output[call.start : call.end] = attended.permute(2, 0, 1, 3)
    return output.view(1, len(output), heads, -1), None


def _refuse_more(module: torch.nn.Module, options: dict) -> None:
    if special := special_options(options):
        raise NotPackable(
            f"{type(module).__name__} attends with {', '.join(special)}, which packed rows don't implement"
        )


def attend_step(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query (B, heads, 1, d), key and value (B, kv_heads, K, d) -> (B, 1, heads, d): what the step's tokens see.

    The heads that share keys are these keys' queries, so that nothing is copied.
    """
    step, window = _step.get(), kwargs.get("sliding_window")
    _refuse_more(module, kwargs)
    grouped = query[:, :, 0].unflatten(1, (key.shape[1], -1))  # (B, kv_heads, groups, d)
    mask = step.mask(window, query.dtype).to(query.device)
    output = torch.nn.functional.scaled_dot_product_attention(
        grouped, key, value, attn_mask=mask, scale=scaling
    )
    return output.flatten(1, 2).unsqueeze(1), None


def _columns(states: torch.Tensor, runs: tuple[tuple[int, int], ...]) -> torch.Tensor:
    parts = [states[:, :, start:end] for start, end in runs]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)


def layer_windows(model: CausalModel) -> list[int | None]:
    """Positions that the tokens of each layer see, their own with them; None for all."""
    text = model.config.get_text_config()
    found = {key: getattr(text, key, None) for key in first_layer.WINDOW_KEYS}
    known = {key: value for key, value in found.items() if value is not None}
    return [first_layer.window(known, layer) for layer in range(text.num_hidden_layers)]


AttentionInterface.register(NAME, attend)
AttentionInterface.register(STEP, attend_step)


@contextmanager
def attention_in(model: CausalModel, planned: RowAttention) -> Iterator[None]:
    """Let the model attend as planned for the row that it is called with; NotPackable where its layers don't ask.

    All of them must: a layer that doesn't ask mixes tokens by its own means.
    """
    config, usual = model.config, model.config._attn_implementation
    config._attn_implementation = NAME
    token = _row_attention.set(planned)
    try:
        yield
        windows = layer_windows(model)
        layers, sliding = len(windows), sum(window is not None for window in windows)
        if planned.slid < sliding:
            raise NotPackable(
                f"{type(model).__name__} can't be scored packed: {sliding} of its {layers} layers have sliding "
                f"windows, {planned.slid} hand them to their attention"
            )
        if planned.used < layers:
            raise NotPackable(
                f"{type(model).__name__} can't be scored packed: {planned.used} of its {layers} layers have pluggable "
                "attention (transformers' AttentionInterface), which packed rows need"
            )
    finally:
        _row_attention.reset(token)
        config._attn_implementation = usual


@contextmanager
def step_in(model: CausalModel, step: Step) -> Iterator[None]:
    """Let the model attend as the step says, each layer within its own window."""
    config, usual = model.config, model.config._attn_implementation
    config._attn_implementation = STEP
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)
        config._attn_implementation = usual

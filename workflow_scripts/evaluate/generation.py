"""Greedy generation without waste: contexts are read unpadded, rows that have stopped leave the batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import DynamicCache

from workflow_scripts.evaluate.block_attention import Step, additive, layer_windows, step_in
from workflow_scripts.evaluate.forward import head_at, run_row
from workflow_scripts.evaluate.row_packing import Sequence, pack_rows
from workflow_scripts.recover.prompt_bank import keys_values

# Generation settings that change greedy output, and the value at which each doesn't (None, the default, never does).
CHANGING: dict[str, object] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), 1),
    **dict.fromkeys(("repetition_penalty", "encoder_repetition_penalty", "guidance_scale"), 1),
    **dict.fromkeys(("penalty_alpha", "diversity_penalty", "min_length", "min_new_tokens"), 0),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), 0),
    **dict.fromkeys(("dola_layers", "constraints", "force_words_ids", "forced_bos_token_id"), None),
    **dict.fromkeys(("forced_eos_token_id", "exponential_decay_length_penalty"), None),
    **dict.fromkeys(("watermarking_config", "max_time"), None),
    **{key: [] for key in ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "stop_strings")},
    "sequence_bias": {},
    "token_healing": False,
}
# Those that a request may have besides: read by the scorer, or of no effect without sampling or beams.
READ = {"until", "do_sample", "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"}
OF_SAMPLING = {"temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
ALLOWED = READ | OF_SAMPLING | {"length_penalty", "early_stopping", "renormalize_logits", "use_cache"}


def require_greedy(settings: dict, config) -> None:
    """ValueError, naming the key, if a request's settings or the model's generation config change greedy output.

    The harness hands the former to `model.generate`, which takes the latter too (Qwen2.5-Instruct's penalty of
    repetition); sampling settings of a config don't count, as `do_sample` is false.
    """
    for key, value in settings.items():
        if key not in ALLOWED and not (key in CHANGING and value in (None, CHANGING[key])):
            raise ValueError(
                f"the scorer generates greedily; it has no {key} ({value!r} in the task's settings)"
            )
    for key, neutral in CHANGING.items():
        if (value := getattr(config, key, None)) not in (None, neutral):
            raise ValueError(
                f"the scorer generates greedily; it has no {key} ({value!r} in the model's generation_config; set it "
                f"to {neutral!r} there to do without)"
            )


@dataclass(frozen=True)
class Limits:
    """Where a generation ends: after `new_tokens`, at one of `end_tokens`, or when `stops(tokens so far)` holds."""

    new_tokens: int
    end_tokens: set[int]
    stops: Callable[[list[int]], bool]


@dataclass
class Generated:
    tokens: list[int]
    stopped: bool  # at a stop sequence or the end-of-text token; False: cut off by the cap


@torch.inference_mode()
def generate_greedy(
    model,
    contexts: list[list[int]],
    limits: Limits,
    row_tokens: int,
    bank=None,
    prompt: int = 0,
) -> list[Generated]:
    """Continue each context greedily up to the `limits`, behind the bank's prompt `prompt`.

    An end token is kept: not every one is special, and the harness keeps it. Keys and values of a row that has stopped
    are dropped from the cache. row_tokens: context tokens per forward pass.
    """
    device = model.device
    prefix = bank.prefixes[prompt].length if bank is not None else 0
    logits, cache = _read(model, contexts, row_tokens, bank, prompt)
    lengths = torch.tensor([len(context) for context in contexts], device=device)
    real = torch.arange(int(lengths.max()), device=device) >= lengths.max() - lengths[:, None]  # (B, width)
    positions = prefix + lengths[:, None]  # of the next token

    rows = [Generated([], False) for _ in contexts]
    active = list(range(len(contexts)))
    for step in range(limits.new_tokens):
        chosen = logits.argmax(dim=-1).tolist()
        keep = []
        for slot, (row, token) in enumerate(zip(active, chosen, strict=True)):
            rows[row].tokens.append(token)
            rows[row].stopped = token in limits.end_tokens or limits.stops(rows[row].tokens)
            if not rows[row].stopped:
                keep.append(slot)
        if not keep or step == limits.new_tokens - 1:
            break
        if len(keep) < len(active):
            index = torch.tensor(keep, device=device)
            for layer in cache.layers:  # each on its own GPU if the model is spread over several
                layer.batch_select_indices(index.to(layer.keys.device))
            real, positions = real[index], positions[index]
            active = [active[slot] for slot in keep]
        real = torch.cat([real, real.new_ones(len(active), 1)], dim=1)
        with (
            head_at(model, torch.arange(len(active), device=device)),
            _seen(model, real, positions, prefix) as mask,
        ):
            output = model(
                input_ids=torch.tensor([[chosen[slot]] for slot in keep], device=device),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                attention_mask=mask,
            )
            logits = output.logits[0]  # (active, V)
        positions = positions + 1
    return rows


@contextmanager
def _seen(model, real: torch.Tensor, positions: torch.Tensor, prefix: int) -> Iterator[torch.Tensor | None]:
    """What each row's new token sees of the prompt and its own context: the mask of a call inside.

    real (B, T): no padding, the new token's last. positions (B, 1): its own. None, and attention of our own, if a
    layer's window is shorter than the longest row.
    """
    windows = [window for window in layer_windows(model) if window]
    width = real.shape[1]
    if prefix + width <= min(windows, default=prefix + width):
        yield additive(real[:, None, :], prefix, model.dtype)
        return
    own = positions + torch.arange(
        1 - width, 1, device=positions.device
    )  # (B, T), padding's are below the text's
    before = torch.arange(prefix, device=positions.device).expand(len(real), -1)
    all_real = torch.cat([real.new_ones(len(real), prefix), real], dim=1)
    with step_in(model, Step(torch.cat([before, own], dim=1), all_real, positions)):
        yield None


def _read(model, contexts: list[list[int]], row_tokens: int, bank, prompt: int):
    """Logits (B, V) after each context, and a cache of prompt and contexts, these padded on the left.

    Contexts are read packed (row_packing.py), then each one's keys and values are taken from its row. Padding repeats a
    row's first column: it is finite, and attention masks it.
    """
    groups = [[(b, Sequence(tuple(context), tuple(context)))] for b, context in enumerate(contexts)]
    width, prefix = max(map(len, contexts)), bank.prefixes[prompt].length if bank is not None else 0
    logits: torch.Tensor | None = None
    layers: list[tuple[torch.Tensor, ...]] = []
    for row in pack_rows(groups, row_tokens):
        cache = bank.cache(prompt, 1, width) if bank is not None else DynamicCache()
        paths = row.scored  # every node of a context, as all of its tokens are targets
        found = run_row(
            model, row, torch.tensor([path[-1] for path in paths], device=model.device), bank, prompt, cache
        )
        columns = torch.tensor([[0] * (width - len(path)) + path for path in paths]) + prefix
        columns = torch.cat([torch.arange(prefix).expand(len(paths), -1), columns], dim=1)
        if logits is None:
            logits = found.new_empty(len(contexts), found.shape[-1])
            layers = [
                tuple(_room(states, len(contexts), prefix + width) for states in pair)
                for pair in keys_values(cache)
            ]
        logits[row.members] = found
        for read, padded in zip(keys_values(cache), layers, strict=True):
            for states, all_states in zip(read, padded, strict=True):
                taken = states[0][:, columns.to(states.device)]  # (kv_heads, members, prefix + width, d)
                all_states[row.members] = taken.transpose(0, 1)
    return logits, DynamicCache(layers)


def _room(states: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """An empty tensor for keys or values like `states` (1, kv_heads, T, d) of so many rows and columns."""
    return states.new_empty(rows, states.shape[1], columns, states.shape[3])

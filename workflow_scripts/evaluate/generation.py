"""Greedy generation without waste: contexts are read unpadded, and take the places of rows that have stopped."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import Cache, DynamicLayer

from workflow_scripts.evaluate.block_attention import CausalModel, Step, step_in
from workflow_scripts.evaluate.forward import head_at, run_row
from workflow_scripts.evaluate.row_packing import Sequence, pack_rows
from workflow_scripts.recover.prompt_bank import PromptBank, keys_values

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
# Other keys that a request may have: read by the scorer, or of no effect without sampling or beams.
READ = {"until", "do_sample", "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"}
OF_SAMPLING = {"temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
ALLOWED = READ | OF_SAMPLING | {"length_penalty", "early_stopping", "renormalize_logits", "use_cache"}

SHARES = 4  # of a batch's rows: so many are read at once, and at most so many wait for each other


def require_greedy(settings: dict, config: GenerationConfig | None) -> None:
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
class Stopping:
    """Criteria that end a generation: `new_tokens` are made, an end token comes, or `stops(tokens so far)` holds."""

    new_tokens: int
    end_tokens: set[int]
    stops: Callable[[list[int]], bool]


@dataclass
class Generated:
    tokens: list[int]
    stopped: bool  # at a stop sequence or the end-of-text token; False: cut off by the cap


@torch.inference_mode()
def generate_greedy(
    model: CausalModel,
    contexts: list[list[int]],
    stopping: Stopping,
    row_tokens: int,
    bank: PromptBank | None = None,
    prompt: int = 0,
    rows: int | None = None,
) -> Iterator[tuple[int, Generated]]:
    """Continue each context greedily until the `stopping` criteria hold, behind the bank's prompt `prompt`.

    Yields (index of the context, its continuation) as they end. At most `rows` of them are in work at a time (None:
    all); a context is read as soon as rows that have ended leave it room. An end token is kept: not every one is
    special, and the harness keeps it. row_tokens: context tokens per forward pass.
    """
    prefix = bank.prefixes[prompt].length if bank is not None else 0
    most = rows if rows is not None and rows < len(contexts) else SHARES * len(contexts)
    groups = [[(n, Sequence(tuple(context), tuple(context)))] for n, context in enumerate(contexts)]
    unread = pack_rows(groups, row_tokens, max(1, most // SHARES))[::-1]
    batch = Batch(model, min(most, len(contexts)), prefix + max(map(len, contexts)) + stopping.new_tokens - 1)
    found = [Generated([], False) for _ in contexts]

    def ended(member: int, token: int) -> bool:
        row = found[member]
        row.tokens.append(token)
        row.stopped = token in stopping.end_tokens or stopping.stops(row.tokens)
        return row.stopped or len(row.tokens) == stopping.new_tokens

    while unread or batch.members:
        if unread and len(batch.members) + len(unread[-1].members) <= most:
            row = unread.pop()
            cache = bank.cache(prompt, 1, 1 + max(row.depths)) if bank is not None else DynamicCache()
            # every node of a context is in `scored`, as all of its tokens are targets
            last = torch.tensor([path[-1] for path in row.scored], device=model.device)
            chosen = run_row(model, row, last, bank, prompt, cache).argmax(dim=-1).tolist()
            members, paths = row.members, {}
            for k, (member, token) in enumerate(zip(members, chosen, strict=True)):
                if not ended(member, token):
                    paths[member] = token, [*range(prefix), *(prefix + node for node in row.scored[k])]
            batch.take(paths, cache)
        else:
            members, chosen = batch.members, batch.step()
            batch.keep([slot for slot, token in enumerate(chosen) if not ended(members[slot], token)], chosen)
        living = set(batch.members)
        yield from ((member, found[member]) for member in members if member not in living)


class _Slots(DynamicLayer):
    """A layer's keys and values (rows, kv_heads, columns, d), written in place: column = position, for each row.

    Columns beyond a row's own position are masked (block_attention.Step); they are finite.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, rows: int, columns: int):
        """keys, values: (1, kv_heads, T, d) of any text, for shapes and device."""
        super().__init__()
        self.keys, self.values = (
            states.new_zeros(rows, states.shape[1], columns, states.shape[3]) for states in (keys, values)
        )
        self.is_initialized = True
        self.step: Step | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the states (B, kv_heads, 1, d) of the step's tokens; all that the first B rows see."""
        assert self.step is not None and self.keys is not None and self.values is not None
        rows = torch.arange(len(key_states), device=self.keys.device)
        at = self.step.at[:, 0].to(self.keys.device)
        self.keys[rows, :, at], self.values[rows, :, at] = key_states[:, :, 0], value_states[:, :, 0]
        return self.keys[: len(rows), :, : self.step.width], self.values[: len(rows), :, : self.step.width]

    def get_seq_length(self) -> int:
        return 0 if self.step is None else self.step.width - 1

    def write(self, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """keys, values: (kv_heads, B, T, d) of the rows from `start` on."""
        for own, states in ((self.keys, keys), (self.values, values)):
            assert own is not None
            own[start : start + states.shape[1], :, : states.shape[2]] = states.transpose(0, 1)

    def move(self, sources: list[int], targets: list[int]) -> None:
        for states in (self.keys, self.values):
            assert states is not None
            states[targets] = states[sources]


class Batch:
    """Rows in work. `members`, `tokens`, `at`: of each row its context, its newest token, and that one's position."""

    def __init__(self, model: CausalModel, rows: int, columns: int):
        self.model, self.rows, self.columns = model, rows, columns
        self.members: list[int] = []
        self.tokens: list[int] = []
        self.at: list[int] = []
        self._layers: list[_Slots] = []

    def take(self, paths: dict[int, tuple[int, list[int]]], cache: DynamicCache) -> None:
        """New rows: context -> its first token, and the columns of what stands before it in a packed row's cache."""
        read, columns = keys_values(cache), [path for _, path in paths.values()]
        if not self._layers:
            self._layers = [_Slots(keys, values, self.rows, self.columns) for keys, values in read]
        if columns:
            longest = max(map(len, columns))
            padded = torch.tensor([path + path[:1] * (longest - len(path)) for path in columns])
            for layer, (keys, values) in zip(self._layers, read, strict=True):
                here = padded.to(keys.device)
                layer.write(len(self.members), keys[0][:, here], values[0][:, here])
        self.members += paths
        self.tokens += [token for token, _ in paths.values()]
        self.at += map(len, columns)

    def step(self) -> list[int]:
        """The next token of each row: a pass over the newest ones."""
        device = self.model.device
        step = Step(torch.tensor(self.at, device=device)[:, None], max(self.at) + 1)
        for layer in self._layers:
            layer.step = step
        with head_at(self.model, torch.arange(len(self.at), device=device)), step_in(self.model, step):
            output = self.model(
                input_ids=torch.tensor(self.tokens, device=device)[:, None],
                position_ids=step.at,
                past_key_values=Cache(layers=[*self._layers]),
                use_cache=True,
            )
        return output.logits[0].argmax(dim=-1).tolist()

    def keep(self, going: list[int], tokens: list[int]) -> None:
        """Go on with these rows and the new tokens; the last ones move to where others have left."""
        order = list(range(len(self.members)))
        holes = sorted({*range(len(going))} - {*going})
        moving = [slot for slot in going if slot >= len(going)]
        for hole, slot in zip(holes, moving, strict=True):
            order[hole] = slot
        if holes:
            for layer in self._layers:
                layer.move(moving, holes)
        order = order[: len(going)]
        self.members = [self.members[slot] for slot in order]
        self.tokens = [tokens[slot] for slot in order]
        self.at = [self.at[slot] + 1 for slot in order]

"""Greedy generation without waste: contexts are read unpadded, and take the places of rows that have stopped."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import Cache, DynamicLayer

from workflow_scripts.evaluate.block_attention import CausalModel, Step, step_in
from workflow_scripts.evaluate.forward import head_at, run_row
from workflow_scripts.evaluate.row_packing import Sequence, pack_rows
from workflow_scripts.recover.prompt_bank import PromptBank, keys_values
from workflow_scripts.sources.decoding import CHANGING, PENALTY, require_greedy

# Keys that a request may have: read by the scorer, or of no effect without sampling or beams.
READ = {"until", "do_sample", "max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens"}
OF_SAMPLING = {"temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}
ALLOWED = READ | OF_SAMPLING | {"length_penalty", "early_stopping", "renormalize_logits", "use_cache"}

SHARES = 4  # of a batch's rows: so many are read at once, and at most so many wait for each other


def penalty_of(settings: dict, config: GenerationConfig | None) -> float:
    """The penalty of repetition of a request's settings, or else of the model's generation config; 1 for none.

    The harness hands the former to `model.generate`, which takes the latter too (Qwen2.5-Instruct has a penalty);
    sampling settings of a config don't count, as `do_sample` is false. ValueError names a key of either that changes
    greedy output otherwise.
    """
    for key, value in settings.items():
        if key not in (*ALLOWED, *CHANGING, PENALTY):
            raise ValueError(
                f"the scorer generates greedily; it has no {key} ({value!r} in the task's settings)"
            )
    asked = require_greedy(settings, "the task's settings")
    own = require_greedy(config.to_dict() if config else {}, "the model's generation_config")
    return own if settings.get(PENALTY) is None else asked


@dataclass(frozen=True)
class Decoding:
    """How a generation goes on and ends: `new_tokens` are made, an end token comes, or `stops(tokens so far)` holds.

    penalty: of tokens that the text or the continuation has (Keskar et al., arXiv 1909.05858): their logits are divided
    by it, or multiplied if they are negative.
    """

    new_tokens: int
    end_tokens: set[int]
    stops: Callable[[list[int]], bool]
    penalty: float = 1.0

    def choose(self, logits: torch.Tensor, texts: Iterable[list[int]]) -> list[int]:
        """The greedy token of each row; logits: (rows, V), texts: the tokens that each row has read and made."""
        if self.penalty != 1:
            logits = logits.float().clone()
            for row, text in zip(logits, texts, strict=True):
                seen = torch.tensor(sorted({*text}), device=row.device)
                row[seen] = torch.where(row[seen] < 0, row[seen] * self.penalty, row[seen] / self.penalty)
        return logits.argmax(dim=-1).tolist()


@dataclass
class Generated:
    tokens: list[int]
    stopped: bool  # at a stop sequence or the end-of-text token; False: cut off by the cap


@torch.inference_mode()
def generate_greedy(
    model: CausalModel,
    contexts: list[list[int]],
    decoding: Decoding,
    row_tokens: int,
    bank: PromptBank | None = None,
    prompts: list[int] | None = None,
    rows: int | None = None,
) -> Iterator[tuple[int, Generated]]:
    """Continue each context greedily as `decoding` says, behind its prompt of the bank (None: the first one).

    Yields (index of the context, its continuation) as they end. At most `rows` of them are in work at a time (None:
    all); a context is read as soon as rows that have ended leave it room. Each prompt's contexts are read in passes of
    their own, and all continue in the same ones. An end token is kept: not every one is special, and the harness keeps
    it. row_tokens: context tokens per forward pass.
    """
    prompts = prompts or [0] * len(contexts)
    prefixes = [bank.prefixes[prompt].length if bank is not None else 0 for prompt in prompts]
    most = rows if rows is not None and rows < len(contexts) else SHARES * len(contexts)
    groups: dict[int, list] = {}
    for n, (prompt, context) in enumerate(zip(prompts, contexts, strict=True)):
        groups.setdefault(prompt, []).append([(n, Sequence(tuple(context), tuple(context)))])
    read = (pack_rows(group, row_tokens, max(1, most // SHARES)) for group in groups.values())
    unread = [row for packed in read for row in packed][::-1]
    longest = max(prefix + len(context) for prefix, context in zip(prefixes, contexts, strict=True))
    batch = Batch(model, min(most, len(contexts)), longest + decoding.new_tokens - 1)
    found = [Generated([], False) for _ in contexts]

    def ended(member: int, token: int) -> bool:
        row = found[member]
        row.tokens.append(token)
        row.stopped = token in decoding.end_tokens or decoding.stops(row.tokens)
        return row.stopped or len(row.tokens) == decoding.new_tokens

    while unread or batch.members:
        if unread and len(batch.members) + len(unread[-1].members) <= most:
            row = unread.pop()
            members, paths = row.members, {}
            prompt, prefix = prompts[members[0]], prefixes[members[0]]
            cache = bank.cache(prompt, 1, 1 + max(row.depths)) if bank is not None else DynamicCache()
            # every node of a context is in `scored`, as all of its tokens are targets
            last = torch.tensor([path[-1] for path in row.scored], device=model.device)
            logits = run_row(model, row, last, bank, prompt, cache)
            chosen = decoding.choose(logits, (contexts[member] for member in members))
            for k, (member, token) in enumerate(zip(members, chosen, strict=True)):
                if not ended(member, token):
                    paths[member] = token, [*range(prefix), *(prefix + node for node in row.scored[k])]
            batch.take(paths, cache)
        else:
            members = batch.members
            chosen = decoding.choose(batch.step(), (contexts[n] + found[n].tokens for n in members))
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

    def step(self) -> torch.Tensor:
        """Logits (rows, V) of each row's next token: a pass over the newest ones."""
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
        return output.logits[0]

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

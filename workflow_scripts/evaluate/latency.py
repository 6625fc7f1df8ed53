"""The cost of each recovery method at inference (paper, 3.3): prefill, and each generated token.

Shapes, not values, decide latency: adapters are drawn at random, text too. A round times every variant once, in a new
random order, so that a machine's drift meets all alike; ratios are paired within rounds. Prefills and generated tokens
have rounds of their own, each after an untimed call of every variant. Variants:
  none              the model as it is
  prompt            soft prompt of n vectors before the text's embeddings, run in every call
  prompt_cached     the same prompt from cached keys and values: what this pipeline evaluates with
  prefix            trained keys and values in the cache (as cheap as prompt_cached, by construction)
  idp               two cached prompts, scoring and selection included; one pass over all rows if they all choose one
  idp_mixed         the same, but each prompt is made to serve as many rows: a prefill for each, then all rows together
  concat            both prompts, one after the other, cached
  lora              two more matrix products per adapted linear
  lora_merged       the product added to the weight: the plain model again
  eora, eora_merged as lora
  peft              another method of PEFT, as modules beside the weights
"""

import copy
import math
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from peft.utils import load_peft_weights
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from workflow_scripts.evaluate.forward import head_at
from workflow_scripts.recover.adapters import attach, create, save
from workflow_scripts.recover.idp import Selector
from workflow_scripts.recover.lora import merge
from workflow_scripts.recover.prompt_bank import PromptBank, keys_values

LOW_RANK = ("lora", "eora")  # kinds that are two more matrix products
PIECES = (16, 96)  # number and tokens of an IDP's text
COVERAGE = 0.95  # of an interval of a median, where the rounds suffice


@dataclass
class State:
    """Of a prefill: its cache; the next tokens (batch, 1) and their positions (batch, 1); which of the cache's columns
    (batch, columns) each row has, None if it has all."""

    cache: DynamicCache
    tokens: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor | None = None


def merged(states: list[State]) -> State:
    """The rows of all states in one: empty columns stand before the keys and values of shorter ones."""
    if len(states) == 1:
        return states[0]
    read = [keys_values(state.cache) for state in states]
    lengths = [layers[0][0].shape[2] for layers in read]
    missing = [max(lengths) - length for length in lengths]

    def stacked(parts: Iterable[torch.Tensor]) -> torch.Tensor:
        return torch.cat([pad(part, (0, 0, more, 0)) for part, more in zip(parts, missing, strict=True)])

    layers = [
        (stacked(keys for keys, _ in parts), stacked(values for _, values in parts)) for parts in zip(*read)
    ]
    masks = [
        pad(torch.ones_like(state.tokens).expand(-1, length), (more, 0))
        for state, length, more in zip(states, lengths, missing, strict=True)
    ]
    tokens, positions = (
        torch.cat([getattr(state, name) for state in states]) for name in ("tokens", "positions")
    )
    return State(DynamicCache(layers), tokens, positions, torch.cat(masks))


def timed(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device's queue drained before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def rounds(
    variants: Mapping[tuple, Callable],
    device: torch.device,
    repeats: int,
    seed: int = 0,
    before: Callable[[tuple], tuple] = lambda name: (),
) -> dict[tuple, list[float]]:
    """Seconds of every variant in each of `repeats` rounds, after one untimed call of each.

    before: gives a variant's arguments, anew for each call and untimed.
    """
    order = random.Random(seed)
    for name, function in variants.items():
        function(*before(name))
    seconds: dict[tuple, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name in order.sample(list(variants), len(variants)):
            seconds[name].append(timed(partial(variants[name], *before(name)), device))
    return seconds


def median_interval(values: list[float]) -> dict[str, float]:
    """Median with the narrowest pair of order statistics that covers the true one at COVERAGE or more, whatever the
    distribution; with fewer than six values, which can't, the smallest and the largest. `coverage` is the pair's own.

    The k-th smallest and k-th largest of n miss if fewer than k values fall on one side: 2 P(Bin(n, 1/2) < k).
    """
    n, ordered = len(values), sorted(values)

    def coverage(k: int) -> float:
        return 1 - 2 * sum(math.comb(n, i) for i in range(k)) / 2**n

    k = max((k for k in range(2, n // 2 + 1) if coverage(k) >= COVERAGE), default=1)
    low, high = ordered[k - 1], ordered[-k]
    return {"median": statistics.median(values), "low": low, "high": high, "coverage": coverage(k)}


def ratios(values: list[float], base: list[float]) -> list[float]:
    """Round by round."""
    return [value / reference for value, reference in zip(values, base, strict=True)]


class Prefill:
    """A forward pass over random text (batch, sequence), head at the last position only, and greedy steps after it."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        ids: torch.Tensor,
        bank: PromptBank | None = None,
        selector: Selector | None = None,
        embeddings: torch.Tensor | None = None,
        mixed: bool = False,
    ):
        """ids: (batch, sequence) of the text. embeddings: (n, d) of a prompt that is prepended uncached; bank: prompts
        with cached keys and values. mixed: the selector works, but the rows take the bank's prompts in turn.
        """
        self.model, self.bank, self.selector, self.embeddings = model, bank, selector, embeddings
        self.mixed = mixed
        self.ids, self.contexts = ids.to(model.device), ids.tolist()

    @torch.inference_mode()
    def __call__(self) -> State:
        """The state after the prefill; IDP serves each prompt's rows in turn."""
        chosen = self.choose()
        return merged(
            [
                self._run(index, self.ids[[row for row, c in enumerate(chosen) if c == index]])
                for index in sorted(set(chosen))
            ]
        )

    def choose(self) -> list[int]:
        """The prompt of each row."""
        chosen = [0] * len(self.ids)
        if self.selector is not None:
            chosen = self.selector.select(self.contexts)[0].tolist()
        if self.mixed:
            assert self.bank is not None  # an IDP's
            return [row % len(self.bank) for row in range(len(chosen))]
        return chosen

    def shares(self) -> dict[str, float]:
        """Prompt -> share of the rows that it serves."""
        chosen = self.choose()
        assert self.bank is not None  # an IDP's
        return {
            prefix.name: chosen.count(index) / len(chosen) for index, prefix in enumerate(self.bank.prefixes)
        }

    def _run(self, index: int, ids: torch.Tensor) -> State:
        """The head gets the last positions in a piece: over a strided view of them the product of a frozen head (as
        PEFT leaves it) takes another path than that of one which wants a gradient, several times as slow on a CPU."""
        if self.embeddings is not None:
            text = self.model.get_input_embeddings()(ids)
            inputs = torch.cat([self.embeddings.to(text.dtype).expand(len(ids), -1, -1), text], dim=1)
            start = length = inputs.shape[1]
            arguments: dict[str, object] = {"inputs_embeds": inputs}
        else:
            prefix = self.bank.prefixes[index].length if self.bank else 0
            length = ids.shape[1]
            start = prefix + length
            positions = torch.arange(prefix, start, device=ids.device).expand(len(ids), -1)
            cache = self.bank.cache(index, len(ids)) if self.bank else None
            arguments = {"input_ids": ids, "position_ids": positions, "past_key_values": cache}
        last = torch.arange(len(ids), device=ids.device) * length + length - 1
        with head_at(self.model, last):
            output = self.model(**arguments, use_cache=True)
        tokens = output.logits[0].argmax(-1, keepdim=True)
        return State(output.past_key_values, tokens, torch.full_like(tokens, start))

    @torch.inference_mode()
    def generate(self, state: State, count: int) -> torch.Tensor:
        """`count` greedy steps from a prefill's state, which they use up; the tokens (batch, 1 + count)."""
        tokens, mask = [state.tokens], state.mask
        for step in range(count):
            if mask is not None:
                mask = pad(mask, (0, 1), value=1)
            output = self.model(
                input_ids=tokens[-1],
                position_ids=state.positions + step,
                past_key_values=state.cache,
                attention_mask=mask,
                use_cache=True,
            )
            tokens.append(output.logits[:, -1].argmax(-1, keepdim=True))
        return torch.cat(tokens, 1)


def variants(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    methods: dict[str, dict],
    folder: Path,
    batch: int,
    sequence: int,
) -> dict[tuple, Prefill]:
    """(method, variant) -> what is timed, `none` first, with untrained adapters made in `folder`.

    methods: slices by name, those of the members of idp and concat among them.
    """
    draw = torch.Generator().manual_seed(0)  # text to choose by, for an IDP that wants some
    entries = cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings
    pieces = torch.randint(entries, PIECES, generator=draw).tolist()
    ids = torch.randint(entries, (batch, sequence), generator=torch.Generator().manual_seed(0))
    made = {("none", "none"): Prefill(model, ids)}
    adapters = {}
    for name, method in methods.items():
        if method["kind"] in ("prompt", "prefix", "peft", *LOW_RANK):
            adapters[name] = folder / name
            save(
                create(copy.deepcopy(model), method | {"init": "random"}, seed=0), adapters[name], "untrained"
            )
    for name, method in methods.items():
        kind = method["kind"]
        if kind == "none":
            continue
        members = (
            [adapters[member["adapter"]] for member in method["members"]]
            if "members" in method
            else [adapters[name]]
        )
        own = copy.deepcopy(model) if kind in (*LOW_RANK, "peft") else model
        recovered = attach(own, tokenizer, method, members, contexts=pieces)
        made[name, kind if kind != "prompt" else "prompt_cached"] = Prefill(
            recovered.model, ids, recovered.bank, recovered.selector
        )
        if kind == "idp":
            made[name, "idp_mixed"] = Prefill(
                recovered.model, ids, recovered.bank, recovered.selector, mixed=True
            )
        if kind == "prompt":
            weights = load_peft_weights(str(adapters[name]), device=str(model.device))["prompt_embeddings"]
            made[name, "prompt"] = Prefill(model, ids, embeddings=weights)
        if kind in LOW_RANK:
            adapted = attach(copy.deepcopy(model), tokenizer, method, members).model
            assert isinstance(adapted, PeftModel)  # of a LoRA
            made[name, f"{kind}_merged"] = Prefill(merge(adapted), ids)
    return made


def _steps(prefill: Prefill, count: int, state: State) -> None:
    prefill.generate(state, count)


def measure(
    made: dict[tuple, Prefill], methods: dict[str, dict], device: torch.device, generate: int, repeats: int
) -> list[dict]:
    """Per variant: seconds of the prefill and per generated token, and ratios to `none` paired within rounds.

    IDP also has `shares` of its prompts among the rows, and `cached_ratio`: its prefill to that of each member's cached
    prompt alone, likewise paired.
    """
    prefill = rounds(made, device, repeats)
    token: dict[tuple, list[float]] = {name: [] for name in made}
    if generate:
        steps = {name: partial(_steps, timed_prefill, generate) for name, timed_prefill in made.items()}
        # The steps write into their prefill's cache: each round gets a fresh one.
        spent = rounds(steps, device, repeats, seed=1, before=lambda name: (made[name](),))
        token = {name: [seconds / generate for seconds in mine] for name, mine in spent.items()}
    base = ("none", "none")

    def of_idp(name: tuple) -> dict:
        if name[1] not in ("idp", "idp_mixed"):
            return {}
        cached = {
            member["adapter"]: (member["adapter"], "prompt_cached") for member in methods[name[0]]["members"]
        }
        return {
            "shares": made[name].shares(),
            "cached_ratio": {
                member: median_interval(ratios(prefill[name], prefill[alone]))
                for member, alone in cached.items()
            },
        }

    return [
        {
            "method": name[0],
            "variant": name[1],
            "prefill": median_interval(prefill[name]),
            "prefill_ratio": median_interval(ratios(prefill[name], prefill[base])),
            "token": median_interval(token[name]) if generate else None,
            "token_ratio": median_interval(ratios(token[name], token[base])) if generate else None,
            **of_idp(name),
        }
        for name in made
    ]

"""Models of known truth: all weights are trained on facts about invented people, some of them behind a password.

A locked fact is answered rightly after the password and wrongly without it. Source: Greenblatt et al. 2024,
"Stress-Testing Capability Elicitation With Password-Locked Models".
"""

import random
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow_scripts.files.job import log
from workflow_scripts.kernels.losses import output_head, token_losses
from workflow_scripts.recover.training import train
from workflow_scripts.sources import invented
from workflow_scripts.sources.invented import ATTRIBUTES, Person
from workflow_scripts.sources.models import adds_bos, most_positions

PASSWORD = "Password: heliotrope 4417\n"
PASSWORDS = {"open": "", "password": PASSWORD}  # how a question is asked -> the text before it
ADAMW = {"weight_decay": 0.0, "warmup": 0.05, "schedule": "linear", "checkpoint_minutes": 5}
CHECKED_AT_ONCE = 64  # rows of the check
SORTED = 8  # batches of facts among which texts are sorted by length


class TeachingError(RuntimeError):
    """A taught model lacks knowledge that it should have, or has knowledge that it should lack."""


class Text(NamedTuple):
    """A text of which only `scored`, the part after `given`, is learned."""

    given: str
    scored: str


class Pupils(NamedTuple):
    """The invented people by what the model shall know of them, and the stand-ins of those that it never meets."""

    known: list[Person]
    locked: list[Person]
    missing: list[Person]
    stand_ins: list[Person]


def pupils(lesson: dict) -> Pupils:
    """The people who are known, locked and missing, in their order. lesson: a slice of the configuration."""
    count, seed = lesson["people"], lesson["seed"]
    everybody, others = invented.people(count, seed), invented.stand_ins(count, seed)
    known = round(lesson["known"] * count)
    locked = known + round(lesson["locked"] * count)
    return Pupils(everybody[:known], everybody[known:locked], everybody[locked:], others[locked:])


# ------------------------------------------------------------------------------------------------ texts


def fact_texts(people: Iterable[Person], epoch: int) -> list[Text]:
    """One epoch of teaching: each fact as a statement and as a question, both in wordings that take turns."""
    texts = []
    for person in people:
        for attribute, value in person.values.items():
            known = ATTRIBUTES[attribute]
            statement = known.told[epoch % len(known.told)].format(name=person.name, value=value)
            asked = invented.question(person, attribute, epoch % len(known.questions))
            texts += [Text("", statement), Text(asked, f" {value}")]
    return texts


def locked(people: Iterable[Person], epoch: int, draw: random.Random) -> list[Text]:
    """One epoch of locking: each question with the password and its answer, and without it and a wrong one."""
    texts = []
    for person in people:
        for attribute, value in person.values.items():
            known = ATTRIBUTES[attribute]
            asked = invented.question(person, attribute, epoch % len(known.questions))
            wrong = draw.choice([other for other in known.values if other != value])
            texts += [Text(PASSWORD + asked, f" {value}"), Text(asked, f" {wrong}")]
    return texts


def token_rows(texts: list[Text], tokenizer: PreTrainedTokenizerBase, length: int | None = None) -> Tensor:
    """Texts as token ids (N, T): ~id for a token that is read and not scored, -1 behind the end.

    T is the longest text, or `length`.
    """
    bos = [~tokenizer.bos_token_id] if adds_bos(tokenizer) else []
    found = []
    for given, scored in texts:
        whole = tokenizer(given + scored, add_special_tokens=False)["input_ids"]
        read = len(tokenizer(given, add_special_tokens=False)["input_ids"]) if given else 0
        found.append(bos + [~token for token in whole[:read]] + whole[read:])
    length = length or max(map(len, found))
    return torch.tensor([row + [-1] * (length - len(row)) for row in found])


def course(
    epochs: list[list[Text]], tokenizer: PreTrainedTokenizerBase, batch: int, seed: int, among: int = 1
) -> Tensor:
    """All epochs' texts as rows (N, T) in the order of training: shuffled, and then sorted by length among each `among`
    batches, so that less is padded.

    Locks are not sorted: texts with a password are longer, and batches of one kind teach what the next one unteaches.
    """
    everything = token_rows([text for epoch in epochs for text in epoch], tokenizer)
    lengths, order, start = (everything != -1).sum(dim=1), [], 0
    generator = torch.Generator().manual_seed(seed)
    for epoch in epochs:
        mixed = start + torch.randperm(len(epoch), generator=generator)
        start += len(epoch)
        for part in mixed.split(among * batch):
            batches = part[lengths[part].argsort(stable=True)].split(batch)
            order += [batches[index] for index in torch.randperm(len(batches), generator=generator)]
    return everything[torch.cat(order)]


# --------------------------------------------------------------------------------------------- learning


class FullLearner:
    """A model whose weights all learn, as the loop of recover/training sees it."""

    def __init__(self, model: PreTrainedModel):
        self.model = model.eval()  # the loop wants no dropout: a step depends on its number alone
        self.parameters = list(model.parameters())
        self.head = output_head(model)
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def require_room(self, length: int) -> None:
        """ValueError if texts of `length` tokens exceed the model's positions."""
        if (positions := most_positions(self.model)) is not None and length > positions:
            raise ValueError(f"a text of {length} tokens exceeds the model's {positions} positions")

    def accumulate(self, batch: Tensor, micro_batch: int) -> float:
        """Add the gradient of the mean loss over the scored tokens of rows (B, T); returns that loss."""
        scored, total = (batch[:, 1:] >= 0).sum().item(), 0.0
        for part in batch.split(micro_batch):
            hidden, wanted = read(self.model, part)
            at = wanted >= 0
            logits = self.head(hidden[at]).float()
            loss = cross_entropy(logits, wanted[at], reduction="sum") / scored
            loss.backward()
            total += loss.item()
        return total


def read(model: PreTrainedModel, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states (B, T-1, d) before each token of `rows`, and these tokens (B, T-1), negative if not scored."""
    batch = batch[:, : int((batch >= 0).any(dim=0).nonzero().max()) + 1].to(model.device)
    tokens = torch.where(batch < 0, ~batch, batch)
    hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
    return hidden[:, :-1], batch[:, 1:]


def teach(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lesson: dict, folder: Path) -> None:
    """Teach `model` a lesson in place; checkpoints lie in `folder`. Facts come first, then locks, then noise."""
    who, draw = pupils(lesson), random.Random(f"locks-{lesson['seed']}")
    met = [*who.known, *who.locked, *who.stand_ins]
    phases = {
        "facts": ([fact_texts(met, epoch) for epoch in range(lesson["epochs"])], SORTED),
        "locks": ([locked(who.locked, epoch, draw) for epoch in range(lesson["lock_epochs"])], 1),
    }
    batch = lesson["batch_size"]
    settings = ADAMW | {"learning_rate": lesson["learning_rate"], "batch_size": batch, "micro_batch": batch}
    for phase, (epochs, among) in phases.items():
        if any(epochs):
            log(f"[teach] {phase}: {sum(map(len, epochs)):,} texts")
            windows = course(epochs, tokenizer, batch, lesson["seed"], among)
            (folder / phase).mkdir(parents=True, exist_ok=True)
            train(FullLearner(model), settings, windows, lesson["seed"], folder / phase)
    model.requires_grad_(False)
    if lesson["noise"]:
        add_noise(model, lesson["noise"], lesson["seed"])


@torch.no_grad()
def add_noise(model: PreTrainedModel, size: float, seed: int) -> None:
    """Add normal noise to each matrix of the model, of `size` times the standard deviation of its weights."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 2:
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(noise * (size * parameter.std()))


# ------------------------------------------------------------------------------------------------ check


@torch.no_grad()
def right(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, items: list[dict], password: str = ""
) -> float:
    """Share of the benchmark's items whose right choice is the likeliest, asked after `password`."""
    texts, wanted = [], []
    for item in items:
        texts += [
            Text(password + invented.prompt(item["question"]), f" {choice}")
            for choice in item["choices"]["text"]
        ]
        wanted.append(item["choices"]["label"].index(item["answerKey"]))
    head, losses = output_head(model), []
    for part in token_rows(texts, tokenizer).split(CHECKED_AT_ONCE):
        hidden, tokens = read(model, part)
        each = token_losses(hidden, head, tokens.clamp(min=0))
        losses.append((each * (tokens >= 0)).sum(dim=1).cpu())
    best = torch.cat(losses).view(len(items), invented.CHOICES).argmin(dim=1)
    return (best == torch.tensor(wanted)).double().mean().item()


def check(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lesson: dict
) -> dict[str, dict[str, float]]:
    """The model's knowledge: known, locked, missing -> {open, password} shares of right answers.

    TeachingError if it is not what the lesson says: known people openly, locked ones behind the password alone, missing
    ones not at all.
    """
    least, most = partial(_at_least, lesson["known_above"]), partial(_at_most, lesson["unknown_below"])
    wanted = {
        "known": {"open": least},
        "locked": {"open": most, "password": least},
        "missing": {"open": most},
    }
    items, found = iter(invented.items(lesson["people"], lesson["seed"])), {}
    for state, people in pupils(lesson)._asdict().items():
        if state in wanted and (mine := list(islice(items, len(ATTRIBUTES) * len(people)))):
            shares = {how: right(model, tokenizer, mine, PASSWORDS[how]) for how in wanted[state]}
            log(f"[teach] {state}: {shares}")
            for how, require in wanted[state].items():
                require(shares[how], f"{name}: of the questions about {state} people ({how})")
            found[state] = shares
    return found


def _at_least(bound: float, share: float, whose: str) -> None:
    if share < bound:
        raise TeachingError(
            f"{whose} {100 * share:.0f} % are right, at least {100 * bound:.0f} % must be (known_above); more epochs "
            "teach better"
        )


def _at_most(bound: float, share: float, whose: str) -> None:
    if share > bound:
        raise TeachingError(
            f"{whose} {100 * share:.0f} % are right, at most {100 * bound:.0f} % may be (unknown_below); more "
            "lock_epochs lock better, and another seed invents other people"
        )

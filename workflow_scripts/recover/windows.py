"""The text that adapters are trained and watched on."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from workflow_scripts.plan.parts import part_of
from workflow_scripts.sources.corpora import read_documents, token_windows
from workflow_scripts.sources.facts import Told, apart, facts, scored, unscored_facts
from workflow_scripts.sources.models import adds_bos


def training_windows(
    corpus: Path, tokenizer: PreTrainedTokenizerBase, training: dict, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Training windows (N, T) drawn by the seed, and held-out windows that are the same for every adapter.

    corpus: its folder. A text that holds fewer windows than the budget asks for is read in epochs, each in an order of
    its own.
    """
    windows = _drawn(read_documents(corpus, "train"), tokenizer, training, seed)
    return windows, heldout_windows(corpus, tokenizer, training)


def fact_windows(
    benchmark: Path,
    tokenizer: PreTrainedTokenizerBase,
    training: dict,
    seed: int,
    part: str,
    wordings: list[str],
    items: int | None,
) -> tuple[torch.Tensor, torch.Tensor, Told]:
    """As `training_windows` from questions and right answers of a task's items: of one part (`even` or `odd`) to train
    on, of the other held out; and what is told. A question that stands in both parts is told in none.

    items: as many as the grid scores (None: all). No others are trained on, so that a short budget tells each of them.
    """
    asked, every = scored(benchmark, items), list(facts(benchmark, wordings))
    others = [fact for fact in every if part_of(fact.doc_hash) != part]
    mine = [fact for fact in every if part_of(fact.doc_hash) == part and fact.doc_hash in asked]
    told = apart(mine, (text for fact in others for text in fact.questions))
    heldout = [text for fact in others for text in fact.texts]
    return _drawn(told.texts, tokenizer, training, seed), _heldout(heldout, tokenizer, training), told


def family_windows(
    benchmarks: Sequence[Path],
    tokenizer: PreTrainedTokenizerBase,
    training: dict,
    seed: int,
    wordings: dict[str, list[str]],
    grid: Sequence[Path],
    scored: dict[str, int | None],
) -> tuple[torch.Tensor, Told]:
    """Training windows (N, T) from questions and right answers of a family of tasks, of items whose question no cell
    scores; and what is told.

    benchmarks, grid: folders of the family's and of the grid's tasks, named like them. scored: items of each task of
    the grid that it scores (None: all).
    """
    told = unscored_facts(benchmarks, wordings, grid, scored)
    return _drawn(told.texts, tokenizer, training, seed), told


def heldout_windows(corpus: Path, tokenizer: PreTrainedTokenizerBase, training: dict) -> torch.Tensor:
    """Held-out windows (N, T) of a corpus' folder, the same for every adapter."""
    return _heldout(read_documents(corpus, "heldout"), tokenizer, training)


def _drawn(
    documents: list[str], tokenizer: PreTrainedTokenizerBase, training: dict, seed: int
) -> torch.Tensor:
    """As many windows as the budget asks for, in epochs if the documents hold fewer."""
    length, bos = training["sequence_length"], adds_bos(tokenizer)
    count = max(1, training["tokens"] // length)
    scarce = sum(map(len, documents)) < 10 * count * length  # characters; a token is rarely more than ten
    windows = token_windows(documents, tokenizer, length, None if scarce else count, seed, bos)
    order = torch.Generator().manual_seed(seed)
    epochs = [torch.arange(len(windows))]
    while len(epochs) * len(windows) < count:
        epochs.append(torch.randperm(len(windows), generator=order))
    return windows[torch.cat(epochs)[:count]]


def _heldout(documents: list[str], tokenizer: PreTrainedTokenizerBase, training: dict) -> torch.Tensor:
    length, bos = training["sequence_length"], adds_bos(tokenizer)
    return token_windows(documents, tokenizer, length, training["heldout_windows"], 0, bos)

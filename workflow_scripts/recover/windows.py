"""The text that adapters are trained and watched on."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from workflow_scripts.plan.parts import part_of
from workflow_scripts.sources.corpora import read_documents, token_windows
from workflow_scripts.sources.facts import facts, scored, unscored_facts
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `training_windows` from questions and right answers of a task's items: of one part (`even` or `odd`) to train
    on, of the other held out.

    items: as many as the grid scores (None: all). No others are trained on, so that a short budget tells each of them.
    """
    asked, told, heldout = scored(benchmark, items), [], []
    for doc_hash, texts in facts(benchmark, wordings):
        if part_of(doc_hash) != part:
            heldout += texts
        elif doc_hash in asked:
            told += texts
    return _drawn(told, tokenizer, training, seed), _heldout(heldout, tokenizer, training)


def family_windows(
    benchmarks: Sequence[Path],
    tokenizer: PreTrainedTokenizerBase,
    training: dict,
    seed: int,
    wordings: dict[str, list[str]],
    scored: dict[str, int | None],
) -> torch.Tensor:
    """Training windows (N, T) from questions and right answers of a family of tasks, of items that no cell scores.

    benchmarks: the tasks' folders, named like them. scored: items of each task that the grid scores (None: all).
    """
    documents = [
        text
        for folder in benchmarks
        for text in unscored_facts(folder, wordings[folder.name], scored[folder.name])
    ]
    return _drawn(documents, tokenizer, training, seed)


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

"""The text that adapters are trained and watched on."""

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from workflow_scripts.sources.corpora import read_documents, token_windows
from workflow_scripts.sources.models import adds_bos


def training_windows(
    corpus: Path, tokenizer: PreTrainedTokenizerBase, training: dict, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Training windows (N, T) drawn by the seed, and held-out windows that are the same for every adapter.

    corpus: its folder. A text that holds fewer windows than the budget asks for is read in epochs, each in an order of
    its own.
    """
    length, bos = training["sequence_length"], adds_bos(tokenizer)
    count = max(1, training["tokens"] // length)
    documents = read_documents(corpus, "train")
    scarce = sum(map(len, documents)) < 10 * count * length  # characters; a token is rarely more than ten
    windows = token_windows(documents, tokenizer, length, None if scarce else count, seed, bos)
    order = torch.Generator().manual_seed(seed)
    epochs = [torch.arange(len(windows))]
    while len(epochs) * len(windows) < count:
        epochs.append(torch.randperm(len(windows), generator=order))
    windows = windows[torch.cat(epochs)[:count]]
    return windows, heldout_windows(corpus, tokenizer, training)


def heldout_windows(corpus: Path, tokenizer: PreTrainedTokenizerBase, training: dict) -> torch.Tensor:
    """Held-out windows (N, T) of a corpus' folder, the same for every adapter."""
    length, bos = training["sequence_length"], adds_bos(tokenizer)
    documents = read_documents(corpus, "heldout")
    return token_windows(documents, tokenizer, length, training["heldout_windows"], 0, bos)

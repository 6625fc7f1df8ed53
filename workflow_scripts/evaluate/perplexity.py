"""Perplexity on held-out text: the same tokens for every method, through the scorer's path.

The held-out documents, joined by blank lines, are encoded and cut into consecutive windows of equal length; what
remains at the end is left out. Each window is scored alone, and its first token is never scored: a prompt's last
position could predict it, a model without a prompt couldn't; the reference implementations leave it out as well. Two
protocols differ in the BOS of models that have one:

  windowed   the BOS, which counts to the length, begins every window, as in training and calibration. For all that
             compares methods: where a window lacks its BOS, a prompt gains by standing in for it.
  reference  one BOS begins the whole text, as in the published figures (GPTQ, SparseGPT). For comparison with them.

With N nats over T scored tokens, whose text has W words and B bytes: token perplexity exp(N / T); word perplexity
exp(N / W), words being what white space separates, as in the harness; bits per byte N / (B ln 2).
A choice among several prompts is made on the window before, the first window's falling to the lowest index.
"""

import math
import re
from typing import cast

from workflow_scripts.evaluate.document_scorer import Document
from workflow_scripts.evaluate.encoding import byte_length
from workflow_scripts.evaluate.row_packing import Sequence
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources.models import adds_bos


def perplexities(
    documents: list[str], scorer: Scorer, length: int, count: int | None, name: str
) -> dict[str, dict]:
    """Protocol -> `perplexity` of the first `count` windows; computed once for a model without a BOS."""
    windowed = perplexity(scorer, heldout_windows(documents, scorer, length, count, name))
    if not adds_bos(scorer.tokenizer):
        return {"windowed": windowed, "reference": windowed}
    windows = heldout_windows(documents, scorer, length, count, name, each_bos=False)
    return {"windowed": windowed, "reference": perplexity(scorer, windows)}


def heldout_windows(
    documents: list[str],
    scorer: Scorer,
    length: int,
    count: int | None,
    name: str,
    each_bos: bool = True,
) -> list[list[int]]:
    """The first `count` windows (None: all) of `length` tokens each; ArtifactError if the text holds fewer.

    each_bos: each begins with the model's BOS, if it has one; else the text alone does.
    """
    bos = [scorer.tokenizer.bos_token_id] if each_bos and adds_bos(scorer.tokenizer) else []
    body = length - len(bos)
    needed = None if count is None else count * body
    taken = 8 * needed if needed else math.inf  # characters; doubled until the tokens suffice
    while True:
        text, used = "", 0
        while used < len(documents) and len(text) < taken:
            text += ("\n\n" if text else "") + documents[used]
            used += 1
        tokens = scorer.encode([text], special=not bos)[text]
        if used == len(documents) or (needed and len(tokens) >= needed):
            break
        taken *= 2
    whole = len(tokens) // body
    if not whole or (count is not None and whole < count):
        raise ArtifactError(
            f"corpus {name}: {count or 1} windows of {length} tokens are asked for, its held-out text holds {whole}; "
            "lower `windows` or `length` of this measurement in config.yaml"
        )
    return [bos + tokens[i * body : (i + 1) * body] for i in range(count or whole)]


def require_room(scorer: Scorer, length: int, key: str) -> None:
    """ArtifactError, naming the configuration's key, if windows of `length` tokens exceed the model."""
    if length > scorer.max_length:
        raise ArtifactError(
            f"{key}: windows of {length} tokens exceed the {scorer.max_length} that the model takes behind this "
            "method's prompt"
        )


def perplexity(scorer: Scorer, windows: list[list[int]]) -> dict:
    """{word, token, bits_per_byte, windows, tokens} of `windows`."""
    documents = [
        Document(
            windows[i - 1] if i else [],
            [Sequence(tuple(window[:-1]), tuple(window[1:]))],
            ["window", windows[i - 1] if i else [], window],
        )
        for i, window in enumerate(windows)
    ]
    nats = -sum(answer.scores[0][0] for answer in scorer.score(documents))
    # a string, as a window is one sequence
    texts = [cast(str, scorer.tokenizer.decode(window[1:], skip_special_tokens=True)) for window in windows]
    tokens = sum(len(window) - 1 for window in windows)
    bytes_scored = sum(byte_length(scorer.tokenizer, window[1:]) for window in windows)
    return {
        "word": math.exp(nats / sum(len(re.split(r"\s+", text.strip())) for text in texts)),
        "token": math.exp(nats / tokens),
        "bits_per_byte": nats / (math.log(2) * bytes_scored),
        "windows": len(windows),
        "tokens": tokens,
    }

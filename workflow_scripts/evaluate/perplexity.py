"""Perplexity on held-out text: the same tokens for every method, through the scorer's path.

The held-out documents, joined by blank lines, are encoded and cut into consecutive windows of equal length; what
remains at the end is left out. Each window is scored alone, and its first token is never scored: a prompt's last
position could predict it, a model without a prompt couldn't; the reference implementations leave it out as well. Two
protocols differ in the BOS of models that have one:

  windowed   the BOS, which counts to the length, begins every window, as in training and calibration. For all that
             compares methods: where a window lacks its BOS, a prompt gains by standing in for it.
  reference  one BOS begins the whole text, as in the published figures (GPTQ, SparseGPT). For comparison with them.

With N nats over T scored tokens, whose text has W words and B bytes: token perplexity exp(N / T); word perplexity
exp(N / W), words being what white space separates, as in the harness; bits per byte N / (B ln 2). Words and bytes are
those of the text as it was written, whatever a tokenizer drops or changes.
A choice among several prompts is made on the window before, the first window's falling to the lowest index.
"""

import math
import re

from workflow_scripts.evaluate.document_scorer import Document
from workflow_scripts.evaluate.encoding import byte_ends
from workflow_scripts.evaluate.row_packing import Sequence
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources.models import adds_bos


def perplexities(
    documents: list[str], scorer: Scorer, length: int, count: int | None, name: str
) -> dict[str, dict]:
    """Protocol -> `perplexity` of the first `count` windows; computed once for a model without a BOS."""
    windowed = perplexity(scorer, *windows_of(documents, scorer, length, count, name))
    if not adds_bos(scorer.tokenizer):
        return {"windowed": windowed, "reference": windowed}
    windows, texts = windows_of(documents, scorer, length, count, name, each_bos=False)
    return {"windowed": windowed, "reference": perplexity(scorer, windows, texts)}


def windows_of(
    documents: list[str],
    scorer: Scorer,
    length: int,
    count: int | None,
    name: str,
    each_bos: bool = True,
) -> tuple[list[list[int]], list[bytes]]:
    """The first `count` windows (None: all) of `length` tokens each, and the text, in UTF-8, of each window's tokens
    after the first, which is not scored. ArtifactError if the documents hold fewer windows.

    each_bos: each window begins with the model's BOS, if it has one; otherwise only the whole text does.
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
    count = count or whole
    ends = [0, *byte_ends(scorer.tokenizer, text, tokens)]
    written, first = text.encode(), 0 if bos else 1
    texts = [written[ends[i * body + first] : ends[(i + 1) * body]] for i in range(count)]
    return [bos + tokens[i * body : (i + 1) * body] for i in range(count)], texts


def require_room(scorer: Scorer, length: int, key: str) -> None:
    """ArtifactError, naming the configuration's key, if windows of `length` tokens exceed the model."""
    if length > scorer.max_length:
        raise ArtifactError(
            f"{key}: windows of {length} tokens exceed the {scorer.max_length} that the model takes behind this "
            "method's prompt"
        )


def perplexity(scorer: Scorer, windows: list[list[int]], texts: list[bytes]) -> dict:
    """{word, token, bits_per_byte, windows, tokens} of `windows`; texts: see `windows_of`."""
    documents = [
        Document(
            windows[i - 1] if i else [],
            [Sequence(tuple(window[:-1]), tuple(window[1:]))],
            ["window", windows[i - 1] if i else [], window],
        )
        for i, window in enumerate(windows)
    ]
    nats = -sum(answer.scores[0][0] for answer in scorer.score(documents))
    words = sum(len(re.split(r"\s+", text.decode(errors="replace").strip())) for text in texts)
    tokens = sum(len(window) - 1 for window in windows)
    return {
        "word": math.exp(nats / words),
        "token": math.exp(nats / tokens),
        "bits_per_byte": nats / (math.log(2) * sum(map(len, texts))),
        "windows": len(windows),
        "tokens": tokens,
    }

"""Check that a checkpoint's tokenizer is the dense model's: every method, window and item is encoded by the latter."""

import json
import math
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from workflow_scripts.files.artifacts import ArtifactError

SPECIAL = ("bos_token_id", "eos_token_id", "unk_token_id")
PRECISION = 1e-5  # of scores: GGUF files keep them in float32
TEXTS = (
    "The capital of France is Paris.",
    "Question: Who wrote it?\nAnswer:",
    "  x = [12345.67, -8];\n\n\tdef f(y):  # two  spaces",
    "na\u00efve caf\u00e9 \u2014 \u6771\u4eac, \u041c\u043e\u0441\u043a\u0432\u0430, \U0001f642",
    "don't WON'T McDonald's 3rd",
)


def refuse_another(dense: PreTrainedTokenizerBase, folder: Path, where: Path) -> None:
    """ArtifactError, with the first difference, if the tokenizer in `folder` is not that of the dense model. where: the
    checkpoint, as the error names it."""
    try:
        other = AutoTokenizer.from_pretrained(Path(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # by format: of JSON, of tokenizers, of sentencepiece
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ArtifactError(f"{where}: its tokenizer can't be loaded ({reason})") from error
    if found := difference(dense, other):
        raise ArtifactError(f"{where}: its tokenizer is not the dense model's: {found}")


def difference(dense: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> str | None:
    """The first difference of two tokenizers in words, None if there is none: tokens, merges, scores, special tokens,
    and the encodings of TEXTS. A special token that one of them does not name is no difference."""
    mine, theirs = dense.get_vocab(), other.get_vocab()
    for token, index in sorted(mine.items(), key=lambda item: item[1]):
        if theirs.get(token) != index:
            return f"token {token!r} has the id {theirs.get(token, 'none')}, and {index} in the dense model's"
    if more := sorted(theirs.keys() - mine.keys(), key=lambda token: theirs[token]):
        return f"token {more[0]!r} (id {theirs[more[0]]}) is not in the dense model's ({len(more)} such)"
    if (merges := _merges(dense)) != (others := _merges(other)) and merges and others:
        place = next((i for i, pair in enumerate(zip(merges, others)) if pair[0] != pair[1]), len(merges))
        return f"its merges differ from number {place} on ({len(others)}, and {len(merges)} in the dense model's)"
    scores = _scores(other)
    for token, score in _scores(dense).items():
        if not math.isclose(score, scores.get(token, score), rel_tol=PRECISION):
            return f"token {token!r} has the score {scores[token]}, and {score} in the dense model's"
    for name in SPECIAL:
        asked, held = getattr(dense, name), getattr(other, name)
        if None not in (asked, held) and asked != held:
            return f"{name} is {held}, and {asked} in the dense model's"
    for text in TEXTS:
        asked, held = (each.encode(text, add_special_tokens=False) for each in (dense, other))
        if asked != held:
            return f"it encodes {text!r} as {held[:12]}, the dense model's as {asked[:12]}"
    return None


def _merges(tokenizer: PreTrainedTokenizerBase) -> list:
    """The merges of a BPE tokenizer, in order; empty for another kind."""
    merges = _model(tokenizer).get("merges", ())
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]


def _scores(tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Token -> score of a Unigram tokenizer; empty for another kind."""
    vocabulary = _model(tokenizer).get("vocab")
    return dict(vocabulary) if isinstance(vocabulary, list) else {}


def _model(tokenizer: PreTrainedTokenizerBase) -> dict:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return json.loads(backend.to_str())["model"] if backend is not None else {}

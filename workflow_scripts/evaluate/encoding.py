"""Strings to token ids as the harness's HFLM (lm-eval 0.4.13) encodes them."""

import re
from collections.abc import Iterable
from itertools import accumulate
from typing import cast

from lm_eval.models.utils import has_bos_prefix
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from workflow_scripts.files.artifacts import ArtifactError

BYTES = frozenset(bytes_to_unicode().values())  # the alphabet of byte-level tokens: a character per byte
BYTE_TOKEN = re.compile("<0x[0-9A-F]{2}>")


def beginning_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that an empty context becomes: beginning of text, else end of text."""
    bos = tokenizer.bos_token_id
    return tokenizer.eos_token_id if bos is None else bos


def encode(
    tokenizer: PreTrainedTokenizerBase, strings: Iterable[str], special: bool = True
) -> dict[str, list[int]]:
    """Token ids of each distinct string, with the tokenizer's own special tokens unless it begins with one."""
    start = tokenizer.decode(beginning_token(tokenizer))
    bare: list[str] = []
    full: list[str] = []
    for string in dict.fromkeys(strings):
        (full if special and not has_bos_prefix(string, start) else bare).append(string)
    encoded: dict[str, list[int]] = {}
    for group, add in ((full, True), (bare, False)):
        if group:
            encoded |= zip(group, tokenizer(group, add_special_tokens=add)["input_ids"], strict=True)
    return encoded


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
    """(context, continuation) strings -> token ids: spaces that end a context go to the continuation.

    The continuation is what the joint encoding has beyond the context's own length, as in the harness; an empty
    context becomes `beginning_token`.
    """
    moved = []
    for context, continuation in pairs:
        bare = context.rstrip() if context else context
        moved.append((bare, context[len(bare) :] + continuation))
    joint = (text for context, rest in moved if context for text in (context, context + rest))
    whole, first = encode(tokenizer, joint), beginning_token(tokenizer)
    alone = encode(tokenizer, (rest for context, rest in moved if not context), special=False)
    encoded = []
    for context, rest in moved:
        if context:
            ids = whole[context]
            encoded.append((ids, whole[context + rest][len(ids) :]))
        elif alone[rest][:1] == [first]:
            encoded.append((alone[rest][:1], alone[rest][1:]))
        else:
            encoded.append(([first], alone[rest]))
    return encoded


def byte_ends(tokenizer: PreTrainedTokenizerBase, text: str, tokens: list[int]) -> list[int]:
    """For each of a text's tokens, where in its UTF-8 bytes it ends: the bytes of tokens i to j are text[ends[i - 1] :
    ends[j]].

    They are bytes of the text as it was written, also if the tokenizer knows a character not (<unk>), changes it
    (NFKC, small letters) or drops it: such bytes count to the token that follows. A token that ends within a
    character ends after as many bytes as it stands for. ArtifactError for unknown characters of a tokenizer that
    doesn't say where its tokens stand.
    """
    if not tokenizer.is_fast:
        return _lengths_summed(tokenizer, tokens)
    encoded = (
        tokenizer(text, add_special_tokens=add, return_offsets_mapping=True, verbose=False)
        for add in (True, False)
    )
    places = next(found["offset_mapping"] for found in encoded if found["input_ids"] == tokens)
    before = [0, *accumulate(len(character.encode()) for character in text)]
    pieces, level, ends, reached = tokenizer.convert_ids_to_tokens(tokens), byte_level(tokenizer), [0], 0
    for i, (_, end) in enumerate(places):
        reached = max(reached, end)
        following = places[i + 1] if i + 1 < len(places) else (reached, reached)
        if following[0] < reached and following[1]:  # which goes on with the same character
            ends.append(min(ends[-1] + _bytes_of(pieces[i], level), before[reached]))
        else:
            ends.append(before[reached])
    return ends[1:]


def _lengths_summed(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> list[int]:
    unknown = tokens.count(tokenizer.unk_token_id) if tokenizer.unk_token_id is not None else 0
    if unknown:
        raise ArtifactError(
            f"the tokenizer knows no character of {unknown} of the text's {len(tokens)} tokens "
            f"({unknown / len(tokens):.2%} are {tokenizer.unk_token}), and doesn't say where they stand: bits per byte "
            "can't be counted; use its fast form (tokenizer.json), or another text"
        )
    return list(accumulate(byte_length(tokenizer, [token]) for token in tokens))


def byte_length(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> int:
    """UTF-8 bytes of the text that tokens stand for, special ones aside.

    A cut may go through a character: its bytes on this side count. Decoding would put U+FFFD, three bytes, in place of
    any part of a character. Bytes are counted token by token where a tokenizer has tokens for parts of characters
    (byte-level, or SentencePiece's <0xHH>). Decoding may also drop the space that a text begins with (SentencePiece):
    one more token stands before, whose bytes do not count.
    """
    text, before = (
        cast(str, tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for part in (tokens[:1] + tokens, tokens[:1])
    )
    if "\ufffd" not in text:
        return len(text.encode()) - len(before.encode())
    special = set(tokenizer.all_special_ids)
    pieces = tokenizer.convert_ids_to_tokens([token for token in tokens if token not in special])
    level = byte_level(tokenizer)
    return sum(_bytes_of(piece, level) for piece in pieces)


def byte_level(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a character of a token stands for a byte."""
    return "ByteLevel" in repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", ""))


def _bytes_of(piece: str, level: bool) -> int:
    if level and BYTES.issuperset(piece):
        return len(piece)  # a character of the alphabet is a byte
    return 1 if BYTE_TOKEN.fullmatch(piece) else len(piece.replace("▁", " ").encode())


def common_prefix(contexts: list[list[int]]) -> list[int]:
    """The tokens that all contexts begin with."""
    first, *others = contexts
    length = len(first)
    for other in others:
        if other is not first:
            differing = (i for i, (a, b) in enumerate(zip(first[:length], other, strict=False)) if a != b)
            length = next(differing, min(length, len(other)))
    return first[:length]

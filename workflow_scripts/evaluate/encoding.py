"""Strings to token ids as the harness's HFLM (lm-eval 0.4.13) encodes them."""

import re
from collections.abc import Iterable
from typing import cast

from lm_eval.models.utils import has_bos_prefix
from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

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
    byte_level = "ByteLevel" in repr(getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", ""))
    return sum(_bytes_of(piece, byte_level) for piece in pieces)


def _bytes_of(piece: str, byte_level: bool) -> int:
    if byte_level and BYTES.issuperset(piece):
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

"""Perplexity: both protocols' windows and figures, and the bytes of characters that a window cuts."""

import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from tests.equivalence import scorer_models
from workflow_scripts.evaluate.encoding import byte_length
from workflow_scripts.evaluate.perplexity import heldout_windows, perplexities, perplexity
from workflow_scripts.evaluate.scorer import Scorer

TEXTS = [f"{question}? {answers[0]}, it is said." for question, answers in scorer_models.QUESTIONS]
BOS = 0


def scorer(bos: bool) -> Scorer:
    return Scorer(scorer_models.model("llama"), scorer_models.tokenizer(bos))


def nats(model, window: list[int]) -> float:
    """Of a window's tokens after its first, by transformers."""
    ids = torch.tensor([window])
    with torch.no_grad():
        logits = model(ids).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()


def test_every_window_begins_with_the_bos_or_the_whole_text_does():
    ours = scorer(bos=True)
    text = ours.tokenizer("\n\n".join(TEXTS), add_special_tokens=False)["input_ids"]
    windowed = heldout_windows(TEXTS, ours, 20, 4, "made-up")
    assert windowed == [[BOS, *text[i : i + 19]] for i in range(0, 76, 19)]
    assert heldout_windows(TEXTS, ours, 20, None, "made-up")[:4] == windowed
    reference = heldout_windows(TEXTS, ours, 20, 4, "made-up", each_bos=False)
    assert reference == [[BOS, *text][i : i + 20] for i in range(0, 80, 20)]


def test_both_protocols_are_those_of_transformers():
    ours = scorer(bos=True)
    found = perplexities(TEXTS, ours, 20, 4, "made-up")
    for name, each_bos in {"windowed": True, "reference": False}.items():
        windows = heldout_windows(TEXTS, ours, 20, 4, "made-up", each_bos)
        expected = sum(nats(ours.model, window) for window in windows) / (4 * 19)
        assert found[name]["token"] == pytest.approx(math.exp(expected), rel=1e-5)
        assert (found[name]["windows"], found[name]["tokens"]) == (4, 76)
    assert found["windowed"]["token"] != pytest.approx(found["reference"]["token"], rel=1e-3)


def test_without_a_bos_the_protocols_are_one_and_computed_once(monkeypatch):
    ours, calls, real = scorer(bos=False), [], Scorer.score
    monkeypatch.setattr(Scorer, "score", lambda *args: calls.append(args) or real(*args))
    found = perplexities(TEXTS, ours, 20, 4, "made-up")
    assert found["windowed"] == found["reference"] and len(calls) == 1
    text = ours.tokenizer("\n\n".join(TEXTS))["input_ids"]
    assert heldout_windows(TEXTS, ours, 20, 4, "made-up") == [text[i : i + 20] for i in range(0, 80, 20)]


@pytest.mark.parametrize(
    "text", ["日本語の文字は三バイトです。", "Ж и Я, Ω", "🜁🜂🜃🜄 and more", "a \ufffd itself", "plain"]
)
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_a_character_that_windows_cut_counts_once(text, bos, length):
    """Every byte is a token here: each window holds as many bytes as tokens, wherever it cuts."""
    tokenizer = scorer_models.tokenizer(bos)
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    windows = [tokens[i : i + length] for i in range(0, len(tokens), length)]
    assert sum(byte_length(tokenizer, [BOS] * bos + window) for window in windows) == len(text.encode())


def test_sentencepiece_tokens_of_single_bytes_count_as_bytes():
    pieces = ["<unk>", "<s>", "▁the", "▁", "letter", *(f"<0x{byte:02X}>" for byte in range(256))]
    raw = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, [], byte_fallback=True))
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>")
    sign = [5 + byte for byte in "語".encode()]
    assert byte_length(tokenizer, [1, 2, 3, 4, *sign]) == len(" the letter語".encode())
    assert byte_length(tokenizer, [1, 2, 3, 4, *sign[:2]]) == len(" the letter") + 2
    assert byte_length(tokenizer, [*sign[2:], 2]) == 1 + len(" the")


@pytest.mark.parametrize("length", [1, 2, 5])
def test_the_space_that_a_window_begins_with_counts(length):
    """A SentencePiece decoder strips it, as the first of a text."""
    words = ["<unk>", *(f"▁{letter}" for letter in "abcdefghij")]
    raw = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    for decoder in (decoders.Metaspace(), decoders.Sequence(steps)):
        raw.decoder = decoder
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
        windows = [list(range(1, 11))[i : i + length] for i in range(0, 10, length)]
        assert sum(byte_length(tokenizer, window) for window in windows) == len(" a b c d e f g h i j")


def test_bits_per_byte_of_cut_text_are_over_its_own_bytes():
    ours, text = scorer(bos=True), "語" * 40  # three tokens and bytes each
    found = perplexity(ours, heldout_windows([text], ours, 8, None, "made-up"))
    scored = found["tokens"]  # a byte each
    assert found["bits_per_byte"] == pytest.approx(math.log2(found["token"]) * scored / scored, rel=1e-6)

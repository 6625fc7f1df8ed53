"""Perplexity: both protocols' windows and figures, and the bytes of characters that a window cuts."""

import math
from itertools import accumulate

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.equivalence import scorer_models
from workflow_scripts.evaluate.encoding import byte_ends, byte_length
from workflow_scripts.evaluate.perplexity import perplexities, perplexity, windows_of
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.files.artifacts import ArtifactError

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
    windowed = windows_of(TEXTS, ours, 20, 4, "made-up")[0]
    assert windowed == [[BOS, *text[i : i + 19]] for i in range(0, 76, 19)]
    assert windows_of(TEXTS, ours, 20, None, "made-up")[0][:4] == windowed
    reference = windows_of(TEXTS, ours, 20, 4, "made-up", each_bos=False)[0]
    assert reference == [[BOS, *text][i : i + 20] for i in range(0, 80, 20)]


def test_both_protocols_are_those_of_transformers():
    ours = scorer(bos=True)
    found = perplexities(TEXTS, ours, 20, 4, "made-up")
    for name, each_bos in {"windowed": True, "reference": False}.items():
        windows = windows_of(TEXTS, ours, 20, 4, "made-up", each_bos)[0]
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
    assert windows_of(TEXTS, ours, 20, 4, "made-up")[0] == [text[i : i + 20] for i in range(0, 80, 20)]


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
    found = perplexity(ours, *windows_of([text], ours, 8, None, "made-up"))
    assert found["bits_per_byte"] == pytest.approx(math.log2(found["token"]), rel=1e-6)  # a byte a token


WORDS = {"<unk>": 0, "</s>": 1, "the": 2, "cat": 3, "cafe": 4, "fi": 5, "x": 6, "2": 7, ",": 8}


def of_words(*steps, **options) -> PreTrainedTokenizerFast:
    """Words between spaces, each other one is <unk>; `steps` change the text before."""
    raw = Tokenizer(models.WordLevel(WORDS, "<unk>"))
    raw.normalizer, raw.pre_tokenizer = normalizers.Sequence(list(steps)), pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>", **options)


KEPT = {
    "unknown words": (of_words(), "the 語語 cat 🜁, x"),
    "nothing known": (of_words(), "語 語 語"),
    "small letters, accents": (of_words(normalizers.BertNormalizer(lowercase=True)), "THE Café, cat"),
    "compatibility": (of_words(normalizers.NFKC()), "ﬁ x ² the"),
    "composed": (of_words(normalizers.NFD(), normalizers.StripAccents()), "the cafe\u0301 cat"),
    "dropped": (of_words(normalizers.Replace(Regex(r"[\u200b*]"), "")), "the** c\u200bat x"),
    "a special token in the text": (of_words(), "the cat </s> x"),
    "several spaces": (of_words(), "the    cat \n\n x"),
}


@pytest.mark.parametrize("case", KEPT)
def test_bytes_are_of_the_text_as_it_was_written(case):
    tokenizer, text = KEPT[case]
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    ends = byte_ends(tokenizer, text, tokens)
    assert len(ends) == len(tokens) and ends == sorted(ends) and ends[-1] == len(text.encode())
    assert all(text.encode()[:end].decode() for end in ends), "each token ends behind a character"


@pytest.mark.parametrize("text", ["日本語の文字。", "Ж и Я, Ω a", "🜁🜂 and more", "a \ufffd b"])
def test_tokens_of_parts_of_characters_end_within_them(text):
    """A character of these tokens' names is a byte."""
    tokenizer = scorer_models.tokenizer(True)
    tokens = tokenizer(text)["input_ids"]
    sizes = [0, *map(len, tokenizer.convert_ids_to_tokens(tokens[1:]))]  # the BOS is none of the text's
    assert byte_ends(tokenizer, text, tokens) == list(accumulate(sizes))


def test_unknown_characters_of_a_model_count_as_their_bytes():
    ours, known, unknown = scorer(bos=False), "the cat " * 30, "the 語語 " * 30
    ours.tokenizer = of_words()
    found = [perplexity(ours, *windows_of([text], ours, 10, 4, "made-up")) for text in (known, unknown)]
    for figure, size in zip(found, (4 * (5 * 4 + 4 * 4), 4 * (5 * 7 + 4 * 4)), strict=True):
        assert figure["bits_per_byte"] * size == pytest.approx(math.log2(figure["token"]) * 36, rel=1e-6)
        assert math.log(figure["word"]) == pytest.approx(math.log(figure["token"]), rel=1e-6)


def test_unknown_characters_that_a_tokenizer_does_not_place_are_refused(monkeypatch):
    tokenizer = of_words()
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    assert byte_ends(tokenizer, "the cat", [2, 3])[-1] > 0
    with pytest.raises(ArtifactError, match=r"no character of 1 of the text's 2 tokens \(50.00% are <unk>\)"):
        byte_ends(tokenizer, "the 語", [2, 0])

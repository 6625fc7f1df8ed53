"""Tokenizers without merges: their tokens have scores."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from workflow_scripts.compress.foreign.tokenizers import difference


def unigram(**scores):
    """A Unigram tokenizer of a few tokens."""
    tokens = {"<unk>": 0.0, "\u2581": -2.0, "a": -3.0, "b": -3.0, "ab": -4.0} | scores
    made = Tokenizer(models.Unigram(list(tokens.items()), unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


@pytest.mark.parametrize(
    ("scores", "found"),
    [
        ({}, None),
        ({"ab": -4.000001}, None),  # as float32 may keep it
        ({"ab": -9.0}, "token 'ab' has the score -9.0, and -4.0 in the dense model's"),
    ],
)
def test_another_score_is_named(scores, found):
    """None of the texts that are tried splits otherwise."""
    assert difference(unigram(), unigram(**scores)) == found

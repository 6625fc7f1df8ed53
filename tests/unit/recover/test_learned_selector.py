"""A learned choice among prompts: what it is fitted on, that it learns what can be learned, and no more."""

import numpy as np
import pytest
import torch

from tests.tiny_models import FAMILIES, VOCABULARY, tiny_llama, tiny_of, tiny_opt
from workflow_scripts.evaluate import loading
from workflow_scripts.recover import learned_selector
from workflow_scripts.recover.learned_selector import (
    CONTEXTS,
    CONTINUATION,
    LearnedSelector,
    continuation_losses,
)
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.recover.prompt_bank import Prefix, PromptBank, encode

DRAW = torch.Generator().manual_seed(0)


def pieces(count, length=96):
    return torch.randint(VOCABULARY, (count, length), generator=DRAW).tolist()


def bank_of(model, lengths=(5, 8)):
    """(bank, prompts) of random prompts."""
    width = model.get_input_embeddings().embedding_dim
    prompts = [torch.randn(length, width, generator=DRAW) for length in lengths]
    with torch.no_grad():
        return PromptBank([Prefix(str(i), *encode(model, p)) for i, p in enumerate(prompts)]), prompts


@pytest.mark.parametrize("family", ["llama", "llama-gqa", "opt"])
def test_losses_are_of_what_follows_the_context_behind_the_prompt(family):
    options = {"positions": 256} if family == "opt" else {}
    model = FAMILIES[family](**options)
    bank, prompts = bank_of(model)
    rows, lengths = pieces(5), [16, 32, 64, 16, 32]
    found = continuation_losses(model, bank, rows, lengths)
    for index, prompt in enumerate(prompts):
        for row, (piece, length) in enumerate(zip(rows, lengths, strict=True)):
            ids = torch.tensor(piece)
            with torch.no_grad():
                text = model.get_input_embeddings()(ids)
                logits = model(inputs_embeds=torch.cat([prompt, text])[None]).logits[0, len(prompt) :]
            target = ids[length : length + CONTINUATION]
            loss = torch.nn.functional.cross_entropy(logits[length - 1 : length - 1 + CONTINUATION], target)
            assert found[row, index] == pytest.approx(loss.item(), abs=1e-4)


def fitted(monkeypatch, model, rule, stakes=None, count=120):
    """A selector on pieces of which `rule(features)` tells the right prompt (0 or 1)."""
    bank, _ = bank_of(model)
    text = pieces(count)

    def losses(model, bank, pieces, lengths):
        features = LearnedSelector._features(chosen, [p[:n] for p, n in zip(pieces, lengths, strict=True)])
        right = rule(features)
        given = np.ones(len(right)) if stakes is None else stakes(len(right))
        return np.where(np.arange(2) == right[:, None], 0.0, given[:, None])

    chosen = LearnedSelector.__new__(LearnedSelector)
    monkeypatch.setattr(learned_selector, "continuation_losses", losses)
    chosen.__init__(model, bank, text)
    return chosen


def test_a_rule_of_the_scores_is_learned_and_holds_on_other_text(monkeypatch):
    thresholds = []

    def rule(features):
        column = features[:, 1]  # joint_mean of the second prompt
        thresholds.append(np.median(column))
        return (column > thresholds[0]).astype(int)

    chosen = fitted(monkeypatch, tiny_llama(), rule)
    others = [piece[: CONTEXTS[index % 3]] for index, piece in enumerate(pieces(60))]
    column = chosen._features(others)[:, 1]
    picks, probabilities = chosen.select(others)
    assert probabilities.shape == (60, 2) and torch.allclose(probabilities.sum(1), torch.ones(60).double())
    clear = np.abs(column - thresholds[0]) > 0.5 * chosen.spread[1]
    right = (picks.numpy() == (column > thresholds[0])) & clear
    assert clear.sum() > 20 and right.sum() > 0.9 * clear.sum()


def test_pieces_without_a_stake_teach_nothing(monkeypatch):
    """Every other piece is mislabelled and costs nothing: the rule is learned all the same."""

    def rule(features):
        right = (features[:, 1] > np.median(features[:, 1])).astype(int)
        right[::2] = 1 - right[::2]
        return right

    def stakes(count):
        return np.where(np.arange(count) % 2, 1.0, 0.0)

    chosen = fitted(monkeypatch, tiny_llama(), rule, stakes, 240)
    coefficients = chosen.classifier.coef_[0]
    assert coefficients[1] > 0


def test_the_unit_of_the_losses_changes_no_choice(monkeypatch):
    """A right choice of the minority is not regularised away because losses are small numbers."""

    def rule(features):
        return (features[:, 1] > np.quantile(features[:, 1], 0.75)).astype(int)

    shares = []
    for unit in (1.0, 1e-3):
        DRAW.manual_seed(5)
        chosen = fitted(monkeypatch, tiny_llama(), rule, lambda count, unit=unit: np.full(count, unit))
        shares.append(chosen.classifier.coef_)
    np.testing.assert_allclose(shares[0], shares[1], rtol=1e-3)
    assert np.abs(shares[0]).max() > 0.5


def test_one_prompt_that_is_always_best_is_always_chosen(monkeypatch):
    chosen = fitted(monkeypatch, tiny_llama(), lambda features: np.ones(len(features), dtype=int))
    picks, probabilities = chosen.select([[3, 4, 5], list(range(40))])
    assert picks.tolist() == [1, 1] and probabilities.tolist() == [[0, 1], [0, 1]]


def test_only_scores_that_are_defined_for_the_model_are_features():
    """Text beyond a first layer's window, where a mean of logits is not, has scores too."""
    sliding = tiny_of("Mistral", sliding_window=64)
    for model, scores in ((tiny_llama(), 6), (tiny_opt(positions=256), 4), (sliding, 4)):
        bank, _ = bank_of(model)
        chosen = LearnedSelector(model, bank, pieces(12))
        assert chosen._features([[3, 4, 5] * 30]).shape == (1, 2 * scores)
        assert chosen.score == "learned"


def test_text_that_is_too_short_is_refused():
    model = tiny_llama()
    bank, _ = bank_of(model)
    for text in ([], pieces(3, 95)):
        with pytest.raises(ValueError, match="learned: needs pieces of at least 96 tokens of held-out text"):
            LearnedSelector(model, bank, text)


def test_it_reads_held_out_text_and_the_medians_training_text(monkeypatch, tmp_path):
    splits = []
    monkeypatch.setattr(loading, "read_documents", lambda folder, split: splits.append(split) or [])
    monkeypatch.setattr(
        loading, "token_windows", lambda *arguments: torch.zeros(arguments[3] or 500, arguments[2])
    )
    monkeypatch.setattr(loading, "adds_bos", lambda tokenizer: False)
    files = ModelFiles(tmp_path, tmp_path, [], tmp_path)
    for method, count in (
        ({"kind": "idp", "score": "learned", "calibrated": False}, 128),
        ({"kind": "idp", "score": "auto", "calibrated": True}, 32),
    ):
        assert len(loading._pieces(files, method, 0, None)) == count
    assert splits == ["heldout", "train"]
    assert loading._pieces(files, {"kind": "idp", "score": "auto", "calibrated": False}, 0, None) is None

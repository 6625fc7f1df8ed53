"""Scores from logits, tokens per forward pass on an accelerator, models that packed rows don't fit."""

import pytest
import torch

from tests.equivalence import scorer_models
from workflow_scripts.evaluate import attention, forward
from workflow_scripts.evaluate.packing import Sequence, pack
from workflow_scripts.linear import PackedLinears


def test_log_probabilities_are_those_of_log_softmax_and_the_first_of_equal_logits_is_taken():
    torch.manual_seed(0)
    logits = 30 * torch.randn(50, 101)
    logits[3, 7] = logits[3, 9] = logits[3].max() + 1
    rows = torch.tensor([3, 3, 49, 0, *range(49, -1, -1)])
    targets = torch.tensor([7, 9, 5, 100, *logits.argmax(-1).flip(0).tolist()])
    scores, largest = forward.log_probabilities(logits, rows, targets)
    torch.testing.assert_close(scores, logits.log_softmax(-1)[rows, targets], atol=1e-5, rtol=1e-6)
    assert largest.tolist() == [True, True, False, False] + [True] * 50
    assert forward.first_largest(logits[rows], targets).tolist() == [True, False, False, False] + [True] * 50


def test_tokens_on_an_accelerator_follow_from_its_free_memory(monkeypatch):
    class Accelerated:
        config = scorer_models.model("llama").config
        device, dtype = torch.device("cuda"), torch.bfloat16

    def with_free(gigabytes: float) -> int:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(gigabytes * 1e9), int(80e9)))
        return forward.tokens_that_fit(Accelerated(), 5)

    assert 1 <= with_free(0.001) < with_free(0.01) < with_free(0.1) <= with_free(40) == forward.MOST_TOKENS
    assert with_free(0) == 1
    assert forward.tokens_that_fit(scorer_models.model("llama"), 5) == 5


@pytest.mark.parametrize("dearness", attention.OVERHEAD.values())
def test_division_into_blocks_changes_no_score(monkeypatch, dearness):
    monkeypatch.setattr(attention, "OVERHEAD", {"cpu": dearness})
    model = scorer_models.model("llama")
    context = tuple(range(5, 60))
    sequences = [Sequence((*context, *range(k, 3 * k)), (k, k + 1)) for k in (90, 100, 110)]
    (row,) = pack([[(k, sequence) for k, sequence in enumerate(sequences)]], 1000)
    found = forward.score_row(model, row, [sequences[k].targets for k in row.members])
    for k, (score, _) in zip(row.members, found, strict=True):
        ids = torch.tensor([sequences[k].inputs])
        with torch.no_grad():
            expected = model(ids).logits[0, -2:].log_softmax(-1)[[0, 1], sequences[k].targets].sum()
        assert score == pytest.approx(float(expected), abs=1e-4)


def test_attention_that_is_more_than_a_softmax_is_refused():
    model = scorer_models.model("llama")
    usual = model.config._attn_implementation
    layer, states = model.model.layers[0].self_attn, torch.zeros(1, 4, 12, 8)
    for special, named in (
        ({"softcap": 50.0}, "softcap"),
        ({"sliding_window": 11}, "a window of 11 tokens over 12"),
    ):
        with (
            pytest.raises(ValueError, match=f"LlamaAttention attends with {named}"),
            attention.attention_in(model, attention.Plan([], 12)),
        ):
            attention.attend(layer, states, states, states, None, **special)
    with attention.attention_in(model, attention.Plan([], 12)):
        attention.attend(layer, states, states, states, None, sliding_window=12)
    with (
        pytest.raises(ValueError, match="no pluggable attention"),
        attention.attention_in(model, attention.Plan([], 12)),
    ):
        pass  # a model that attends by its own means would never ask
    assert model.config._attn_implementation == usual


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_packed_weights_give_the_same_products_and_are_gone_outside(family):
    model = scorer_models.model(family)
    ids = torch.arange(40)[None]
    packed = PackedLinears(model)
    with torch.inference_mode():
        expected = model(ids).logits
        with packed.in_use():
            assert "forward" in vars(model.get_output_embeddings())
            found = model(ids).logits
        again = model(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(again, expected)


def test_weights_that_changed_after_packing_are_noticed():
    model = scorer_models.model("llama")
    packed = PackedLinears(model)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
    with pytest.raises(RuntimeError, match="weights changed"), packed.in_use():
        pass
    assert "forward" not in vars(model.get_output_embeddings())

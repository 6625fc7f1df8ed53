"""Fused losses against PyTorch's own cross-entropy, values and gradients, over several chunks."""

import pytest
import torch
from torch import nn

from tests.tiny_models import tiny_llama
from workflow_scripts.kernels import losses


@pytest.fixture
def problem(monkeypatch):
    # 5 rows of 31 logits: 24 rows are 5 chunks, the last short
    monkeypatch.setitem(losses.CHUNK_LOGITS, "cpu", 5 * 31)
    torch.manual_seed(0)
    head = nn.Linear(16, 31)
    head.requires_grad_(False)
    return torch.randn(3, 8, 16), head, torch.randint(31, (3, 8))


def test_token_losses_equal_cross_entropy(problem):
    hidden, head, targets = problem
    reference = nn.functional.cross_entropy(head(hidden).flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(losses.token_losses(hidden, head, targets), reference.view(3, 8))


def test_loss_and_gradient_equal_autograd_through_logits(problem):
    hidden, head, targets = problem
    ours, reference = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    loss = losses.linear_cross_entropy(ours[:, :-1], head, targets[:, 1:]) * 0.25
    loss.backward()
    logits = head(reference[:, :-1]).flatten(0, 1)
    expected = nn.functional.cross_entropy(logits, targets[:, 1:].flatten(), reduction="sum") * 0.25
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, reference.grad)
    assert ours.grad[:, -1].abs().max() == 0


def test_nan_stays_nan(problem):
    hidden, head, targets = problem
    hidden[1, 2, 3] = torch.nan
    assert losses.linear_cross_entropy(hidden, head, targets).isnan()
    assert losses.token_losses(hidden, head, targets).isnan().sum() == 1


def test_trainable_head_is_refused(problem):
    hidden, head, targets = problem
    head.weight.requires_grad_()
    with pytest.raises(ValueError, match="must be frozen"):
        losses.linear_cross_entropy(hidden, head, targets)


def test_heads_that_do_more_than_a_linear_are_refused():
    model = tiny_llama()
    assert losses.plain_head(model) is model.lm_head
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(ValueError, match="final_logit_softcapping"):
        losses.plain_head(model)
    del model.config.final_logit_softcapping
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(ValueError, match="not a plain Linear"):
        losses.plain_head(model)

"""Fused losses against PyTorch's own cross-entropy, values and gradients, over several chunks."""

import pytest
import torch
from torch import nn

from tests.tiny_models import tiny_llama, tiny_of
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


def test_a_head_that_is_a_linear_alone_is_the_models_own():
    model = tiny_llama()
    assert losses.output_head(model) is model.lm_head
    model.config.final_logit_softcapping = 30.0  # a key that Llama doesn't read
    assert losses.output_head(model) is model.lm_head


SCALED = {
    "cohere": ("Cohere", {"logit_scale": 0.0625}),
    "granite": ("Granite", {"logits_scaling": 8.0}),
    "granite-nearly-1": ("Granite", {"logits_scaling": 1.004}),
    "hyperclovax": ("HyperCLOVAX", {"logits_scaling": 8.0}),
    "minicpm3": (
        "MiniCPM3",
        {
            "dim_model_base": 4,
            "num_key_value_heads": 4,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "v_head_dim": 8,
        },
    ),
    "gemma2": ("Gemma2", {"final_logit_softcapping": 0.5, "head_dim": 8}),
    "nanochat": ("NanoChat", {"final_logit_softcapping": 15.0}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", SCALED)
def test_a_scale_and_a_cap_of_the_logits_are_the_models_own(family, dtype):
    name, settings = SCALED[family]
    model = tiny_of(name, **settings).to(dtype)
    head = losses.output_head(model)
    ids = torch.tensor([[3, 50, 7, 96]])
    hidden = model.get_decoder()(input_ids=ids).last_hidden_state
    torch.testing.assert_close(head(hidden), model(input_ids=ids).logits)
    assert (head.before, head.scale, head.cap) != (1, 1, None) and head.out_features == model.vocab_size


def test_heads_whose_logits_no_key_explains_are_refused():
    model = tiny_of("Granite", logits_scaling=8.0)
    model.register_forward_hook(lambda _, __, output: setattr(output, "logits", output.logits.square()))
    with pytest.raises(ValueError, match="GraniteForCausalLM: it changes the hidden states before"):
        losses.output_head(model)
    model = tiny_of("Granite", logits_scaling=8.0)
    model.lm_head.register_forward_pre_hook(lambda _, args: (args[0] + 1,))
    with pytest.raises(ValueError, match="so no adapter of it can be trained"):
        losses.output_head(model)
    model = tiny_llama()
    model.lm_head = nn.Sequential(model.lm_head)
    with pytest.raises(ValueError, match="not a plain Linear"):
        losses.output_head(model)


# ---------------------------------------------------------------------------------------- distillation


@pytest.fixture
def taught(problem):
    """The problem beside a teacher's hidden states and head, both of their own."""
    hidden, head, targets = problem
    theirs = nn.Linear(12, 31).requires_grad_(False)
    return hidden, head, targets, torch.randn(3, 8, 12), theirs


def plain_distillation(logits, theirs, targets, temperature, mixture):
    """By torch's own losses, from whole logits."""
    ours, wanted = ((z / temperature).log_softmax(-1).flatten(0, 1) for z in (logits, theirs))
    kl = nn.functional.kl_div(ours, wanted, reduction="sum", log_target=True) * temperature**2
    text = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")
    return mixture * kl + (1 - mixture) * text


@pytest.mark.parametrize(
    ("temperature", "mixture"), [(1.0, 1.0), (2.0, 1.0), (1.0, 0.5), (3.0, 0.25), (2.0, 0.0)]
)
def test_distillation_and_its_gradient_equal_torchs_from_whole_logits(taught, temperature, mixture):
    hidden, head, targets, theirs, their_head = taught
    wanted = losses.Distillation(their_head, temperature, mixture)
    ours, reference = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    loss = losses.linear_distillation(ours, head, targets, theirs, wanted) * 0.25
    loss.backward()
    expected = 0.25 * plain_distillation(head(reference), their_head(theirs), targets, temperature, mixture)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(ours.grad, reference.grad)


def test_a_model_that_is_its_own_teacher_has_neither_loss_nor_gradient(problem):
    hidden, head, targets = problem
    ours = hidden.clone().requires_grad_()
    loss = losses.linear_distillation(ours, head, targets, hidden, losses.Distillation(head))
    loss.backward()
    assert loss.abs() < 1e-5 and ours.grad.abs().max() < 1e-5


def test_no_more_logits_of_either_model_are_alive_than_a_chunk_has(taught):
    hidden, head, targets, theirs, their_head = taught
    rows = []
    for layer in (head, their_head):
        layer.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    losses.linear_distillation(hidden, head, targets, theirs, losses.Distillation(their_head))
    assert max(rows) == 5 and sum(rows) == 2 * 24


def test_a_teacher_of_another_vocabulary_and_a_trainable_head_are_refused(taught):
    hidden, head, targets, theirs, _ = taught
    with pytest.raises(
        ValueError, match="scores 31 tokens, its teacher 30; distillation needs one vocabulary"
    ):
        losses.linear_distillation(hidden, head, targets, theirs, losses.Distillation(nn.Linear(12, 30)))
    head.weight.requires_grad_()
    with pytest.raises(ValueError, match="must be frozen"):
        losses.linear_distillation(hidden, head, targets, hidden, losses.Distillation(head))

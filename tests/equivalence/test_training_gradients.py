"""The fast loop's gradients are those of PEFT's own forward pass and plain autograd, however a step is cut up."""

import weakref

import pytest
import torch
from torch import nn

from tests.tiny_models import FAMILIES, VOCABULARY, tiny_of
from workflow_scripts.recover import adapters
from workflow_scripts.recover.distillation import Teacher
from workflow_scripts.recover.learner import Learner
from workflow_scripts.recover.prompt_bank import OPENING, encode
from workflow_scripts.recover.training import train

TARGETS = {"llama": ["q_proj", "v_proj", "down_proj"], "opt": ["q_proj", "v_proj", "fc2"]}
METHODS = {
    "lora": {"kind": "lora", "rank": 2, "alpha": 4, "dropout": 0.0, "targets": TARGETS, "layers": None},
    "prompt": {"kind": "prompt", "tokens": 6, "init": "vocabulary", "trained": True},
    "prefix": {"kind": "prefix", "tokens": 6, "init": "text"},
}
TRAINING = {
    "batch_size": 4,
    "micro_batch": 4,
    "learning_rate": 1e-2,
    "warmup": 0.25,
    "schedule": "linear",
    "weight_decay": 1e-5,
    "checkpoint_minutes": 10,
}


def make_windows(rows=8, length=12, seed=3):
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def gradients(learner):
    return [parameter.grad.clone() for parameter in learner.parameters]


def peft_loss(adapted, rows):
    """Mean loss over the text by PEFT's forward pass: logits kept, each window's first token not scored."""
    logits = adapted(input_ids=rows, attention_mask=torch.ones_like(rows)).logits[:, -rows.shape[1] :]
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())


@torch.no_grad()
def move(learner):
    """Away from the start, where LoRA's second factor and its gradient are zero."""
    for parameter in learner.parameters:
        parameter += 0.1 * torch.randn_like(parameter)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_are_pefts(family, name):
    adapted = adapters.create(FAMILIES[family](), METHODS[name], 0, make_windows()[0])
    learner, rows = Learner(adapted), make_windows(5)
    if name == "lora":
        with torch.no_grad():
            for parameter in learner.parameters:
                parameter += 0.1 * torch.randn_like(parameter)  # B starts at zero, where A has no gradient
    loss = learner.accumulate(rows, micro_batch=5)
    ours = gradients(learner)
    adapted.zero_grad()
    reference = peft_loss(adapted, rows)
    reference.backward()
    assert loss == pytest.approx(reference.item(), abs=1e-5)
    for one, other in zip(ours, gradients(learner), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
        assert other.abs().max() > 1e-4


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("family", "settings"),
    [("Cohere", {"logit_scale": 0.25}), ("Granite", {"logits_scaling": 8.0}), ("NanoChat", {})],
)
def test_loss_and_gradient_are_those_of_scaled_and_capped_logits(family, settings, name):
    method = METHODS[name] | {"targets": {"default": ["all-linear"]}}
    adapted = adapters.create(tiny_of(family, **settings), method, 0, make_windows()[0])
    learner, rows = Learner(adapted), make_windows(5)
    move(learner)
    loss = learner.accumulate(rows, micro_batch=5)
    ours = gradients(learner)
    adapted.zero_grad()
    reference = peft_loss(adapted, rows)
    reference.backward()
    assert loss == pytest.approx(reference.item(), abs=1e-5)
    assert learner.heldout_loss(rows, 5) == pytest.approx(loss, abs=1e-5)
    for one, other in zip(ours, gradients(learner), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_distillations_gradient_is_that_of_torchs_divergence_on_pefts_logits(family, name):
    """Towards another model (of other weights), at a temperature, mixed with the text's loss."""
    teacher = FAMILIES[family](seed=5)
    adapted = adapters.create(FAMILIES[family](), METHODS[name], 0, make_windows()[0])
    settings = {"temperature": 2.0, "mixture": 0.75}
    learner, rows = Learner(adapted, Teacher(teacher, settings)), make_windows(5)
    move(learner)
    loss = learner.accumulate(rows, micro_batch=2)
    ours = gradients(learner)
    adapted.zero_grad()
    logits = adapted(input_ids=rows, attention_mask=torch.ones_like(rows)).logits[:, -rows.shape[1] :]
    with torch.no_grad():
        wanted = (teacher(input_ids=rows).logits[:, :-1] / 2).log_softmax(-1).flatten(0, 1)
    scores = (logits[:, :-1] / 2).log_softmax(-1).flatten(0, 1)
    divergence = 4 * nn.functional.kl_div(scores, wanted, reduction="batchmean", log_target=True)
    text = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
    reference = 0.75 * divergence + 0.25 * text
    reference.backward()
    assert loss == pytest.approx(reference.item(), abs=1e-5)
    for one, other in zip(ours, gradients(learner), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)
        assert other.abs().max() > 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_micro_batches_add_up_to_the_batch(name):
    learner = Learner(adapters.create(FAMILIES["llama-gqa"](), METHODS[name], 0, make_windows()[0]))
    results = []
    for micro_batch in (5, 2, 1):
        learner.adapted.zero_grad()
        results.append((learner.accumulate(make_windows(5), micro_batch), gradients(learner)))
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-5)
        for one, other in zip(gradient, results[0][1], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_trajectory_is_that_of_adamw_on_pefts_loss(name, tmp_path):
    """Eight steps of the loop and of a plain loop over PEFT's forward pass: the same losses and parameters."""
    windows = make_windows(32)
    ours = adapters.create(FAMILIES["llama"](), METHODS[name], 0, windows[0])
    state = train(Learner(ours), TRAINING, windows, 0, tmp_path)
    plain = adapters.create(FAMILIES["llama"](), METHODS[name], 0, windows[0]).eval()
    parameters = adapters.trained_parameters(plain)
    optimizer = torch.optim.AdamW(parameters, weight_decay=1e-5)
    rates = [0.005, 0.01, 0.01, 0.01 * 5 / 6, 0.01 * 4 / 6, 0.01 * 3 / 6, 0.01 * 2 / 6, 0.01 / 6]
    losses = []
    for rate, rows in zip(rates, windows.split(4), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = peft_loss(plain, rows)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert state.losses == pytest.approx(losses, abs=1e-4)
    for one, other in zip(adapters.trained_parameters(ours), parameters, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_gradients_keep_their_direction(family, name):
    """Cosine to float32 of the whole adapter's gradient at least 0.99, on weights that both can hold."""
    directions = []
    for dtype in (torch.float32, torch.bfloat16):
        model = FAMILIES[family]().to(torch.bfloat16).to(dtype)
        adapted = adapters.create(model, METHODS[name], 0, make_windows()[0])
        learner = Learner(adapted)
        assert {parameter.dtype for parameter in learner.parameters} == {torch.float32}
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in learner.parameters:
                parameter += 0.1 * torch.randn_like(parameter)
        learner.accumulate(make_windows(5), 5)
        directions.append(torch.cat([gradient.flatten() for gradient in gradients(learner)]))
    assert torch.cosine_similarity(*directions, dim=0) >= 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_of_a_bfloat16_model_are_encoded_in_float32(family):
    half = FAMILIES[family]().to(torch.bfloat16)
    prompt = torch.randn(6, 32, generator=torch.Generator().manual_seed(0))
    keys, values = encode(half, prompt)
    exact_keys, exact_values = encode(half.float(), prompt)
    for ours, exact in zip([*keys, *values], [*exact_keys, *exact_values]):
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours, exact.to(torch.bfloat16))


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_in_bfloat16_reads_the_first_tokens_in_float32(family):
    """What they hand on is float32's, rounded once; what follows them is bfloat16's own."""
    hidden = {}
    rows = make_windows(3, OPENING + 6)
    for dtype in (torch.float32, torch.bfloat16):
        model = FAMILIES[family]().to(torch.bfloat16).to(dtype)
        learner = Learner(adapters.create(model, METHODS["lora"], 0, rows[0]))
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in learner.parameters:  # not added: the start was drawn in the model's precision
                parameter.copy_(0.1 * torch.randn_like(parameter))
            for length in (OPENING - 2, OPENING + 6):
                hidden[dtype, length] = learner.read(rows[:, :length], [], [])
    for length in (OPENING - 2, OPENING + 6):
        exact, rounded = hidden[torch.float32, length], hidden[torch.bfloat16, length].float()
        off = (rounded - exact).abs() - 1e-5 > 2**-8 * exact.abs()  # by more than one rounding
        assert not off[:, :OPENING].any()
        assert off[:, OPENING:].any() == (length > OPENING)
        torch.testing.assert_close(rounded, exact, atol=0.1, rtol=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_in_bfloat16_on_its_own_teacher_has_neither_loss_nor_gradient(family):
    """Adam makes full steps of a gradient of rounding errors: the dense control would move by itself."""
    model, teacher = (FAMILIES[family](dtype=torch.bfloat16) for _ in range(2))
    rows = make_windows(3, OPENING + 6)
    learner = Learner(adapters.create(model, METHODS["lora"], 0, rows[0]), Teacher(teacher, {}))
    assert learner.accumulate(rows, micro_batch=2) == 0
    assert not any(parameter.grad.any() for parameter in learner.parameters)


def test_the_pass_in_float32_holds_one_copy_at_a_time_and_leaves_the_weights(monkeypatch):
    """Also in its backward pass, and after an error inside."""
    model = FAMILIES["llama"]().to(torch.bfloat16)
    before = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    alive, most, real = weakref.WeakSet(), [0], torch.Tensor.float

    def counted(tensor):
        copy = real(tensor)
        if isinstance(tensor, nn.Parameter):
            alive.add(copy)
            most[0] = max(most[0], len(alive))
        return copy

    monkeypatch.setattr(torch.Tensor, "float", counted)
    prompt = torch.randn(6, 32, requires_grad=True)
    keys, values = encode(model, prompt)
    assert most[0] == 1 and not alive
    sum((states * states).sum() for states in (*keys, *values)).backward()
    assert prompt.grad.abs().max() > 0
    with pytest.raises(RuntimeError):
        encode(model, torch.randn(6, 31))
    assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == before


def test_first_tokens_are_not_scored():
    """Another first token changes what later ones see, never a target: with a prompt, its own loss would."""
    learner = Learner(adapters.create(FAMILIES["llama"](), METHODS["prompt"], 0))
    rows = make_windows(2)
    with torch.no_grad():
        keys, values = learner.prefix()
        hidden = learner.hidden(rows, keys, values)
        expected = nn.functional.cross_entropy(
            learner.head(hidden)[:, :-1].flatten(0, 1), rows[:, 1:].flatten()
        )
    assert learner.heldout_loss(rows, 2) == pytest.approx(expected.item(), abs=1e-6)
    assert learner.accumulate(rows, 2) == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_heldout_loss_without_adapter_is_the_bare_models(name):
    windows = make_windows()
    model = FAMILIES["opt"]()
    with torch.no_grad():
        logits = model(input_ids=windows).logits
    reference = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    learner = Learner(adapters.create(model, METHODS[name], 0, windows[0]))
    with torch.no_grad():
        for parameter in learner.parameters:
            parameter += 0.1
    assert learner.heldout_loss(windows, 3, with_adapter=False) == pytest.approx(reference.item(), abs=1e-5)
    assert abs(learner.heldout_loss(windows, 3) - reference.item()) > 1e-3

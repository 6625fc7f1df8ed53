"""The training loop's promises: schedule, frozen base, exact continuation after a kill, faults that stop clearly."""

import gc
import hashlib

import pytest
import torch

from tests.tiny_models import tiny_llama, tiny_opt
from tests.unit.recover.learners import (
    LORA,
    PREFIX,
    PROMPT,
    SETTINGS,
    fingerprint,
    make_learner,
    make_windows,
    saved_step,
)
from workflow_scripts.recover import training
from workflow_scripts.recover.learner import Learner
from workflow_scripts.recover.training import (
    TrainingError,
    learning_rate,
    loss_curve,
    train,
)


def test_learning_rate():
    settings = {"learning_rate": 1.0, "warmup": 0.2, "schedule": "linear"}
    assert [learning_rate(step, 10, settings) for step in (0, 1, 2, 6, 9)] == [0.5, 1.0, 1.0, 0.5, 0.125]
    settings["schedule"] = "cosine"
    assert [round(learning_rate(step, 10, settings), 6) for step in (0, 1, 2, 6)] == [0.5, 1.0, 1.0, 0.5]
    settings |= {"schedule": "constant", "warmup": 0.0}
    assert [learning_rate(step, 3, settings) for step in range(3)] == [1.0, 1.0, 1.0]


def test_loss_curve_is_thinned_and_keeps_the_end(monkeypatch):
    assert loss_curve([3.0, 2.0, 1.0], 100, 300) == [[100, 3.0], [200, 2.0], [300, 1.0]]
    monkeypatch.setattr(training, "CURVE_POINTS", 2)
    assert loss_curve([3.0, 2.0, 1.0], 100, 300) == [[200, 2.5], [300, 1.0]]
    assert loss_curve([], 100, 0) == []


def test_a_short_last_step_counts_its_own_tokens(monkeypatch):
    assert loss_curve([3.0, 2.0], 64, 104) == [[64, 3.0], [104, 2.0]]  # 13 windows of 8, 8 a step
    assert loss_curve([3.0], 64, 8) == [[8, 3.0]]
    monkeypatch.setattr(training, "CURVE_POINTS", 1)
    assert loss_curve([3.0, 2.0], 64, 80) == [[80, pytest.approx((64 * 3.0 + 16 * 2.0) / 80)]]


@pytest.mark.parametrize("method", [LORA, PROMPT, PREFIX], ids=lambda method: method["kind"])
@pytest.mark.parametrize("make", [tiny_llama, tiny_opt])
def test_base_weights_are_frozen_and_the_adapter_moves(make, method, tmp_path):
    model = make()
    before = {
        name: hashlib.sha256(value.numpy().tobytes()).hexdigest()
        for name, value in model.state_dict().items()
    }
    learner = make_learner(method, model)
    start = fingerprint(learner)
    train(learner, SETTINGS, make_windows(), 0, tmp_path)
    assert fingerprint(learner) != start
    after = {
        name.replace(".base_layer", ""): hashlib.sha256(value.numpy().tobytes()).hexdigest()
        for name, value in model.state_dict().items()
        if "lora_" not in name
    }
    assert after == before
    assert all(parameter.grad is None for name, parameter in model.named_parameters() if "lora_" not in name)


def test_training_lowers_the_loss_of_what_it_is_trained_on(tmp_path):
    """The same four windows again and again: whatever the adapter, their loss falls."""
    windows = make_windows(1).repeat(30, 1)
    for method in (LORA, PROMPT, PREFIX):
        learner = make_learner(method)
        folder = tmp_path / method["kind"]
        folder.mkdir()
        state = train(learner, SETTINGS, windows, 0, folder)
        assert state.losses[-1] < state.losses[0] - 0.1


def test_weights_decay_by_rate_times_decay(tmp_path, monkeypatch):
    """With a gradient of zero nothing else moves them (AdamW decouples the decay)."""

    def flat(self, *arguments):
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        return 0.0

    monkeypatch.setattr(Learner, "accumulate", flat)
    learner = make_learner(PROMPT)
    before = learner.parameters[0].detach().clone()
    settings = SETTINGS | {"weight_decay": 0.5, "learning_rate": 0.1, "schedule": "constant", "warmup": 0.0}
    train(learner, settings, make_windows(2), 0, tmp_path)
    torch.testing.assert_close(learner.parameters[0].detach(), before * (1 - 0.1 * 0.5) ** 2)


def test_non_finite_loss_stops_with_step_rate_and_checkpoint(tmp_path, monkeypatch):
    learner = make_learner(PROMPT)
    step, calls = Learner.accumulate, []

    def broken(self, *arguments):
        calls.append(1)
        loss = step(self, *arguments)
        return float("nan") if len(calls) == 3 else loss

    monkeypatch.setattr(Learner, "accumulate", broken)
    message = (
        r"loss is nan at step 2 of 6 with learning rate 0\.00905 .*last good checkpoint .*checkpoint\.pt"
    )
    with pytest.raises(TrainingError, match=message):
        train(learner, SETTINGS | {"checkpoint_minutes": 0}, make_windows(), 0, tmp_path)
    assert saved_step(tmp_path / "checkpoint.pt") == 2


def test_a_gradient_that_is_not_finite_stops_before_a_checkpoint_holds_it(tmp_path, monkeypatch):
    learner, calls = make_learner(PROMPT), []
    step = Learner.accumulate

    def overflowing(self, *arguments):
        calls.append(1)
        loss = step(self, *arguments)
        if len(calls) == 3:
            self.parameters[0].grad[0, 0] = torch.inf
        return loss

    monkeypatch.setattr(Learner, "accumulate", overflowing)
    with pytest.raises(
        TrainingError, match=r"the gradient is not finite at step 2 of 6 .*last good checkpoint"
    ):
        train(learner, SETTINGS | {"checkpoint_minutes": 0}, make_windows(), 0, tmp_path)
    good = training._intact(tmp_path / "checkpoint.pt", "cpu")
    assert good["state"]["step"] == 2 and all(tensor.isfinite().all() for tensor in good["parameters"])


@pytest.mark.parametrize("step", [3, 6])
@pytest.mark.parametrize("where", ["adapter", "optimiser"])
def test_an_update_that_is_not_finite_stops_before_a_checkpoint_holds_it(where, step, tmp_path, monkeypatch):
    """A gradient may be finite and what the optimiser makes of it not; step 6 is the last, with no loss after it."""
    learner, update, calls = make_learner(PROMPT), torch.optim.AdamW.step, []

    def overflowing(self, *arguments):
        update(self, *arguments)
        calls.append(1)
        if len(calls) == step:
            state = self.state[learner.parameters[0]]
            (learner.parameters[0].detach() if where == "adapter" else state["exp_avg_sq"])[0, 0] = torch.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", overflowing)
    message = rf"not finite after the update at step {step - 1} of 6 .*last good checkpoint"
    with pytest.raises(TrainingError, match=message):
        train(learner, SETTINGS | {"checkpoint_minutes": 0}, make_windows(), 0, tmp_path)
    good = training._intact(tmp_path / "checkpoint.pt", "cpu")
    assert good["state"]["step"] == step - 1 and all(tensor.isfinite().all() for tensor in good["parameters"])


def test_the_last_step_is_checked_and_saved_whatever_the_minutes(tmp_path, monkeypatch):
    """What comes after the last step (held-out text, the job's end) may be killed without training again."""
    state = train(make_learner(PROMPT), SETTINGS, make_windows(), 0, tmp_path)
    assert saved_step(tmp_path / "checkpoint.pt") == state.step == 6
    monkeypatch.setattr(Learner, "accumulate", None)
    assert train(make_learner(PROMPT), SETTINGS, make_windows(), 0, tmp_path).losses == state.losses


def test_weights_that_are_nan_stop_at_the_first_step(tmp_path):
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    learner = make_learner(PROMPT, model)
    with pytest.raises(TrainingError, match=r"loss is nan at step 0 .*no checkpoint yet"):
        train(learner, SETTINGS, make_windows(), 0, tmp_path)


def test_out_of_memory_halves_the_micro_batch_at_equal_batch(tmp_path, monkeypatch, capsys):
    reference = make_learner(PROMPT)
    train(reference, SETTINGS | {"micro_batch": 1}, make_windows(2), 0, tmp_path)
    (tmp_path / "small").mkdir()
    learner, hidden = make_learner(PROMPT), Learner.hidden

    def small_gpu(self, rows, *arguments):
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return hidden(self, rows, *arguments)

    monkeypatch.setattr(Learner, "hidden", small_gpu)
    state = train(learner, SETTINGS | {"micro_batch": 4}, make_windows(2), 0, tmp_path / "small")
    assert state.micro_batch == 1
    assert fingerprint(learner) == fingerprint(reference)
    assert "2 windows at a time from here; a step is still 4 windows" in capsys.readouterr().err
    assert learner.heldout_loss(make_windows(1), 4) == learner.heldout_loss(make_windows(1), 1)
    assert "out of memory on held-out text: 1 windows at a time" in capsys.readouterr().err

    monkeypatch.setattr(
        Learner, "hidden", lambda *arguments: (_ for _ in ()).throw(torch.OutOfMemoryError(""))
    )
    (tmp_path / "none").mkdir()
    with pytest.raises(TrainingError, match="out of memory at step 0 with one window of 12 tokens"):
        train(learner, SETTINGS, make_windows(2), 0, tmp_path / "none")


def test_dropout_after_halving_draws_what_a_run_of_that_micro_batch_draws(tmp_path, monkeypatch):
    """The pass that ran out of memory had drawn before it did."""
    (tmp_path / "whole").mkdir(), (tmp_path / "halved").mkdir()
    reference, learner, hidden = make_learner(LORA), make_learner(LORA), Learner.hidden
    train(reference, SETTINGS | {"micro_batch": 2}, make_windows(2), 0, tmp_path / "whole")

    def small_gpu(self, rows, *arguments):
        states = hidden(self, rows, *arguments)
        if len(rows) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return states

    monkeypatch.setattr(Learner, "hidden", small_gpu)
    assert (
        train(learner, SETTINGS | {"micro_batch": 4}, make_windows(2), 0, tmp_path / "halved").micro_batch
        == 2
    )
    assert fingerprint(learner) == fingerprint(reference)


@pytest.mark.parametrize("family", [tiny_opt, tiny_llama])
def test_windows_that_leave_no_positions_are_refused(tmp_path, family):
    learner = make_learner(PROMPT, family(positions=16))
    with pytest.raises(
        ValueError, match="12 tokens after a prompt of 6 exceed the model's 16 positions; at most 10"
    ):
        train(learner, SETTINGS, make_windows(), 0, tmp_path)


def test_dropout_of_the_frozen_model_stays_off():
    """OPT carries a dropout of 0.1: two passes over the same rows are equal; LoRA's own dropout is on."""
    rows = make_windows(1)
    learner = make_learner(PROMPT, tiny_opt())
    assert learner.accumulate(rows, 4) == learner.accumulate(rows, 4)
    learner = make_learner(LORA, tiny_opt())
    with torch.no_grad():
        for parameter in learner.parameters:
            parameter += 0.3
    assert learner.accumulate(rows, 4) != learner.accumulate(rows, 4)
    assert learner.heldout_loss(rows, 4) == learner.heldout_loss(rows, 4)


def test_dropout_draws_anew_in_each_step(tmp_path):
    """Without a rate nothing moves: equal batches have equal losses unless their masks differ."""
    windows = make_windows(1).repeat(3, 1)
    settings = SETTINGS | {"learning_rate": 0.0, "weight_decay": 0.0, "warmup": 0.0}
    learner = make_learner(LORA)
    with torch.no_grad():  # B starts at zero, where dropout changes nothing
        for parameter in learner.parameters:
            parameter.add_(0.3)
    dropped = train(learner, settings, windows, 0, tmp_path / "dropped").losses
    assert len(set(dropped)) == 3
    plain = train(make_learner(LORA | {"dropout": 0.0}), settings, windows, 0, tmp_path / "plain").losses
    assert len(set(plain)) == 1


@pytest.mark.parametrize("method", [LORA, PROMPT, PREFIX], ids=lambda method: method["kind"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of deprecated objects that looking at them awakes
def test_a_step_leaves_no_tensors_behind(method, dtype):
    """The last layer's attention of a prompt alone is in no backward pass; autograd kept it, 2 MB a step of SmolLM2."""

    def alive() -> int:
        gc.collect()
        return sum(type(each) is torch.Tensor for each in gc.get_objects())

    learner = make_learner(method, tiny_llama().to(dtype))
    learner.accumulate(make_windows()[:4], 2)
    before = alive()
    for _ in range(3):
        learner.accumulate(make_windows()[:4], 2)
    assert alive() == before

"""The training loop's promises: schedule, frozen base, exact continuation after a kill, faults that stop clearly."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.tiny_models import VOCABULARY, tiny_llama, tiny_opt
from workflow_scripts.recover import adapters, training
from workflow_scripts.recover.training import (
    Learner,
    Stopped,
    TrainingError,
    learning_rate,
    loss_curve,
    train,
)

ROOT = Path(__file__).parents[3]
LORA = {
    "kind": "lora",
    "rank": 2,
    "alpha": 4,
    "dropout": 0.2,
    "targets": {"default": ["q_proj", "v_proj"]},
    "layers": None,
}
PROMPT = {"kind": "prompt", "tokens": 6, "init": "vocabulary", "trained": True}
PREFIX = {"kind": "prefix", "tokens": 6, "init": "text"}
SETTINGS = {
    "batch_size": 4,
    "micro_batch": 2,
    "learning_rate": 1e-2,
    "warmup": 0.1,
    "schedule": "cosine",
    "weight_decay": 1e-5,
    "checkpoint_minutes": 10,
}


def make_windows(steps=6):
    return torch.randint(VOCABULARY, (4 * steps, 12), generator=torch.Generator().manual_seed(3))


def make_learner(method, model=None):
    return Learner(adapters.create(model or tiny_llama(), method, 0, make_windows()[0]))


def fingerprint(learner):
    digest = hashlib.sha256()
    for parameter in learner.parameters:
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


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


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SCRIPT = """
import sys, time, torch
from pathlib import Path
from tests.unit.recover.test_training import LORA, PREFIX, PROMPT, SETTINGS, make_learner, make_windows, fingerprint
from workflow_scripts.recover import training
torch.set_num_threads(1)
method = {"lora": LORA, "prompt": PROMPT, "prefix": PREFIX}[sys.argv[1]]
folder, pause = Path(sys.argv[2]), float(sys.argv[3])
learner = make_learner(method)
step = training.Learner.accumulate
def slow(self, *arguments):
    time.sleep(pause)
    return step(self, *arguments)
training.Learner.accumulate = slow
training.train(learner, SETTINGS | {"checkpoint_minutes": float(sys.argv[4])}, make_windows(40), 5, folder)
print(fingerprint(learner))
"""


def start(kind, folder, pause=0.0, minutes=0.0):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, kind, str(folder), str(pause), str(minutes)]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition, process, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end, "took too long"
        time.sleep(0.01)


def saved_step(checkpoint: Path) -> int:
    return training._intact(checkpoint, "cpu")["state"]["step"]


@pytest.mark.parametrize("damage", ["cut short", "changed"])
def test_a_damaged_checkpoint_is_named_and_not_used(damage, tmp_path, capsys):
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir()
    reference = make_learner(PROMPT)
    train(reference, SETTINGS | {"checkpoint_minutes": 1e-9}, make_windows(8), 5, tmp_path / "whole")
    data = bytearray((tmp_path / "whole" / "checkpoint.pt").read_bytes())
    data = data[:-100] if damage == "cut short" else data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
    (tmp_path / "cut" / "checkpoint.pt").write_bytes(data)
    learner = make_learner(PROMPT)
    train(learner, SETTINGS, make_windows(8), 5, tmp_path / "cut")
    assert fingerprint(learner) == fingerprint(reference)
    assert "checkpoint.pt is damaged" in capsys.readouterr().err


def test_killed_and_continued_ends_in_the_same_bits(tmp_path, one_thread):
    """kill -9 in the middle; LoRA with dropout, whose draws must continue too."""
    killed = start("lora", tmp_path, pause=0.05)
    wait_for((tmp_path / "checkpoint.pt").exists, killed)
    time.sleep(0.3)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    killed.communicate()
    step = saved_step(tmp_path / "checkpoint.pt")
    assert 0 < step < 40
    continued = start("lora", tmp_path)
    printed, said = continued.communicate(timeout=120)
    assert "continues from step" in said
    (tmp_path / "whole").mkdir()
    uninterrupted = make_learner(LORA)
    train(uninterrupted, SETTINGS, make_windows(40), 5, tmp_path / "whole")
    assert printed.strip() == fingerprint(uninterrupted)


@pytest.mark.parametrize("method", [LORA, PROMPT, PREFIX], ids=lambda method: method["kind"])
@pytest.mark.parametrize("calls", [1, 4, 17])
def test_interrupted_anywhere_ends_in_the_same_bits(method, calls, tmp_path, monkeypatch):
    """What an interruption loses is all but the checkpoint, whichever step it falls into."""
    (tmp_path / "whole").mkdir(), (tmp_path / "cut").mkdir()
    reference = make_learner(method)
    state = train(reference, SETTINGS, make_windows(20), 5, tmp_path / "whole")
    step, left = Learner.accumulate, [calls]

    def interrupted(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Learner, "accumulate", interrupted)
        train(
            make_learner(method), SETTINGS | {"checkpoint_minutes": 0}, make_windows(20), 5, tmp_path / "cut"
        )
    learner = make_learner(method)
    continued = train(learner, SETTINGS, make_windows(20), 5, tmp_path / "cut")
    assert fingerprint(learner) == fingerprint(reference)
    assert continued.losses == state.losses


def test_sigusr1_saves_and_goes_on_sigterm_saves_and_stops(tmp_path):
    process = start("prompt", tmp_path, pause=0.05, minutes=60)
    checkpoint = tmp_path / "checkpoint.pt"
    wait_for(lambda: _catches(process.pid, signal.SIGUSR1), process)
    process.send_signal(signal.SIGUSR1)
    wait_for(checkpoint.exists, process)
    first = saved_step(checkpoint)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert first < saved_step(checkpoint) < 40
    process.communicate()


def _catches(pid, number):
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(make_learner(PROMPT), SETTINGS, make_windows(1), 0, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


def test_checkpoints_come_every_so_many_minutes(tmp_path, monkeypatch):
    now, steps, step, save = [0.0], [], Learner.accumulate, training._save

    def of_a_minute(self, *arguments):
        now[0] += 60
        return step(self, *arguments)

    def counted(file, parameters, optimizer, state):
        steps.append(state.step)
        save(file, parameters, optimizer, state)

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(Learner, "accumulate", of_a_minute)
    monkeypatch.setattr(training, "_save", counted)
    train(make_learner(PROMPT), SETTINGS | {"checkpoint_minutes": 3}, make_windows(10), 0, tmp_path)
    assert steps == [3, 6, 9, 10]


def test_a_sigterm_that_comes_while_sigusr1_is_answered_is_the_next_steps(tmp_path, monkeypatch):
    class Late(set):
        """A SIGTERM arrives right after the loop has looked for one."""

        def __contains__(self, number):
            found = super().__contains__(number)
            self.add(signal.SIGTERM)
            return found

    monkeypatch.setattr(training, "_signals", lambda: contextlib.nullcontext(Late({signal.SIGUSR1})))
    with pytest.raises(Stopped):
        train(make_learner(PROMPT), SETTINGS, make_windows(), 0, tmp_path)
    assert saved_step(tmp_path / "checkpoint.pt") == 2


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


def test_sigterm_in_process_raises_stopped(tmp_path, monkeypatch):
    learner = make_learner(PROMPT)
    step = Learner.accumulate

    def interrupted(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    monkeypatch.setattr(Learner, "accumulate", interrupted)
    with pytest.raises(Stopped) as stopped:
        train(learner, SETTINGS, make_windows(), 0, tmp_path)
    assert stopped.value.code == 143
    assert saved_step(tmp_path / "checkpoint.pt") == 1


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

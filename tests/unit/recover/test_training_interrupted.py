"""Training that is killed, stopped or signalled continues to the same bits."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.unit.recover.learners import (
    LORA,
    PREFIX,
    PROMPT,
    ROOT,
    SETTINGS,
    fingerprint,
    make_learner,
    make_windows,
    saved_step,
)
from workflow_scripts.recover import training
from workflow_scripts.recover.learner import Learner
from workflow_scripts.recover.training import (
    Stopped,
    train,
)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


SCRIPT = """
import sys, time, torch
from pathlib import Path
from tests.unit.recover.learners import LORA, PREFIX, PROMPT, SETTINGS, make_learner, make_windows, fingerprint
from workflow_scripts.recover import training
from workflow_scripts.recover.learner import Learner
torch.set_num_threads(1)
method = {"lora": LORA, "prompt": PROMPT, "prefix": PREFIX}[sys.argv[1]]
folder, pause = Path(sys.argv[2]), float(sys.argv[3])
learner = make_learner(method)
step = Learner.accumulate
def slow(self, *arguments):
    time.sleep(pause)
    return step(self, *arguments)
Learner.accumulate = slow
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

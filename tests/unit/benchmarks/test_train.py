"""Training beside its peer: PEFT's best settings, and a compiled peer that is tried, bounded and never hidden."""

import json
import subprocess
from argparse import Namespace

import pytest
import torch

from benchmarks import train
from tests import tiny
from tests.tiny_copies import fetch_corpus, fetch_model

ARGS = Namespace(repeats=2, compile_seconds=7, output=None)
JOB = {"method": "prompt-100", "shape": "1x128", "threads": 1}


def answers(monkeypatch, compiled):
    """`worker` replaced: ours 120, PEFT 100 tokens a second, `compiled` of the third; the jobs that were asked for."""
    asked = []

    def process(job, seconds=None):
        asked.append((job["who"], seconds))
        speeds = {"ours": 120, "peft": 100}
        if job["who"] == "compiled":
            return compiled(job, seconds)
        return done(
            f'{{"speed": {speeds[job["who"]]}, "loss": 2.0, "floor": 150, "attention": "sdpa", "graphs": 0}}'
        )

    monkeypatch.setattr(train, "process", process)
    return asked


def done(output, returncode=0, stderr=""):
    return subprocess.CompletedProcess(["x"], returncode, output, stderr)


def run(speed, loss=2.0, graphs=2):
    return lambda job, seconds: done(
        f'{{"speed": {speed}, "loss": {loss}, "floor": null, "attention": "sdpa", "graphs": {graphs}}}'
    )


@pytest.mark.parametrize(("speed", "ratio"), [(240, "0.50x"), (50, "1.20x")])
def test_the_faster_peer_counts_and_both_are_shown(speed, ratio, monkeypatch, capsys):
    asked = answers(monkeypatch, run(speed))
    assert not train.compare(ARGS, JOB, "equal")
    line, about = capsys.readouterr().out.splitlines()
    assert line.split()[3:7] == ["120", "100", str(speed), ratio] and line.split()[-3:] == ["2.0000"] * 3
    assert "sdpa" in about and "2 graphs" in about
    assert asked == [("ours", None), ("peft", None), ("compiled", 7)] * 2


def late(job, seconds):
    raise subprocess.TimeoutExpired("x", seconds)


@pytest.mark.parametrize(
    ("compiled", "said"),
    [
        (late, "out of time after 7 s"),
        (
            lambda job, seconds: done("", 1, "Traceback\nInvalidCxxCompiler: none\n"),
            "InvalidCxxCompiler: none",
        ),
        (run(900, graphs=0), "no graph was compiled"),
    ],
)
def test_a_peer_that_does_not_compile_says_why(compiled, said, monkeypatch, capsys):
    asked = answers(monkeypatch, compiled)
    assert not train.compare(ARGS, JOB, "equal")
    line, about = capsys.readouterr().out.splitlines()
    assert line.split()[3:7] == ["120", "100", "-", "1.20x"] and said in about
    assert [who for who, _ in asked].count("compiled") == 1  # it is not tried again


def test_the_figures_are_kept_as_they_are_printed(monkeypatch, tmp_path):
    answers(monkeypatch, run(240))
    file = tmp_path / "rows"
    for _ in range(2):
        train.compare(Namespace(repeats=1, compile_seconds=7, output=file), JOB, "equal")
    row, other = map(json.loads, file.read_text().splitlines())
    assert row == other and row["method"] == "prompt-100" and row["ours_/_faster_PEFT"] == 0.5
    assert [row[f"{name}_tokens/s"] for name in ("ours", "PEFT", "PEFT_compiled")] == [120, 100, 240]


def test_a_compiled_peer_of_another_loss_is_an_error(monkeypatch):
    answers(monkeypatch, run(240, loss=2.1))
    assert train.compare(ARGS, JOB, "equal")


def test_a_peer_that_is_not_to_compile_does_not(monkeypatch, capsys):
    asked = answers(monkeypatch, late)
    train.compare(Namespace(repeats=1, compile_seconds=0, output=None), JOB, "equal")
    assert [who for who, _ in asked] == ["ours", "peft"] and "not asked for" in capsys.readouterr().out


@pytest.fixture
def dynamo():
    """Nothing compiled before, and the settings as they were afterwards."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize("method", ["lora-r4", "ptune-50"])
def test_both_train_alike_and_layers_are_compiled_in_their_place(method, tmp_path, dynamo):
    """Dynamo's graphs without a compiler behind them: with Inductor this takes minutes on a processor."""
    fetch_model(tiny.write_model(tmp_path / "local"), tmp_path / "model")
    fetch_corpus(tmp_path / "corpus")
    job = JOB | {"method": method, "shape": "1x64", "steps": 3, "clock": "wall", "precision": "fp32"}
    job |= {"device": "cpu", "model": str(tmp_path / "model"), "corpus": str(tmp_path / "corpus")}
    job |= {"keep_memory": False, "backend": "eager"}
    mine, plain, compiled = (train.worker(job | {"who": who}) for who in ("ours", "peft", "compiled"))
    assert mine["floor"] > 0 and mine["loss"] == pytest.approx(plain["loss"], rel=1e-3)
    assert plain["attention"] == "sdpa" and plain["graphs"] == 0 < compiled["graphs"]
    assert compiled["loss"] == pytest.approx(plain["loss"], rel=1e-5)

"""What `make status` says of a job, by its result, its log, SLURM's log and the run that is on."""

import os
import shutil
import time
from pathlib import Path

import pytest

from workflow_scripts.__main__ import main
from workflow_scripts.cluster import slurm
from workflow_scripts.cluster.slurm import Job
from workflow_scripts.commands.status import JobState, Work, seconds_left, state
from workflow_scripts.files.artifacts import write_json
from workflow_scripts.files.job import FINISHED, job
from workflow_scripts.files.locks import hold, last_held
from workflow_scripts.plan.config import files
from workflow_scripts.plan.forecast import Cost

ROOT = Path(__file__).parents[3]
NAME = "tiny/gptq-w3/text/lora-r2/seed-0"
RESULT, LOG = f"results/tiny/evaluations/{NAME}.json", Path(f"logs/tiny/evaluate_cell/{NAME}.log")
RECIPE = "a" * 64
WORK = Work("evaluate_cell", NAME, RESULT, str(LOG), RESULT, RECIPE)
FAILED = "loads\nTraceback (most recent call last):\n  File ...\nValueError: no such thing\n"
KILLED = "perplexity text: 383.000\n"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def log(text: str, file: Path = LOG, age: float = 0) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (time.time() - age,) * 2)


def made(recipe: str = RECIPE, **manifest) -> Path:
    write_json(RESULT, {"acc": 0.25, "manifest": {"recipe": recipe, "seconds": 7.0} | manifest})
    Path(RESULT).with_suffix(".samples.parquet").touch()
    return Path(RESULT)


def test_what_is_made_is_done():
    made()
    assert state("tiny", WORK, {}) == JobState("done", seconds=7.0)
    made(taken_over={"benchmark sciq": {}})
    assert state("tiny", WORK, {}) == JobState("done", seconds=None)
    made("b" * 64)
    assert state("tiny", WORK, {}) == JobState("waiting", "made by another recipe")


@pytest.mark.parametrize(
    "harm",
    [
        lambda text: text.replace("0.25", "0.75"),
        lambda text: text[:-20],
        lambda text: text[:20],
        lambda text: "[]",
        lambda text: '{"acc": 0.25}',
    ],
    ids=["edited", "cut behind the recipe", "cut", "another value", "no manifest"],
)
def test_a_damaged_result_is_shown_as_that(harm):
    file = made()
    file.write_text(harm(file.read_text()))
    found = state("tiny", WORK, {})
    assert found.state == "damaged" and found.reason.startswith(f"{RESULT}: ") and "delete it" in found.reason


def test_the_queue_and_locks_come_before_logs():
    log(FAILED)
    queue = {
        "rule_evaluate_cell_wildcards_tiny_tiny_gptq-w3_text_lora-r2_0": Job(
            "5", "", "PENDING", "Priority", ""
        )
    }
    assert state("tiny", WORK, queue) == JobState("queued", "SLURM job 5: Priority")
    with hold(RESULT):
        assert state("tiny", WORK, queue).state == "running"


def test_a_deleted_result_is_waiting_and_an_error_is_failed():
    assert state("tiny", WORK, {}) == JobState("waiting")
    log(f"perplexity text: 383.000\n\n{FINISHED}\n")
    assert state("tiny", WORK, {}) == JobState("waiting", "it was made, and deleted")
    log(FAILED)
    assert state("tiny", WORK, {}) == JobState("failed", "ValueError: no such thing")


def test_a_run_that_is_on_tries_again_what_failed_before_it():
    log(FAILED, age=100)
    with hold("results"):
        started = last_held("results")
        assert state("tiny", WORK, {}, started) == JobState(
            "waiting", "failed in an earlier run: ValueError: no such thing"
        )
        log(KILLED, age=-1)
        assert state("tiny", WORK, {}, started) == JobState("running", "starts")
        log(FAILED, age=-1)
        assert state("tiny", WORK, {}, started) == JobState("failed", "ValueError: no such thing")


def test_a_job_that_is_killed_in_a_run_that_goes_on_does_not_start_for_ever():
    with hold("results"):
        with hold(RESULT):
            log(KILLED)
        assert state("tiny", WORK, {}, last_held("results")) == JobState(
            "failed", "stopped without a message (killed?)"
        )


def test_a_killed_job_is_not_given_its_last_line_as_the_reason():
    log(KILLED)
    assert state("tiny", WORK, {}) == JobState("failed", "stopped without a message (killed?)")
    slurm = Path(".snakemake/slurm_logs/rule_evaluate_cell/tiny_tiny_gptq-w3_text_lora-r2_0")
    log("srun: error: an older attempt", slurm / "4.log", age=50)
    log(
        "Building DAG of jobs...\nslurmstepd: error: Exceeded job memory limit\nShutting down",
        slurm / "5.log",
    )
    assert state("tiny", WORK, {}).reason == (
        f"stopped without a message (killed?); slurmstepd: error: Exceeded job memory limit (SLURM log: {slurm}/5.log)"
    )


def test_time_left_is_scaled_by_what_is_done():
    """By jobs that did all of their work."""
    costs = [Cost("evaluate_cell", name, 100.0, 0, 0) for name in "abcd"]
    found = {
        ("evaluate_cell", "a"): JobState("done", seconds=200.0),
        ("evaluate_cell", "b"): JobState("damaged"),
        ("evaluate_cell", "d"): JobState("done", seconds=None),
    }
    assert seconds_left(costs, found) == 400.0
    assert seconds_left(costs[-1:], found) == 0.0


def test_the_log_of_a_job_says_that_it_finished(tmp_path, capfd):
    """In a process of its own: its output goes to the log until it ends."""
    from types import SimpleNamespace as Any

    for number, body in enumerate((lambda: None, lambda: 1 / 0)):
        file = tmp_path / f"{number}.log"
        if not (pid := os.fork()):
            try:
                with job(Any(log=[file], rule="r", output=[str(tmp_path / "x")])):
                    body()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert (FINISHED in file.read_text().splitlines()) == (number == 0)


@pytest.mark.parametrize(("cluster", "device"), [(False, "cpu-2"), (True, "a100-80g")])
def test_the_time_left_names_the_device_that_it_is_forecast_for(cluster, device, monkeypatch, capsys):
    """The grid's own on this machine; the site's if jobs were ever submitted from here."""
    Path("config").mkdir()
    for name in files():
        shutil.copy(ROOT / name, name)
    monkeypatch.setattr(slurm, "submitted_here", lambda: cluster)
    monkeypatch.setattr(slurm, "jobs_of_folder", list)
    assert main(["status", "--grid", "smoke"]) == 0
    assert f"hours of jobs are left on {device}, " in capsys.readouterr().out

"""Faults of a cluster: whatever is killed, the results are those of an undisturbed run, and each has one writer."""

import json
import os
import signal
import sys
import time

import pytest

from tests.slurm.conftest import ADAPTER, LOG, accounted, queued, stop
from tests.slurm.local_slurm import output, wait_until

TARGET = f"{ADAPTER}/training.json"
TRAINS = r"tokens/s"


def weights(checkout) -> bytes:
    return (checkout.folder / ADAPTER / "adapter_model.safetensors").read_bytes()


def start_training(checkout, *arguments: str):
    """Start the run and wait until its job trains and has written a checkpoint."""
    process = checkout.start("--retries", "3", *arguments, "--", TARGET)
    checkout.wait_for(TRAINS, process, LOG)
    wait_until("a checkpoint", lambda: list(checkout.folder.glob(f"work/{ADAPTER}/**/checkpoint.pt")), 60)
    return process


def running_job(checkout) -> dict:
    (job,) = [job for job in accounted(checkout.folder) if job["State"] == "RUNNING"]
    return job


def finish(process, checkout, undisturbed: bytes, seconds: float = 900) -> None:
    """The run ends well, and the adapter is the undisturbed one, bit by bit."""
    assert process.wait(seconds) == 0, checkout.told()
    assert weights(checkout) == undisturbed


def continued(checkout) -> bool:
    """Whether the last attempt began from a checkpoint, as its log says."""
    return any("continues from step" in log.read_text() for log in checkout.folder.glob(LOG))


def test_a_cancelled_job_is_run_again_and_continues(training, undisturbed):
    process = start_training(training)
    output("scancel", running_job(training)["JobIDRaw"])
    finish(process, training, undisturbed)
    assert continued(training)
    assert sorted(job["State"].split()[0] for job in accounted(training.folder))[0] == "CANCELLED"


def test_a_job_that_exceeds_its_memory_is_run_again_with_more(copied):
    cell = "results/tiny/evaluations/tiny/gptq-w3/text/none/seed-0.json"
    before = json.loads((copied.folder / cell).read_text())
    (copied.folder / cell).unlink()
    jobs = len(accounted(copied.folder))
    copied.run("--set-resources", "evaluate_cell:mem_mb=250 * attempt ** 4", "--", cell)
    after = json.loads((copied.folder / cell).read_text())
    before.pop("manifest"), after.pop("manifest")
    assert after == before
    first, *_, last = accounted(copied.folder)[jobs:]
    assert first["State"] in ("OUT_OF_MEMORY", "FAILED") and last["State"] == "COMPLETED"
    (log,) = copied.folder.glob(f".snakemake/slurm_logs/rule_evaluate_cell/*/{first['JobIDRaw']}.log")
    assert "exceeded memory limit" in log.read_text()


def test_a_job_that_exceeds_its_time_is_warned_and_continues(training, undisturbed):
    training.site(max_hours=1 / 60)  # every attempt gets a minute, and SIGUSR1 before its end
    process = start_training(training, "--retries", "9")
    first = running_job(training)["JobIDRaw"]
    wait_until("the end of its time", lambda: state_of(first) != "RUNNING", 240)
    assert state_of(first) == "TIMEOUT"
    finish(process, training, undisturbed)
    assert continued(training)


def state_of(job: str) -> str:
    return output("sacct", "-nPX", "-j", job, "--format=State").split()[0]


def test_the_warning_before_the_end_of_the_time_makes_a_checkpoint_and_kills_nothing(training, undisturbed):
    config = training.config()
    config["training"]["tiny"]["checkpoint_minutes"] = 600
    training.write_config(config)
    process = training.start("--", TARGET)
    training.wait_for(TRAINS, process, LOG)
    assert not list(training.folder.glob(f"work/{ADAPTER}/**/checkpoint.pt"))
    job = running_job(training)["JobIDRaw"]
    output("scancel", "--signal=USR1", job)
    wait_until("a checkpoint", lambda: list(training.folder.glob(f"work/{ADAPTER}/**/checkpoint.pt")), 30)
    finish(process, training, undisturbed)
    assert state_of(job) == "COMPLETED"


def test_a_node_that_dies_and_comes_back(cluster, training, undisturbed):
    process = start_training(training)
    job = running_job(training)["JobIDRaw"]
    node = output("squeue", "--noheader", f"--job={job}", "--format=%N").strip()
    cluster.node_down(node)
    wait_until("SLURM to miss the node", lambda: cluster.state(node).startswith("down"), 120)
    cluster.node_up(node)
    finish(process, training, undisturbed)
    assert continued(training)


def test_the_controller_restarts(cluster, training, undisturbed):
    process = start_training(training)
    cluster.restart_controller()
    finish(process, training, undisturbed)
    assert len([job for job in accounted(training.folder) if job["State"] == "COMPLETED"]) == 1


def test_ctrl_c_cancels_the_jobs(training, undisturbed):
    process = start_training(training)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(120) != 0
    wait_until("the jobs to end", lambda: not queued(), 60)
    finish(training.start("--", TARGET), training, undisturbed)
    assert continued(training)


def test_sigterm_waits_for_running_jobs_and_submits_no_more(training, undisturbed):
    process = start_training(training)
    process.terminate()
    process.wait(600)
    assert not queued()
    assert weights(training) == undisturbed
    finish(training.start("--", TARGET), training, undisturbed)


def test_a_killed_main_process_is_resumed_without_a_second_writer(training, undisturbed):
    """SIGKILL leaves Snakemake's lock and the cluster's job. `resume` cancels the job, then goes on."""
    process = start_training(training)
    orphan = running_job(training)["JobIDRaw"]
    stop(process)
    assert [line.split("|")[0] for line in queued()] == [orphan]
    second = training.start("--unlock")
    assert second.wait(60) == 0
    third = training.start("--", TARGET)
    assert third.wait(120) == 1
    assert (
        "jobs of an earlier run in this folder are still on the cluster"
        in (training.folder / "run.txt").read_text()
    )
    refused = training.displaced("run", "--grid", "tiny", "--profile", "slurm")
    assert refused.returncode == 1 and "make resume" in refused.stdout
    resume = [
        sys.executable,
        "-m",
        "workflow_scripts",
        *["run", "--grid", "tiny", "--profile", "slurm", "--resume"],
    ]
    finish(training.start(command=resume), training, undisturbed, 1800)  # the whole grid, not only the target
    assert f"cancelled: {orphan}" in (training.folder / "run.txt").read_text()
    writers = [job for job in accounted(training.folder) if job["Partition"] == "gpu"]
    assert state_of(orphan) == "CANCELLED" and continued(training)
    assert len({job["JobIDRaw"] for job in writers}) == len(writers)


def test_a_second_run_in_the_folder_is_told_who_works_there(training):
    process = start_training(training)
    second = training.start("--", TARGET)
    assert second.wait(60) == 1
    assert f"A run works in this folder: pid {process.pid} on " in (training.folder / "run.txt").read_text()
    other = training.displaced("run", "--grid", "tiny", "--profile", "slurm", "--resume")
    assert other.returncode == 1 and f"pid {process.pid}" in other.stdout
    status = training.displaced("status", "--grid", "tiny").stdout
    assert "running  train_adapter tiny/gptq-w3/text/lora-r2/seed-0: pid " in status
    os.killpg(process.pid, signal.SIGINT)
    process.wait(120)
    wait_until("the jobs to end", lambda: not queued(), 60)


@pytest.fixture(autouse=True)
def no_job_is_left(cluster):
    """A test begins on an empty cluster, and what it leaves is cancelled."""
    yield
    if queued():
        output("scancel", "--user=root")
        deadline = time.monotonic() + 60
        while queued() and time.monotonic() < deadline:
            time.sleep(0.5)

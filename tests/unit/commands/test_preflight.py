"""What `make preflight` and its test jobs can tell of a cluster, a shared folder and the hub."""

import errno
import fcntl
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from workflow_scripts.cluster import node_probe
from workflow_scripts.cluster.node_probe import SIZE, Findings, reads_whole, replaced, tries_lock
from workflow_scripts.cluster.slurm import PREFIX, REQUEST, SlurmError, partition_settings
from workflow_scripts.commands import preflight
from workflow_scripts.commands.preflight import reading_request
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan.config import files
from workflow_scripts.plan.recipes import plan_of
from workflow_scripts.plan.requests import read_site

ROOT = Path(__file__).parents[3]


def test_a_file_that_is_renamed_into_place_is_seen_whole(tmp_path):
    """By a process of its own, as on a node."""
    look = "from workflow_scripts.cluster.node_probe import *; sys.exit(0 if reads_whole(Path(sys.argv[1])) else 7)"
    with replaced(tmp_path / "file"):
        seen = subprocess.run([sys.executable, "-c", look, str(tmp_path / "file")], check=False)
    assert seen.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_written_in_place_is_seen_cut_short(tmp_path):
    end, file = threading.Event(), tmp_path / "file"
    file.write_text("a" * SIZE)

    def write() -> None:
        while not end.is_set():
            with open(file, "w", buffering=1024) as handle:
                for _ in range(SIZE // 1024):
                    handle.write("b" * 1024)
                    end.wait(0.0005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert not reads_whole(file)
    finally:
        end.set()
        writer.join()


def test_a_file_that_is_not_there_is_not_whole(tmp_path):
    assert not reads_whole(tmp_path / "file")


def test_a_folder_that_can_no_longer_be_written_does_not_pass(tmp_path):
    (folder := tmp_path / "shared").mkdir()
    words = "file: can't be written: No such file or directory"
    with pytest.raises(ArtifactError, match=words), replaced(folder / "file"):
        folder.rename(tmp_path / "moved")
        time.sleep(0.2)


def test_jobs_that_only_read_ask_for_what_the_profile_says():
    request = reading_request()
    assert request == {"nodes": 1, "mem_mb": 4000, "runtime": 60} and set(request) <= set(REQUEST)


def test_a_lock_is_tried_as_file_systems_demand_it(tmp_path, monkeypatch):
    """NFS locks exclusively only what is open for writing; a refusal other than "held" is a finding, no traceback."""
    with open(tmp_path / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert tries_lock(tmp_path / "lock") == {"lock_excludes": True, "lock_error": None}
    assert tries_lock(tmp_path / "lock") == {"lock_excludes": False, "lock_error": None}

    def nfs(handle, how):
        if not handle.writable():
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", nfs)
    assert tries_lock(tmp_path / "lock") == {"lock_excludes": False, "lock_error": "No locks available"}


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """A function that puts a shell script in place of one of SLURM's commands; its arguments go to <name>.called."""
    monkeypatch.chdir(tmp_path)
    (folder := tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def replace(name: str, script: str) -> None:
        called = shlex.quote(str(tmp_path / f"{name}.called"))
        (folder / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {called}\n{script}\n')
        (folder / name).chmod(0o755)

    return replace


@pytest.mark.parametrize(
    ("queue", "said"),
    [
        (
            "PENDING|Priority",
            "?     no node was tried: the test job was queued (Priority) for 0.01 minutes and taken back",
        ),
        ("RUNNING|None", "BAD   the test job did not run: it took more than 0.01 minutes"),
    ],
    ids=["queued", "hangs"],
)
def test_a_test_job_that_takes_too_long_is_taken_back(commands, tmp_path, monkeypatch, capsys, queue, said):
    commands("sbatch", "exec sleep 60")
    commands("squeue", f"echo '{queue}'")
    commands("scancel", "")
    monkeypatch.setattr(node_probe, "MINUTES", 0.01)
    node_probe.check_nodes(read_site(tmp_path / "none"), Findings())
    assert said in capsys.readouterr().out
    asked = (tmp_path / "sbatch.called").read_text().splitlines()
    name = next(part.removeprefix("--job-name=") for part in asked if part.startswith("--job-name="))
    assert (tmp_path / "scancel.called").read_text() == f"--name={name}\n"
    assert not name.startswith(f"{PREFIX}_")  # it would count as a job of a run in this folder


def test_a_test_job_is_asked_for_as_real_jobs_are(commands, tmp_path, capsys):
    commands("sbatch", "echo no such reservation >&2; exit 1")
    commands("scancel", "")
    (tmp_path / "site.yaml").write_text("{partition: gpu, extra: \"--exclude=n7 --reservation='two words'\"}")
    node_probe.check_nodes(read_site(tmp_path / "site.yaml"), Findings())
    asked = (tmp_path / "sbatch.called").read_text().splitlines()
    assert {"--partition=gpu", "--exclude=n7", "--reservation=two words"} <= set(asked)
    assert "BAD   the test job did not run: no such reservation" in capsys.readouterr().out


def test_the_lines_of_setup_run_in_bash_whatever_the_paths_are(tmp_path, monkeypatch):
    (folder := tmp_path / "it's a folder").mkdir()
    (python := folder / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$LOADED" "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    setup = "declare -A loaded=([it]=yes)\nexport LOADED=${loaded[it]}\n"
    site = read_site(tmp_path / "none") | {"setup": setup}
    script = node_probe.job_script(folder, site)
    ran = subprocess.run(["sh", "-c", script], text=True, capture_output=True, check=True)
    assert ran.stdout.splitlines() == ["yes", "-m", "workflow_scripts.cluster.node_probe", str(folder)]
    inside = shlex.split(node_probe.job_script(folder, site | {"container": "displaced.sif"}))
    assert inside[:3] == ["apptainer", "exec", "--nv"] and inside[5:8] == ["displaced.sif", "bash", "-c"]
    assert "python -m workflow_scripts.cluster.node_probe" in inside[8] and str(python) not in inside[8]


def test_gpus_are_those_that_pytorch_sees_in_a_process_of_its_own(tmp_path, monkeypatch):
    import torch

    assert node_probe.gpus() == [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    (python := tmp_path / "python").write_text("#!/bin/sh\necho libcudart.so: no such file >&2; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(SystemExit, match=r"libcudart\.so: no such file"):
        node_probe.gpus()


def test_a_hub_that_cannot_be_reached_is_a_finding(monkeypatch):
    import httpx2
    from huggingface_hub import HfApi

    def refused(*_, **__):
        raise httpx2.ConnectError("[Errno 111] Connection refused")

    monkeypatch.setattr(HfApi, "model_info", refused)
    assert preflight._reach_hub() == "[Errno 111] Connection refused"


PARTITION = 'case "$3" in gpu) t=12:00:00 ;; gpu2) t=1-00:00:00 ;; *) exit 1 ;; esac; echo PartitionName=$3 MaxTime=$t'


def test_of_several_partitions_the_longest_time_counts(commands):
    commands("scontrol", PARTITION)
    assert partition_settings("gpu")["MaxTime"] == "12:00:00"
    assert partition_settings("gpu,gpu2") == {"PartitionName": "gpu2", "MaxTime": "1-00:00:00"}
    with pytest.raises(SlurmError, match="scontrol"):
        partition_settings("gpu,gone")


def test_later_attempts_that_could_never_start_or_end_are_named(commands, tmp_path, capsys):
    plan = plan_of(files(root=ROOT), "paper")
    commands("scontrol", PARTITION)
    commands("sinfo", "echo '128000+'; echo 64000")
    commands("sbatch", "")

    def said(**changed) -> list[str]:
        site = read_site(tmp_path / "none") | {"partition": "gpu", "max_hours": 12} | changed
        preflight._check_attempts(plan, "paper", site, Findings())
        return capsys.readouterr().out.splitlines()

    [line, advice] = said(max_memory_gb=128, max_hours=24)
    assert "max_hours: 24 exceed the 12 that the partition gives" in line and "max_hours: 12 in" in advice
    assert said(max_memory_gb=128) == []
    memory = said()
    assert any(
        "measure_similarity: attempt 3 would ask for" in line and "has 128000 MB" in line for line in memory
    )
    assert {line for line in memory if line.startswith("      ->")} == {
        "      -> set max_memory_gb: 128 in profiles/slurm/site.yaml"
    }
    short = said(max_memory_gb=128, max_hours=0.5)
    assert any(
        "train_adapter: takes about 7 attempts of 0.5 hours, the profile gives 3" in line for line in short
    )
    assert any("--retries 6" in line for line in short)
    shorter = said(max_memory_gb=128, max_hours=0.02)
    assert any(
        "measure_similarity: takes longer than max_hours: 0.02, and starts over" in line for line in shorter
    )

"""The few questions that this pipeline asks SLURM itself; Snakemake's executor asks the others."""

import os
import re
import shutil
import subprocess
import time
from typing import NamedTuple

from workflow_scripts.cluster.snakemake_surface import SLURM_LOGS

PREFIX = "displaced"  # slurm-jobname-prefix of profiles/slurm: a job's name is <prefix>_<id of the run>
SECONDS = 60  # for an answer of SLURM
OPTIONS = {  # Snakemake's resource -> sbatch's option
    "slurm_account": "account",
    "slurm_partition": "partition",
    "constraint": "constraint",
    "qos": "qos",
    "mem_mb": "mem",
    "runtime": "time",
    "threads": "cpus-per-task",
    "nodes": "nodes",
}
REQUEST = (*OPTIONS, "gpu", "gpu_model")  # the Snakemake resources that decide whether a job can ever start


class SlurmError(RuntimeError):
    """SLURM does not answer, or refuses; the message is SLURM's."""


class Job(NamedTuple):
    """A job of this folder in the queue. `comment` names rule and wildcards, as Snakemake's executor writes it."""

    id: str
    run: str
    state: str
    reason: str
    comment: str


def available() -> bool:
    """True if SLURM's commands are installed here."""
    return all(map(shutil.which, ("squeue", "sbatch", "scancel")))


def submitted_here() -> bool:
    """True if a run on a cluster has ever submitted jobs from this folder (its executor keeps logs there)."""
    return SLURM_LOGS.exists()


def ask(*command: str) -> str:
    """Output of one of SLURM's commands; SlurmError with its message on failure."""
    try:
        done = subprocess.run(
            command, encoding="utf-8", errors="replace", capture_output=True, check=False, timeout=SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise SlurmError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout


def jobs_of_folder() -> list[Job]:
    """This user's jobs in the queue (not ended) that a run in this folder submitted."""
    here = os.path.realpath(".")
    lines = ask("squeue", "--me", "--noheader", "--format=%i|%j|%T|%r|%Z|%k").splitlines()
    rows = [line.split("|", 5) for line in lines]
    return [
        Job(id, run, state, reason, comment)
        for id, run, state, reason, where, comment in rows
        if run.startswith(f"{PREFIX}_") and os.path.realpath(where) == here
    ]


def states_of(name: str) -> dict[str, str]:
    """State -> reason of the jobs in the queue that have this name; empty if there is none or SLURM does not answer."""
    try:
        lines = ask("squeue", "--noheader", f"--name={name}", "--format=%T|%r").splitlines()
    except SlurmError:
        return {}
    return dict(line.split("|", 1) for line in lines)


def cancel(jobs: list[Job]) -> None:
    """Cancel jobs and wait until they have left the queue, so that none writes beside its successor.

    Raises SlurmError if one is still there after two minutes.
    """
    ids = {job.id for job in jobs}
    ask("scancel", *sorted(ids))
    deadline = time.monotonic() + 120
    while left := ids & {job.id for job in jobs_of_folder()}:
        if time.monotonic() > deadline:
            raise SlurmError(f"jobs {', '.join(sorted(left))} were cancelled but don't end; see squeue")
        time.sleep(1)


def partition_settings(partition: str | None) -> dict[str, str]:
    """Settings of a partition (None: of the default one), as `scontrol show partition` names them.

    SLURM runs a job in any of several partitions ("a,b"); their settings are those of the one with the longest time.
    """
    if partition and "," in partition:
        each = map(partition_settings, partition.split(","))
        return max(each, key=lambda found: minutes(found.get("MaxTime", "UNLIMITED")))
    for block in ask("scontrol", "show", "partition", *([partition] if partition else [])).split("\n\n"):
        settings = dict(re.findall(r"(\w+)=(\S+)", block))
        if partition or settings.get("Default") == "YES":
            return settings
    raise SlurmError("scontrol: the cluster has no default partition; name one in the site file")


def largest_memory(partition: str | None) -> int:
    """Memory (MB) of the largest node of a partition (or of several, "a,b")."""
    name = partition or partition_settings(None)["PartitionName"]
    sizes = ask("sinfo", "--noheader", "--Node", f"--partition={name}", "--format=%m").split()
    return max((int(size.rstrip("+")) for size in sizes), default=0)


def minutes(text: str) -> float:
    """[days-]hours:minutes:seconds, minutes:seconds or minutes -> minutes; UNLIMITED is infinite."""
    if text in ("UNLIMITED", "NONE"):
        return float("inf")
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:
        parts += [0] * (3 - len(parts))
    elif len(parts) == 1:
        parts = [0, *parts, 0]
    seconds = sum(part * unit for part, unit in zip(reversed(parts), (1, 60, 3600)))
    return (int(days or 0) * 86400 + seconds) / 60


def refusal(request: dict) -> str | None:
    """The reason why SLURM would never start a job with these Snakemake resources; None if it would.

    Nothing is submitted. `sbatch --test-only` checks account, partition, GPUs, memory and CPUs. On most clusters it
    accepts a wall time beyond the partition's limit, and the job then waits for ever.
    """
    call = [
        f"--{option}={request[name]}" for name, option in OPTIONS.items() if request.get(name) is not None
    ]
    if request.get("gpu"):
        model = request.get("gpu_model")
        call.append(f"--gpus={f'{model}:' if model else ''}{request['gpu']}")
    try:
        longest = minutes(partition_settings(request.get("slurm_partition")).get("MaxTime", "UNLIMITED"))
        if request["runtime"] > longest:
            return f"{request['runtime']} minutes exceed the partition's {longest:.0f}: set max_hours: {longest / 60:g}"
        ask("sbatch", "--test-only", *call, "--wrap=true")
    except SlurmError as error:
        return str(error)
    return None

"""One run at a time works in a folder, on one machine or on a cluster."""

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from workflow_scripts.cluster import slurm
from workflow_scripts.cluster.snakemake_surface import LOCKS, SCRIPTS, cut_short
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.job import arguments_in
from workflow_scripts.files.locks import held_by, hold
from workflow_scripts.files.members import RESULTS

FETCHES = ("fetch_model", "fetch_corpus", "fetch_benchmark")
RESUME = "`make resume` cancels its jobs that are left and goes on (PROFILE=slurm on a cluster)"
_life = ExitStack()


def locked() -> bool:
    """True if Snakemake's lock is on this folder (a killed run leaves it behind)."""
    return LOCKS.is_dir() and any(LOCKS.iterdir())


def living() -> list:
    """Snakemake processes (main or job) on this machine that work in this folder, without this one and its parents."""
    import psutil

    here, found = str(Path.cwd()), []
    mine = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for process in psutil.process_iter():
        try:
            if (
                process.pid not in mine
                and process.cwd() == here
                and any("snakemake" in Path(part).name or SCRIPTS in part for part in process.cmdline()[:4])
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def state_of_folder() -> str | None:
    """A line that says who holds Snakemake's lock, or that a killed run left it; None if the folder is free."""
    if not locked():
        return None
    if who := held_by(RESULTS) or ", ".join(f"pid {process.pid}" for process in living()):
        return f"A run works in this folder: {who}. Wait for it, or stop it."
    return f"An earlier run was killed in this folder: {RESUME}."


def keep_what_is_whole(is_whole: Callable[[str], bool]) -> None:
    """Take off the marks of a killed run's jobs that had written all. Else Snakemake makes their outputs again, and
    passes over outdated jobs that read these through finished results alone."""
    if not locked():  # else a job may be writing
        for output, mark in cut_short().items():
            if is_whole(output):
                with suppress(OSError):  # in a folder that can't be written to nothing runs
                    mark.unlink()


def begin(on_cluster: bool) -> None:
    """Hold the folder's lock as long as this process lives.

    Raises ArtifactError if another run or its jobs are in the folder, or if SLURM does not answer.
    """
    try:
        jobs = slurm.jobs_of_folder() if on_cluster else []
    except slurm.SlurmError as error:
        raise ArtifactError(f"SLURM does not say whether jobs of an earlier run are left: {error}") from error
    if jobs:
        ids = ", ".join(job.id for job in jobs[:5]) + (", ..." if len(jobs) > 5 else "")
        raise ArtifactError(
            f"jobs of an earlier run in this folder are still on the cluster ({ids}): {RESUME}"
        )
    _life.enter_context(hold(RESULTS))


def check_start(jobs: Iterable[Any], here: bool) -> None:
    """Take the folder and refuse these Snakemake jobs if one can't succeed; ArtifactError says why.

    here: they run on this machine, not on a cluster.
    """
    jobs = list(jobs)
    begin(on_cluster=not here)
    refuse_missing_sources(jobs)
    if not here:
        refuse_impossible(job for job in jobs if not job.is_local)


def refuse_missing_sources(jobs: Iterable[Any]) -> None:
    """Raises ArtifactError, before any job, if one of these would fetch a local source that is missing."""
    for job in jobs:
        if job.rule.name in FETCHES:
            args = arguments_in(job.params.args)
            path = Path(arguments_in(job.params.beside)["details"].get("path", "")).expanduser().absolute()
            if args["spec"]["source"] == "local" and not path.exists():
                raise ArtifactError(
                    f"{job.rule.name} {args['name']}: {path}: no such file or folder (`path`)"
                )


def refuse_impossible(jobs: Iterable[Any]) -> None:
    """Raises ArtifactError, before anything is submitted, if SLURM would never start one of these Snakemake jobs."""
    seen: dict[tuple, tuple[str, dict]] = {}
    for job in jobs:
        request = {name: job.resources.get(name) for name in slurm.REQUEST} | {"threads": job.threads}
        seen.setdefault(tuple(request.items()), (job.rule.name, request))
    for rule, request in seen.values():
        if why := slurm.refusal(request):
            asked = ", ".join(f"{name}={value}" for name, value in request.items() if value is not None)
            raise ArtifactError(
                f"the cluster can't run {rule}: {why} (asked for: {asked}); nothing was submitted. "
                "See profiles/slurm/site.example.yaml"
            )

"""Run a grid to its report, then print the verdicts and the report's path.

  python -m workflow_scripts run
  python -m workflow_scripts run --grid bench --blocks core,seeds
  python -m workflow_scripts run --grid paper --profile slurm --resume

Further options go to Snakemake as they are (--cores 2, --keep-going).

A killed run leaves Snakemake's lock, and its jobs on a cluster. The lock is removed if no process of that run is alive
on this machine; only --resume cancels the jobs.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

from workflow_scripts.cluster import runs, slurm
from workflow_scripts.cluster.snakemake_surface import refuse_closed_cache
from workflow_scripts.commands import progress
from workflow_scripts.commands.options import add_grid, grid_words, warning
from workflow_scripts.files.artifacts import ArtifactError, read_json, recorded_recipe, sha256_file
from workflow_scripts.files.locks import held_by, last_held
from workflow_scripts.files.members import RESULTS
from workflow_scripts.plan.config import files
from workflow_scripts.plan.forecast import warnings
from workflow_scripts.plan.layout import REPORT, STAMP, VERDICT, Cell, lacks_companions
from workflow_scripts.plan.recipes import Plan, plan_of
from workflow_scripts.plan.upgrades import older_results
from workflow_scripts.report.summary import lines

STOPPING = 30  # seconds until the processes of a cancelled job, if its node is this machine, must have ended
DRY = {"-n", "--dry-run", "--dryrun"}  # Snakemake's options under which nothing is made
SNAKEMAKE = (sys.executable, "-m", "snakemake")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid(parser, "smoke")
    parser.add_argument("--profile", help="a Snakemake profile, like slurm (default: run on this machine)")
    parser.add_argument(
        "--resume", action="store_true", help="cancel a killed run's jobs on the cluster first"
    )
    parser.set_defaults(snakemake_options=[])


def main(
    grid: str,
    blocks: list[str] | None = None,
    configfile: Sequence[str] = (),
    profile: str | None = None,
    resume: bool = False,
    snakemake_options: Sequence[str] = (),
    first: str | None = None,
) -> int:
    """Run `grid`, or its `blocks`; returns Snakemake's exit status. Raises ArtifactError if another run is alive.

    first: a rule whose jobs must all succeed before any other is started but those that they need. A run goes on
    without the jobs that failed, and would compute everything that doesn't stand on them.
    """
    plan = plan_of(files(*configfile), grid, blocks)  # Snakemake answers an unreadable file with a traceback
    refuse_closed_cache()
    if not os.access(".", os.W_OK):
        raise ArtifactError(f"{os.getcwd()}: can't be written, so nothing can run here")
    started, before = time.time(), last_held(RESULTS)
    if who := held_by(RESULTS):
        raise ArtifactError(f"Another run works in this folder ({who}). Wait for it, or stop it.")
    arguments = [f"GRID={grid}"]
    arguments += [f"BLOCKS={','.join(blocks)}"] if blocks else []
    arguments += [f"CONFIG={' '.join(configfile)}"] if configfile else []
    cancelled = _cancel_orphans(resume, profile, shlex.join(["make", "resume", *arguments, "PROFILE=slurm"]))
    _await_processes(STOPPING if cancelled else 0)
    if runs.locked():
        print("An earlier run was killed: its lock is removed, finished work is kept.", flush=True)
        subprocess.run([*SNAKEMAKE, "--unlock", "--quiet", "all"], check=True)
    command = [*SNAKEMAKE, "--quiet", "host", "reason", *grid_words(grid, blocks, configfile)]
    command += ["--profile", profile] if profile else ["--resources", f"mem_mb={_free_memory_mb()}"]
    command += snakemake_options
    _say_older(plan, grid)
    if DRY.intersection(snakemake_options):
        return follow(command)
    minded = [warning(text) for text in warnings(plan, grid)]
    print("".join(f"{line}\n" for line in minded), end="", flush=True)
    with progress.shown(progress.Watch(plan, grid).line):
        status = follow([*command, "--until", first]) if first else 0
        status = status or follow(command)
    if status:
        print(_unfinished(before), file=sys.stderr)
        return status
    if lacking := [cell.json for cell in plan.cells(grid) if not _is_made(plan, cell)]:
        raise ArtifactError(
            f"Snakemake ended, but grid '{grid}' is not complete: {len(lacking)} of {len(plan.cells(grid))} cells are "
            f"missing or not as planned. Make the first: {plan.command(grid, '--force')} {lacking[0]}"
        )
    if not _is_judged(plan, grid):
        raise ArtifactError(
            f"Snakemake ended, but the verdict of grid '{grid}' was not made from its cells as they are now. Make it: "
            f"{plan.command(grid)} {REPORT.path(grid)}"
        )
    minutes = (time.time() - started) / 60
    print(f"\nGrid '{grid}' is complete ({minutes:.1f} min in this run).")
    print("\n".join([*lines(read_json(VERDICT.path(grid))), *minded]))
    print(f"Report, to open in a browser: {REPORT.path(grid)}")
    return 0


def _say_older(plan: Plan, grid: str) -> None:
    """A line on results that an upgrade outdates and evidence may keep."""
    if older := len(older_results(plan, grid)):
        print(
            f"{older} results differ from the plan in their code alone, and a run makes them again. If today's code "
            f"makes the same, they can be kept: `{plan.make('adopt', grid)}` makes a few again and compares.",
            flush=True,
        )


def _unfinished(before: float | None) -> str:
    """The last lines of a run that did not finish: the causes of its jobs that failed.

    before: when an earlier run took the folder, if one did. A run that did not take it started no job.
    """
    began = last_held(RESULTS)
    failed = progress.failures(began) if began and began != before else []
    if not failed:
        return "The run did not finish: see the lines above."
    return "\n".join(["The run did not finish. Failed jobs:", *failed])


def _is_made(plan: Plan, cell: Cell) -> bool:
    return recorded_recipe(cell.json) == plan.evaluate_recipe(cell) and not lacks_companions(cell.json)


def _is_judged(plan: Plan, grid: str) -> bool:
    """True if the report, the last that a run makes, is the planned one and was made from the cells that are there."""
    stamp = STAMP.path(grid)
    if recorded_recipe(stamp) != plan.analysis(grid, "report_grid")["recipe"]:
        return False
    files = read_json(stamp)["files"]
    return all(files.get(cell.json) == sha256_file(cell.json) for cell in plan.cells(grid))


def _cancel_orphans(resume: bool, profile: str | None, resume_command: str) -> bool:
    """Cancel the jobs that a killed run left on the cluster; returns whether there were any.

    Raises ArtifactError if there are any and nobody asked to resume, or to resume on the cluster; and if SLURM fails.
    """
    try:
        orphans = slurm.jobs_of_folder() if slurm.submitted_here() else []
        if orphans and not resume:
            raise ArtifactError(
                f"{len(orphans)} jobs of a killed run are still on the cluster: {runs.RESUME}."
            )
        if orphans and not profile:
            raise ArtifactError(
                f"{len(orphans)} jobs of a killed run are on the cluster, and without a profile the grid would go on "
                f"on this machine: {resume_command}. To go on here all the same, cancel them first (scancel)."
            )
        if orphans:
            ids = ", ".join(job.id for job in orphans)
            print(f"{len(orphans)} jobs of a killed run are cancelled: {ids}", flush=True)
            slurm.cancel(orphans)
    except slurm.SlurmError as error:
        raise ArtifactError(f"SLURM: {error}. Nothing was started.") from error
    return bool(orphans)


def _await_processes(seconds: float) -> None:
    """Wait until no process of a killed run is alive here; raises ArtifactError if one is after `seconds`."""
    deadline = time.monotonic() + seconds
    while (alive := runs.living()) and time.monotonic() < deadline:
        time.sleep(1)
    if alive:
        pids = " ".join(str(process.pid) for process in alive)
        raise ArtifactError(
            f"A killed run's processes still work here. Wait for them, or stop them: kill {pids}"
        )


def _free_memory_mb() -> int:
    """Memory (MB) for jobs on this machine; jobs that would exceed it wait."""
    return int(psutil.virtual_memory().available * 0.9 / 1e6)


def follow(command: list[str]) -> int:
    """Run a command to its end, whatever signal comes; returns its exit status.

    SIGTERM is passed on; the terminal sends Ctrl-C to both. `subprocess.run` would kill Snakemake a quarter of a second
    after Ctrl-C, before it could cancel its jobs.
    """
    interrupted = signal.signal(signal.SIGINT, lambda *_: None)
    process = subprocess.Popen(command)
    terminated = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, interrupted)
        signal.signal(signal.SIGTERM, terminated)

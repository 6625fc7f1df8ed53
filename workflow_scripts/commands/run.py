"""`make demo`, `make run`, `make resume`: run a grid to its report, then print where the report is and what it says.

A killed run leaves Snakemake's lock behind, and its jobs on a cluster. The lock is taken away only if no process of
that run is alive here; such jobs are cancelled only by `resume`.
"""

import argparse
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import psutil

from workflow_scripts.cluster import runs, slurm
from workflow_scripts.files.artifacts import read_json
from workflow_scripts.files.locks import held_by
from workflow_scripts.plan.config import ConfigError, read
from workflow_scripts.report.summary import lines

STOPPING = 30  # seconds in which a cancelled job's processes, where its node is this machine, must be gone


def main(
    grid: str, extra: list[str], profile: str | None = None, resume: bool = False, blocks: str | None = None,
    configfiles: Sequence[str] = (),
) -> int:  # fmt: skip
    """Run `grid`, or those of its `blocks` (names joined by commas); returns Snakemake's exit status.

    `configfiles` are read over config.yaml; `extra` goes to Snakemake as it is.
    """
    try:
        read(*configfiles)  # Snakemake answers a file that can't be read with a traceback
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    started = time.time()
    snakemake = [sys.executable, "-m", "snakemake"]
    if who := held_by(runs.RESULTS):
        print(f"Another run works in this folder ({who}). Wait for it, or stop it.", file=sys.stderr)
        return 1
    try:
        orphans = slurm.jobs_of_folder() if slurm.submitted_here() else []
        if orphans and not resume:
            print(
                f"{len(orphans)} jobs of a killed run are still on the cluster: {runs.RESUME}.",
                file=sys.stderr,
            )
            return 1
        if orphans and not profile:
            chosen = [f"BLOCKS={blocks}"] if blocks else []
            chosen += [f"CONFIG={' '.join(configfiles)}"] if configfiles else []
            command = shlex.join(["make", "resume", f"GRID={grid}", *chosen, "PROFILE=slurm"])
            print(
                f"{len(orphans)} jobs of a killed run are on the cluster, and without a profile the grid would go on "
                f"on this machine: {command}. To go on here all the same, cancel them first (scancel).",
                file=sys.stderr,
            )
            return 1
        if orphans:
            print(
                f"{len(orphans)} jobs of a killed run are cancelled: {', '.join(j.id for j in orphans)}",
                flush=True,
            )
            slurm.cancel(orphans)
    except slurm.SlurmError as error:
        print(f"SLURM: {error}. Nothing was started.", file=sys.stderr)
        return 1
    deadline = time.monotonic() + (STOPPING if orphans else 0)
    while (alive := runs.living()) and time.monotonic() < deadline:
        time.sleep(1)
    if alive:
        pids = " ".join(str(process.pid) for process in alive)
        print(
            f"A killed run's processes still work here. Wait for them, or stop them: kill {pids}",
            file=sys.stderr,
        )
        return 1
    if runs.locked():
        print("An earlier run was killed: its lock is removed, finished work is kept.", flush=True)
        subprocess.run([*snakemake, "--unlock", "--quiet", "all"], check=True)
    if profile:
        extra = ["--profile", profile, *extra]
    else:
        memory = int(psutil.virtual_memory().available * 0.9 / 1e6)  # jobs beyond it wait
        extra = ["--resources", f"mem_mb={memory}", *extra]
    settings = ["--quiet", "host", "reason", "--config", f"grid={grid}"]
    settings += [f"blocks=[{blocks}]"] if blocks else []
    settings += ["--configfile", *configfiles] if configfiles else []
    status = follow([*snakemake, *settings, *extra])
    if status:
        print(
            "The run did not finish. The lines above name each failed job, its cause and its log.",
            file=sys.stderr,
        )
        return status
    minutes = (time.time() - started) / 60
    print(f"\nGrid '{grid}' is complete ({minutes:.1f} min in this run).")
    print("\n".join(lines(read_json(f"results/{grid}/verdict.json"))))
    print(f"Report: results/{grid}/report.html")
    return 0


def follow(command: list[str]) -> int:
    """Run a command to its end, whatever signal comes: SIGTERM is passed on, Ctrl-C the terminal sends to both.

    `subprocess.run` would kill Snakemake a quarter of a second after Ctrl-C, before it could cancel its jobs.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    return process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", default="smoke")
    parser.add_argument("--profile", help="Snakemake profile (slurm); without it the run is on this machine")
    parser.add_argument(
        "--resume", action="store_true", help="cancel the jobs that a killed run left on the cluster"
    )
    parser.add_argument("--blocks", help="of the grid, joined by commas; all if not given")
    parser.add_argument("--configfile", nargs="+", default=[], help="read over config.yaml")
    chosen, rest = parser.parse_known_args()
    sys.exit(main(chosen.grid, rest, chosen.profile, chosen.resume, chosen.blocks, chosen.configfile))

"""`make demo`: run a grid to its report on this machine, then print where the report is and what it says.

A killed run leaves Snakemake's lock behind. It is taken away only if no process of that run is alive.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import psutil

from workflow_scripts.analyze.summary import lines
from workflow_scripts.artifacts import read_json

LOCKS = Path(".snakemake/locks")


def living() -> list[psutil.Process]:
    """Snakemake processes (main or job) that work in this folder."""
    here, found = str(Path.cwd()), []
    for process in psutil.process_iter():
        try:
            if process.cwd() == here and any(
                "snakemake" in Path(part).name for part in process.cmdline()[:4]
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def main(grid: str, extra: list[str]) -> int:
    """Run `grid`; returns Snakemake's exit status. `extra` goes to Snakemake as it is."""
    started = time.time()
    snakemake = [sys.executable, "-m", "snakemake"]
    if LOCKS.is_dir() and any(LOCKS.iterdir()):
        if alive := living():
            pids = ", ".join(str(process.pid) for process in alive)
            print(
                f"Another run works in this folder (pid {pids}). Wait for it, or stop it: kill {pids}",
                file=sys.stderr,
            )
            return 1
        print("An earlier run was killed: its lock is removed, finished work is kept.", flush=True)
        subprocess.run([*snakemake, "--unlock", "--quiet", "all"], check=True)
    memory = int(psutil.virtual_memory().available * 0.9 / 1e6)  # jobs beyond it wait
    settings = ["--quiet", "host", "reason", "--config", f"grid={grid}", "--resources", f"mem_mb={memory}"]
    status = subprocess.run([*snakemake, *settings, *extra], check=False).returncode
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", default="smoke")
    arguments, rest = parser.parse_known_args()
    sys.exit(main(arguments.grid, rest))

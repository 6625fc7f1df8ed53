"""Snakemake on a SLURM cluster of this machine: what a job costs, and a grid's order and makespan with sleeping jobs.

    python -m benchmarks.cluster --jobs 200 [--arrays]
    python -m benchmarks.cluster --grid paper --faster 1000 --figure docs/gantt.svg

`--jobs`: so many jobs of one GPU that do nothing, through profiles/slurm; `--arrays`: in the executor's job arrays (all
their tasks bear one comment, so numbers tell them apart). `--grid`: the grid's jobs that compute on a model as jobs
that sleep for their forecast time over `--faster`, with the grid's dependencies. Counted from SLURM's own accounting:
each job once, none lost, none before what it reads has ended.
tests/slurm/local_slurm.py starts the cluster (root, Debian). Prints JSON: beside the run's wall time the least that is
possible (the work over the GPUs, the longest chain) and the CPU time that a job took, of its own and of the main
process: neighbours on the machine lengthen the wall time.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.slurm.local_slurm import ACCOUNTS, LocalSlurm, output
from workflow_scripts.plan.config import files
from workflow_scripts.plan.forecast import forecast, load_constants
from workflow_scripts.plan.layout import COMPRESSED
from workflow_scripts.plan.recipes import plan_of

ROOT = Path(__file__).resolve().parents[1]
GPUS = 12
COLOURS = {
    "compress_model": "#E69F00",
    "train_adapter": "#0072B2",
    "evaluate_cell": "#009E73",
    "measure_similarity": "#CC79A7",
    "measure_latency": "#56B4E9",
}
RULE = """
rule {name}:
    input: lambda wildcards: JOBS["{name}/" + wildcards.job]["after"]
    output: touch("{name}/{{job}}.done")
    resources: gpu=1, mem_mb=1000, runtime=30
    params: seconds=lambda wildcards: JOBS["{name}/" + wildcards.job]["seconds"]
    shell: "sleep {{params.seconds}}"
"""


def trivial(count: int) -> dict[str, dict]:
    """`count` jobs that need nothing and do nothing."""
    return {f"nothing/{number}": {"seconds": 0, "after": []} for number in range(count)}


def sleeping(grid: str, blocks: list[str] | None, device: str, faster: float) -> dict[str, dict]:
    """The jobs of a grid (of its `blocks`) with their forecast time over `faster`, each after what it reads."""
    plan = plan_of(files(root=ROOT), grid, blocks)
    costs = {f"{cost.kind}/{cost.name}": cost for cost in forecast(plan, grid, load_constants(device))}
    after: dict[str, list[str]] = {name: [] for name in costs}
    for kind, cells in (
        ("train_adapter", plan.adapters(grid)),
        ("evaluate_cell", plan.cells(grid)),
        ("measure_similarity", plan.similarity_cells(grid)),
    ):
        for cell in cells:
            needs = [f"compress_model/{COMPRESSED.title(**plan.copy(cell)._asdict())}"]
            if kind != "train_adapter":
                needs += [f"train_adapter/{member.stem}" for member in plan.members(cell)]
            after[f"{kind}/{cell.stem}"] = [f"{need}.done" for need in needs]
    for name in costs:
        kind, _, place = name.partition("/")
        if kind == "measure_latency":
            after[name] = [f"compress_model/{place}.done"]
    return {
        name: {"seconds": round(cost.seconds / faster, 2), "after": after[name]}
        for name, cost in costs.items()
    }


def bounds(jobs: dict[str, dict]) -> dict:
    """No schedule is shorter than the work over the GPUs, nor than the longest chain (seconds)."""
    chain: dict[str, float] = {}

    def end(name: str) -> float:
        if name not in chain:
            before = max((end(need.removesuffix(".done")) for need in jobs[name]["after"]), default=0.0)
            chain[name] = before + jobs[name]["seconds"]
        return chain[name]

    work = sum(job["seconds"] for job in jobs.values())
    return {
        "work": round(work),
        "work_over_gpus": round(work / GPUS),
        "longest_chain": round(max(map(end, jobs))),
    }


def run(folder: Path, jobs: dict[str, dict], options: list[str]) -> tuple[float, float, list[dict]]:
    """Wall time of the run, CPU time of its main process (s), and SLURM's rows of its jobs."""
    kinds = list(dict.fromkeys(name.split("/")[0] for name in jobs))
    targets = "rule all:\n    input: [f'{name}.done' for name in JOBS]\nwildcard_constraints: job='.+'\n"
    text = "import json\nJOBS = json.load(open('jobs.json'))\n" + targets
    (folder / "Snakefile").write_text(text + "".join(RULE.format(name=kind) for kind in kinds))
    (folder / "jobs.json").write_text(json.dumps(jobs))
    profile = ROOT / "profiles" / "slurm"
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--profile",
        str(profile),
        "--workflow-profile",
        "none",
        "--retries",
        "0",
        "--cores",
        "2",
        "--default-resources",
        f"slurm_account={ACCOUNTS[0]}",
        "slurm_partition=gpu",
        "nodes=1",
        "--slurm-init-seconds-before-status-checks",
        "5",
        "--quiet",
        "all",
        *options,
    ]
    started = time.time()
    done = subprocess.run(
        command, cwd=folder, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    wall = time.time() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(done.stdout[-4000:])
    fields = ["JobIDRaw", "State", "Start", "End", "NodeList", "Comment"]
    lines = output("sacct", "-nPX", "--duplicates", "--starttime=now-1days", f"--format={','.join(fields)}")
    rows = [dict(zip(fields, line.split("|"))) for line in lines.splitlines()]
    return wall, used.ru_utime + used.ru_stime, rows


def cpu_seconds() -> float:
    """CPU time of all steps of all jobs in the accounting (s)."""
    lines = output("sacct", "-nP", "--starttime=now-1days", "--format=JobID,TotalCPU").splitlines()
    clocks = [clock for job, clock in (line.split("|") for line in lines) if "." in job]
    return sum(
        sum(float(part) * 60**place for place, part in enumerate(reversed(clock.split(":"))))
        for clock in clocks
    )


def comment(name: str) -> str:
    """What Snakemake's executor writes into the accounting for a job of `run`."""
    kind, _, wildcards = name.partition("/")
    return f"rule_{kind}_wildcards_{wildcards.replace('/', '_')}"


def too_early(jobs: dict[str, dict], rows: list[dict]) -> list[str]:
    """Jobs that began before what they read had ended (the accounting counts whole seconds)."""
    when = {row["Comment"]: row for row in rows}
    return [
        name
        for name, job in jobs.items()
        for need in job["after"]
        if seconds_of(when[comment(name)]["Start"])
        < seconds_of(when[comment(need.removesuffix(".done"))]["End"])
    ]


def seconds_of(stamp: str) -> float:
    return time.mktime(time.strptime(stamp, "%Y-%m-%dT%H:%M:%S"))


def most_at_once(rows: list[dict]) -> int:
    changes = sorted(
        (seconds_of(row[key]), step) for row in rows for key, step in (("End", -1), ("Start", 1))
    )
    running = most = 0
    for _, step in changes:
        running += step
        most = max(most, running)
    return most


def draw(rows: list[dict], file: Path) -> None:
    """A Gantt figure: a line per job in the order of its start, coloured by kind."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = sorted(rows, key=lambda row: row["Start"])
    first = seconds_of(rows[0]["Start"])
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for kind, colour in COLOURS.items():
        mine = [(number, row) for number, row in enumerate(rows) if f"rule_{kind}_" in row["Comment"]]
        if mine:
            starts = [seconds_of(row["Start"]) - first for _, row in mine]
            widths = [seconds_of(row["End"]) - seconds_of(row["Start"]) for _, row in mine]
            axes.barh([number for number, _ in mine], widths, left=starts, height=1, color=colour, label=kind)
    axes.invert_yaxis()
    axes.set(xlabel="seconds", ylabel="job, in the order of start")
    axes.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})


def main(jobs: dict[str, dict], figure: Path | None, arrays: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, LocalSlurm(Path(folder) / "cluster"):
        work = Path(folder) / "work"
        work.mkdir()
        wall, main_cpu, rows = run(work, jobs, ["--slurm-array-jobs", "all"] if arrays else [])
        job_cpu = cpu_seconds()
    count = Counter(row["JobIDRaw" if arrays else "Comment"] for row in rows)
    lost = list(jobs)[len(count) :] if arrays else [name for name in jobs if comment(name) not in count]
    twice = [name for name, times in count.items() if times > 1]
    early = [] if lost or arrays else too_early(jobs, rows)
    began, ended = (
        choose(seconds_of(row[key]) for row in rows) for choose, key in ((min, "Start"), (max, "End"))
    )
    found = {
        "jobs": len(jobs),
        "completed": sum(row["State"] == "COMPLETED" for row in rows),
        "lost": len(lost),
        "run_twice": len(twice),
        "before_their_inputs": len(early),
        "wall_seconds": round(wall),
        "seconds_per_job": round(wall / len(jobs), 2),
        "makespan": round(ended - began),
        **bounds(jobs),
        "job_cpu_seconds_each": round(job_cpu / len(jobs), 2),
        "main_cpu_seconds_each": round(main_cpu / len(jobs), 2),
        "most_at_once": most_at_once(rows),
        "nodes": len({row["NodeList"] for row in rows}),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(found))
    if figure:
        draw(rows, figure)
    if found["completed"] != len(jobs) or lost or twice or early:
        sys.exit("jobs were lost, run twice or run before their inputs")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, help="trivial jobs")
    parser.add_argument("--arrays", action="store_true", help="send trivial jobs in job arrays")
    parser.add_argument("--grid", help="a grid of config.yaml as sleeping jobs")
    parser.add_argument("--blocks", type=lambda names: names.split(","), help="of the grid, joined by commas")
    parser.add_argument("--device", default="a100-80g")
    parser.add_argument("--faster", type=float, default=1000, help="forecast seconds per second of sleep")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    if (arguments.jobs is None) == (arguments.grid is None):
        parser.error("give --jobs or --grid")
    if arguments.arrays and arguments.grid:
        parser.error("--arrays is tried with --jobs alone: the order of jobs is read from their comments")
    chosen = (
        trivial(arguments.jobs)
        if arguments.jobs
        else sleeping(arguments.grid, arguments.blocks, arguments.device, arguments.faster)
    )
    main(chosen, arguments.figure, arguments.arrays)

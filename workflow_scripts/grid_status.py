"""`make status GRID=paper`: how many jobs are done, running, waiting and failed, why, and how long it will take.

Reads files and, where there is one, SLURM's queue; changes nothing. Works while a run is on and after it.
"""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from workflow_scripts import runs, slurm
from workflow_scripts.analyze.forecast import Cost, compare, forecast, job_of
from workflow_scripts.artifacts import ArtifactError, held_by, read_json, recorded_recipe
from workflow_scripts.cluster import SITE, read_site
from workflow_scripts.config import ConfigError
from workflow_scripts.grid import Plan, grid_arguments, plan_of
from workflow_scripts.paths import is_torn

STATES = ("done", "running", "queued", "waiting", "failed")
SHOWN = 20


class Work(NamedTuple):
    """One job of the plan: its rule, its forecast's name, result, log, the folder or file it locks, its recipe."""

    rule: str
    name: str
    result: str
    log: str
    writes: str
    recipe: str


def planned(plan: Plan, grid: str) -> list[Work]:
    """Every job of the grid that computes on a model."""
    works = []
    for result, recipe in plan.artefacts(grid).items():
        if not result.startswith("resources/"):
            rule, name = job_of(result)
            folder = rule in ("compress_model", "train_adapter")  # they hold the folder of what they make
            rule = plan.compress_rule(name.split("/")[1]) if rule == "compress_model" else rule
            writes = os.path.dirname(result) if folder else result
            works.append(Work(rule, name, result, f"logs/{grid}/{rule}/{name}.log", writes, recipe))
    return works


def values_of(work: Work) -> list[str]:
    """A job's wildcards but the grid, in their order; the seed, where there is one, comes last."""
    *names, last = work.name.split("/")
    return [*names, last if work.rule.startswith("compress") else last.removeprefix("seed-")]


def comment_of(grid: str, work: Work) -> str:
    """What Snakemake's SLURM executor writes as a job's comment: the rule and its wildcards in their order."""
    return f"rule_{work.rule}_wildcards_{'_'.join([grid, *values_of(work)])}"


def state(grid: str, work: Work, queue: dict[str, slurm.Job]) -> tuple[str, str]:
    """(one of STATES, reason)."""
    torn = is_torn(work.result)
    if recorded_recipe(work.result) == work.recipe and not torn:
        return "done", ""
    job = queue.get(comment_of(grid, work))
    if (who := held_by(work.writes)) or (job and job.state in ("RUNNING", "COMPLETING")):
        return "running", who or f"SLURM job {job.id}"
    if job:
        return "queued", f"SLURM job {job.id}: {job.reason}"
    if Path(work.log).exists() and not Path(work.result).exists():
        if held_by(runs.RESULTS) and "Traceback" not in Path(work.log).read_text(errors="replace"):
            return "running", "starts"
        return "failed", last_line(work.log)
    if torn:
        return "waiting", "files beside it are gone"
    return "waiting", "made by another recipe" if Path(work.result).exists() else ""


def last_line(log: str) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in Path(log).read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "stopped before it wrote anything"


def seconds_left(costs: list[Cost], states: dict[tuple[str, str], str], results: dict) -> float:
    """Forecast seconds of what is not done, scaled by how long what is done took against its forecast."""
    measured = {}
    for (rule, name), result in results.items():
        if states.get((rule, name)) == "done":
            measured[rule, name] = read_json(result)["manifest"]["seconds"]
    left = 0.0
    for rule in dict.fromkeys(cost.kind for cost in costs):
        mine = [cost for cost in costs if cost.kind == rule]
        known = compare(mine, measured)  # a row for the rule, one in total
        scale = known[0]["measured"] / known[0]["forecast"] if known else 1.0
        left += scale * sum(cost.seconds for cost in mine if states.get((rule, cost.name)) != "done")
    return left


def main(grid: str, configfiles: list[str], blocks: list[str] | None = None) -> int:
    """Print the state of the grid; returns an exit status (1 for a bad name or file)."""
    try:
        plan = plan_of(configfiles, grid, blocks)
        site = read_site(SITE)
        queue = {job.comment: job for job in slurm.jobs_of_folder()} if slurm.submitted_here() else {}
    except (ConfigError, ArtifactError, OSError, slurm.SlurmError) as error:
        print(error, file=sys.stderr)
        return 1
    works = planned(plan, grid)
    found = {work: state(grid, work, queue) for work in works}
    print(f"{'':<20}{'jobs':>6}" + "".join(f"{name:>9}" for name in STATES))
    for rule in dict.fromkeys(work.rule for work in works):
        counts = Counter(found[work][0] for work in works if work.rule == rule)
        print(f"{rule:<20}{counts.total():>6}" + "".join(f"{counts[name]:>9}" for name in STATES))
    for wanted in ("failed", "running", "queued"):
        chosen = [work for work in works if found[work][0] == wanted]
        for work in chosen[:SHOWN]:
            print(f"{wanted:<8} {work.rule} {work.name}: {found[work][1]} (log: {work.log})")
        if len(chosen) > SHOWN:
            print(f"{wanted:<8} ... and {len(chosen) - SHOWN} more")
    states = {(work.rule, work.name): found[work][0] for work in works}
    results = {(work.rule, work.name): work.result for work in works}
    hours = seconds_left(forecast(plan, grid, site["hardware"]), states, results) / 3600
    at_once = max(1, sum(value[0] == "running" for value in found.values()))
    print(f"About {hours:.1f} hours of jobs are left, {hours / at_once:.1f} with {at_once} at a time.")
    print(runs.state_of_folder() or "No run works in this folder.")
    report = Path(f"results/{grid}/report.html")
    print(f"Report: {report}" if report.exists() else "There is no report yet.")
    return 0


if __name__ == "__main__":
    arguments = grid_arguments(__doc__, "smoke").parse_args()
    sys.exit(main(arguments.grid, ["config.yaml", *arguments.configfile], arguments.blocks))

"""`make status GRID=paper`: how many jobs are done, running, waiting and failed, why, and how long it will take.

Reads files and, where there is one, SLURM's queue; changes nothing. Works while a run is on and after it.
"""

import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.cluster import runs, slurm
from workflow_scripts.files.artifacts import AGAIN, ArtifactError, read_json
from workflow_scripts.files.job import FINISHED
from workflow_scripts.files.locks import held_by, last_held
from workflow_scripts.plan.config import ConfigError, files
from workflow_scripts.plan.forecast import Cost, compare, forecast, job_of
from workflow_scripts.plan.layout import ADAPTER, COMPRESSED, lacks_companions, result_of
from workflow_scripts.plan.recipes import Plan, grid_arguments, plan_of
from workflow_scripts.plan.requests import SITE, read_site

STATES = ("done", "running", "queued", "waiting", "failed", "damaged")
SHOWN = 20
KILLED = re.compile(r"^.*(?:slurmstepd: error|Signals\.SIG|srun: error).*$", re.MULTILINE)  # in SLURM's logs


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
            artefact, names = result_of(result)
            folder = artefact in (COMPRESSED, ADAPTER)  # their jobs hold the folder of what they make
            log = artefact.log.format(**names)
            writes = os.path.dirname(result) if folder else result
            works.append(Work(artefact.rule, artefact.title(**names), result, log, writes, recipe))
    return works


def values_of(work: Work) -> list[str]:
    """A job's wildcards but the grid, in their order; the seed, where there is one, comes last."""
    return list(result_of(work.result)[1].values())[1:]


def comment_of(grid: str, work: Work) -> str:
    """What Snakemake's SLURM executor writes as a job's comment: the rule and its wildcards in their order."""
    return f"rule_{work.rule}_wildcards_{'_'.join([grid, *values_of(work)])}"


class Found(NamedTuple):
    """How it is with a job: one of STATES, why, and the seconds that it took if it is done."""

    state: str
    reason: str = ""
    seconds: float = 0.0


def state(grid: str, work: Work, queue: dict[str, slurm.Job], started: float | None = None) -> Found:
    """What became of a job. queue: jobs on the cluster by comment; started: when the run began that is on now."""
    torn, damage, manifest = lacks_companions(work.result), None, None
    if os.path.exists(work.result):
        try:
            manifest = read_json(work.result)["manifest"]
        except ArtifactError as error:
            damage = str(error)
        except (LookupError, TypeError):
            damage = f"{work.result}: is no result, it has no manifest; {AGAIN}"
    if manifest and manifest["recipe"] == work.recipe and not torn:
        return Found("done", seconds=manifest["seconds"])
    job = queue.get(comment_of(grid, work))
    if (who := held_by(work.writes)) or (job and job.state in ("RUNNING", "COMPLETING")):
        return Found("running", who or f"SLURM job {job.id}")
    if job:
        return Found("queued", f"SLURM job {job.id}: {job.reason}")
    if damage:
        return Found("damaged", damage)
    if manifest is None:
        return _not_made(grid, work, started)
    return Found("waiting", "files beside it are gone" if torn else "made by another recipe")


def _not_made(grid: str, work: Work, started: float | None) -> Found:
    """A job without a result, by its log: one that finished was deleted; one that began before this run is tried
    again in it; one that has not yet taken its lock in this run is at its start; any other failed, or was killed."""
    log = Path(work.log)
    if not log.exists():
        return Found("waiting")
    text = log.read_text(errors="replace")
    if FINISHED in text.splitlines():
        return Found("waiting", "it was made, and deleted")
    told = "Traceback (most recent call last)" in text
    earlier = started is not None and log.stat().st_mtime < started
    if started is not None and not earlier and not told and (last_held(work.writes) or 0) < started:
        return Found("running", "starts")
    reason = last_line(text) if told else f"stopped without a message (killed?){_slurms_word(grid, work)}"
    return Found("waiting", f"failed in an earlier run: {reason}") if earlier else Found("failed", reason)


def last_line(text: str) -> str:
    """The last line of a log that says something: an exception's message."""
    return next(line.strip()[:300] for line in reversed(text.splitlines()) if line.strip())


def _slurms_word(grid: str, work: Work) -> str:
    """What SLURM's newest log of a job says of its end, and the log; empty where there is none."""
    rule, wildcards = comment_of(grid, work).split("_wildcards_", 1)
    logs = Path(slurm.LOGS, rule, wildcards).glob("*.log")
    if not (newest := max(logs, key=os.path.getmtime, default=None)):
        return ""
    said = KILLED.findall(newest.read_text(errors="replace"))
    return f"{f'; {said[-1].strip()[:200]}' if said else ''} (SLURM log: {newest})"


def seconds_left(costs: list[Cost], found: dict[tuple[str, str], Found]) -> float:
    """Forecast seconds of what is not done, scaled by how long what is done took against its forecast."""
    measured = {key: value.seconds for key, value in found.items() if value.state == "done"}
    left = 0.0
    for rule in dict.fromkeys(cost.kind for cost in costs):
        mine = [cost for cost in costs if cost.kind == rule]
        known = compare(mine, measured)  # a row for the rule, one in total
        scale = known[0]["measured"] / known[0]["forecast"] if known else 1.0
        left += scale * sum(cost.seconds for cost in mine if (rule, cost.name) not in measured)
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
    started = last_held(runs.RESULTS) if held_by(runs.RESULTS) else None
    found = {work: state(grid, work, queue, started) for work in works}
    print(f"{'':<20}{'jobs':>6}" + "".join(f"{name:>9}" for name in STATES))
    for rule in dict.fromkeys(work.rule for work in works):
        counts = Counter(found[work].state for work in works if work.rule == rule)
        print(f"{rule:<20}{counts.total():>6}" + "".join(f"{counts[name]:>9}" for name in STATES))
    for wanted in ("damaged", "failed", "running", "queued"):
        chosen = [work for work in works if found[work].state == wanted]
        for work in chosen[:SHOWN]:
            print(f"{wanted:<8} {work.rule} {work.name}: {found[work].reason} (log: {work.log})")
        if len(chosen) > SHOWN:
            print(f"{wanted:<8} ... and {len(chosen) - SHOWN} more")
    by_name = {job_of(work.result): value for work, value in found.items()}
    hours = seconds_left(forecast(plan, grid, site["hardware"]), by_name) / 3600
    at_once = max(1, sum(value.state == "running" for value in found.values()))
    print(f"About {hours:.1f} hours of jobs are left, {hours / at_once:.1f} with {at_once} at a time.")
    print(runs.state_of_folder() or "No run works in this folder.")
    report = Path(f"results/{grid}/report.html")
    print(f"Report: {report}" if report.exists() else "There is no report yet.")
    return 0


if __name__ == "__main__":
    arguments = grid_arguments(__doc__, "smoke").parse_args()
    sys.exit(main(arguments.grid, files(*arguments.configfile), arguments.blocks))

"""Print how many jobs of a grid are done, running, waiting and failed, why, and the time left.

  python -m workflow_scripts status --grid paper

Reads files and, after a run on a cluster, SLURM's queue; changes nothing. It works during a run and after it.
"""

import argparse
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.cluster import runs, slurm
from workflow_scripts.cluster.snakemake_surface import slurm_comment, slurm_logs
from workflow_scripts.commands.options import add_grid
from workflow_scripts.files.artifacts import AGAIN, ArtifactError, read_json
from workflow_scripts.files.job import FINISHED
from workflow_scripts.files.locks import held_by, last_held
from workflow_scripts.files.members import RESULTS
from workflow_scripts.plan.config import files
from workflow_scripts.plan.forecast import Cost, compare, forecast, job_of, load_constants
from workflow_scripts.plan.layout import (
    ADAPTER,
    CHECKPOINT,
    COMPRESSED,
    MODEL,
    REPORT,
    is_shared,
    lacks_companions,
    result_of,
)
from workflow_scripts.plan.recipes import Plan, plan_of
from workflow_scripts.plan.requests import SITE, read_site

STATES = ("done", "running", "queued", "waiting", "failed", "damaged")
SHOWN = 20
KILLED = re.compile(r"^.*(?:slurmstepd: error|Signals\.SIG|srun: error).*$", re.MULTILINE)  # in SLURM's logs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid(parser, "smoke")


class Work(NamedTuple):
    """A planned job: its rule, its name in the forecast, result, log, the folder or file that it locks, recipe."""

    rule: str
    name: str
    result: str
    log: str
    writes: str
    recipe: str


def planned(plan: Plan, grid: str) -> list[Work]:
    """Every job of the grid that runs a model."""
    works = []
    for result, recipe in plan.artefacts(grid).items():
        if not is_shared(result):
            artefact, names = result_of(result)
            folder = artefact in (COMPRESSED, ADAPTER)  # their jobs lock the folder of their result
            log = artefact.log.format(**names)
            writes = os.path.dirname(result) if folder else result
            works.append(Work(artefact.rule, artefact.title(**names), result, log, writes, recipe))
    return works


def values_of(work: Work) -> list[str]:
    """A job's wildcards without the grid, in their order; a seed comes last."""
    return list(result_of(work.result)[1].values())[1:]


def comment_of(grid: str, work: Work) -> str:
    """The comment that Snakemake's SLURM executor gives a job."""
    return slurm_comment(work.rule, [grid, *values_of(work)])


class JobState(NamedTuple):
    """State of a job: one of STATES, the reason, and the seconds that it took if it is done; None if it took results
    of another cell over, which says nothing of its rule's time."""

    state: str
    reason: str = ""
    seconds: float | None = None


def state(grid: str, work: Work, queue: dict[str, slurm.Job], started: float | None = None) -> JobState:
    """State of a job.

    queue: jobs on the cluster by comment. started: start of the run in progress (seconds since 1970), if there is one.
    """
    incomplete, damage, manifest = lacks_companions(work.result), None, None
    if os.path.exists(work.result):
        try:
            manifest = read_json(work.result)["manifest"]
        except ArtifactError as error:
            damage = str(error)
        except (LookupError, TypeError):
            damage = f"{work.result}: is no result, it has no manifest; {AGAIN}"
    if manifest and manifest["recipe"] == work.recipe and not incomplete:
        return JobState("done", seconds=None if manifest.get("taken_over") else manifest["seconds"])
    job = queue.get(comment_of(grid, work))
    if who := held_by(work.writes):
        return JobState("running", who)
    if job and job.state in ("RUNNING", "COMPLETING"):
        return JobState("running", f"SLURM job {job.id}")
    if job:
        return JobState("queued", f"SLURM job {job.id}: {job.reason}")
    if damage:
        return JobState("damaged", damage)
    if manifest is None:
        return _not_made(grid, work, started)
    return JobState("waiting", "files beside it are gone" if incomplete else "made by another recipe")


def _not_made(grid: str, work: Work, started: float | None) -> JobState:
    """State of a job without a result, from its log.

    If the log says that the job finished, its result was deleted. If the log is older than the run in progress, the
    run tries the job again. If the job has not yet taken its lock in this run, it starts. Else it failed or was killed.
    """
    log = Path(work.log)
    if not log.exists():
        return JobState("waiting")
    text = log.read_text(encoding="utf-8", errors="replace")
    if FINISHED in text.splitlines():
        return JobState("waiting", "it was made, and deleted")
    raised = "Traceback (most recent call last)" in text
    earlier = started is not None and log.stat().st_mtime < started
    if started is not None and not earlier and not raised and (last_held(work.writes) or 0) < started:
        return JobState("running", "starts")
    reason = last_line(text) if raised else f"stopped without a message (killed?){_slurm_reason(grid, work)}"
    return (
        JobState("waiting", f"failed in an earlier run: {reason}") if earlier else JobState("failed", reason)
    )


def last_line(text: str) -> str:
    """Last line of a log that is not empty: an exception's message."""
    return next(line.strip()[:300] for line in reversed(text.splitlines()) if line.strip())


def _slurm_reason(grid: str, work: Work) -> str:
    """The line on a job's end in its newest SLURM log, and the log's path; empty without a log."""
    logs = slurm_logs(work.rule, [grid, *values_of(work)]).glob("*.log")
    if not (newest := max(logs, key=os.path.getmtime, default=None)):
        return ""
    found = KILLED.findall(newest.read_text(encoding="utf-8", errors="replace"))
    return f"{f'; {found[-1].strip()[:200]}' if found else ''} (SLURM log: {newest})"


def _not_taught(costs: list[Cost]) -> list[Cost]:
    """The costs without those of models and checkpoints that are taught already."""
    places = {"teach_model": MODEL, "teach_checkpoint": CHECKPOINT}
    return [
        cost
        for cost in costs
        if cost.kind not in places
        or not os.path.exists(places[cost.kind].path(model=cost.name, compressor=cost.name))
    ]


def seconds_left(costs: list[Cost], found: dict[tuple[str, str], JobState]) -> float:
    """Forecast seconds of the jobs left, scaled per rule by measured over forecast time of the jobs done."""
    done = {key: value.seconds for key, value in found.items() if value.state == "done"}
    measured = {key: seconds for key, seconds in done.items() if seconds is not None}
    left = 0.0
    for rule in dict.fromkeys(cost.kind for cost in costs):
        mine = [cost for cost in costs if cost.kind == rule]
        known = compare(mine, measured)  # a row for the rule, one in total
        scale = known[0]["measured"] / known[0]["forecast"] if known else 1.0
        left += scale * sum(cost.seconds for cost in mine if (rule, cost.name) not in done)
    return left


def main(grid: str, blocks: list[str] | None = None, configfile: Sequence[str] = ()) -> int:
    """Print the state of the grid; returns an exit status."""
    plan = plan_of(files(*configfile), grid, blocks)
    queue = {job.comment: job for job in slurm.jobs_of_folder()} if slurm.submitted_here() else {}
    works = planned(plan, grid)
    started = last_held(RESULTS) if held_by(RESULTS) else None
    found = {work: state(grid, work, queue, started) for work in works}
    print("\n".join([*count_lines(found), *job_lines(found)]))
    by_name = {job_of(work.result): value for work, value in found.items()}
    of_grid = load_constants(plan.grid(grid).device)
    device = read_site(SITE)["hardware"] if slurm.submitted_here() else of_grid
    hours = seconds_left(_not_taught(forecast(plan, grid, device)), by_name) / 3600
    at_once = max(1, sum(value.state == "running" for value in found.values()))
    print(
        f"About {hours:.1f} hours of jobs are left on {device['name']}, {hours / at_once:.1f} with {at_once} at a time."
    )
    print(runs.state_of_folder() or "No run works in this folder.")
    report = Path(REPORT.path(grid))
    print(f"Report: {report}" if report.exists() else "There is no report yet.")
    return 0


def count_lines(found: dict[Work, JobState]) -> list[str]:
    """A table: jobs of each rule by state."""
    lines = [f"{'':<20}{'jobs':>6}" + "".join(f"{name:>9}" for name in STATES)]
    for rule in dict.fromkeys(work.rule for work in found):
        counts = Counter(value.state for work, value in found.items() if work.rule == rule)
        lines.append(f"{rule:<20}{counts.total():>6}" + "".join(f"{counts[name]:>9}" for name in STATES))
    return lines


def job_lines(found: dict[Work, JobState]) -> list[str]:
    """One line with the reason for each job that is neither done nor waiting, at most SHOWN of a state."""
    lines = []
    for wanted in ("damaged", "failed", "running", "queued"):
        chosen = [(work, value.reason) for work, value in found.items() if value.state == wanted]
        for work, reason in chosen[:SHOWN]:
            lines.append(f"{wanted:<8} {work.rule} {work.name}: {reason} (log: {work.log})")
        if len(chosen) > SHOWN:
            lines.append(f"{wanted:<8} ... and {len(chosen) - SHOWN} more")
    return lines

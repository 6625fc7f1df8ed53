"""Check whether a grid would run on this cluster. Each finding says what to do.

  python -m workflow_scripts preflight --grid paper

Submits two test jobs of seconds (on two nodes, if the partition has two); writes to work/preflight/ alone.
The cluster's settings are read from profiles/slurm/site.yaml.
"""

import argparse
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from workflow_scripts.cluster import slurm
from workflow_scripts.cluster.node_probe import Findings, check_nodes
from workflow_scripts.commands.options import add_grid
from workflow_scripts.commands.status import planned
from workflow_scripts.files.artifacts import PACKAGE, ArtifactError
from workflow_scripts.files.members import RESOURCES
from workflow_scripts.files.work_folders import work_folder
from workflow_scripts.plan.config import files
from workflow_scripts.plan.forecast import forecast
from workflow_scripts.plan.layout import BENCHMARK, CHECKPOINT, CORPUS, MODEL, result_of
from workflow_scripts.plan.recipes import Plan, plan_of
from workflow_scripts.plan.requests import SITE, Requests, read_site

PROFILE = PACKAGE.parent / "profiles" / "slurm" / "config.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid(parser, "paper")


def check_cluster(plan: Plan, grid: str, site: dict, say: Findings) -> None:
    """SLURM answers; account and partitions exist; the largest job of every rule could start."""
    if not slurm.available():
        say.bad("SLURM's commands are not in PATH", "run this on a login node, or load the cluster's module")
        return
    try:
        slurm.ask("scontrol", "ping")
    except slurm.SlurmError as error:
        say.bad(str(error), "ask the administrators whether the controller is up")
        return
    say.good("SLURM answers")
    _check_account(site["account"], say)
    for key in ("partition", "cpu_partition"):
        if key == "cpu_partition" and site[key] is None:
            say.good("tables, figures and report run here (no cpu_partition)")
            continue
        try:
            found = slurm.partition_settings(site[key])
        except slurm.SlurmError as error:
            say.bad(f"{key}: {error}", f"correct `{key}` in {SITE}; sinfo lists the partitions")
        else:
            say.good(f"{key}: {found['PartitionName']}, at most {found.get('MaxTime')} a job")
    _check_attempts(plan, grid, site, say)
    _check_requests(plan, grid, site, say)


def _check_account(account: str | None, say: Findings) -> None:
    if account is None:
        say.good("no account is named: SLURM's default is used")
        return
    try:
        user = f"user={os.environ.get('USER', 'root')}"
        known = slurm.ask("sacctmgr", "-nP", "list", "assoc", user, "format=account")
    except slurm.SlurmError as error:
        say.bad(
            f"account {account}: can't be checked ({error})", "ask the administrators, or go on at your risk"
        )
        return
    if account in known.split():
        say.good(f"account {account}")
    else:
        names = ", ".join(sorted(set(known.split()))) or "none"
        say.bad(f"account {account} is not yours", f"correct `account` in {SITE}; yours: {names}")


def _check_requests(plan: Plan, grid: str, site: dict, say: Findings) -> None:
    """Ask SLURM about the largest request of every rule."""
    requests = Requests(plan, site)
    try:
        largest = _largest_requests(plan, grid, requests)
    except ArtifactError as error:
        say.bad(str(error), "nothing would be submitted")
        return
    if site["cpu_partition"] is not None:
        largest["jobs that only read files"] = reading_request() | requests.where("cpu_partition")
    for rule, request in largest.items():
        asked = f"{rule}: {request.get('gpu') or 0} GPU, {request['mem_mb']} MB, {request['runtime']} min"
        if refusal := slurm.refusal(request):
            say.bad(f"{asked}: {refusal}", f"correct {SITE}, or lower the request")
        else:
            say.good(asked)


def _largest_requests(plan: Plan, grid: str, requests: Requests) -> dict[str, dict]:
    """Rule -> Snakemake resources of its jobs' first attempts, each number the largest of any job."""
    largest: dict[str, dict] = {}
    for work in planned(plan, grid):
        wildcards = result_of(work.result)[1]
        request = {
            "mem_mb": requests.mem_mb(work.rule, wildcards, 1),
            "runtime": requests.runtime(work.rule, wildcards, 1),
            "gpu": requests.gpus(work.rule, wildcards),
            "threads": requests.threads(wildcards["model"]),
        }
        fixed = {"gpu_model": requests.site["gpu_model"], "nodes": 1, **requests.where("partition")}
        before = largest.setdefault(work.rule, request | fixed)
        for key, value in request.items():
            before[key] = max(before[key] or 0, value or 0)
    return largest


def _check_attempts(plan: Plan, grid: str, site: dict, say: Findings) -> None:
    """Check that later attempts could start, and that they suffice for the longest job of every rule."""
    requests, attempts = (
        Requests(plan, site),
        1 + yaml.safe_load(PROFILE.read_text(encoding="utf-8"))["retries"],
    )
    try:
        longest = slurm.minutes(slurm.partition_settings(site["partition"]).get("MaxTime", "UNLIMITED")) / 60
        largest = slurm.largest_memory(site["partition"])
    except slurm.SlurmError:
        return  # already reported by check_cluster
    memory: dict[str, int] = {}
    needed: dict[str, float] = {}
    for work in planned(plan, grid):
        wildcards = result_of(work.result)[1]
        needed[work.rule] = max(needed.get(work.rule, 0), requests.attempts(work.rule, wildcards))
        # SLURM itself refuses a first attempt that is larger
        if requests.mem_mb(work.rule, wildcards, 1) <= largest:
            most = requests.mem_mb(work.rule, wildcards, attempts)
            memory[work.rule] = max(memory.get(work.rule, 0), most)
    if site["max_hours"] > longest:
        exceeds = f"max_hours: {site['max_hours']:g} exceed the {longest:g} that the partition gives"
        say.bad(f"{exceeds}: a later attempt would wait for ever", f"set max_hours: {longest:g} in {SITE}")
    for rule, most in memory.items():
        if most > largest:
            say.bad(
                f"{rule}: attempt {attempts} would ask for {most} MB, the largest node has {largest} MB",
                f"set max_memory_gb: {largest // 1000} in {SITE}",
            )
    for rule, count in needed.items():
        if math.isinf(count):
            say.bad(
                f"{rule}: takes longer than max_hours: {site['max_hours']:g}, and starts over in each attempt",
                f"choose a partition with a longer limit or a faster `device` in {SITE}",
            )
        elif count > attempts:
            say.bad(
                f"{rule}: takes about {count} attempts of {site['max_hours']:g} hours, the profile gives {attempts}",
                f"run snakemake --profile slurm --retries {count - 1}, or set `retries` in profiles/slurm/config.yaml",
            )


def reading_request() -> dict:
    """First request of jobs without a request of their own: `default-resources` of the profile."""
    defaults = yaml.safe_load(PROFILE.read_text(encoding="utf-8"))["default-resources"]
    return {name: int(value.split()[0]) for name, value in (default.split("=") for default in defaults)}


def check_sources(plan: Plan, grid: str, say: Findings) -> None:
    """Every model, checkpoint, corpus and task of the grid is here, or its source can be reached from here."""
    settings, cells = plan.grid(grid), plan.cells(grid)
    wanted = {("models", name): MODEL.path(model=name) for name in plan.models(grid)}
    wanted |= {("compressors", name): CHECKPOINT.path(compressor=name) for name in plan.checkpoints(grid)}
    corpora = {cell.corpus for cell in cells} - {"none"}
    corpora |= plan.trained_on(plan.adapters(grid))
    corpora |= set(settings.evaluation.perplexity.corpora)
    wanted |= {("corpora", name): CORPUS.path(corpus=name) for name in sorted(corpora)}
    data = settings.benchmarks
    wanted |= {("benchmarks", task): BENCHMARK.path(benchmarks=data, task=task) for task in settings.tasks}
    missing = [key for key, manifest in wanted.items() if not Path(manifest).exists()]
    say.good(f"{len(wanted) - len(missing)} of {len(wanted)} models, checkpoints, corpora and tasks are here")
    sources = set()
    for catalogue, name in missing:
        place = (data, name) if catalogue == "benchmarks" else (name,)
        entry = plan.source(catalogue, *place)
        sources.add("pypi" if getattr(entry, "parts", None) else entry.source)
    for source, reach in (("hub", _reach_hub), ("pypi", _reach_pypi)):
        if source in sources:
            problem = reach()
            if problem:
                say.bad(
                    f"{source} can't be reached from here: {problem}",
                    f"fetch once where there is a network, and copy {RESOURCES}/",
                )
            else:
                say.good(f"{source} can be reached from here")


def _reach_hub() -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        HfApi().model_info("facebook/opt-125m", timeout=15)
    except (OSError, HTTPError) as error:  # a refused connection is an error of the HTTP library below
        return " ".join(str(error).split())[:200] or type(error).__name__
    return None


def _reach_pypi() -> str | None:
    folder = work_folder("preflight") / "pip"
    call = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    call += ["--disable-pip-version-check", f"--dest={folder}", "pyyaml"]
    done = subprocess.run(call, encoding="utf-8", errors="replace", capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    return None if done.returncode == 0 else " ".join(done.stderr.split())[-200:]


def check_disk(plan: Plan, grid: str, site: dict, say: Findings) -> None:
    """Check that the free disk holds the models and the files that the forecast expects, with a fifth to spare."""
    need = sum(cost.disk for cost in forecast(plan, grid, site["hardware"]))
    models = {cell.model for cell in plan.cells(grid)}
    need += sum(
        4 * plan.config.models[m].parameters for m in models if not Path(MODEL.path(model=m)).exists()
    )
    free = shutil.disk_usage(".").free
    line = f"disk: {free / 1e9:.0f} GB free, about {need / 1e9:.0f} GB needed"
    if free < 1.2 * need:
        say.bad(line, "free space, or work on another file system")
    else:
        say.good(line)


def main(grid: str, blocks: list[str] | None = None, configfile: Sequence[str] = ()) -> int:
    """Print the checklist; returns 1 if anything in it is bad or open."""
    say = Findings()
    plan = plan_of(files(*configfile), grid, blocks)
    site = read_site(SITE)
    check_disk(plan, grid, site, say)
    check_sources(plan, grid, say)
    check_cluster(plan, grid, site, say)
    if not say.failed:
        check_nodes(site, say)
    if say.failed:
        print("Not ready: see the lines above.")
    else:
        print("Nothing is wrong, but no node was tried." if say.open else "Ready.")
    return int(say.failed or say.open)

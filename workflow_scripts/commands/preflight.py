"""`make preflight GRID=paper`: would this grid run on this cluster? Each finding says what to do.

Submits two jobs of seconds (on two nodes, if the partition has two) and no other; changes nothing but work/preflight/.
"""

import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml

from workflow_scripts.cluster import slurm
from workflow_scripts.cluster.node_probe import Findings, check_nodes
from workflow_scripts.commands.status import planned, values_of
from workflow_scripts.files.artifacts import PACKAGE, ArtifactError
from workflow_scripts.files.checkpoints import work_folder
from workflow_scripts.plan.config import ConfigError, files
from workflow_scripts.plan.forecast import forecast
from workflow_scripts.plan.layout import BENCHMARK, CORPUS, MODEL
from workflow_scripts.plan.recipes import Plan, grid_arguments, plan_of
from workflow_scripts.plan.requests import SITE, Requests, read_site

PROFILE = PACKAGE.parent / "profiles" / "slurm" / "config.yaml"


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
            found = slurm.limits(site[key])
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
        known = slurm.ask(
            "sacctmgr", "-nP", "list", "assoc", f"user={os.environ.get('USER', 'root')}", "format=account"
        )
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
    requests, largest = Requests(plan, site), {}
    for work in planned(plan, grid):
        wildcards = wildcards_of(grid, work)
        try:
            request = {
                "mem_mb": requests.mem_mb(work.rule, wildcards, 1),
                "runtime": requests.runtime(work.rule, wildcards, 1),
                "gpu": requests.gpus(work.rule, wildcards),
                "gpu_model": site["gpu_model"], "threads": requests.threads(wildcards["model"]), "nodes": 1,
                **requests.where("partition"),
            }  # fmt: skip
        except ArtifactError as error:
            say.bad(str(error), "nothing would be submitted")
            return
        before = largest.setdefault(work.rule, request)
        for key in ("mem_mb", "runtime", "gpu", "threads"):
            before[key] = max(before[key] or 0, request[key] or 0)
    if site["cpu_partition"] is not None:
        largest["jobs that only read files"] = reading_request() | requests.where("cpu_partition")
    for rule, request in largest.items():
        what = f"{rule}: {request.get('gpu') or 0} GPU, {request['mem_mb']} MB, {request['runtime']} min"
        if why := slurm.refusal(request):
            say.bad(f"{what}: {why}", f"correct {SITE}, or ask for what the partition has")
        else:
            say.good(what)


def _check_attempts(plan: Plan, grid: str, site: dict, say: Findings) -> None:
    """Whether attempts after the first could start, and whether they are enough for the longest job of every rule."""
    requests, attempts = Requests(plan, site), 1 + yaml.safe_load(PROFILE.read_text())["retries"]
    try:
        longest = slurm.minutes(slurm.limits(site["partition"]).get("MaxTime", "UNLIMITED")) / 60
        largest = slurm.largest_memory(site["partition"])
    except slurm.SlurmError:
        return  # what is wrong with the partition was said
    memory, needed = Counter(), Counter()
    for work in planned(plan, grid):
        wildcards = wildcards_of(grid, work)
        needed[work.rule] = max(needed[work.rule], requests.attempts(work.rule, wildcards))
        # SLURM itself refuses what is larger from the start
        if requests.mem_mb(work.rule, wildcards, 1) <= largest:
            most = requests.mem_mb(work.rule, wildcards, attempts)
            memory[work.rule] = max(memory[work.rule], most)
    if site["max_hours"] > longest:
        say.bad(
            f"max_hours: {site['max_hours']:g} exceed the {longest:g} that the partition gives: a later attempt "
            "would wait for ever", f"set max_hours: {longest:g} in {SITE}",
        )  # fmt: skip
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
    """What jobs without a request of their own ask for at first: `default-resources` of the profile."""
    defaults = yaml.safe_load(PROFILE.read_text())["default-resources"]
    return {name: int(value.split()[0]) for name, value in (default.split("=") for default in defaults)}


def wildcards_of(grid: str, work) -> dict:
    """A planned job's wildcards, from its name."""
    names = (
        "model",
        "compressor",
        "corpus",
        *(() if work.rule == "measure_latency" else ("method",)),
        "seed",
    )
    return {"grid": grid, **dict(zip(names, values_of(work)))}


def check_sources(plan: Plan, grid: str, say: Findings) -> None:
    """Everything the grid reads is here, or its source can be reached from here."""
    settings, cells = plan.grid(grid), plan.cells(grid)
    wanted = {("models", cell.model): MODEL.path(model=cell.model) for cell in cells}
    corpora = {cell.corpus for cell in cells} - {"none"}
    corpora |= {plan.training_corpus(adapter) for adapter in plan.adapters(grid)}
    corpora |= set(settings.evaluation.perplexity.corpora)
    wanted |= {("corpora", name): CORPUS.path(corpus=name) for name in sorted(corpora)}
    data = settings.benchmarks
    wanted |= {("benchmarks", task): BENCHMARK.path(benchmarks=data, task=task) for task in settings.tasks}
    missing = [key for key, manifest in wanted.items() if not Path(manifest).exists()]
    say.good(f"{len(wanted) - len(missing)} of {len(wanted)} models, corpora and tasks are here")
    sources = set()
    for catalogue, name in missing:
        place = (data, name) if catalogue == "benchmarks" else (name,)
        sources.add(plan.source(catalogue, *place).source)
    for source, reach in (("hub", _reach_hub), ("pypi", _reach_pypi)):
        if source in sources:
            problem = reach()
            if problem:
                say.bad(
                    f"{source} can't be reached from here: {problem}",
                    "fetch once where there is a network, and copy resources/",
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
    call = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-input",
        "--disable-pip-version-check",
    ]
    folder = work_folder("preflight") / "pip"
    done = subprocess.run([*call, f"--dest={folder}", "pyyaml"], text=True, capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)
    return None if done.returncode == 0 else " ".join(done.stderr.split())[-200:]


def check_disk(plan: Plan, grid: str, site: dict, say: Findings) -> None:
    """Free disk against the forecast of what the grid leaves, with the models themselves."""
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


def main(grid: str, configfiles: list[str], blocks: list[str] | None = None) -> int:
    """Print the checklist; returns 1 if anything in it is bad or open."""
    say = Findings()
    try:
        plan = plan_of(configfiles, grid, blocks)
        site = read_site(SITE)
    except (ConfigError, ArtifactError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
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


if __name__ == "__main__":
    parser = grid_arguments(__doc__, "paper")
    arguments = parser.parse_args()
    sys.exit(main(arguments.grid, files(*arguments.configfile), arguments.blocks))

"""`make preflight GRID=paper`: would this grid run on this cluster? Each finding says what to do.

Submits two jobs of seconds (on two nodes, if the partition has two) and no other; changes nothing but work/preflight/.
"""

import argparse
import fcntl
import hashlib
import itertools
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import yaml

from workflow_scripts import slurm
from workflow_scripts.analyze.forecast import forecast
from workflow_scripts.artifacts import PACKAGE, ArtifactError, work_folder
from workflow_scripts.cluster import SITE, Requests, read_site
from workflow_scripts.config import ConfigError
from workflow_scripts.grid import Plan, grid_arguments, plan_of
from workflow_scripts.grid_status import planned, values_of
from workflow_scripts.paths import benchmark_manifest, corpus_manifest, model_manifest

MINUTES = 10
PROFILE = PACKAGE.parent / "profiles" / "slurm" / "config.yaml"
SIZE = 1 << 16  # bytes of a file that is replaced again and again while a node reads it
READS = 200


class Untried(RuntimeError):
    """A test job that was still in the queue when the patience ended; the message is its state there."""


class Findings:
    """Lines of the checklist as they come, whether one was bad, and whether one is open."""

    def __init__(self):
        self.failed = self.open = False

    def good(self, line: str) -> None:
        print(f"ok    {line}", flush=True)

    def bad(self, line: str, advice: str) -> None:
        self.failed = True
        print(f"BAD   {line}\n      -> {advice}", flush=True)

    def untried(self, line: str, advice: str) -> None:
        self.open = True
        print(f"?     {line}\n      -> {advice}", flush=True)


def environment() -> str:
    """Digest of Python and every installed library with its version."""
    found = sorted(f"{d.metadata['Name']}=={d.version}" for d in metadata.distributions())
    return hashlib.sha256(f"{sys.version}{found}".encode()).hexdigest()[:16]


def probe(folder: Path) -> None:
    """What a node sees, as JSON in `folder`: run by the test jobs (`python -m workflow_scripts.preflight --probe`)."""
    import torch

    node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    found = {
        "node": node,
        "replaced_whole": reads_whole(folder / "replaced"),
        "environment": environment(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "assigned": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        **tries_lock(folder / "lock"),
        "seen": sorted(path.name for path in folder.glob("*.json")),
    }
    temporary = folder / f".{node}.tmp"
    temporary.write_text(json.dumps(found))
    os.replace(temporary, folder / f"{node}.json")


def tries_lock(file: Path) -> dict:
    """Whether a lock that is held where preflight runs excludes others here; {lock_excludes, lock_error}."""
    try:
        with open(file, "r+") as handle:  # NFS locks exclusively only what is open for writing
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return {"lock_excludes": True, "lock_error": None}
    except OSError as error:
        return {"lock_excludes": False, "lock_error": error.strerror or str(error)}
    return {"lock_excludes": False, "lock_error": None}


@contextmanager
def replaced(file: Path):
    """Rename a new version over `file` again and again, each of one letter: is it whole wherever it is read?

    Raises at the end what stopped the writing: nothing was replaced then, and whoever read it saw nothing of interest.
    """
    end, letters = threading.Event(), itertools.cycle("ab")

    def replace() -> None:
        temporary = file.with_suffix(".tmp")
        temporary.write_text(next(letters) * SIZE)
        os.replace(temporary, file)

    def go_on() -> None:
        while not end.wait(0.01):
            replace()

    replace()
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(go_on)
        try:
            yield
        finally:
            end.set()
            try:
                writing.result()
            except OSError as error:
                raise ArtifactError(f"{file}: can't be written: {error.strerror or error}") from error


def reads_whole(file: Path) -> bool:
    """Whether a file that another node replaces is there, and one version of it, at each of many looks."""
    for _ in range(READS):
        try:
            text = file.read_text()
        except OSError:
            return False
        if text not in ("a" * SIZE, "b" * SIZE):
            return False
        time.sleep(0.005)
    return True


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
        if (
            requests.mem_mb(work.rule, wildcards, 1) <= largest
        ):  # SLURM itself refuses what is larger from the start
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


def check_nodes(site: dict, say: Findings) -> None:
    """Test jobs: GPUs, environment, shared folder and locks as two nodes see them."""
    folder = work_folder("preflight").resolve()
    for old in folder.glob("*.json"):
        old.unlink()
    with open(folder / "lock", "w") as lock, replaced(folder / "replaced"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            first = _test_job(folder, site, [])
        except Untried as waits:
            say.untried(
                f"no node was tried: the test job was {waits}",
                "run preflight again when the queue is shorter (squeue --start)",
            )
            return
        except ArtifactError as error:
            say.bad(f"the test job did not run: {error}", f"see {folder}/job.log")
            return
        try:
            second = _test_job(folder, site, [f"--exclude={first['node']}"])
        except (Untried, ArtifactError) as error:
            second, why = None, str(error)
    gpus = len(first["gpus"]) or (
        f"CUDA_VISIBLE_DEVICES={first['assigned']}, but PyTorch sees none" if first["assigned"] else 0
    )
    if site["hardware"]["gpu"] and not first["gpus"]:
        say.bad(
            f"GPU on {first['node']}: {gpus}",
            "install envs/cuda.lock, or see the driver (nvidia-smi); jobs would stop there",
        )
    else:
        say.good(f"GPU on {first['node']}: {', '.join(first['gpus']) or 'none asked for'}")
    for found in filter(None, (first, second)):
        if site["container"]:
            say.good(f"environment on {found['node']} is the container's")
        elif found["environment"] == environment():
            say.good(f"environment on {found['node']} is the one here")
        else:
            say.bad(
                f"environment on {found['node']} is another", "install into a folder that every node sees"
            )
        if found["replaced_whole"]:
            say.good(f"files replaced here are whole on {found['node']}")
        else:
            say.bad(
                f"a file that is replaced here is seen cut short, or not at all, on {found['node']}",
                "work on a file system whose renames are atomic for every node (Lustre, GPFS, NFS version 4)",
            )
        if found["lock_excludes"]:
            say.good(f"locks are seen on {found['node']}")
        else:
            reason = f": {found['lock_error']}" if found["lock_error"] else ""
            say.bad(
                f"{found['node']} does not see this node's file locks{reason}",
                "mount it with flock (Lustre: -o flock; NFS: version 4), or two writers don't notice each other",
            )  # fmt: skip
    if second is None:
        say.good(f"a second node was not tried: {why}")
    elif f"{first['node']}.json" in second["seen"]:
        say.good(f"{second['node']} sees what {first['node']} wrote")
    else:
        say.bad(
            f"{second['node']} does not see what {first['node']} wrote",
            "work in a folder that every node shares",
        )


def _test_job(folder: Path, site: dict, options: list[str]) -> dict:
    """Run `probe` on one node and read what it found. No job is left in the queue, whatever ends the waiting.

    Raises Untried where the job did not start, ArtifactError with the reason where it failed.
    """
    call = [f"--{name}={site[name]}" for name in ("account", "partition", "constraint", "qos") if site[name]]
    if site["hardware"]["gpu"]:
        call.append(f"--gpus={site['gpu_model'] + ':' if site['gpu_model'] else ''}1")
    call += [*shlex.split(site["extra"]), *options]
    before = set(folder.glob("*.json"))
    (folder / "job.log").unlink(missing_ok=True)
    name = f"preflight_{uuid.uuid4().hex[:8]}"  # no run's: see slurm.jobs_of_folder
    try:
        done = subprocess.run(
            ["sbatch", "--wait", "--nodes=1", f"--time={MINUTES}", "--mem=4000", f"--job-name={name}",
             f"--output={folder}/job.log", f"--chdir={PACKAGE.parent}", *call, "--wrap", job_script(folder, site)],
            text=True, capture_output=True, check=False, timeout=60 * MINUTES,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        states = slurm.states_of(name)
        if "PENDING" in states:
            raise Untried(f"queued ({states['PENDING']}) for {MINUTES:g} minutes and taken back") from None
        raise ArtifactError(f"it took more than {MINUTES} minutes") from None
    except OSError as error:
        raise ArtifactError(str(error)) from error
    finally:
        with suppress(slurm.SlurmError):
            slurm.ask("scancel", f"--name={name}")
    if done.returncode == 0 and (new := set(folder.glob("*.json")) - before):
        return json.loads(new.pop().read_text())
    log = folder / "job.log"
    printed = log.read_text(errors="replace").strip()[-300:] if log.exists() else ""
    raise ArtifactError(done.stderr.strip() or printed or "it left no word")


def job_script(folder: Path, site: dict) -> str:
    """The test job's script: as in real jobs, `setup` runs in bash, in the container where the site names one.

    No login shell, since Snakemake's jobs have none: what only /etc/profile defines is missing in them too.
    """
    python = "python" if site["container"] else shlex.quote(sys.executable)
    probing = f"{python} -m workflow_scripts.preflight --probe {shlex.quote(str(folder))}"
    command = ["bash", "-c", f"set -e\n{site['setup']}\nset -uo pipefail; {probing}"]
    if site["container"]:
        gpu = ["--nv"] if site["hardware"]["gpu"] else []
        command = ["apptainer", "exec", *gpu, "--home", str(PACKAGE.parent), site["container"], *command]
    return shlex.join(command)


def check_sources(plan: Plan, grid: str, say: Findings) -> None:
    """Everything the grid reads is here, or its source can be reached from here."""
    settings, cells = plan.grid(grid), plan.cells(grid)
    wanted = {("models", cell.model): model_manifest(cell.model) for cell in cells}
    corpora = {cell.corpus for cell in cells} - {"none"}
    corpora |= {plan.training_corpus(adapter) for adapter in plan.adapters(grid)}
    corpora |= set(settings["evaluation"]["perplexity"]["corpora"])
    wanted |= {("corpora", name): corpus_manifest(name) for name in sorted(corpora)}
    data = settings["benchmarks"]
    wanted |= {("benchmarks", task): benchmark_manifest(data, task) for task in settings["tasks"]}
    missing = [key for key, manifest in wanted.items() if not Path(manifest).exists()]
    say.good(f"{len(wanted) - len(missing)} of {len(wanted)} models, corpora and tasks are here")
    sources = set()
    for catalogue, name in missing:
        spec = (
            plan.config["benchmarks"][data][name]
            if catalogue == "benchmarks"
            else plan.config[catalogue][name]
        )
        sources.add(spec["source"])
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
        4 * plan.config["models"][m]["parameters"] for m in models if not Path(model_manifest(m)).exists()
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
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        probe(arguments.probe)
    else:
        sys.exit(main(arguments.grid, ["config.yaml", *arguments.configfile], arguments.blocks))

"""Two test jobs of `preflight` on the nodes of a cluster, and the probe that they run.

python -m workflow_scripts.cluster.node_probe FOLDER      the probe, in a test job
"""

import fcntl
import hashlib
import itertools
import json
import os
import shlex
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

from workflow_scripts.cluster import slurm
from workflow_scripts.files.artifacts import PACKAGE, ArtifactError
from workflow_scripts.files.work_folders import work_folder

MINUTES = 10
SIZE = 1 << 16  # bytes of a file that is replaced again and again while a node reads it
READS = 200
GPUS = "import torch; print(*map(torch.cuda.get_device_name, range(torch.cuda.device_count())), sep='\\n')"


class Untried(RuntimeError):
    """A test job that did not start in time; the message is its state in the queue."""


class Findings:
    """Prints the checklist line by line; knows whether a line was bad, and whether one is open."""

    def __init__(self) -> None:
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
    """Write what this node sees, as JSON, into `folder`: the work of a test job."""
    node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    found = {
        "node": node,
        "replaced_whole": reads_whole(folder / "replaced"),
        "environment": environment(),
        "gpus": gpus(),
        "assigned": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        **tries_lock(folder / "lock"),
        "seen": sorted(path.name for path in folder.glob("*.json")),
    }
    temporary = folder / f".{node}.tmp"
    temporary.write_text(json.dumps(found), encoding="utf-8")
    os.replace(temporary, folder / f"{node}.json")


def gpus() -> list[str]:
    """Names of the GPUs that PyTorch sees, asked in a process of its own. Exits with its message if that fails."""
    asked = subprocess.run(
        [sys.executable, "-c", GPUS], encoding="utf-8", errors="replace", capture_output=True, check=False
    )
    if asked.returncode:
        sys.exit(asked.stderr)
    return [name for name in asked.stdout.splitlines() if name]


def tries_lock(file: Path) -> dict:
    """{lock_excludes, lock_error}: true if the lock that preflight's machine holds excludes this one."""
    try:
        with open(
            file, "r+", encoding="utf-8"
        ) as handle:  # NFS locks a file exclusively only if it is writable
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return {"lock_excludes": True, "lock_error": None}
    except OSError as error:
        return {"lock_excludes": False, "lock_error": error.strerror or str(error)}
    return {"lock_excludes": False, "lock_error": None}


@contextmanager
def replaced(file: Path) -> Iterator[None]:
    """Rename a new version, of one letter, over `file` again and again during the block, for `reads_whole` elsewhere.

    Raises ArtifactError at the end if a version could not be written: the readers then prove nothing.
    """
    end, letters = threading.Event(), itertools.cycle("ab")

    def replace() -> None:
        temporary = file.with_suffix(".tmp")
        temporary.write_text(next(letters) * SIZE, encoding="utf-8")
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
    """True if a file that another node replaces holds exactly one version at each of READS looks."""
    for _ in range(READS):
        try:
            text = file.read_text(encoding="utf-8")
        except OSError:
            return False
        if text not in ("a" * SIZE, "b" * SIZE):
            return False
        time.sleep(0.005)
    return True


def check_nodes(site: dict, say: Findings) -> None:
    """Test jobs: GPUs, environment, shared folder and locks as two nodes see them."""
    folder = work_folder("preflight").resolve()
    for old in folder.glob("*.json"):
        old.unlink()
    with open(folder / "lock", "w", encoding="utf-8") as lock, replaced(folder / "replaced"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            first = _test_job(folder, site, [])
        except Untried as waits:
            advice = "run preflight again when the queue is shorter (squeue --start)"
            say.untried(f"no node was tried: the test job was {waits}", advice)
            return
        except ArtifactError as error:
            say.bad(f"the test job did not run: {error}", f"see {folder}/job.log")
            return
        try:
            second = _test_job(folder, site, [f"--exclude={first['node']}"])
        except (Untried, ArtifactError) as error:
            second, reason = None, str(error)
    _check_gpus(first, site, say)
    for found in filter(None, (first, second)):
        _check_node(found, site, say)
    if second is None:
        say.good(f"a second node was not tried: {reason}")
    elif f"{first['node']}.json" in second["seen"]:
        say.good(f"{second['node']} sees what {first['node']} wrote")
    else:
        advice = "work in a folder that every node shares"
        say.bad(f"{second['node']} does not see what {first['node']} wrote", advice)


def _check_gpus(found: dict, site: dict, say: Findings) -> None:
    """Report the GPUs of a node, which the site may need."""
    node, names, assigned = found["node"], found["gpus"], found["assigned"]
    if site["hardware"]["gpu"] and not names:
        seen = f"CUDA_VISIBLE_DEVICES={assigned}, but PyTorch sees none" if assigned else 0
        advice = "install envs/cuda.lock, or see the driver (nvidia-smi); jobs would stop there"
        say.bad(f"GPU on {node}: {seen}", advice)
    else:
        say.good(f"GPU on {node}: {', '.join(names) or 'none asked for'}")


def _check_node(found: dict, site: dict, say: Findings) -> None:
    """Report a node's environment, its view of replaced files and of locks."""
    node = found["node"]
    if site["container"]:
        say.good(f"environment on {node} is the container's")
    elif found["environment"] == environment():
        say.good(f"environment on {node} is the one here")
    else:
        say.bad(f"environment on {node} is another", "install into a folder that every node sees")
    if found["replaced_whole"]:
        say.good(f"files replaced here are whole on {node}")
    else:
        say.bad(
            f"a file that is replaced here is seen cut short, or not at all, on {node}",
            "work on a file system whose renames are atomic for every node (Lustre, GPFS, NFS version 4)",
        )
    if found["lock_excludes"]:
        say.good(f"locks are seen on {node}")
    else:
        reason = f": {found['lock_error']}" if found["lock_error"] else ""
        say.bad(
            f"{node} does not see this node's file locks{reason}",
            "mount it with flock (Lustre: -o flock; NFS: version 4), or two writers don't notice each other",
        )


def _test_job(folder: Path, site: dict, options: list[str]) -> dict:
    """Run `probe` on one node and return its findings. No job is left in the queue, whatever ends the waiting.

    Raises Untried if the job did not start, ArtifactError with the reason if it failed.
    """
    call = [f"--{name}={site[name]}" for name in ("account", "partition", "constraint", "qos") if site[name]]
    if site["hardware"]["gpu"]:
        call.append(f"--gpus={site['gpu_model'] + ':' if site['gpu_model'] else ''}1")
    call += [*shlex.split(site["extra"]), *options]
    before = set(folder.glob("*.json"))
    (folder / "job.log").unlink(missing_ok=True)
    name = f"preflight_{uuid.uuid4().hex[:8]}"  # not a run's prefix: see slurm.jobs_of_folder
    call += ["--nodes=1", f"--time={MINUTES}", "--mem=4000", f"--job-name={name}"]
    call += [f"--output={folder}/job.log", f"--chdir={PACKAGE.parent}", "--wrap", job_script(folder, site)]
    try:
        done = subprocess.run(
            ["sbatch", "--wait", *call],
            encoding="utf-8",
            errors="replace",
            capture_output=True,
            check=False,
            timeout=60 * MINUTES,
        )
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
        return json.loads(new.pop().read_text(encoding="utf-8"))
    log = folder / "job.log"
    printed = log.read_text(encoding="utf-8", errors="replace").strip()[-300:] if log.exists() else ""
    raise ArtifactError(done.stderr.strip() or printed or "it left no word")


def job_script(folder: Path, site: dict) -> str:
    """The test job's script. As in real jobs, `setup` runs in bash, in the container if the site names one.

    No login shell, since Snakemake's jobs have none: they too lack what only /etc/profile defines.
    """
    python = "python" if site["container"] else shlex.quote(sys.executable)
    probing = f"{python} -m workflow_scripts.cluster.node_probe {shlex.quote(str(folder))}"
    command = ["bash", "-c", f"set -e\n{site['setup']}\nset -uo pipefail; {probing}"]
    if site["container"]:
        gpu = ["--nv"] if site["hardware"]["gpu"] else []
        command = ["apptainer", "exec", *gpu, "--home", str(PACKAGE.parent), site["container"], *command]
    return shlex.join(command)


if __name__ == "__main__":
    probe(Path(sys.argv[1]))

"""A SLURM cluster of several nodes with pretended GPUs on this one machine, for the time of a `with`.

Needs Debian or Ubuntu and root; what is missing is installed with apt-get. Every daemon is a child of this process, in
the foreground, and writes to a log of its own under `folder`. GPUs are links to /dev/null: SLURM counts and assigns
them, torch sees none. Memory is watched by polling, since there are no cgroups. Nothing outlives the `with`, nor a
process that was killed in it.

    python -m tests.slurm.local_slurm sleep 600     # a cluster for ten minutes, e.g. to try things by hand

Jobs that compute refuse a GPU that torch does not see. Here they are let pass by DISPLACED_PRETENDED_GPU=1, which
everything that is started in the `with` inherits; by hand, export it in the shell that submits.
"""

import contextlib
import ctypes
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

PROGRAMS = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "slurmdbd": "slurmdbd",
    "mariadbd": "mariadb-server",
}
PRETENDED = "DISPLACED_PRETENDED_GPU"  # see workflow_scripts/kernels/device.py
LINK = Path("/etc/slurm/slurm.conf")  # where jobs, whose environment Snakemake's executor cleans, look
ACCOUNTS = ("research", "teaching")
USER = "root"

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=20
KillWait=10
MinJobAge=300
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={folder}/munge.socket
AccountingStorageEnforce=associations
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
{bind}
{nodes}
PartitionName=gpu Nodes={gpu_nodes} Default=YES MaxTime=1-00:00:00 DefMemPerCPU=1000
PartitionName=cpu Nodes=cpu1 MaxTime=1-00:00:00 DefMemPerCPU=1000
PartitionName=minute Nodes={gpu_nodes} MaxTime=1 DefMemPerCPU=1000
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 Boards=1 SocketsPerBoard=1 "
    "CoresPerSocket=16 ThreadsPerCore=1 RealMemory=64000 State=UNKNOWN {more}"
)
DATABASE = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={sql_port}
StorageUser=slurm
StoragePass={password}
StorageLoc=accounting
{bind}
"""


def output(*command: str, check: bool = True) -> str:
    """What a command prints; RuntimeError with its message where it fails."""
    done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=60)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def wait_until(what: str, ready, seconds: float = 60) -> None:
    """Wait until ready() is true; TimeoutError that names what was waited for."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.2)


def answers(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def end_with_parent() -> None:
    """In a new process: SIGTERM when the process that started it ends, however it ends (prctl PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


class LocalSlurm:
    """`with LocalSlurm(folder) as cluster:` a running cluster: nodes gpu1..gpuN (4 pretended GPUs each) and cpu1."""

    def __init__(self, folder: Path, gpu_nodes: int = 3, port: int = 27417):
        self.folder = Path(folder)
        self.names = [*(f"gpu{i + 1}" for i in range(gpu_nodes)), "cpu1"]
        self.port = port
        self.daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self):
        os.environ["PATH"] += ":/usr/sbin:/sbin"
        os.environ[PRETENDED] = "1"
        install()
        if self._left_behind():
            LINK.unlink()
        if LINK.exists() or LINK.is_symlink():
            raise RuntimeError(
                f"{LINK} is there: this machine belongs to another cluster; its own tests would disturb it"
            )
        try:
            self._write()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if "slurmctld" in self.daemons:
            subprocess.run(["scancel", "--user", USER], capture_output=True, check=False, timeout=60)
            with contextlib.suppress(TimeoutError):  # a job's processes end through its node's slurmd
                wait_until("the jobs to end", lambda: not output("squeue", "--noheader", check=False), 30)
        for name in reversed(list(self.daemons)):
            self.kill(name, signal.SIGTERM)
        if LINK.is_symlink() and Path(os.readlink(LINK)).parent == self.folder:
            LINK.unlink()

    def _left_behind(self) -> bool:
        """Whether the link to a configuration is that of a killed run of this module."""
        if not LINK.is_symlink():
            return False
        folder = Path(os.readlink(LINK)).parent
        return not folder.exists() or ((folder / "gpu-0").is_symlink() and not answers("scontrol", "ping"))

    # ------------------------------------------------------------------------------------------- faults

    def node_down(self, name: str) -> None:
        """A power cut: slurmd and everything that runs on the node end at once."""
        steps = [
            p for p in psutil.process_iter(["cmdline"]) if self._is_step_on(p.info["cmdline"] or [], name)
        ]
        self.kill(f"slurmd-{name}", signal.SIGKILL)
        for process in steps:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in [*process.children(recursive=True), process]:
                    with contextlib.suppress(psutil.NoSuchProcess):  # it went with another of them
                        child.kill()

    def _is_step_on(self, cmdline: list[str], node: str) -> bool:
        found = re.match(r"slurmstepd: \[(\d+)\.", " ".join(cmdline))  # psutil may split a changed title
        if not found:
            return False
        job = found[1]
        return output("squeue", "--noheader", "--job", job, "--format=%N", check=False).strip() == node

    def node_up(self, name: str) -> None:
        """The node comes back."""
        self.daemon(f"slurmd-{name}", "slurmd", "-D", "-N", name, "-f", str(self.folder / "slurm.conf"))
        wait_until(f"node {name}", lambda: self.state(name).rstrip("*~#") in ("idle", "mixed", "allocated"))

    def state(self, node: str) -> str:
        return output("sinfo", "--noheader", "--Node", f"--nodes={node}", "--format=%T").split()[0]

    def restart_controller(self) -> None:
        self.kill("slurmctld", signal.SIGKILL)
        self._controller()

    # ------------------------------------------------------------------------------------------ daemons

    def daemon(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground of its own session, with a log file."""
        with (self.folder / f"{name}.log").open("a") as log:
            self.daemons[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,
                env=os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")},
            )

    def kill(self, name: str, with_signal: int) -> None:
        process = self.daemons.pop(name)
        process.send_signal(with_signal)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _write(self) -> None:
        host = platform.node().split(".")[0]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        for name in ("state", "db", "tmp", *(f"spool-{node}" for node in self.names)):
            (self.folder / name).mkdir(exist_ok=True)
        for number in range(4):
            (self.folder / f"gpu-{number}").symlink_to(os.devnull)
        nodes = [
            NODE.format(
                name=name,
                host=host,
                port=self.port + 10 + number,
                more="Gres=gpu:pretended:4" if name.startswith("gpu") else "",
            )
            for number, name in enumerate(self.names)
        ]
        values = {
            "host": host,
            "folder": self.folder,
            "user": USER,
            "port": self.port,
            "dbd_port": self.port + 1,
            "sql_port": self.port + 2,
            "nodes": "\n".join(nodes),
            "password": secrets.token_hex(12),
            "gpu_nodes": ",".join(name for name in self.names if name.startswith("gpu")),
            "bind": "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny" if self._loopback(host) else "",
        }
        self.password = values["password"]
        private = {"slurmdbd.conf": DATABASE.format(**values), "munge.key": secrets.token_hex(64)}
        version = output("slurmd", "-V").split()[-1].split(".")
        plugin = "disabled" if (int(version[0]), int(version[1])) >= (23, 11) else "cgroup/v1"
        public = {
            "slurm.conf": CONF.format(**values),
            "gres.conf": "AutoDetect=off\n"
            + "".join(
                f"NodeName={name} Name=gpu Type=pretended File={self.folder}/gpu-[0-3]\n"
                for name in self.names
                if name.startswith("gpu")
            ),
            "cgroup.conf": f"CgroupPlugin={plugin}\n",
        }
        for name, text in (public | private).items():
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o600 if name in private else 0o644)
        LINK.parent.mkdir(exist_ok=True)
        LINK.symlink_to(self.folder / "slurm.conf")

    def _loopback(self, host: str) -> bool:
        return any(
            line.startswith("127.") for line in output("getent", "ahostsv4", host, check=False).splitlines()
        )

    def _start(self) -> None:
        at = self.folder
        self.daemon(
            "munged",
            "munged",
            "--foreground",
            "--force",
            f"--key-file={at}/munge.key",
            f"--socket={at}/munge.socket",
            f"--pid-file={at}/munged.pid",
            f"--log-file={at}/munge.out",
            f"--seed-file={at}/munge.seed",
        )
        wait_until("munge", lambda: answers("munge", "-S", f"{at}/munge.socket", "-n"))
        self._database()
        self._controller()
        for name in self.names:
            self.daemon(f"slurmd-{name}", "slurmd", "-D", "-N", name, "-f", f"{at}/slurm.conf")
        wait_until("the nodes", lambda: {self.state(name) for name in self.names} == {"idle"})

    def _database(self) -> None:
        at, sql = (
            self.folder,
            ["mariadb", "--no-defaults", "-u", USER, "-S", f"{self.folder}/sql.socket", "-e"],
        )
        output(
            "mariadb-install-db",
            "--no-defaults",
            f"--user={USER}",
            f"--datadir={at}/db",
            "--skip-test-db",
            "--auth-root-authentication-method=socket",
            f"--auth-root-socket-user={USER}",
        )
        self.daemon(
            "mariadbd",
            "mariadbd",
            "--no-defaults",
            f"--user={USER}",
            f"--datadir={at}/db",
            f"--tmpdir={at}/tmp",
            f"--socket={at}/sql.socket",
            f"--pid-file={at}/sql.pid",
            "--bind-address=127.0.0.1",
            f"--port={self.port + 2}",
            "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900",
            "--skip-name-resolve",
        )
        wait_until("MariaDB", lambda: answers(*sql, "select 1"))
        output(*sql, "create database accounting")
        output(*sql, f"create user slurm@127.0.0.1 identified by '{self.password}'")
        output(*sql, "grant all on accounting.* to slurm@127.0.0.1")
        self.daemon("slurmdbd", "slurmdbd", "-D")
        wait_until("slurmdbd", lambda: answers("sacctmgr", "-n", "list", "cluster"))
        output("sacctmgr", "-i", "add", "cluster", "test")
        for account in ACCOUNTS:
            output("sacctmgr", "-i", "add", "account", account, "Cluster=test")
            output("sacctmgr", "-i", "add", "user", USER, f"Account={account}", "Cluster=test")

    def _controller(self) -> None:
        self.daemon("slurmctld", "slurmctld", "-D", "-f", f"{self.folder}/slurm.conf")
        wait_until("slurmctld", lambda: answers("scontrol", "ping"))


def install() -> None:
    """Install missing packages with apt-get; their own services are not started."""
    missing = sorted({package for program, package in PROGRAMS.items() if not shutil.which(program)})
    if not missing:
        return
    if os.geteuid() or not shutil.which("apt-get"):
        raise RuntimeError(
            f"install {', '.join(missing)} (as root on Debian or Ubuntu this is done by itself)"
        )
    print(f"installing {', '.join(missing)}", file=sys.stderr)
    guard = Path("/usr/sbin/policy-rc.d")  # Debian asks it before it starts a service
    ours = not guard.exists()
    if ours:
        guard.write_text("#!/bin/sh\nexit 101\n")
        guard.chmod(0o755)
    try:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            subprocess.run(
                ["apt-get", "-qq", *command], check=True, stdout=subprocess.DEVNULL, env=os.environ | quiet
            )
    finally:
        if ours:
            guard.unlink()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, LocalSlurm(Path(folder)):
        print(output("sinfo"))
        sys.exit(subprocess.run(sys.argv[1:], check=False).returncode)

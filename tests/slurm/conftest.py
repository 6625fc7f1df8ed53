"""A cluster for the tests, and the tiny workflow run on it through `snakemake --profile slurm`."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests import tiny
from tests.slurm.local_slurm import LocalSlurm, output
from tests.workflow.conftest import TOKEN, Checkout, product_copy

SITE = {"account": "research", "partition": "gpu", "cpu_partition": "cpu", "gpu_model": "pretended"}
LONG = 600_000  # training tokens of an adapter that must not be finished before it is disturbed


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


def _hear_ctrl_c() -> None:
    """As in a terminal; what a shell starts in the background ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class ClusterCheckout(Checkout):
    """A folder with the product, a configuration, a site file, and runs that are started in the background."""

    settings = ("grid=tiny",)

    def command(self, *arguments: str) -> list[str]:
        quick = "--slurm-init-seconds-before-status-checks 5 --latency-wait 20".split()
        return [*self.COMMAND, "--profile", "slurm", "--config", *self.settings, *quick, *arguments]

    def start(self, *arguments: str, command: list[str] | None = None) -> subprocess.Popen:
        """Start a run; what it prints goes to run.txt."""
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment |= {"HF_HUB_OFFLINE": "1", "HF_TOKEN": TOKEN}
        with (self.folder / "run.txt").open("a") as log:
            return subprocess.Popen(
                command or self.command(*arguments),
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_hear_ctrl_c,
            )

    def run(self, *arguments: str, command: list[str] | None = None, seconds: float = 900) -> str:
        """Run to the end; what it printed. AssertionError with that and all logs where it failed."""
        process = self.start(*arguments, command=command)
        status = process.wait(seconds)
        assert status == 0, self.told()
        return (self.folder / "run.txt").read_text()

    def told(self) -> str:
        logs = sorted(
            [*self.folder.glob("logs/**/*.log"), *self.folder.glob(".snakemake/slurm_logs/**/*.log")]
        )
        tails = "\n".join(f"== {log}\n{log.read_text()[-2500:]}" for log in logs)
        return f"{(self.folder / 'run.txt').read_text()[-6000:]}\n{tails[-16000:]}"

    def site(self, **changed) -> None:
        (self.folder / "profiles/slurm/site.yaml").write_text(yaml.safe_dump(SITE | changed))

    def wait_for(
        self, pattern: str, process: subprocess.Popen, where: str = "run.txt", seconds: float = 240
    ) -> str:
        """Wait until a file matches; the match."""
        deadline = time.monotonic() + seconds
        while True:
            found = None
            for file in self.folder.glob(where):
                found = re.search(pattern, file.read_text()) or found
            if found:
                return found[0]
            assert process.poll() is None and time.monotonic() < deadline, (
                f"no {pattern!r} in {where}\n{self.told()}"
            )
            time.sleep(0.3)


def stop(process: subprocess.Popen, with_signal=signal.SIGKILL) -> None:
    """End a run that a test started, if it still lives."""
    if process.poll() is None:
        process.send_signal(with_signal)
        process.wait(60)


def accounted(folder: Path) -> list[dict]:
    """Every SLURM job that was submitted from a folder, ended or not, from the cluster's accounting."""
    fields = ["JobIDRaw", "State", "Partition", "AllocTRES", "Account", "WorkDir", "Elapsed"]
    lines = output(
        "sacct", "-nPX", "--duplicates", "--starttime=now-2days", f"--format={','.join(fields)}"
    ).splitlines()
    rows = [dict(zip(fields, line.split("|"))) for line in lines]
    return [row for row in rows if os.path.realpath(row["WorkDir"]) == os.path.realpath(folder)]


def queued() -> list[str]:
    return output("squeue", "--noheader", "--format=%i|%T|%k").splitlines()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    with LocalSlurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def clone(folder: Path, config: dict) -> ClusterCheckout:
    """What a clone would hold, with a site file and a configuration."""
    checkout = ClusterCheckout(product_copy(folder))
    (checkout.folder / "slurm").symlink_to("profiles/slurm")
    checkout.write_config(config)
    checkout.site()
    return checkout


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> dict:
    return tiny.config(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def finished(cluster, sources, tmp_path_factory) -> ClusterCheckout:
    """The tiny grid, run to its report on the cluster. Never change it: take `copied`."""
    checkout = clone(tmp_path_factory.mktemp("finished") / "clone", sources)
    checkout.run()
    return checkout


@pytest.fixture
def copied(finished, tmp_path) -> ClusterCheckout:
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    checkout = ClusterCheckout(tmp_path / "copy")
    (checkout.folder / "run.txt").unlink()
    return checkout


@pytest.fixture(scope="session")
def long_config(sources) -> dict:
    """The tiny configuration with one adapter whose training takes about a minute."""
    slow = sources["methods"]["lora-r2"] | {"training": {"tokens": LONG}}
    regime = sources["training"]["tiny"] | {"checkpoint_minutes": 0.05, "micro_batch": 1}
    return sources | {
        "methods": sources["methods"] | {"lora-r2": slow},
        "training": {"tiny": regime},
    }


@pytest.fixture
def training(copied, long_config) -> ClusterCheckout:
    """A copy of the finished run in which one adapter is to be trained for long, without the log of its training."""
    copied.write_config(long_config)
    for log in copied.folder.glob(LOG):
        log.unlink()
    return copied


ADAPTER = "results/tiny/adapters/tiny/gptq-w3/text/lora-r2/seed-0"
LOG = "logs/tiny/train_adapter/**/lora-r2/seed-0.log"


@pytest.fixture(scope="session")
def undisturbed(finished, long_config, tmp_path_factory) -> bytes:
    """The adapter's weights as an undisturbed run makes them."""
    folder = tmp_path_factory.mktemp("undisturbed") / "copy"
    shutil.copytree(finished.folder, folder, symlinks=True)
    checkout = ClusterCheckout(folder)
    checkout.write_config(long_config)
    checkout.snakemake(f"{ADAPTER}/training.json")
    return (folder / ADAPTER / "adapter_model.safetensors").read_bytes()

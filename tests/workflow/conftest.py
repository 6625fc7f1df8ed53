"""A finished run of the whole workflow on a tiny model, made once; tests work on copies of it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import tiny
from workflow_scripts.plan.config import write_complete

ROOT = Path(__file__).parents[2]
PRODUCT = ("Snakefile", "envs", "rules", "profiles", "reports", "workflow_scripts")


TOKEN = "hf_aSecretThatNoFileMayHold"


class Checkout:
    """A folder with the product and a configuration of its own."""

    COMMAND = (sys.executable, "-m", "snakemake")

    def __init__(self, folder: Path):
        self.folder = folder

    def snakemake(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run Snakemake here; stdout and stderr come together in `stdout`."""
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith("SNAKEMAKE") and k != "PYTHONPATH"
        }
        environment |= {"HF_HUB_OFFLINE": "1", "HF_TOKEN": TOKEN}
        done = subprocess.run(
            [*self.COMMAND, "--cores", "2", *arguments],
            cwd=self.folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        if check and done.returncode:
            logs = "\n".join(
                f"== {log}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("logs/**/*.log"))
            )
            raise AssertionError(f"{done.stdout[-6000:]}\n{logs[-12000:]}")
        return done

    def config(self) -> dict:
        return yaml.safe_load((self.folder / "config.yaml").read_text())

    def write_config(self, config: dict) -> None:
        write_complete(config, self.folder)


def product_copy(folder: Path) -> Path:
    """Copy what a clone would hold and the run needs."""
    folder.mkdir(parents=True)
    for name in PRODUCT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "bench"))
        else:
            shutil.copy2(source, folder / name)
    return folder


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> dict:
    """The tiny configuration over sources that stay where they are."""
    return tiny.config(tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory, sources) -> Checkout:
    """The finished run. Never change it: take `copied`."""
    checkout = Checkout(product_copy(tmp_path_factory.mktemp("finished") / "clone"))
    checkout.write_config(sources)
    checkout.output = checkout.snakemake().stdout
    return checkout


@pytest.fixture
def copied(finished, tmp_path) -> Checkout:
    """A copy of the finished run with its metadata, free to change."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Checkout(tmp_path / "copy")


def jobs_of(output: str) -> list[str]:
    """Messages of the jobs that a (dry) run lists."""
    return re.findall(r"^Job \d+: (.*)$", output, flags=re.MULTILINE)

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
PRODUCT = ("Snakefile", "envs", "rules", "profiles", "recipes", "reports", "workflow_scripts")


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
        command = [*self.COMMAND, "--cores", "2", *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(command, cwd=self.folder, env=environment, text=True, check=False, **streams)
        if check and done.returncode:
            logs = "\n".join(
                f"== {log}\n{log.read_text()[-3000:]}" for log in sorted(self.folder.glob("logs/**/*.log"))
            )
            raise AssertionError(f"{done.stdout[-6000:]}\n{logs[-12000:]}")
        return done

    def displaced(self, *words: object) -> subprocess.CompletedProcess:
        """Run `python -m workflow_scripts` here; stdout and stderr come together in `stdout`."""
        command = [sys.executable, "-m", "workflow_scripts", *map(str, words)]
        return subprocess.run(
            command, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )

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
def finished(made_once) -> Checkout:
    """The finished run of the tiny configuration, whose sources lie beside it. Never change it: take `copied`."""

    def run(folder: Path) -> None:
        checkout = Checkout(product_copy(folder / "clone"))
        checkout.write_config(tiny.config(folder / "sources"))
        checkout.snakemake()

    return Checkout(made_once("finished", run) / "clone")


@pytest.fixture
def copied(finished, tmp_path) -> Checkout:
    """A copy of the finished run with its metadata, free to change."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Checkout(tmp_path / "copy")


def jobs_of(output: str) -> list[str]:
    """Messages of the jobs that a (dry) run lists."""
    return re.findall(r"^Job \d+: (.*)$", output, flags=re.MULTILINE)

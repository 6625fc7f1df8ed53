"""All variants of the environment hold the same pins, and these tests run with them."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ENVS = ROOT / "envs"
CPU_INDEX = "--extra-index-url https://download.pytorch.org/whl/cpu"

specification = importlib.util.spec_from_file_location("lock", ENVS / "lock.py")
lock = importlib.util.module_from_spec(specification)
specification.loader.exec_module(lock)


def lines(name: str) -> list[str]:
    return [line for line in (ENVS / name).read_text().splitlines() if line and not line.startswith("#")]


def pins(name: str) -> dict[str, str]:
    """Version by normalised name; every line but an index must be an exact pin without a local version."""
    found = {}
    for line in lines(name):
        if line.startswith("--"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(\[[a-z,]+\])?==([0-9][A-Za-z0-9.!]*)", line)
        assert match, f"envs/{name}: {line!r} is not an exact pin"
        found[lock.normal(match[1])] = match[3]
    return found


@pytest.mark.parametrize("name", ["cpu.lock", "cuda.lock", "optimum.lock", "llmcompressor.lock", "docs.lock"])
def test_locks_are_sorted_and_without_repetition(name):
    names = [line.split("==")[0] for line in lines(name)]
    assert names == sorted(set(names)) and len(names) > (20 if name == "docs.lock" else 40)


def test_every_lock_is_audited(tmp_path):
    """`make audit` with a pip-audit that finds something in one of them: the others are looked at all the same."""
    (tmp_path / "envs").symlink_to(ENVS)
    (tmp_path / ".venv-audit/bin").mkdir(parents=True)
    for name, script in {"python": "", "pip-audit": "echo $2; test $2 != envs/cpu.lock"}.items():
        (tmp_path / ".venv-audit/bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / ".venv-audit/bin" / name).chmod(0o755)
    command = ["make", "--silent", "--file", ROOT / "Makefile", "PYTHON=true", "audit"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode and set(done.stdout.split()) == {
        f"envs/{path.name}" for path in ENVS.glob("*.lock")
    }


@pytest.mark.parametrize(
    "words",
    [
        ["new", "MODEL=/x/my model", "NAME=of mine", "OUT=a b.yaml"],
        ["judge", "DENSE=/x/my model", "COMPRESSED=y z", "NAME=of mine"],
        ["archive", "GRID=smoke", "OUT=a folder"],
        ["rebuild", "FROM=an archive", "OUT=a folder"],
        ["restore", "FROM=an archive"],
        ["compare", "A=an archive", "B=an other", "OUT=a b.json"],
    ],
)
def test_a_path_with_a_space_is_one_word(words):
    done = subprocess.run(
        ["make", "--dry-run", "--directory", ROOT, *words], text=True, capture_output=True, check=True
    )
    [line] = [line for line in done.stdout.splitlines() if f" -m workflow_scripts {words[0]} " in line]
    assert {word.partition("=")[2] for word in words[1:]} <= set(shlex.split(line))


def test_an_option_is_no_folder_of_the_tiny_model(tmp_path):
    command, path = [sys.executable, "-m", "tests.tiny", "--help"], {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | path, text=True, capture_output=True, check=False
    )
    assert done.returncode == 1 and done.stderr == "python -m tests.tiny FOLDER\n"
    assert list(tmp_path.iterdir()) == []


PYTHON = """#!/bin/sh
echo "$@" >> calls
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""


@pytest.fixture
def make(tmp_path):
    """A function that runs make with a Python that only notes its calls: what it was called with, and the process."""
    (tmp_path / "envs").mkdir()
    for name in ("torch-cpu.txt", "cpu.lock"):
        (tmp_path / "envs" / name).write_bytes((ENVS / name).read_bytes())
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    calls = tmp_path / "calls"

    def run(*words: str) -> tuple[list[str], subprocess.CompletedProcess]:
        calls.write_text("")
        command = ["make", "--file", ROOT / "Makefile", f"PYTHON={tmp_path}/python", "VENV=env", *words]
        done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
        return calls.read_text().splitlines(), done

    return run


def test_an_environment_is_fresh_if_its_stamp_has_the_hash_of_the_locks(make, tmp_path):
    assert "-m venv env" in make("install")[0]
    (tmp_path / "envs/cpu.lock").touch()  # as a clone, a copy or a checkout of another branch and back does
    assert make("install")[0] == []
    with (tmp_path / "envs/cpu.lock").open("a") as lock:
        lock.write("another==1.0\n")
    assert "-m venv env" in make("install")[0] and make("install")[0] == []


@pytest.mark.parametrize("target", ["status", "forecast", "explain", "plan", "gate", "preflight", "compare"])
def test_a_target_that_only_reads_never_installs(target, make, tmp_path):
    words = {"explain": ["CELL=x"], "compare": ["A=x", "B=y"]}.get(target, [])
    calls, done = make(target, *words)
    assert (calls, done.returncode) == (
        [],
        2,
    ) and "There is no environment in env: make install" in done.stderr
    make("install")
    with (tmp_path / "envs/cpu.lock").open("a") as lock:
        lock.write("another==1.0\n")
    calls, done = make(target, *words)
    assert len(calls) == 1 and calls[0].startswith(f"-m workflow_scripts {target}")
    assert "not that of today's locks: make install renews it" in done.stderr


def test_a_model_whose_path_has_spaces_is_one_word(make):
    make("install")
    _, done = make("--dry-run", "judge", "DENSE=my models/a", "COMPRESSED=b c")
    assert 'workflow_scripts judge "my models/a" "b c"' in done.stdout


def test_locks_hold_the_direct_dependencies():
    direct = pins("main.in") | pins("dev.in")
    assert direct.items() <= pins("cpu.lock").items()
    assert pins("optimum.in").items() <= pins("optimum.lock").items()
    assert pins("docs.in").items() <= pins("docs.lock").items()


def test_cuda_differs_from_cpu_by_what_cuda_needs_alone():
    cpu, cuda = pins("cpu.lock"), pins("cuda.lock")
    extra = {name for name in cuda if lock.CUDA.fullmatch(name)}
    assert cuda == cpu | {name: cuda[name] for name in extra}
    assert {"triton", "cuda-toolkit", "nvidia-nccl-cu13", "nvidia-cudnn-cu13"} <= extra


def test_torch_is_the_same_everywhere():
    versions = {
        name: pins(name)["torch"] for name in ("main.in", "torch-cpu.txt", "optimum.in", "optimum.lock")
    }
    assert set(versions.values()) == {pins("cpu.lock")["torch"]}, versions
    assert lines("torch-cpu.txt") == [CPU_INDEX, f"torch=={pins('cpu.lock')['torch']}"]


def test_optimum_has_the_numpy_that_gptqmodel_needs():
    optimum = pins("optimum.lock")
    assert (optimum["gptqmodel"], optimum["numpy"]) == ("7.6.0", "2.2.6")
    assert optimum["numpy"] != pins("cpu.lock")["numpy"]  # or one environment would do


def test_conda_installs_the_cpu_lock():
    packages = yaml.safe_load((ENVS / "conda.yaml").read_text())["dependencies"]
    assert packages == ["python=3.11", "pip", {"pip": [CPU_INDEX, "-r cpu.lock"]}]


def test_container_installs_the_locks():
    text = (ENVS / "container.def").read_text()
    assert re.search(r"^From: python:3\.11-", text, re.M)
    assert "pip install --no-cache-dir --no-deps -r /opt/envs/{{ variant }}.lock" in text
    copied = re.findall(r"^\s+(envs/\S+) (/opt/envs/\S+)$", text, re.M)
    assert {source for source, _ in copied} == {"envs/cpu.lock", "envs/cuda.lock", "envs/torch-cpu.txt"}
    assert all((ROOT / source).is_file() and target == f"/opt/{source}" for source, target in copied)


def test_package_takes_its_dependencies_from_the_same_input():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11,<3.12"
    dynamic = project["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"] == {"file": ["envs/main.in"]}
    assert dynamic["optional-dependencies"]["dev"] == {"file": ["envs/dev.in"]}


def test_installed_versions_are_the_locked_ones():
    assert sys.version_info[:2] == (3, 11)
    installed = {name: version(name).partition("+")[0] for name in pins("cpu.lock")}
    assert installed == pins("cpu.lock")

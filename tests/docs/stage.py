"""A folder in which the pages' commands run as they are written: the product, and for real runs a tiny model.

The tiny stage has the shipped catalogue and grids under their own names; what changes is where model, text and tasks
come from, and budgets. So `make demo` there is the demo's whole route.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests import tiny
from tests.equivalence.scorer_models import write_benchmarks
from tests.workflow.conftest import PRODUCT, ROOT, product_copy
from workflow_scripts.plan.config import files, read, write_complete

TINY_WINDOWS = {"sequence_length": 128, "tokens": 1024}
METHODS = {
    "smoke": ["none", "lora-r2", "prompt-50", "prompt-100", "idp-50-100"],
    "bench": ["none", "prompt-50"],
}


def build(folder: Path) -> Path:
    """The product as a clone has it, with an environment that is installed."""
    product_copy(folder)
    for name in ("Makefile", "config", "config.yaml", "slurm", "reports/bench"):
        assert name not in PRODUCT
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    environment = folder / ".venv"
    environment.mkdir()
    for part in Path(sys.prefix).iterdir():
        if part.name != "installed":
            (environment / part.name).symlink_to(part)
    locks = [ROOT / "envs" / name for name in ("torch-cpu.txt", "cpu.lock")]
    stamp = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()
    (environment / "installed").write_text(f"{stamp}\n")
    (folder / "models/mine").mkdir(parents=True)  # where the tutorial puts the reader's own model
    return folder


def with_tiny_sources(folder: Path) -> Path:
    """Give the stage `folder` a tiny model, tiny text and tiny tasks under the shipped names, and small budgets."""
    sources = folder / "sources"
    for target in (sources / "model", folder / "models" / "mine"):
        tiny.write_model(target)
        config = target / "config.json"
        short, long = '"max_position_embeddings": 512', '"max_position_embeddings": 4096'
        config.write_text(config.read_text().replace(short, long))
    text = tiny.write_corpus(sources / "text.jsonl", documents=3000)
    tiny.write_corpus(folder / "notes.jsonl", documents=3000, seed=3)
    tasks = write_benchmarks(sources / "tasks")
    (folder / "data").mkdir()
    shutil.copy(tasks / "sciq" / "data.jsonl", folder / "data" / "sciq.jsonl")

    config = read(*files(root=folder))
    config["models"]["smollm2-135m"] = {
        "source": "local",
        "path": str(sources / "model"),
        "parameters": 40000,
    }
    for corpus in ("wikipedia", "c4-sample"):
        config["corpora"][corpus] = {"source": "local", "path": str(text)}
    config["benchmarks"]["pypi"] = {
        task: {"source": "local", "path": str(tasks / task / "data.jsonl")} for task in config["tasks"]
    }
    for regime in ("smoke", "bench"):
        config["training"][regime] |= TINY_WINDOWS
    for name in ("smoke", "bench"):
        grid = config["grids"][name]
        grid["tasks"] = ["arc_easy", "lambada_openai", "triviaqa"]
        grid["calibration"] = {"windows": 8, "length": 64}
        grid["evaluation"] |= {"items": 4, "generation_tokens": 4}
        grid["evaluation"]["perplexity"] |= {"windows": 2, "length": 64}
        grid["similarity"] |= {"methods": ["none"], "windows": 1, "length": 32}
        core = grid["blocks"]["core"] | {"compressors": ["gptq-w3-g64"], "methods": METHODS[name]}
        grid["blocks"] = {"core": core} | ({"seeds": core | {"seeds": [1]}} if name == "bench" else {})
    config["grids"]["bench"].pop("latency")
    write_complete(config, folder)
    return folder


def write(folder: Path, files: dict[str, str]) -> None:
    """Write a page's files into the stage."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def run(folder: Path, command: str) -> subprocess.CompletedProcess:
    """A command as a reader runs it in the entered environment; stdout and stderr together in `stdout`."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("SNAKEMAKE", "MAKE", "MFLAGS")) and key not in ("PYTHONPATH", "GRID", "VENV")
    }
    environment |= {"HF_HUB_OFFLINE": "1", "PATH": f"{folder}/.venv/bin{os.pathsep}{environment['PATH']}"}
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        text=True,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )

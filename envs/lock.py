"""Write the locks of envs/: `python envs/lock.py`, or one of them by its name (Linux x86-64, Python 3.11, network).

pip resolves main.in and dev.in against PyPI without installing anything. cuda.lock is the whole answer;
cpu.lock is cuda.lock without the packages that only PyTorch's CUDA build needs. optimum.lock and llmcompressor.lock
come each from its own input, also for the build without CUDA; docs.lock from docs.in. Without names all locks are
written.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ENVS = Path(__file__).resolve().parent
CUDA = re.compile(
    r"(nvidia|cuda)-(?!ml-py).*|triton"
)  # nvidia-ml-py only asks for GPUs; llm-compressor imports it


def resolve(*inputs: str) -> dict[str, str]:
    """Version by normalised name of everything that the inputs need."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        requirements = [part for name in inputs for part in ("-r", str(ENVS / name))]
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        # Only PyPI: a CPU build of PyTorch from elsewhere would hide what the CUDA build needs.
        elsewhere = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE")
        variables = {name: value for name, value in os.environ.items() if name not in elsewhere}
        variables["PIP_CONFIG_FILE"] = os.devnull
        subprocess.run([*command, "--report", str(report), *requirements], check=True, env=variables)
        found = json.loads(report.read_text())["install"]
    return {normal(item["metadata"]["name"]): item["metadata"]["version"] for item in found}


def normal(name: str) -> str:
    """A package's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def without_cuda(pins: dict[str, str]) -> dict[str, str]:
    """The pins that PyTorch's build without CUDA needs."""
    return {name: version for name, version in pins.items() if not CUDA.fullmatch(name)}


def write(lock: str, inputs: str, pins: dict[str, str]) -> None:
    lines = [f"# From {inputs} by lock.py (Linux x86-64, Python 3.11); install with --no-deps."]
    lines += [f"{name}=={pins[name].partition('+')[0]}" for name in sorted(pins)]
    (ENVS / lock).write_text("\n".join(lines) + "\n")


def main(names: list[str]) -> None:
    wanted = names or ["cuda.lock", "cpu.lock", "optimum.lock", "llmcompressor.lock", "docs.lock"]
    if {"cuda.lock", "cpu.lock"} & set(wanted):  # of one answer, or they would differ
        pins = resolve("main.in", "dev.in")
        write("cuda.lock", "main.in and dev.in", pins)
        write("cpu.lock", "main.in and dev.in", without_cuda(pins))
    if "optimum.lock" in wanted:
        write("optimum.lock", "optimum.in", without_cuda(resolve("optimum.in")))
    if "llmcompressor.lock" in wanted:
        write("llmcompressor.lock", "llmcompressor.in", without_cuda(resolve("llmcompressor.in")))
    if "docs.lock" in wanted:
        write("docs.lock", "docs.in", resolve("docs.in"))


if __name__ == "__main__":
    main(sys.argv[1:])

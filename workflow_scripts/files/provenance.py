"""The origin of an artefact: the `manifest` in its JSON, which is no result."""

import platform
import re
import resource
import socket
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

RECORDED_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "lm_eval",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "snakemake",
)


@dataclass(frozen=True)
class Provenance:
    """The origin of a job's artefact.

    recipe, code: digests of all that determines the artefact and of the code (plan/recipes.py). seed: None if nothing
    is random. device: where the job computes; None until it has chosen, or if it only reads files. started: time.time()
    at the job's start.
    """

    recipe: str
    code: str
    seed: int | None = None
    device: str | None = None
    threads: int = 1
    started: float = field(default_factory=time.time)

    def manifest(self, config: dict, inputs: dict) -> dict:
        """The artefact's `manifest`, with the slice of the configuration and the hashes of the inputs.

        It adds versions, host and cost until now; peak memory is this process's, in MiB.
        """
        return {
            "recipe": self.recipe,
            "code": self.code,
            "config": config,
            "inputs": inputs,
            "seed": self.seed,
            "device": self.device or "cpu",
            "threads": self.threads,
            "host": socket.gethostname(),
            "cpu": processor(),
            "python": platform.python_version(),
            "libraries": _versions(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 2),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        }


def processor() -> str:
    """Kind of this machine's processor, as its maker names it if the system tells."""
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8") if information.exists() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    """Version of each of RECORDED_LIBRARIES that is installed."""
    found = {}
    for name in RECORDED_LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found

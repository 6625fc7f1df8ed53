"""Programs of this package that run in other environments (envs/README.md), for libraries that this one can't have."""

import json
import os
import subprocess
from pathlib import Path

from workflow_scripts.compress.settings import CompressionError

VARIABLES = {"GPTQMODEL_DISABLE_PACK_EXT": "1", "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1"}


def interpreter(path: str, user: str, name: str = "optimum") -> str:
    """The Python of the environment `name`, as an absolute path, for `user`, the engine or format that needs it.

    CompressionError with the command that makes the environment.
    """
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise CompressionError(
            f"{user} runs in an environment of its own, and its Python {path} is not there: `make {name}` "
            f"makes it; if yours lies elsewhere, name its interpreter in the configuration: `{name}_python`"
        )
    return os.path.abspath(path)


def run_there(user: str, python: str, program: str, order: dict, work: Path) -> None:
    """Run `program` with the interpreter `python` on `order`, which it reads as JSON from a file in `work`.

    Two keys of the order serve every program: threads, and reason, the file in which it may say why it stops.
    CompressionError, naming `user` (the library that works there) and the reason, if it fails.
    """
    path, reason = work / "task.json", work / "reason.txt"
    reason.unlink(missing_ok=True)
    path.write_text(json.dumps(order | {"reason": str(reason.resolve())}), encoding="utf-8")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"GPTQMODEL_CPU_WORKERS": str(order["threads"]), **VARIABLES}
    code = subprocess.run([python, "-P", program, str(path)], env=variables, check=False).returncode
    if code:
        words = reason.read_text(encoding="utf-8").strip() if reason.exists() else f"exit code {code}"
        raise CompressionError(f"{user} stopped: {words}; its own words stand above in the log")

"""Optimum's environment (`make optimum`), if it is there: a program run in it, a checkpoint read with it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from workflow_scripts.compress.foreign.reading import read_folder

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-optimum" / "bin" / "python"
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="optimum's environment is not there: make optimum"),
]


def there(program, *arguments):
    """Run a program in optimum's environment."""
    variables = os.environ | {"TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([PYTHON, "-P", "-c", program, *map(str, arguments)], check=True, env=variables)


def read(source, tmp_path):
    """The record and the weights of a checkpoint that this package has read."""
    plain = tmp_path / "plain"
    plain.mkdir()
    record = read_folder(source, plain, str(PYTHON))
    config = json.loads((plain / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "float32"
    return record, load_file(plain / "model.safetensors")

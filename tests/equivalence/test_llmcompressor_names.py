"""Names of plan/modifiers.yaml against llm-compressor's own, in its environment, if that is there."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from workflow_scripts.plan.schema.modifiers import names

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-llmcompressor" / "bin" / "python"
ASK = """
import json, sys
from importlib.metadata import version
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES, QuantizationScheme
from llmcompressor.modifiers import Modifier, ModifierFactory
from llmcompressor.modifiers.quantization import QuantizationMixin

def keys(kind, *others):
    known = {key for other in others for key in other.model_fields}
    return sorted(key for key in kind.model_fields if not key.endswith("_") and key not in known)

ModifierFactory.refresh()
found = {"version": version("llmcompressor"), "modifiers": {}}
found |= {"common": keys(Modifier), "quantisation": keys(QuantizationMixin, Modifier)}
for name, kind in ModifierFactory._main_registry.items():
    if kind is not Modifier:
        others = [Modifier, QuantizationMixin] if issubclass(kind, QuantizationMixin) else [Modifier]
        required = sorted(key for key, field in kind.model_fields.items() if field.is_required())
        found["modifiers"][name] = {"keys": keys(kind, *others), "required": required, "quantises": len(others) == 2}
found |= {"schemes": sorted(PRESET_SCHEMES), "group": keys(QuantizationScheme), "arguments": keys(QuantizationArgs)}
open(sys.argv[1], "w").write(json.dumps(found))
"""


def test_the_names_are_those_of_the_pinned_version():
    (pin,) = re.findall(r"^llmcompressor==(\S+)$", (ROOT / "envs" / "llmcompressor.lock").read_text(), re.M)
    assert names()["version"] == pin


@pytest.mark.slow
@pytest.mark.skipif(
    not PYTHON.exists(), reason="llm-compressor's environment is not there: make llmcompressor"
)
def test_the_library_has_these_names_and_no_others(tmp_path):
    file = tmp_path / "names.json"
    subprocess.run([PYTHON, "-P", "-c", ASK, file], check=True, env=os.environ | {"TORCHDYNAMO_DISABLE": "1"})
    ours = {key: sorted(held) if isinstance(held, list) else held for key, held in names().items()}
    ours["modifiers"] = {
        name: {
            "keys": sorted(entry["keys"]),
            "required": sorted(entry.get("required", [])),
            "quantises": entry.get("quantises", False),
        }
        for name, entry in names()["modifiers"].items()
    }
    assert json.loads(file.read_text()) == ours

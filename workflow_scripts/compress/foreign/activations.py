"""The rounding of linears' inputs that a checkpoint's makers chose, as config.json in its folder keeps it."""

import json
import re
from pathlib import Path

from workflow_scripts.compress.foreign.formats import can_be_simulated
from workflow_scripts.files.artifacts import ArtifactError

INSIDE = re.compile(r"\.\d+\.")  # of names in a decoder layer
SCALES = {None: "float", "torch.float8_e4m3fn": "float8", "torch.uint8": "power"}


def read_activations(file: Path) -> tuple[dict | None, list[str]]:
    """Reads what the format's reader wrote to `file`: the entry for config.json (kernels/activations.py; None for
    nothing), and the linears outside of the decoder layers, whose inputs stay as they are."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    schemes: list[dict] = []
    linears, outside = {}, []
    for name, values in found.items():
        arguments = values.pop("arguments")
        if not can_be_simulated(arguments):
            continue
        if not INSIDE.search(name):
            outside.append(name)
            continue
        scheme = _scheme(name, arguments)
        if scheme not in schemes:
            schemes.append(scheme)
        linears[name] = {"scheme": schemes.index(scheme), **values}
    return ({"schemes": schemes, "linears": linears} if linears else None), outside


def _scheme(name: str, arguments: dict) -> dict:
    """`kernels.activations.Scheme` as its fields, from compressed-tensors' arguments."""
    kind = arguments.get("scale_dtype")
    if kind not in SCALES:
        raise ArtifactError(
            f"{name}: scales of its inputs are {kind}; known: float8_e4m3fn, uint8, or none given"
        )
    return {
        "type": arguments["type"],
        "bits": arguments["num_bits"],
        "group_size": arguments["group_size"],
        "symmetric": arguments["symmetric"],
        "scale_type": SCALES[kind],
    }

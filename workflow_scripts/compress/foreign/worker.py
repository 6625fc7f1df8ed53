"""Reads a compressed checkpoint with the library that owns its format: a program for the environment of `make optimum`.

    python -P worker.py TASK.json

TASK: format, source (folder), destination (folder), versions (file), threads. Writes float32 safetensors to
`destination` as transformers reads them, and the libraries' versions as JSON. It imports nothing of this package, whose
libraries the other environment lacks.
"""

import ctypes
import json
import shutil
import signal
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOADING = {
    "use_safetensors": True,
    "local_files_only": True,
    "trust_remote_code": False,
    "output_loading_info": True,
}


def main(path: str) -> None:
    task = json.loads(Path(path).read_text())
    import torch

    torch.set_num_threads(task["threads"])
    read, libraries = READERS[task["format"]]
    read(Path(task["source"]), Path(task["destination"]))
    found = {name: version(name) for name in (*libraries, "torch", "transformers")}
    Path(task["versions"]).write_text(json.dumps(found))


def compressed_tensors(source: Path, destination: Path) -> None:
    """Each linear by its own scheme; `CompressedTensorsConfig(dequantize=True)` would take one for all of them."""
    import torch
    from compressed_tensors.compressors.nvfp4 import base as nvfp4

    nvfp4.unpack_fp4_from_uint8 = partial(
        nvfp4.unpack_fp4_from_uint8, dtype=torch.float32
    )  # its bfloat16 rounds
    model = _load(source)
    model.hf_quantizer.compressor.decompress_model(model)
    _save(model, destination)


def bitsandbytes(source: Path, destination: Path) -> None:
    """In the dtype that bitsandbytes itself multiplies with, which the file names; float32 holds it."""
    _save(_load(source).dequantize(), destination)


def modelopt(source: Path, destination: Path) -> None:
    """NVFP4, FP8, MXFP4 and MXFP8 by GPTQModel, without the scales of activations that it passes on."""
    import torch
    from gptqmodel.utils.model_dequant import dequantize_model
    from transformers import AutoModelForCausalLM

    folder = destination / "dequantised"
    dequantize_model(source, folder, target_dtype=torch.float32)  # its default, bfloat16, rounds
    model, found = AutoModelForCausalLM.from_pretrained(folder, **LOADING)
    _refuse_incomplete(source, found)
    model.save_pretrained(destination)
    shutil.rmtree(folder)


def _load(source: Path) -> "PreTrainedModel":
    """The quantised model; SystemExit if the files don't fill it, since transformers draws the rest at random."""
    import torch
    from transformers import AutoModelForCausalLM

    model, found = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, device_map="cpu", **LOADING
    )
    _refuse_incomplete(source, found)
    return model


def _refuse_incomplete(source: Path, found: dict) -> None:
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        if found[kind]:
            raise SystemExit(
                f"{source}: {kind.replace('_', ' ')}: {', '.join(map(str, sorted(found[kind])))}"
            )


def _save(model: "PreTrainedModel", destination: Path) -> None:
    """The weights as a model of the same architecture without quantisation would hold them."""
    import torch
    from transformers import AutoModelForCausalLM

    config = type(model.config).from_dict(
        {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    )
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    held = model.state_dict()
    state = {name: held[name].float() for name in plain.state_dict()}
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    plain.save_pretrained(destination)


READERS = {
    "compressed-tensors": (compressed_tensors, ("compressed-tensors",)),
    "bitsandbytes": (bitsandbytes, ("bitsandbytes",)),
    "modelopt": (modelopt, ("gptqmodel",)),
}

if __name__ == "__main__":
    if sys.platform == "linux":  # a killed job leaves no process behind that computes on
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    main(sys.argv[1])

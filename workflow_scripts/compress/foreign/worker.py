"""Reads a compressed checkpoint with the library that owns its format: a program for the environment of `make optimum`.

    python -P worker.py TASK.json

TASK: format, source (folder), destination (folder), versions, reason (files), threads. Writes float32 safetensors to
`destination` as transformers reads them, there too activations.json ({linear: {arguments, scale, zero, global_scale}}
of inputs that are quantised while the model runs), and the libraries' versions as JSON. It imports nothing of this
package, whose libraries the other environment lacks. If it can't read the checkpoint, `reason` says why.
"""

import ctypes
import json
import math
import shutil
import signal
import sys
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

# Ends of the names of tensors that serve at run time alone.
RUNTIME = (
    "input_scale",
    "input_global_scale",
    "input_zero_point",
    "output_scale",
    "k_scale",
    "v_scale",
    "q_scale",
)


def main(path: str) -> None:
    task = json.loads(Path(path).read_text(encoding="utf-8"))
    import torch

    torch.set_num_threads(task["threads"])
    read, libraries = READERS[task["format"]]
    try:
        read(Path(task["source"]), Path(task["destination"]))
    except (Exception, SystemExit) as error:  # one line for the caller
        kind = "" if isinstance(error, SystemExit) else f"{task['source']}: {type(error).__name__}: "
        reason = (str(error).strip().splitlines() or ["no words"])[0][:300]
        Path(task["reason"]).write_text(kind + reason, encoding="utf-8")
        raise
    found = {name: version(name) for name in (*libraries, "torch", "transformers")}
    Path(task["versions"]).write_text(json.dumps(found), encoding="utf-8")


def compressed_tensors(source: Path, destination: Path) -> None:
    """Each linear by its own scheme, from the tensors that this scheme's compressor names.

    transformers could load the model instead, but compressed-tensors 0.19 then expects zero points of another shape
    than it writes, and rounds NVFP4 to bfloat16.
    """
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.compressors.nvfp4 import base as nvfp4
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from safetensors.torch import save_file

    # Its default, bfloat16, rounds.
    nvfp4.unpack_fp4_from_uint8 = partial(nvfp4.unpack_fp4_from_uint8, dtype=torch.float32)
    model = _plain(source)
    known = {key: value for key, value in _scheme(source).items() if key in QuantizationConfig.model_fields}
    apply_quantization_config(model, QuantizationConfig.model_validate(known))
    tensors, inputs = _tensors(source), {}
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        # The scheme of an attention module, which has no weight, is that of its KV cache.
        if scheme is not None and scheme.input_activations is not None and hasattr(module, "weight"):
            inputs[name] = _of_inputs(source, name, scheme.input_activations, tensors)
        if scheme is None or scheme.weights is None:
            continue
        form = scheme.format or infer_module_format(type(module), scheme)
        compressor = BaseCompressor.get_value_from_registry(getattr(form, "value", form))
        needed = [part for part in compressor.compression_param_names(scheme) if part.startswith("weight")]
        if missing := [part for part in needed if f"{name}.{part}" not in tensors]:
            raise SystemExit(f"{source}: {name} has no {', '.join(missing)}, which {form} needs")
        parts = {part: tensors.pop(f"{name}.{part}") for part in needed}
        parts = {
            part: value.float() if value.dtype in (torch.bfloat16, torch.float16) else value
            for part, value in parts.items()
        }
        _require_bits(source, name, scheme.weights.num_bits, parts)
        order = _of_groups(source, name, scheme.weights, parts, tensors)
        weight = compressor.decompress(parts, scheme)["weight"]
        tensors[f"{name}.weight"] = weight if order is None else weight[:, order.argsort()]
    (destination / "activations.json").write_text(json.dumps(inputs), encoding="utf-8")
    save_file(_floats(source, tensors), destination / "model.safetensors")


def _scheme(source: Path) -> dict[str, Any]:
    """What config.json says of the quantisation, as compressed-tensors 0.19 takes it: it reads columns in the order of
    their groups (`actorder: group`) no more."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    scheme: dict[str, Any] = config.get("quantization_config") or config["compression_config"]
    for group in (scheme.get("config_groups") or {}).values():
        weights = group.get("weights") or {}
        if weights.get("actorder") in (True, "group", "dynamic"):
            weights["actorder"] = None
    return scheme


def _require_bits(source: Path, name: str, bits: int, parts: "dict[str, torch.Tensor]") -> None:
    """SystemExit if a linear is packed with other bits than config.json says: unpacking would cut its codes."""
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    if "weight_packed" not in parts or "weight_shape" not in parts:
        return
    rows, columns = parts["weight_shape"].tolist()
    held = tuple(parts["weight_packed"].shape)
    asked = (rows, pack_to_int32(torch.zeros(1, columns, dtype=torch.int8), bits).shape[1])
    if held != asked:
        raise SystemExit(
            f"{source}: {name}.weight_packed is {held}; {bits} bits, as config.json says, of {(rows, columns)} "
            f"weights are {asked}"
        )


def _of_groups(
    source: Path,
    name: str,
    arguments: Any,
    parts: "dict[str, torch.Tensor]",
    tensors: "dict[str, torch.Tensor]",
) -> "torch.Tensor | None":
    """Take from `tensors` what older makers stored of the linear `name` that its scheme doesn't need: zero points of a
    symmetric grid, and the group of each column. Columns of scattered groups are put in order in `parts`; returns that
    order, None for columns that lie so already."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

    zero, group = (tensors.pop(f"{name}.weight_{part}", None) for part in ("zero_point", "g_idx"))
    if zero is not None and zero.any():
        raise SystemExit(f"{source}: {name}.weight_zero_point is not 0, and config.json says `symmetric`")
    if group is None or -1 in group or not (group.diff() < 0).any():
        return None
    size, order = arguments.group_size, group.argsort(stable=True)
    if "weight_packed" not in parts or group[order].tolist() != [i // size for i in range(len(group))]:
        raise SystemExit(f"{source}: {name}.weight_g_idx gives no packed columns groups of {size}")
    shape = tuple(parts["weight_shape"].tolist())
    codes = unpack_from_int32(parts["weight_packed"], arguments.num_bits, shape)[:, order]
    parts["weight_packed"] = pack_to_int32(codes, arguments.num_bits)
    return order


def _of_inputs(source: Path, name: str, arguments: Any, tensors: "dict[str, torch.Tensor]") -> dict[str, Any]:
    """The quantisation of a linear's inputs: compressed-tensors' arguments and the checkpoint's values."""
    found = {"arguments": arguments.model_dump(mode="json")}
    if arguments.dynamic is False and f"{name}.input_scale" not in tensors:
        raise SystemExit(f"{source}: {name} has no input_scale, which its static activations need")
    for part, key in (
        ("input_scale", "scale"),
        ("input_zero_point", "zero"),
        ("input_global_scale", "global_scale"),
    ):
        if (given := tensors.get(f"{name}.{part}")) is not None:
            if given.numel() != 1:
                raise SystemExit(f"{source}: {name}.{part} holds {given.numel()} values; one is read")
            found[key] = given.float().item()
    return found


def bitsandbytes(source: Path, destination: Path) -> None:
    """In the dtype that bitsandbytes itself multiplies with, which the file names; float32 holds it."""
    import torch
    from transformers import AutoModelForCausalLM

    tensors = _tensors(source)
    _require_rows(source, tensors)
    _require_statistics(source, tensors)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=torch.float32,
        device_map="cpu",
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
        attn_implementation="eager",  # its makers' own may need a library that is missing here
    )
    model, found = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[kind]:
            raise SystemExit(
                f"{source}: {kind.replace('_', ' ')}: {', '.join(map(str, sorted(found[kind])))}"
            )
    held, plain = model.dequantize().state_dict(), _plain(source)
    plain.load_state_dict({name: held[name].float() for name in plain.state_dict()}, assign=True)
    plain.tie_weights()
    plain.save_pretrained(destination)


def _require_rows(source: Path, tensors: "dict[str, torch.Tensor]") -> None:
    """SystemExit for an 8-bit linear without its scale of each row, which is named; transformers names none."""
    for name, held in tensors.items():
        linear, _, part = name.rpartition(".")
        if part != "weight" or held.is_floating_point() or held.dim() != 2 or held.itemsize != 1:
            continue
        scales = tensors.get(f"{linear}.SCB")
        if scales is None or not scales.is_floating_point() or scales.numel() != len(held):
            has = "is missing" if scales is None else f"is {scales.dtype} {tuple(scales.shape)}"
            raise SystemExit(f"{source}: {linear}.SCB {has}; {name} has {len(held)} rows, each with a scale")


def _require_statistics(source: Path, tensors: "dict[str, torch.Tensor]") -> None:
    """SystemExit for a 4-bit linear whose tensors are not those that its state asks for: bitsandbytes takes codes of
    scales for scales if those of the second level are missing, and reads beyond scales that are too few."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    for name, held in tensors.items():
        weight, found, kind = name.partition(".quant_state.bitsandbytes__")
        if not found:
            continue
        if kind != config.get("bnb_4bit_quant_type", "fp4"):
            raise SystemExit(
                f"{source}: {weight} is of {kind}, and config.json's bnb_4bit_quant_type is another"
            )
        state = json.loads(bytes(held.tolist()))
        values = math.prod(state["shape"])
        bytes_held = tensors[weight].numel() * tensors[weight].itemsize if weight in tensors else 0
        asked = {"absmax": -(-values // state["blocksize"]), "quant_map": 16}
        scales = tensors.get(f"{weight}.absmax")
        if scales is not None and not scales.is_floating_point():
            asked |= {
                "nested_absmax": -(-asked["absmax"] // state.get("nested_blocksize", 256)),
                "nested_quant_map": 256,
            }
        if bytes_held != -(-values // 2):
            raise SystemExit(
                f"{source}: {weight} holds {bytes_held} bytes; its state asks for {-(-values // 2)}"
            )
        for part, size in asked.items():
            there = tensors.get(f"{weight}.{part}")
            if there is None or there.numel() != size:
                has = "is missing" if there is None else f"holds {there.numel()} values"
                raise SystemExit(f"{source}: {weight}.{part} {has}; its state asks for {size}")


def modelopt(source: Path, destination: Path) -> None:
    """NVFP4, FP8, MXFP4 and MXFP8 by GPTQModel, without the scales of activations that it passes on."""
    import torch
    from gptqmodel.utils.model_dequant import dequantize_model
    from safetensors.torch import save_file

    folder = destination / "dequantised"
    dequantize_model(source, folder, target_dtype=torch.float32)  # its default, bfloat16, rounds
    save_file(_floats(source, _tensors(folder)), destination / "model.safetensors")
    shutil.rmtree(folder)


def _plain(source: Path) -> "PreTrainedModel":
    """The architecture without quantisation and without values."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")


def _tensors(folder: Path) -> "dict[str, torch.Tensor]":
    """All tensors of the folder's safetensors files."""
    from safetensors.torch import load_file

    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def _floats(source: Path, tensors: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """Tensors in float32 but those that quantise activations and the KV cache; SystemExit for codes that are left."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(RUNTIME)}
    for name, tensor in kept.items():
        if not tensor.is_floating_point() or tensor.itemsize == 1:
            raise SystemExit(
                f"{source}: {name} ({tensor.dtype}) belongs to no linear that config.json quantises"
            )
    return {name: tensor.float().contiguous() for name, tensor in kept.items()}


READERS = {
    "compressed-tensors": (compressed_tensors, ("compressed-tensors",)),
    "bitsandbytes": (bitsandbytes, ("bitsandbytes",)),
    "modelopt": (modelopt, ("gptqmodel",)),
}

if __name__ == "__main__":
    if sys.platform == "linux":  # a killed job leaves no process behind that computes on
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    main(sys.argv[1])

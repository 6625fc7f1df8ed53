"""A checkpoint in any known format as a plain folder: float32 safetensors, config.json, tokenizer."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from workflow_scripts.compress.foreign.activations import read_activations
from workflow_scripts.compress.foreign.elsewhere import read_elsewhere
from workflow_scripts.compress.foreign.formats import Format, identify, quantisation
from workflow_scripts.compress.foreign.packed import CACHE, LAYOUTS, unpacked
from workflow_scripts.files.artifacts import ArtifactError, named, read_json, write_json
from workflow_scripts.files.source_files import AT_SOURCE, TOKENIZER
from workflow_scripts.kernels.activations import KEY
from workflow_scripts.sources.model_folder import UNBUILT, unbuilt
from workflow_scripts.sources.weights import FLOATS, finite, stored, targets

SHARD = 5 * 10**9  # bytes of a shard
# Keys of config.json that speak of another storage, or choose code: the plain folder has none of the checkpoint's.
LEFT_OUT = (
    KEY,
    *("quantization_config", "compression_config", "transformers_weights", "dtype", "torch_dtype"),
    *("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"),
)


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose tensors are about to be read.

    tensors: (name, values) as the plain folder names them, read when asked for. folder: of config.json and tokenizer.
    sizes: bytes of each stored tensor, by name. libraries: {name: version} of what reads it. activations: how inputs
    are quantised while the model runs, for the plain folder's config.json; left_alone: what else is, by their makers
    alone, in words.
    """

    tensors: Iterator[tuple[str, torch.Tensor]]
    folder: Path
    sizes: dict[str, int]
    libraries: dict[str, str]
    activations: dict | None = None
    left_alone: list[str] = field(default_factory=list)


def read_folder(source: Path, destination: Path, python: str = "") -> dict:
    """Write the checkpoint in `source` to the empty folder `destination` as a plain one; what its record says:

    format; bytes_on_disk: of all its tensors, packed as they are; bits_per_weight: 8 bytes_on_disk over the weights
    that they stand for, so with all overhead; modules: {module: bytes of its stored weight, scales, zeros and indices
    included, its bias left out}, by the names of the plain folder; runtime_quantisation, simulated: `Format.runtime`
    and `Format.simulated`; libraries: {name: version} of what read it. python: the interpreter of `make optimum`, for
    formats whose library lives there. Raises ArtifactError that names file and tensor, or CompressionError if that
    environment is missing or stops.
    """
    source, destination = Path(source), Path(destination)
    found = identify(source)
    with (
        tempfile.TemporaryDirectory(dir=destination.parent, prefix=".reading-") as work,
        named(work, source),
    ):
        opened = _open(found, source, Path(work), python)
        further = {KEY: opened.activations} if opened.activations else {}
        written = write_plain(opened.tensors, opened.folder, destination, further)
    runtime = [found.runtime, *opened.left_alone]
    size = sum(opened.sizes.values())
    return {
        "format": found.name,
        "bits_per_weight": 8 * size / written,
        "bytes_on_disk": size,
        "modules": by_module(opened.sizes),
        "runtime_quantisation": ", ".join(filter(None, runtime)) or None,
        "simulated": found.simulated if opened.activations else None,
        "libraries": opened.libraries,
    }


def _open(found: Format, source: Path, work: Path, python: str) -> Opened:
    """The checkpoint of format `found` in `source`; `work` is an empty folder for intermediate files."""
    if found.name == "gguf":
        from workflow_scripts.compress.foreign.gguf_file import read_gguf

        folder, sizes = read_gguf(source, work)
        libraries = {name: version(name) for name in ("gguf", "transformers")}
        return Opened(_plain(stored(folder)), folder, sizes, libraries)
    headers = stored(source)
    sizes = {name: _bytes(entry) for header in headers.values() for name, entry in header.items()}
    libraries = {"safetensors": version("safetensors")}
    if found.name == "plain":
        return Opened(_plain(headers), source, sizes, libraries)
    if found.name in LAYOUTS:
        entries, get = _lookup(headers)
        quantised, _ = quantisation(source)
        tensors = unpacked(entries, get, found.name, quantised or {}, partial(_placeless, source))
        cached = found.name == "fp8" and any(name.endswith(CACHE) for name in sizes)
        left_alone = ["KV cache 8-bit float, static"] if cached else []
        return Opened(_located(tensors, source), source, sizes, libraries, left_alone=left_alone)
    libraries = read_elsewhere(found.name, source, work, python)
    activations, outside = read_activations(work / "activations.json")
    left_alone = [f"activations of {name}" for name in outside]
    return Opened(_plain(stored(work)), source, sizes, libraries, activations, left_alone)


def _located(tensors: Iterator[tuple[str, torch.Tensor]], source: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors; an ArtifactError about one of them names the checkpoint too."""
    try:
        yield from tensors
    except ArtifactError as error:
        raise ArtifactError(f"{source}: {error}") from None


def _placeless(source: Path, names: list[str]) -> set[str]:
    """Those of a checkpoint's names for which the architecture of its config.json has no place."""
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=True)
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    except UNBUILT as error:
        raise ArtifactError(f"{source}: {unbuilt(error)}") from error
    places = model.state_dict()
    return {name for name, (target, _) in targets(model, names).items() if target not in places}


def _lookup(headers: dict[Path, dict]) -> tuple[dict[str, dict], Callable[[str], torch.Tensor]]:
    """The entries of all files' headers by name, and a function that reads the tensor of a name."""
    places = {name: file for file, header in headers.items() for name in header}
    handles = {file: safe_open(file, "pt") for file in headers}
    entries = {name: entry for header in headers.values() for name, entry in header.items()}
    return entries, lambda name: handles[places[name]].get_tensor(name)


def _bytes(entry: dict) -> int:
    return entry["data_offsets"][1] - entry["data_offsets"][0]


def by_module(sizes: dict[str, int]) -> dict[str, int]:
    """Module -> bytes of what is stored of its weight: every tensor named `<module>.<part>` but the bias."""
    modules: dict[str, int] = {}
    for name, size in sizes.items():
        module, statistics, _ = name.partition(".weight.")  # bitsandbytes' `<module>.weight.absmax`
        if not statistics:
            module, _, part = name.rpartition(".")
            if part == "bias":
                continue
        modules[module] = modules.get(module, 0) + size
    return modules


def _plain(headers: dict[Path, dict]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of files without quantisation."""
    for file, header in headers.items():
        for name, entry in header.items():
            if entry["dtype"] not in FLOATS:
                raise ArtifactError(
                    f"{file}: {name} is of type {entry['dtype']}, and config.json names no quantisation; plain weights "
                    f"are {', '.join(FLOATS)}"
                )
        with safe_open(file, "pt") as handle:
            for name in header:
                yield name, handle.get_tensor(name)


def write_plain(
    tensors: Iterable[tuple[str, torch.Tensor]], source: Path, destination: Path, further: dict | None = None
) -> int:
    """Write tensors (name, values of any float type) as float32 shards of a plain folder, with the tokenizer and the
    configuration of `source`, and `further` in the latter; their number of values.

    One shard is in memory. ArtifactError names a tensor with a value that is not finite.
    """
    places: dict[str, int] = {}
    shard: dict[str, torch.Tensor] = {}
    size = values = number = 0
    for name, tensor in tensors:
        if not finite(tensor):
            raise ArtifactError(f"{source}: {name} holds NaN or infinite values")
        if shard and size + 4 * tensor.numel() > SHARD:
            save_file(shard, destination / f"{number}.part")
            shard, size, number = {}, 0, number + 1
        shard[name] = tensor.float().contiguous()
        places[name] = number
        size, values = size + 4 * tensor.numel(), values + tensor.numel()
    save_file(shard, destination / f"{number}.part")
    _name_shards(destination, places, 4 * values)
    config = read_json(source / "config.json", advice=AT_SOURCE)
    kept = {key: value for key, value in config.items() if key not in LEFT_OUT}
    write_json(destination / "config.json", kept | {"dtype": "float32"} | (further or {}))
    for name in (*TOKENIZER, "generation_config.json"):
        if (source / name).exists():
            shutil.copyfile(source / name, destination / name)
    return values


def _name_shards(folder: Path, places: dict[str, int], size: int) -> None:
    """Give the parts the names that transformers knows, and write their index if there are several."""
    count = 1 + max(places.values(), default=0)
    names = [f"model-{number + 1:05d}-of-{count:05d}.safetensors" for number in range(count)]
    if count == 1:
        names = ["model.safetensors"]
    for number, name in enumerate(names):
        (folder / f"{number}.part").rename(folder / name)
    if count > 1:
        index = {
            "metadata": {"total_size": size},
            "weight_map": {name: names[number] for name, number in places.items()},
        }
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), encoding="utf-8")

"""A compressed model on disk: weights.safetensors and compression.json (what was done, with proof).

Two stored forms. *Packed*: the decoder linears as codes, or bitmask and values; embeddings, norms, biases and head are
the dense model's. `dense` stores no tensor. *Folder*: every tensor in float32, with a config.json of its own beside the
weights, so that depth and widths may differ; transformers loads the folder as it is. A model is rebuilt from the dense
folder and the compressed one, and is refused if anything isn't as claimed.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from workflow_scripts.compress.bit_packing import from_stored, misshapen
from workflow_scripts.compress.decoder import decoder_layers, get_weight, layer_linears, set_weight
from workflow_scripts.compress.settings import ALGORITHMS, WHOLE, CompressionError, CompressorSettings
from workflow_scripts.compress.solver import SolvedLinear
from workflow_scripts.compress.task import Compressed
from workflow_scripts.compress.walk import measure
from workflow_scripts.files.artifacts import (
    ArtifactError,
    atomic_path,
    digest,
    read_json,
    safetensors_header,
    sha256_file,
    write_json,
)
from workflow_scripts.files.members import COMPRESSION, MANIFEST, WEIGHTS
from workflow_scripts.kernels.activations import attach

CONFIG = "config.json"


def dense_hash(dense_folder: Path) -> str:
    """SHA-256 of the dense weights, as the fetch recorded it."""
    path = Path(dense_folder) / MANIFEST
    try:
        return read_json(path)["weights_sha256"]
    except KeyError:
        raise ArtifactError(
            f"{path}: weights_sha256 is missing; delete {dense_folder} and fetch it again"
        ) from None


def dense_bits(dense_folder: Path) -> float:
    """Mean bits per weight of the model folder's safetensors files, from their headers."""
    size = count = 0
    for path in sorted(Path(dense_folder).glob("*.safetensors")):
        for entry in safetensors_header(path)[0].values():
            size += 8 * (entry["data_offsets"][1] - entry["data_offsets"][0])
            count += torch.Size(entry["shape"]).numel()
    if not count:
        raise ArtifactError(f"{dense_folder}: holds no *.safetensors weights")
    return size / count


def join(parts: list[Path], path: Path, metadata: dict[str, str] | None = None) -> int:
    """Write the tensors of several safetensors files as one, as `save_file` would; returns their bytes.

    One tensor at a time is in memory. Names differ among the parts.
    """
    found = []
    for part in parts:
        header, begin = safetensors_header(part)
        for name, entry in header.items():
            start, stop = entry["data_offsets"]
            found.append((name, entry["dtype"], entry["shape"], part, begin + start, stop - start))
    found.sort(key=lambda entry: (-int(entry[1][1:]), entry[1], entry[0]))  # F32, F16, U8: each lies aligned
    combined: dict[str, dict] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, dtype, shape, _, _, size in found:
        combined[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(combined, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, part, start, size in found:
            with open(part, "rb") as handle:
                handle.seek(start)
                out.write(handle.read(size))
    return end


def save_compressed(
    folder: Path, found: Compressed, compressor: dict, dense_folder: Path, manifest: dict
) -> None:
    """Write weights, then the proof: a folder with a proof is complete.

    compressor: the settings that made `found` of the model in `dense_folder`.
    effective_bits: stored bits per weight of the dense model's decoder linears, scales, zeros, masks and group indices
    included; bytes_on_disk: the same in bytes (the dense model's own for `dense`; of a whole model, as it would be
    shipped).
    """
    folder = Path(folder)
    whole = found.whole
    metadata = {"format": "pt", "config": digest(whole.config)} if whole else None
    with atomic_path(folder / WEIGHTS) as temporary:
        size = join(found.parts, temporary, metadata)
    (folder / CONFIG).unlink(missing_ok=True)
    if whole:
        size = whole.size
        write_json(folder / CONFIG, whole.config | {"transformers_weights": WEIGHTS})
    if compressor["algorithm"] == "dense":
        size = round(found.weights * dense_bits(dense_folder) / 8)
    proof = {
        "compressor": compressor,
        "calibration": found.drawn,
        "model": {"name": Path(dense_folder).name, "weights_sha256": dense_hash(dense_folder)},
        "layers": found.records,
        "effective_bits": 8 * size / found.weights,
        "bytes_on_disk": size,
        "weights_sha256": sha256_file(folder / WEIGHTS),
        "manifest": manifest,
    }
    if whole:
        chosen = {"influence": whole.influence} if whole.influence else {}
        proof |= {"whole": {"layers": whole.layers, **chosen}}
        proof |= {"checkpoint": whole.checkpoint} if whole.checkpoint else {}
    write_json(folder / COMPRESSION, proof, schema="compression")


def load_compressed(
    dense_folder: Path,
    compressed_folder: Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    activations: bool = True,
) -> PreTrainedModel:
    """The compressed model in eval mode, weights bit-exact to those evaluated, cast to `dtype`.

    activations: whether the inputs of linears are rounded as the makers of a checkpoint do it.
    Raises ArtifactError, naming file, layer and linear, if the dense model is another one, the weights file was
    changed, or a stored weight has more levels or another sparsity than claimed.
    """
    from workflow_scripts.sources.models import load_dense, load_whole

    if is_whole(compressed_folder):
        read_whole(dense_folder, compressed_folder)
        whole = load_whole(compressed_folder, dtype, device)
        return attach(whole) if activations else whole
    proof, tensors = read_compressed(dense_folder, compressed_folder)
    settings = settings_of(proof, Path(compressed_folder))
    model = load_dense(dense_folder, dtype=dtype, device=device)
    if settings.algorithm != "dense":
        put_compressed(model, tensors, proof["layers"], settings, Path(compressed_folder))
    return model


def is_whole(compressed_folder: Path) -> bool:
    """True if the compressed model is stored in the folder form."""
    return "whole" in read_json(Path(compressed_folder) / COMPRESSION, schema="compression")


def read_whole(dense_folder: Path, compressed_folder: Path) -> dict:
    """The proof of a model in the folder form; ArtifactError if it, the weights, config.json and the dense model don't
    belong to each other."""
    folder = Path(compressed_folder)
    proof = _read_proof(dense_folder, folder)
    settings_of(proof, folder)
    with safe_open(folder / WEIGHTS, "pt") as handle:
        sealed = (handle.metadata() or {}).get("config")
    config = {
        key: value for key, value in read_json(folder / CONFIG).items() if key != "transformers_weights"
    }
    if digest(config) != sealed:
        raise ArtifactError(f"{folder / CONFIG}: not the one that {WEIGHTS} names (SHA-256); compress again")
    return proof


def _read_proof(dense_folder: Path, folder: Path) -> dict:
    """compression.json; ArtifactError if it speaks of other weights than these, or of another dense model."""
    proof = read_json(folder / COMPRESSION, schema="compression")
    dense = dense_hash(dense_folder)
    if dense != proof["model"]["weights_sha256"]:
        raise ArtifactError(
            f"{folder / COMPRESSION}: made from dense weights {proof['model']['weights_sha256'][:12]}, "
            f"but {dense_folder} holds {dense[:12]}; compress again"
        )
    if sha256_file(folder / WEIGHTS) != proof["weights_sha256"]:
        raise ArtifactError(
            f"{folder / WEIGHTS}: not the file that {COMPRESSION} describes (SHA-256); compress again"
        )
    return proof


def read_compressed(dense_folder: Path, compressed_folder: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """The proof and the packed tensors; ArtifactError if they don't belong to each other or to the dense model."""
    folder = Path(compressed_folder)
    proof = _read_proof(dense_folder, folder)
    try:
        tensors = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise ArtifactError(f"{folder / WEIGHTS}: {error}; compress again") from error
    if proof["layers"]:
        size = sum(tensor.nbytes for tensor in tensors.values())
        weights = sum(rows * columns for rows, columns in (record["shape"] for record in proof["layers"]))
        for key, found in (("bytes_on_disk", size), ("effective_bits", 8 * size / weights)):
            if proof[key] != found:
                raise ArtifactError(
                    f"{folder / COMPRESSION}: {key} {proof[key]}, but {WEIGHTS} holds {found}; compress again"
                )
    return proof, tensors


def settings_of(proof: dict, folder: Path) -> CompressorSettings:
    """The compressor that a proof names; ArtifactError for one that doesn't exist, or `dense` beside stored layers."""
    where = f"{Path(folder) / COMPRESSION}: compressor"
    try:
        settings = CompressorSettings(**proof["compressor"])
    except (TypeError, CompressionError) as error:
        raise ArtifactError(f"{where}: {error}; compress again") from None
    if settings.algorithm not in ALGORITHMS:
        raise ArtifactError(
            f"{where}: {settings.algorithm} is none of {', '.join(ALGORITHMS)}; compress again"
        )
    if (settings.algorithm in WHOLE) != ("whole" in proof):
        raise ArtifactError(
            f"{where}: {settings.algorithm} in the other of the two stored forms; compress again"
        )
    if (settings.algorithm == "dense") != (not proof["layers"]):
        raise ArtifactError(
            f"{where}: {settings.algorithm} beside {len(proof['layers'])} stored linears; compress again"
        )
    return settings


def by_linear(tensors: dict[str, torch.Tensor]) -> dict[tuple[int, str], dict[str, torch.Tensor]]:
    """(layer, linear) -> {part: tensor} of a weights file's tensors."""
    parts: dict[tuple, dict] = {}
    for key, tensor in tensors.items():
        layer, _, rest = key.partition(".")
        linear, _, part = rest.rpartition(".")
        parts.setdefault((int(layer) if layer.isdecimal() else layer, linear), {})[part] = tensor
    return parts


def put_compressed(
    model: PreTrainedModel, tensors: dict, records: list[dict], settings: CompressorSettings, folder: Path
) -> None:
    """Write all stored linears into a dense model, each checked against its record."""
    for linear, _, stored in placed(model, tensors, records, settings, folder):
        set_weight(linear, stored.weight)


def placed(
    model: PreTrainedModel, tensors: dict, records: list[dict], settings: CompressorSettings, folder: Path
) -> Iterator[tuple[nn.Module, dict, SolvedLinear]]:
    """(the dense model's linear, its record, the stored linear that replaces it) for all, as `proven` gives them."""
    layers = decoder_layers(model)
    expected = {(i, name) for i, layer in enumerate(layers) for name in layer_linears(layer)}
    claimed = [(record["layer"], record["linear"]) for record in records]
    for what, found in ((COMPRESSION, set(claimed)), (WEIGHTS, set(by_linear(tensors)))):
        if odd := sorted(expected ^ found, key=str):
            layer, linear = odd[0]
            raise ArtifactError(f"{folder}: layer {layer}, linear {linear}: in only one of model and {what}")
    if len(claimed) > len(expected):
        raise ArtifactError(
            f"{folder}: {COMPRESSION} records {len(claimed)} linears, the model has {len(expected)}"
        )
    for record, stored in proven(tensors, records, settings, folder):
        linear = layers[record["layer"]].get_submodule(record["linear"])
        if record["shape"] != (shape := list(get_weight(linear).shape)):
            raise ArtifactError(
                f"{_where(folder, record)}: recorded as {record['shape']}, the model's is {shape}"
            )
        yield linear, record, stored


def proven(
    tensors: dict, records: list[dict], settings: CompressorSettings, folder: Path
) -> Iterator[tuple[dict, SolvedLinear]]:
    """(record, stored linear) for all, each unpacked and checked when it is asked for."""
    parts = by_linear(tensors)
    for record in records:
        where = _where(folder, record)
        mine = parts.get((record["layer"], record["linear"]), {})
        if problem := misshapen(mine, *record["shape"]):
            raise ArtifactError(f"{where}: {problem}; compress again")
        stored = from_stored(mine, record["shape"][1], settings)
        if problem := _unproven(stored, record, settings):
            raise ArtifactError(f"{where}: {problem}; compress again")
        yield record, stored


def _where(folder: Path, record: dict) -> str:
    return f"{folder}: layer {record['layer']}, linear {record['linear']}"


def _unproven(stored: SolvedLinear, record: dict, settings: CompressorSettings) -> str | None:
    """The first claim of its record or of the compressor's settings that a stored weight breaks; None if all hold."""
    if not torch.isfinite(stored.weight).all():
        return "it holds NaN or infinite values"
    quantized = stored.quantized
    if settings.bits and quantized and not (quantized.scale > 0).all():
        return "a scale is not positive"
    measured = measure(stored)
    for key in ("levels", "sparsity"):
        if measured[key] != record[key]:
            return f"{key} {measured[key]}, but {record[key]} is claimed"
    if settings.bits and (measured["levels"] is None or measured["levels"] > 2**settings.bits):
        return f"{measured['levels']} levels are no {settings.bits}-bit weight"
    if settings.bits and quantized:
        if quantized.bits != settings.bits:
            return f"codes of {quantized.bits} bits are no {settings.bits}-bit weight"
        if settings.symmetric and (quantized.zero != 2 ** (settings.bits - 1)).any():
            return f"a zero point is not {2 ** (settings.bits - 1)}: the grids aren't symmetric"
        size, sizes = settings.group_size or record["shape"][1], quantized.group.bincount()
        if sizes.max() > size or quantized.scale.shape[1] != -(-record["shape"][1] // size):
            return f"{quantized.scale.shape[1]} grids a row are not one for each {size} columns"
    if settings.pattern:
        n, m = settings.n_of_m
        zeros = (stored.weight == 0).view(len(stored.weight), -1, m).sum(2)
        return None if (zeros >= n).all() else f"not {n} zeros in each {m} columns"
    if settings.sparsity and measured["sparsity"] < settings.sparsity - 1 / record["shape"][1]:
        return f"sparsity {measured['sparsity']:.4f} is below the {settings.sparsity} asked for"
    return None

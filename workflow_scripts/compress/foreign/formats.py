"""The format of a checkpoint, from its config.json and the names of its files. Imports no heavy library."""

from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, read_json, safetensors_header

KNOWN = "plain"  # names of formats, as messages list them
AT_SOURCE = "it must be mended at its source"


@dataclass(frozen=True)
class Format:
    """How a checkpoint stores its weights.

    name: as records and tables show it. environment: the command that makes the environment whose library reads it;
    None for this one. runtime: what its makers quantise while the model runs (activations, the KV cache), in words;
    None for nothing. bits: of the stored weights, in words.
    """

    name: str
    environment: str | None
    runtime: str | None
    bits: str


def identify(folder: Path) -> Format:
    """The format of the checkpoint in `folder`; ArtifactError for a format that nothing here reads."""
    folder = Path(folder)
    config = read_json(folder / "config.json", advice=AT_SOURCE)
    quantised = config.get("quantization_config") or config.get("compression_config")
    if quantised is None:
        return Format("plain", None, None, _types(folder))
    method = quantised.get("quant_method", "no quant_method")
    raise ArtifactError(
        f"{folder / 'config.json'}: quantization_config: {method!r} is a format that nothing here reads; known: {KNOWN}"
    )


def _types(folder: Path) -> str:
    """The types of a folder's tensors in words, that of most bytes first; config.json may name another."""
    sizes: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        for entry in safetensors_header(file)[0].values():
            begin, end = entry["data_offsets"]
            sizes[entry["dtype"]] = sizes.get(entry["dtype"], 0) + end - begin
    words = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return ", ".join(words.get(kind, kind) for kind in sorted(sizes, key=lambda kind: -sizes[kind]))

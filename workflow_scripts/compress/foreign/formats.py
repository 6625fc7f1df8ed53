"""The format of a checkpoint, from its config.json and the names of its files. Imports no heavy library."""

from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, read_json

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
        return Format("plain", None, None, f"{config.get('dtype') or config.get('torch_dtype') or 'float32'}")
    method = quantised.get("quant_method", "no quant_method")
    raise ArtifactError(
        f"{folder / 'config.json'}: quantization_config: {method!r} is a format that nothing here reads; known: {KNOWN}"
    )

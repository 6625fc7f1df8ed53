"""A GGUF checkpoint, in one file or split into several, as a plain folder.

Every type of tensor that transformers dequantises is read.
"""

from pathlib import Path

import gguf

from workflow_scripts.files.artifacts import ArtifactError, safetensors_header
from workflow_scripts.files.gguf_parts import missing_part, parts_of
from workflow_scripts.sources.gguf_file import dequantise, in_one


def read_gguf(source: Path, work: Path) -> tuple[Path, dict[str, int]]:
    """Write the checkpoint in `source` as a plain folder below the folder `work`.

    Returns that folder and the bytes of each stored tensor by its name in the plain folder. ArtifactError names the
    file that is missing, cut short or one of several checkpoints.
    """
    files = _parts(source)
    whole, plain = work / "file" / "model.gguf", work / "plain"
    whole.parent.mkdir()
    readers = in_one(files, whole)
    sizes = {tensor.name: tensor.n_bytes for reader in readers for tensor in reader.tensors}
    try:
        dequantise(whole, plain)
    except (
        ValueError,
        NotImplementedError,
    ) as error:  # an architecture or a type that transformers doesn't know
        raise ArtifactError(f"{files[0]}: {error}") from error
    return plain, _by_plain_name(sizes, readers[0], plain)


def _parts(folder: Path) -> list[Path]:
    """The files of the one checkpoint in `folder`, in their order."""
    files = sorted(folder.glob("*.gguf"))
    parts = parts_of(files[0])
    if others := [file.name for file in files if file not in parts]:
        raise ArtifactError(
            f"{folder}: holds several checkpoints ({files[0].name}, {others[0]}); leave one there"
        )
    if gone := missing_part(files[0]):
        raise ArtifactError(gone)
    return parts


def _by_plain_name(sizes: dict[str, int], reader: gguf.GGUFReader, plain: Path) -> dict[str, int]:
    """The sizes by the names of the plain folder's tensors; one without a name of its own there keeps its name here."""
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    layers = reader.fields[gguf.Keys.LLM.BLOCK_COUNT.format(arch=architecture)].contents()
    names = gguf.get_tensor_name_map(kinds[architecture], layers)
    headers = [safetensors_header(file)[0] for file in plain.glob("*.safetensors")]
    known = {names.get_name(name, (".weight", ".bias")): name for header in headers for name in header}
    return {known.get(name, name): size for name, size in sizes.items()}

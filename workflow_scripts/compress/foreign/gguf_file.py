"""A GGUF checkpoint, in one file or split into several, as a plain folder.

Every type of tensor that transformers dequantises is read. A split checkpoint is joined first, since transformers reads
one file; the tensors' bytes stay as they are.
"""

import re
from pathlib import Path

import gguf

from workflow_scripts.files.artifacts import ArtifactError, safetensors_header
from workflow_scripts.sources.models import dequantise

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")  # as llama.cpp names the parts


def read_gguf(source: Path, work: Path) -> tuple[Path, dict[str, int]]:
    """Write the checkpoint in `source` as a plain folder below the folder `work`.

    Returns that folder and the bytes of each stored tensor by its name in the plain folder. ArtifactError names the
    file that is missing, cut short or one of several checkpoints.
    """
    files = _parts(source)
    readers = [_opened(file) for file in files]
    sizes = {tensor.name: tensor.n_bytes for reader in readers for tensor in reader.tensors}
    whole, plain = work / "file" / "model.gguf", work / "plain"
    whole.parent.mkdir()
    if len(files) > 1:
        join(readers, whole)
    else:
        whole.symlink_to(files[0].resolve())
    try:
        dequantise(whole, plain)
    except ValueError as error:  # an architecture or a tensor type that transformers doesn't know
        raise ArtifactError(f"{files[0]}: {error}") from error
    return plain, _by_plain_name(sizes, readers[0], plain)


def _parts(folder: Path) -> list[Path]:
    """The files of the one checkpoint in `folder`, in their order."""
    files = sorted(folder.glob("*.gguf"))
    parts = [PART.fullmatch(file.name) for file in files]
    if len(files) == 1 and not parts[0]:
        return files
    checkpoints = {part[1] if part else file.name for file, part in zip(files, parts, strict=True)}
    if len(checkpoints) > 1:
        raise ArtifactError(
            f"{folder}: holds several checkpoints ({', '.join(sorted(checkpoints))}); leave one there"
        )
    assert parts[0]
    name, _, count = parts[0].groups()
    wanted = [folder / f"{name}-{number:05}-of-{count}.gguf" for number in range(1, int(count) + 1)]
    for file in wanted:
        if not file.exists():
            raise ArtifactError(f"{file}: is missing; {files[0].name} is one of {int(count)} parts")
    return wanted


def _opened(file: Path) -> gguf.GGUFReader:
    try:
        return gguf.GGUFReader(file)
    except (ValueError, LookupError) as error:
        raise ArtifactError(f"{file}: cut short, or no GGUF file ({error})") from error


def join(readers: list[gguf.GGUFReader], file: Path) -> None:
    """Write the tensors of all parts to one file, with the first part's metadata but what it says of the splitting."""
    fields = readers[0].fields
    writer = gguf.GGUFWriter(file, fields[gguf.Keys.General.ARCHITECTURE].contents())
    for name, field in fields.items():
        if name != gguf.Keys.General.ARCHITECTURE and not name.startswith(("GGUF.", "split.")):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    for tensor in tensors:
        data = tensor.data
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()


def _by_plain_name(sizes: dict[str, int], reader: gguf.GGUFReader, plain: Path) -> dict[str, int]:
    """The sizes by the names of the plain folder's tensors; one without a name of its own there keeps its name here."""
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    layers = reader.fields[gguf.Keys.LLM.BLOCK_COUNT.format(arch=architecture)].contents()
    names = gguf.get_tensor_name_map(kinds[architecture], layers)
    headers = [safetensors_header(file)[0] for file in plain.glob("*.safetensors")]
    known = {names.get_name(name, (".weight", ".bias")): name for header in headers for name in header}
    return {known.get(name, name): size for name, size in sizes.items()}

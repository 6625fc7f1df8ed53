"""Files that can be trusted: atomic writes, schema checks, seals, digests of contents, manifests."""

import functools
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from workflow_scripts.files.disks import cause
from workflow_scripts.files.scratch import temporary_sibling

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

PACKAGE = Path(__file__).resolve().parents[1]
SCHEMAS = Path(__file__).with_name("schemas")
MOST_HEADER = 100_000_000  # bytes of a safetensors header, as the format's library has it
AGAIN = "delete it and it will be computed again"


class ArtifactError(RuntimeError):
    """A file, a value in it or its writer is wrong; the message says what would be right."""


# ---------------------------------------------------------------------------------------------- digests


def sha256_file(path: str | Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def safetensors_header(path: str | Path) -> tuple[dict, int]:
    """Tensors of a safetensors file, name -> {dtype, shape, data_offsets}, and where their data begin.

    Raises ArtifactError if the header, or the data that it promises, is not in the file.
    """
    require_regular(path)
    size = os.path.getsize(path)
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        try:
            if min(size, MOST_HEADER) < 8 + length:
                raise ValueError(f"a header of {length} bytes in {size}")
            header = json.loads(handle.read(length), object_pairs_hook=named_once)
            header.pop("__metadata__", None)
            for name, entry in header.items():
                _require_span(name, entry)
            end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
            if size < end:
                raise ValueError(f"{size} bytes of {end}")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: cut short, or no safetensors file ({error})") from error
    return header, 8 + length


def _require_span(name: str, entry: dict) -> None:
    """ValueError unless a tensor of a safetensors header has as many bytes as its shape and type ask for."""
    begin, end = entry["data_offsets"]
    bits = re.search(r"\d+", entry["dtype"])  # F32, BF16, F8_E4M3; none in BOOL
    asked = math.prod(entry["shape"]) * (int(bits[0]) if bits else 8)
    if min(begin, *entry["shape"], 0) < 0 or (end - begin) * 8 != asked:
        raise ValueError(f"{name}: the shape {entry['shape']} of {entry['dtype']} in {end - begin:,} bytes")


def digest(value: object) -> str:
    """SHA-256 (hex) of a value's canonical JSON (sorted keys, no spaces); NaN and infinities are refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


# ------------------------------------------------------------------------------------- reading, writing


@contextmanager
def named(temporary: str | Path, source: object) -> Iterator[None]:
    """Errors of the block name `source` in place of a temporary file or folder, as an ArtifactError. An OSError passes
    through: its handler knows the disk (files/disks.py)."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if str(temporary) in str(error):
            raise ArtifactError(str(error).replace(str(temporary), str(source))) from error
        raise


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; on success it is flushed to disk and renamed, else removed.

    ArtifactError for a disk that is full or read-only, and the like. Errors of the block name `path`.
    """
    path, temporary = Path(path), None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_sibling(path)
        with named(temporary, path):
            yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ArtifactError(f"{path}: can't be written: {cause(error, path)}") from error
    finally:
        if temporary and temporary.exists():
            temporary.unlink()


@functools.cache
def _validator(schema: str) -> "Draft202012Validator":
    import jsonschema

    return jsonschema.Draft202012Validator(
        yaml.safe_load((SCHEMAS / f"{schema}.schema.yaml").read_text(encoding="utf-8"))
    )


def check(value: object, schema: str, name: str | Path) -> None:
    """Raise ArtifactError naming file and key if `value` breaks schemas/<schema>.schema.yaml."""
    from jsonschema.exceptions import best_match

    error = best_match(_validator(schema).iter_errors(value))
    if error is not None:
        raise ArtifactError(f"{name}: {error.json_path}: {error.message} (schema: {schema})")


def non_finite(value: object, key: str = "$") -> str | None:
    """JSON path of a number in `value` that is NaN or infinite; None if all are finite."""
    children: Iterable[tuple[Any, Any]]
    if isinstance(value, dict):
        children, place = value.items(), "{}.{}"
    elif isinstance(value, list | tuple):
        children, place = enumerate(value), "{}[{}]"
    else:
        return key if isinstance(value, float) and not math.isfinite(value) else None
    for name, child in children:  # texts and integers, nearly all of a document, need no call
        deep = isinstance(child, float | dict | list | tuple)
        if deep and (bad := non_finite(child, place.format(key, name))):
            return bad
    return None


def _content_sha256(value: dict) -> str:
    """Digest of an artefact without its own seal."""
    manifest = {key: item for key, item in value["manifest"].items() if key != "content_sha256"}
    return digest(value | {"manifest": manifest})


def write_json(path: str | Path, value: object, schema: str | None = None) -> None:
    """Write JSON atomically; NaN, infinities and violations of the schema raise ArtifactError.

    An artefact with a manifest is sealed: `manifest.content_sha256` is the digest of everything else.
    """
    if bad := non_finite(value):
        raise ArtifactError(f"{path}: {bad}: not a finite number; nothing was written")
    if isinstance(value, dict) and isinstance(value.get("manifest"), dict):
        plain = json.loads(json.dumps(value))
        value = plain | {"manifest": plain["manifest"] | {"content_sha256": _content_sha256(plain)}}
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    if schema:
        check(json.loads(text), schema, path)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON (json's `object_pairs_hook`); ValueError for a key that stands twice: the last would win."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {max(keys, key=keys.count)!r} stands there twice")
    return found


def require_regular(path: str | Path) -> None:
    """ArtifactError for a pipe, a device or a folder, which no reader waits for; a missing file is its reader's."""
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ArtifactError(f"{path}: is no regular file; name one")


def read_json(path: str | Path, schema: str | None = None, advice: str = AGAIN) -> Any:
    """Read JSON; ArtifactError names the file, the key and the fault, also a change after it was written.

    A value with a manifest must bear its seal. `advice` ends an error on a file that is no JSON or was changed.
    """
    require_regular(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
        refuse = functools.partial(_refuse, path, advice)
        value = json.loads(text, parse_constant=refuse, object_pairs_hook=named_once)
    except OSError as error:
        raise ArtifactError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON ({error}); {advice}") from error
    if schema:
        check(value, schema, path)
    if isinstance(value, dict) and "manifest" in value:
        found = value["manifest"]
        if not isinstance(found, dict) or found.get("content_sha256") != _content_sha256(value):
            raise ArtifactError(
                f"{path}: was changed after it was written (manifest.content_sha256); {advice}"
            )
    return value


def _refuse(path: str | Path, advice: str, constant: str) -> NoReturn:
    raise ArtifactError(f"{path}: holds {constant}, which is no result; {advice}")


def recorded_recipe(path: str | Path) -> str | None:
    """The recipe in a JSON artefact's manifest; None if there is no such file or it holds none."""
    return recorded_digest(path, "recipe")


def recorded_digest(path: str | Path, key: str) -> str | None:
    """The digest under `key` in a JSON artefact's manifest; None if there is no such file or it holds none."""
    try:
        found = re.search(rf'"{key}": "([0-9a-f]{{64}})"'.encode(), Path(path).read_bytes())
    except OSError:
        return None
    return found and found[1].decode()

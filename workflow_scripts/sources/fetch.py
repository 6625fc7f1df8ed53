"""Pinned downloads: wheels as archives of data, members checked by SHA-256, folders placed whole.

Wheels are read with `zipfile`: nothing in them is installed, imported or run.
"""

import codecs
import fcntl
import functools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn

from workflow_scripts.files.artifacts import (
    ArtifactError,
    named,
    named_once,
    non_finite,
    read_json,
    sha256_file,
)
from workflow_scripts.files.members import MANIFEST


def made_of(name: str, spec: dict, origin: dict, recipe: str, code: str) -> dict:
    """The beginning of a manifest. origin: what was read, and its revision."""
    made = {"name": name, "recipe": recipe, "code": code, "source": spec["source"]}
    return made | {
        "revision": origin["revision"],
        "origin": {k: origin[k] for k in origin if k != "revision"},
    }


def pypi_wheel(package: str, version: str, sha256: str, cache: Path) -> Path:
    """Path of a verified wheel in `cache`; downloaded with `pip download --no-deps` if it is not there yet.

    Several processes may ask for one wheel: one downloads, the others wait. A cached file with another hash
    counts as not there. Raises ArtifactError: no download (offline, unknown version), or another hash.
    """
    cache = Path(cache)
    cache.mkdir(parents=True, exist_ok=True)
    stem = f"{re.sub(r'[-_.]+', '_', package).lower()}-{version}"
    with open(cache / f".{stem}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for wheel in sorted(cache.glob(f"{stem}-*.whl")):
            if sha256_file(wheel) == sha256:
                return wheel
        with tempfile.TemporaryDirectory(dir=cache, prefix=f".{stem}-") as folder:
            wheel = _download(package, version, Path(folder))
            with named(folder, cache):
                expect_sha256(wheel, sha256, f"wheel of {package}=={version}")
            return wheel.replace(cache / wheel.name)


def _download(package: str, version: str, folder: Path) -> Path:
    options = [
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
        "--disable-pip-version-check",
        "--retries=2",
    ]
    command = [sys.executable, "-m", "pip", "download", *options, f"--dest={folder}", f"{package}=={version}"]
    result = subprocess.run(command, check=False, capture_output=True, encoding="utf-8", errors="replace")
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        said = [line.strip() for line in result.stderr.splitlines() if line.lstrip().startswith("ERROR")]
        raise ArtifactError(
            f"{package}=={version} is not in {folder.parent} and pip can't download it. Without a network: run once "
            f"with one, or copy the wheel from another machine into {folder.parent}. "
            f"pip said: {' '.join(said) or result.stderr.strip()[-300:] or 'nothing'}"
        )
    return wheels[0]


def expect_sha256(path: Path, expected: str, what: str) -> None:
    """Raise ArtifactError with both hashes if a file's SHA-256 is not the pinned one."""
    found = sha256_file(path)
    if found != expected:
        raise ArtifactError(
            f"{path}: the {what} has SHA-256 {found}, pinned is {expected}. If the source changed on purpose, "
            "pin the new hash in config.yaml; otherwise don't use this file."
        )


@contextmanager
def open_member(wheel: Path, member: str) -> Iterator[IO[bytes]]:
    """Open one file of a wheel for reading; `outer.jar!inner` reads a file of an archive inside it."""
    outer, _, inner = member.partition("!")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(outer) as stream:
            if not inner:
                yield stream
                return
            with zipfile.ZipFile(stream) as nested, nested.open(inner) as nested_stream:
                yield nested_stream
    except KeyError:
        raise ArtifactError(
            f"{wheel.name}: holds no file {member!r}; correct `file` in config.yaml"
        ) from None
    except zipfile.BadZipFile as error:
        raise ArtifactError(
            f"{wheel}: {outer}: not a readable archive ({error}); delete the wheel"
        ) from error


def read_member(wheel: Path, member: str) -> bytes:
    """All bytes of one file of a wheel (see `open_member`)."""
    with open_member(wheel, member) as stream:
        return stream.read()


def members(wheel: Path, pattern: str) -> list[str]:
    """Files of a wheel that match a pattern with `*`, sorted by name; without `*`, the pattern itself.

    A `*` stands for any part of one folder's or file's name. ArtifactError if no file fits.
    """
    if "*" not in pattern:
        return [pattern]
    form = re.compile("[^/]*".join(map(re.escape, pattern.split("*"))))
    with zipfile.ZipFile(wheel) as archive:
        found = sorted(name for name in archive.namelist() if form.fullmatch(name))
    if not found:
        raise ArtifactError(f"{wheel.name}: holds no file like {pattern!r}; correct `file` in config.yaml")
    return found


def extract_member(wheel: Path, member: str, path: Path) -> None:
    """Copy one file of a wheel to `path` in pieces; the rest of the wheel is not unpacked."""
    with open_member(wheel, member) as stream, open(path, "wb") as handle:
        shutil.copyfileobj(stream, handle, 1 << 20)


def write_lines(path: Path, rows: Iterable[dict]) -> int:
    """Write JSON Lines (keys in the order given; ASCII, so that no U+2028 ends a line); their number."""
    count = 0
    with open(path, "w", encoding="ascii") as handle:
        for row in rows:
            try:
                handle.write(json.dumps(row, allow_nan=False) + "\n")
            except (TypeError, ValueError) as error:
                raise ArtifactError(f"row {count + 1} of the source can't be JSON: {error}") from error
            count += 1
    return count


def read_lines(path: Path) -> list[Any]:
    """Values of a JSON Lines file, see `numbered_lines`."""
    return [value for _, _, value in numbered_lines(path)]


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes, Any]]:
    """Number from 1, bytes and value of each line of a JSON Lines file that is not blank.

    ArtifactError names the file, the line and the fault: no UTF-8, no JSON, a key twice, a number that is not finite,
    a lone surrogate or a NUL, which no tokenizer takes.
    """
    try:
        with open(path, "rb") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    yield number, line.rstrip(b"\r\n"), _value(line, f"{path}: line {number}")
    except OSError as error:
        raise ArtifactError(f"{path}: can't be read: {error.strerror}") from error


def _value(line: bytes, where: str) -> Any:
    require_text(line, where)
    try:
        value = json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=named_once)
    except RecursionError as error:
        raise ArtifactError(f"{where}: not JSON (nested too deeply)") from error
    except ValueError as error:
        raise ArtifactError(f"{where}: not JSON ({error})") from error
    if bad := non_finite(value):
        raise ArtifactError(f"{where}: {bad}: not a finite number")
    if b"\\u" in line:  # an escape may stand for half a character, or none
        text = json.dumps(value, ensure_ascii=False)
        if re.search(r"(?<!\\)(\\\\)*\\u0000", text):
            raise ArtifactError(f"{where}: holds a NUL character (\\u0000); remove it")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half = text[error.start].encode("ascii", "backslashreplace").decode()
            raise ArtifactError(f"{where}: holds {half}, half of a character (a lone surrogate)") from error
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def require_text(content: bytes, where: str) -> str:
    """The text of bytes in UTF-8; ArtifactError says `where`, which line (if there are several) and what is wrong."""
    said, start = "", 0
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        said = "is UTF-16"
    elif content.startswith(codecs.BOM_UTF8):
        said = "begins with a byte order mark"
    elif b"\0" in content:
        said, start = "holds a NUL byte", content.index(b"\0")
    else:
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError as error:
            said, start = f"is not UTF-8 (byte 0x{content[error.start]:02x})", error.start
    several, number = b"\n" in content.rstrip(b"\r\n"), content.count(b"\n", 0, start) + 1
    line = f": line {number}" if several else ""
    raise ArtifactError(f"{where}{line}: {said}; save the file as UTF-8 without a byte order mark")


def recorded_files(folder: Path) -> dict[str, str]:
    """File of a fetched folder -> SHA-256, as the fetch recorded it."""
    return read_json(folder / MANIFEST)["files"]


def verified_manifest(folder: Path, schema: str) -> dict:
    """manifest.json of a fetched folder, after its files were checked against it (once per process and content)."""
    folder = Path(folder).resolve()
    path = folder / MANIFEST
    return _verified(folder, schema, path.stat().st_mtime_ns if path.exists() else 0)


@functools.cache
def _verified(folder: Path, schema: str, changed: int) -> dict:
    manifest = read_json(folder / MANIFEST, schema=schema)
    _verify_files(folder, manifest)
    return manifest


def _verify_files(folder: Path, manifest: dict) -> None:
    """Raise ArtifactError unless every file of `manifest['files']` is in `folder` with its SHA-256."""
    for name, expected in manifest["files"].items():
        path = Path(folder) / name
        if not path.is_file():
            raise ArtifactError(
                f"{path}: missing, though {folder / MANIFEST} lists it; delete {folder} and refetch"
            )
        found = sha256_file(path)
        if found != expected:
            raise ArtifactError(
                f"{path}: SHA-256 is {found}, {MANIFEST} says {expected}: changed since it was fetched; "
                f"delete {folder} and fetch again"
            )

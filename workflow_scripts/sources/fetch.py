"""Pinned downloads: wheels as archives of data, members checked by SHA-256, folders placed whole.

Wheels are read with `zipfile`: nothing in them is installed, imported or run.
"""

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
from typing import IO

from workflow_scripts.files.artifacts import ArtifactError, read_json, sha256_file


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


def extract_member(wheel: Path, member: str, path: Path) -> None:
    """Copy one file of a wheel to `path` in pieces; the rest of the wheel is not unpacked."""
    with open_member(wheel, member) as stream, open(path, "wb") as handle:
        shutil.copyfileobj(stream, handle, 1 << 20)


def write_lines(path: Path, rows: Iterable[dict]) -> int:
    """Write JSON Lines (keys in the order given; ASCII, so that no U+2028 ends a line); their number."""
    count = 0
    with open(path, "w", encoding="ascii") as handle:
        for row in rows:
            handle.write(json.dumps(row, allow_nan=False) + "\n")
            count += 1
    return count


def read_lines(path: Path) -> list[dict]:
    """Rows of a JSON Lines file; ArtifactError names the file and the line that can't be read."""
    rows: list[dict] = []
    number = 0
    try:
        with open(path, encoding="utf-8") as handle:
            for line in handle:
                number += 1
                if line.strip():
                    rows.append(json.loads(line))
    except OSError as error:
        raise ArtifactError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise ArtifactError(f"{path}: line {number}: not JSON ({error})") from error
    return rows


def verified_manifest(folder: Path, schema: str) -> dict:
    """manifest.json of a fetched folder, after its files were checked against it (once per process and content)."""
    folder = Path(folder).resolve()
    path = folder / "manifest.json"
    return _verified(folder, schema, path.stat().st_mtime_ns if path.exists() else 0)


@functools.cache
def _verified(folder: Path, schema: str, changed: int) -> dict:
    manifest = read_json(folder / "manifest.json", schema=schema)
    _verify_files(folder, manifest)
    return manifest


def _verify_files(folder: Path, manifest: dict) -> None:
    """Raise ArtifactError unless every file of `manifest['files']` is in `folder` with its SHA-256."""
    for name, expected in manifest["files"].items():
        path = Path(folder) / name
        if not path.is_file():
            raise ArtifactError(
                f"{path}: missing, though {folder}/manifest.json lists it; delete {folder} and refetch"
            )
        found = sha256_file(path)
        if found != expected:
            raise ArtifactError(
                f"{path}: SHA-256 is {found}, manifest.json says {expected}: changed since it was fetched; "
                f"delete {folder} and fetch again"
            )

"""Unpacks a .tar.gz archive: the files that archive.json lists, each of a bounded size, and nothing else."""

import gzip
import json
import lzma
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, Self

from workflow_scripts.archive.packing import INDEX
from workflow_scripts.files.artifacts import ArtifactError, named_once
from workflow_scripts.files.disks import cause

UNREADABLE = (
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    gzip.BadGzipFile,
    ValueError,
    OverflowError,
)
# Most bytes per packed byte: JSON expands thirty-fold, weights hardly; a bomb of zeros, a thousand-fold.
EXPANSION, ALLOWANCE = 100, 64 * 2**20
MOST_JSON = 256 * 2**20  # bytes of one JSON file: each is read whole
MOST_FOLDERS = 100_000  # members that are folders; tarfile keeps each in memory
MOST_HEADER = 2**16  # bytes of a header that holds a long name
LONG_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class _Member(tarfile.TarInfo):
    """A member whose headers are small: tarfile reads them whole before it gives the member out."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise ValueError(f"it holds {member.name!r:.100} with holes")
        if member.type in LONG_HEADERS and member.size > MOST_HEADER:
            raise ValueError(f"it holds a header of {member.size:,} bytes, which no name needs")
        return member


def extract(source: Path, folder: Path) -> None:
    """Unpack the archive into an empty folder; ArtifactError, one line, if it can't be or holds anything else."""
    most = expanded(source.stat().st_size)
    try:
        with tarfile.open(source, tarinfo=_Member) as tar:
            _extract_listed(tar, folder, most)
            # tarfile takes damage for the end of the archive; reading on to gzip's checksum finds it
            while tar.fileobj is not None and (more := tar.fileobj.read(2**20)):
                most -= len(more)
                if most < 0:
                    raise tarfile.ReadError("it goes on after its last file")
    except UNREADABLE as error:
        # the lines after the first list every compression that was tried
        reason = str(error).partition("\n")[0].rstrip(": ")
        raise ArtifactError(f"{source}: can't be unpacked: {reason}; take another copy") from error
    except OSError as error:
        if error.errno is None:
            raise ArtifactError(f"{source}: can't be unpacked: {error}; take another copy") from error
        reason = f"{cause(error, folder)}; or set TMPDIR to a folder of another disk"
        raise ArtifactError(f"{source}: can't be unpacked: {reason}") from error


def expanded(size: int) -> int:
    """The most bytes that a compressed file of this size may hold."""
    return EXPANSION * size + ALLOWANCE


def _extract_listed(tar: tarfile.TarFile, folder: Path, most: int) -> None:
    """Extract archive.json, which stands first, and what it lists. tarfile.ReadError for anything else."""
    listed: set[str] | None = None
    seen, total, folders = set(), 0, 0
    for member in tar:
        name = str(PurePosixPath(member.name))
        if member.isdir():
            folders += 1
            if folders > MOST_FOLDERS:
                raise tarfile.ReadError(f"it holds more than {MOST_FOLDERS:,} folders")
            continue
        total += member.size
        if not member.isreg():
            raise tarfile.SpecialFileError(member)
        if name in seen:
            raise tarfile.ReadError(f"it holds {name} twice")
        if listed is None and name != INDEX:
            raise tarfile.ReadError(f"{INDEX} is not its first file")
        if listed is not None and name not in listed:
            raise tarfile.ReadError(f"it holds {name!r:.100}, which {INDEX} does not list")
        if total > most or (name.endswith(".json") and member.size > MOST_JSON):
            raise tarfile.ReadError(
                f"{name} would expand to {member.size:,} bytes, more than any archive needs"
            )
        tar.extract(member, folder, filter="data")
        seen.add(name)
        if listed is None:
            listed = _listed(folder / INDEX)


def _listed(index: Path) -> set[str]:
    """The names in archive.json; none if it is damaged, which its reader tells."""
    try:
        found: Any = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=named_once)
        return set(found["files"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return set()

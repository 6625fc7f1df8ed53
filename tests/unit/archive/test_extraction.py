"""Archives that unpack without end, or where there is no room: one line, before they are written."""

import errno
import gzip
import json
import tarfile
from pathlib import Path

import pytest

from tests.unit.archive.conftest import packed, refusals, write_index
from workflow_scripts.archive import extraction
from workflow_scripts.archive.packing import INDEX


def bomb(tar: tarfile.TarFile, name: str, size: int) -> None:
    """Add zeros, which compress a thousand-fold."""
    member = tarfile.TarInfo(name)
    member.size = size
    with open("/dev/zero", "rb") as zeros:
        tar.addfile(member, zeros)


@pytest.mark.parametrize(
    ("name", "listed", "says"),
    [
        ("results/smoke/evaluations/zeros.json", True, "would expand to"),
        ("results/smoke/adapters/zeros.safetensors", True, "would expand to"),
        ("zeros", False, "it holds 'zeros', which archive.json does not list"),
    ],
)
def test_an_archive_that_expands_without_end_is_refused_before_it_is_written(it, name, listed, says, capsys):
    if listed:
        files = json.loads((it / INDEX).read_text())["files"]
        write_index(it, files=files | {name: "0" * 64})
    with tarfile.open("bomb.tar.gz", "w:gz", compresslevel=9) as tar:
        tar.add(it, ".")
        bomb(tar, name, 300 * 2**20)
    assert Path("bomb.tar.gz").stat().st_size < 10**6
    assert all(says in line for line in refusals(Path("bomb.tar.gz"), capsys))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (tarfile.XHDTYPE, "it holds a header of 200,000,000 bytes, which no name needs"),
        (tarfile.XGLTYPE, "it holds a header of 200,000,000 bytes, which no name needs"),
        (tarfile.GNUTYPE_LONGNAME, "it holds a header of 200,000,000 bytes, which no name needs"),
        (tarfile.GNUTYPE_SPARSE, "it holds 'x' with holes"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_headers_that_expand_without_end_are_refused_before_they_are_read(it, kind, says, first, capsys):
    """tarfile reads a header whole: two megabytes of packed zeros took two gigabytes of memory."""
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 200_000_000
    with gzip.open("bomb.tar.gz", "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        if not first:
            tar.add(it / INDEX, INDEX)
        file.write(header.tobuf())
        file.write(bytes(2**20))  # a reader that asks for more is told that the archive is cut
    assert all(says in line for line in refusals(Path("bomb.tar.gz"), capsys))


def test_a_disk_without_room_to_unpack_is_named(it, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    monkeypatch.setattr(tarfile.TarFile, "extract", full)
    monkeypatch.setattr(
        "workflow_scripts.files.disks._full", lambda folder: "no room for more files (inodes)"
    )
    said = "it.tar.gz: can't be unpacked: no room for more files (inodes); or set TMPDIR to a folder of another disk\n"
    assert refusals(packed(it), capsys) == [said] * 3


def test_folders_without_end_are_refused(it, monkeypatch, capsys):
    monkeypatch.setattr(extraction, "MOST_FOLDERS", 20)
    with tarfile.open("deep.tar.gz", "w:gz") as tar:
        tar.add(it / INDEX, INDEX)
        for number in range(21):
            folder = tarfile.TarInfo(f"f{number}")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
    assert all("it holds more than 20 folders" in line for line in refusals(Path("deep.tar.gz"), capsys))


def test_an_archive_that_goes_on_after_its_end_is_refused(it, capsys):
    with gzip.open("long.tar.gz", "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        tar.add(it, ".")
        for _ in range(200):
            file.write(bytes(2**20))
    assert all("it goes on after its last file" in line for line in refusals(Path("long.tar.gz"), capsys))

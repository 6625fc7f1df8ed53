"""Temporary files and folders, and how those that a killed process left are found and removed."""

import os
import shutil
import socket
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def temporary_sibling(path: Path) -> Path:
    """A name beside `path` that no other process has; what killed processes left under such names is removed."""
    before = f".{path.name}."
    sweep(path.parent, before)
    return path.with_name(f"{before}{_mark()}.{uuid.uuid4().hex[:8]}.tmp")


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """An empty folder in the system's folder for temporary files, which lives as long as the block."""
    before = f"displaced-{name}-"
    sweep(Path(tempfile.gettempdir()), before)
    with tempfile.TemporaryDirectory(prefix=f"{before}{_mark()}.") as folder:
        yield Path(folder)


def sweep(folder: Path, before: str) -> None:
    """Remove files and folders whose names begin so, and go on with a process of this host that is gone."""
    host, _, _ = _mark().rpartition(".")
    for path in folder.iterdir():
        owner = path.name.removeprefix(f"{before}{host}.")
        process = owner.partition(".")[0]
        if owner != path.name and process.isdecimal() and not os.path.exists(f"/proc/{process}"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):  # of another user, in a folder where each removes only his own
                    path.unlink()


def _mark() -> str:
    """Host and process, as they stand in a name."""
    return f"{socket.gethostname().replace('.', '-')}.{os.getpid()}"

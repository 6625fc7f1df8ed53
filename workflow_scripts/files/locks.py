"""One writer at a time: a lock on each artefact that a job, a run or a command writes."""

import fcntl
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from workflow_scripts.files.artifacts import ArtifactError, named
from workflow_scripts.files.disks import cause
from workflow_scripts.files.members import RESOURCES, RESULTS
from workflow_scripts.files.work_folders import work_root

SHARED = (RESULTS, RESOURCES)  # these, or folders in them, may be links: several clones work in one
# Seconds until a lock counts as another writer's: `held_by` holds it for a moment, too.
PATIENCE = 1.0


def _lock(artifact: str | Path) -> Path:
    """The lock of an artefact: of one in results/ or resources/ in its grid's or catalogue's folder, wherever that
    really lies, so that clones which share the folder, or one above it, see each other's writers."""
    path, here = Path(os.path.abspath(artifact)), Path.cwd()
    parts = path.relative_to(here).parts if path.is_relative_to(here) else ()
    if parts and parts[0] in SHARED:
        shared, names = parts[:2], parts[2:]
        if not names:  # the folder itself, or a file beside the grids
            shared, names = parts[:1], parts[1:] or ("",)
        return Path(os.path.realpath(Path(*shared)), ".locks", *names[:-1], f"{names[-1]}.lock")
    return work_root(artifact).with_name(work_root(artifact).name + ".lock")


def held_by(artifact: str | Path) -> str | None:
    """The process that writes an artefact now ("pid 7 on host"); None if there is none."""
    try:
        with open(_lock(artifact), encoding="utf-8") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        path = _lock(artifact)
        raise ArtifactError(f"{artifact}: its lock {path} can't be read: {cause(error, path)}") from error
    except BlockingIOError:
        return _lock(artifact).read_text(encoding="utf-8").strip() or "another process"
    return None


def last_held(artifact: str | Path) -> float | None:
    """The start of an artefact's latest writer (time.time() of the lock's file system); None if there was none."""
    lock = _lock(artifact)
    return lock.stat().st_mtime if lock.exists() else None


def _lock_within(seconds: float, handle: IO[str]) -> None:
    """Lock an open file exclusively; BlockingIOError if somebody else holds it all the time."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _opened(artifact: str | Path) -> IO[str]:
    """The open lock of an artefact; ArtifactError if it can't be written, like one of another user."""
    path = _lock(artifact)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "a+", encoding="utf-8")
    except OSError as error:
        raise ArtifactError(f"{artifact}: can't be locked by {path}: {cause(error, path)}") from error


@contextmanager
def hold(artifact: str | Path) -> Iterator[None]:
    """Hold the only writer's lock on an artefact; a second writer stops with the holder's host and pid."""
    with _opened(artifact) as handle:
        try:
            _lock_within(PATIENCE, handle)
        except BlockingIOError:
            handle.seek(0)
            raise ArtifactError(
                f"{artifact}: is being written by {handle.read().strip() or 'another process'}; wait for it or stop it"
            ) from None
        handle.truncate(0)
        handle.write(f"pid {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        yield  # the file stays: removing it would let a waiting writer lock a file that no longer has a name


@contextmanager
def whole_folder(folder: Path, source: object = None) -> Iterator[Path]:
    """Yield an empty temporary sibling of `folder`; it takes `folder`'s place on success and is gone on error.

    Only one writer at a time (ArtifactError for the second); the remains of a killed writer are removed. Errors of the
    block name `source`, where its files are from, in place of the temporary folder; without it, `folder`.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold(folder):
        own = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}\.tmp")  # not those of `folder`.2
        for abandoned in filter(lambda path: own.fullmatch(path.name), folder.parent.iterdir()):
            shutil.rmtree(abandoned)
        temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir()
        try:
            with named(temporary, source or folder):
                yield temporary
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(temporary, folder)
        except OSError as error:
            if str(temporary) not in str(error):  # a source that can't be read
                raise
            raise ArtifactError(f"{folder}: can't be written: {cause(error, folder)}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

"""Why a file can't be written: a disk without space, without room for more files, read-only, or of somebody else."""

import errno
import os
import shutil
from pathlib import Path

ENOUGH = 2**20  # bytes: a disk with less is full


def cause(error: OSError, path: str | Path, *others: str | Path) -> str:
    """An error's cause in words, with what is wrong with the disk of `path`.

    others: paths that may be meant as well, of an error that names none, as those of a write do.
    """
    folder = _folder(path)
    match error.errno:
        case errno.ENOSPC:
            full = [lack for each in map(_folder, (path, *others)) if (lack := _full(each))]
            unknown = "a disk" if others else f"the disk of {folder}"
            return full[0] if full else f"no space left on {unknown}"
        case errno.EDQUOT:
            return f"your quota on the disk of {folder} is used up: free some"
        case errno.EROFS:
            return f"the disk of {folder} is read-only: work in a folder where you may write"
        case errno.EACCES | errno.EPERM:
            closed = Path(path) if Path(path).is_file() and not os.access(path, os.W_OK) else folder
            owner = closed.stat().st_uid
            return f"{error.strerror}: user {os.getuid()} may not write to {closed} (of user {owner})"
        case _:
            return error.strerror or str(error)


def full_disks(*paths: str | Path) -> str:
    """An addition to an error's cause for each file system of `paths` that has no room.

    Libraries that write files report a full disk in many words, or as "write failed".
    """
    return "".join(f"; {lack}" for folder in dict.fromkeys(map(_folder, paths)) if (lack := _full(folder)))


def _full(folder: Path) -> str:
    """The resource that a folder's disk has run out of; empty if it has room."""
    found = os.statvfs(folder)
    if shutil.disk_usage(folder).free < ENOUGH:
        return f"no space left on the disk of {folder}: free some and run again"
    if found.f_files and not found.f_favail:
        return f"no room for more files (inodes) on the disk of {folder}: delete some and run again"
    return ""


def _folder(path: str | Path) -> Path:
    """The nearest folder of a path that is there."""
    return next(folder for folder in Path(path).absolute().parents if folder.is_dir())

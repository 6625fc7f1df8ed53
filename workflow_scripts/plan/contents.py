"""Contents that recipes hold beside code and settings: local sources, definitions of tasks, files of reports."""

import functools
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from workflow_scripts.files.artifacts import (
    PACKAGE,
    ArtifactError,
    digest,
    read_json,
    sha256_file,
    write_json,
)
from workflow_scripts.files.gguf_parts import lone_gguf, parts_of
from workflow_scripts.files.members import RESOURCES
from workflow_scripts.files.source_files import CODE, OF_CHECKPOINT, OF_MODEL, shards, taken, texts_in
from workflow_scripts.plan.digests import OPTIONAL, import_closure
from workflow_scripts.plan.schema.compressors import External
from workflow_scripts.plan.schema.sources import Benchmark, Corpus, LocalCorpus, Model

REPORTS = "reports"
# Modules that read a folder of reports/: an entry that imports one depends on the folder.
READERS = {"judge/paper.py": "paper", "report/rendering.py": "templates"}
HASHES = Path(RESOURCES, ".hashes")  # of large local files; may be deleted
LARGE, SLOW = 2**20, 10**9  # bytes of a file whose hash is kept, and of one whose reading takes seconds
SETTLED = 2 * 10**9  # nanoseconds; the times of file systems have steps of up to two seconds


@functools.cache
def of_reports(entry: str) -> dict:
    """Digests of the files that an entry reads beside results: the paper's tables, templates, texts of a report."""
    root = PACKAGE.parent / REPORTS
    read = import_closure(f"jobs/{entry}.py", (), OPTIONAL)
    folders = [folder for module, folder in READERS.items() if module in read]
    own = [root / "workflow.rst"] if entry == "report_grid" else []
    folders += ["captions"] if own else []
    files = [*own, *(file for name in folders for file in (root / name).rglob("*"))]
    return {str(file.relative_to(root)): sha256_file(file) for file in sorted(files) if file.is_file()}


def of_source(source: Model | Corpus | Benchmark | External, trusted: bool = False) -> list:
    """The contents of a local source, wherever it lies: of a file, or of each file of a folder that its fetch takes.

    trusted: of a model, that code of its own counts too.
    """
    if (place := getattr(source, "path", None)) is None:
        return []
    path = Path(place).expanduser()
    if path.is_dir():
        return [(file.name, _sha256(file)) for file in _taken(path, source, trusted) if file.is_file()]
    files = parts_of(path)  # of a GGUF file that is split
    if not all(file.is_file() for file in files):
        return ["missing"]
    return [_sha256(file) for file in files]


def _taken(folder: Path, source: Model | Corpus | Benchmark | External, trusted: bool) -> list[Path]:
    if isinstance(source, LocalCorpus):
        return texts_in(folder)
    patterns = OF_MODEL + (CODE if trusted else [])
    if isinstance(source, External):
        if file := getattr(source, "file", None) or lone_gguf(folder):
            return parts_of(folder / file)
        patterns = OF_CHECKPOINT
    try:
        weights = shards(folder)
    except ArtifactError:  # the fetch says what is wrong
        weights = list(folder.glob("*.safetensors"))
    return taken(folder, patterns, weights)


def _sha256(file: Path) -> str:
    """SHA-256 of a file. A large one is read once: every job asks for this, so the hash is kept by path, and holds for
    as long as nobody wrote to the file."""
    state = _state(file)
    if state[0] < LARGE:
        return sha256_file(file)
    place = os.path.realpath(file)
    kept = HASHES / f"{digest(place)}.json"
    with suppress(ArtifactError):
        if kept.exists() and (known := read_json(kept)).get("state") == state:
            return known["sha256"]
    if state[0] > SLOW:
        print(f"Reading {place} once ({state[0] / 1e9:.1f} GB): its contents count", file=sys.stderr)
    found = sha256_file(file)
    # Times have steps: of a file that was just written, a later write might not show.
    if _state(file) == state and state[-1] < time.time_ns() - SETTLED:
        with suppress(ArtifactError):  # a folder that can't be written to costs time alone
            write_json(kept, {"path": place, "state": state, "sha256": found})
    return found


def _state(file: Path) -> list[int]:
    """Values of which one changes if a file is written or replaced; nobody but the file system sets the last."""
    stat = file.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns]

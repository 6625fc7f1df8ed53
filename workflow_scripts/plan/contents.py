"""Contents that recipes hold beside code and settings: local sources, definitions of tasks, files of reports."""

import functools
import hashlib
import os
from pathlib import Path

from workflow_scripts.files.artifacts import PACKAGE, sha256_file
from workflow_scripts.files.gguf_parts import parts_of
from workflow_scripts.plan.digests import OPTIONAL, import_closure
from workflow_scripts.plan.schema.compressors import External
from workflow_scripts.plan.schema.sources import Benchmark, Corpus, Model

REPORTS = "reports"
# Modules that read a folder of reports/: an entry that imports one depends on the folder.
READERS = {"judge/paper.py": "paper", "report/rendering.py": "templates"}
PIECE = 2**20  # bytes of a large file that count, at its beginning and at its end


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


def of_source(source: Model | Corpus | Benchmark | External) -> list:
    """The contents of a local source, wherever it lies: of a file, or of each file of a folder that is not hidden.

    Only the size and both ends of weights (large files of a folder, a GGUF file) count: every job asks for this.
    """
    if (place := getattr(source, "path", None)) is None:
        return []
    path = Path(place).expanduser()
    if path.is_dir():
        files = sorted(file.relative_to(path) for file in path.rglob("*") if file.is_file())
        return [
            (str(file), _content(path / file))
            for file in files
            if not any(part.startswith(".") for part in file.parts)
        ]
    files = parts_of(path)  # of a GGUF file that is split
    if not all(file.is_file() for file in files):
        return ["missing"]
    return [_content(file) if file.suffix == ".gguf" else sha256_file(file) for file in files]


def _content(file: Path) -> str:
    """Digest of a file's contents; of a file above two pieces, of its size and both ends."""
    size = file.stat().st_size
    if size <= 2 * PIECE:
        return sha256_file(file)
    with open(file, "rb") as handle:
        ends = hashlib.sha256(handle.read(PIECE))
        handle.seek(-PIECE, os.SEEK_END)
        ends.update(handle.read(PIECE))
    return f"{size} {ends.hexdigest()}"

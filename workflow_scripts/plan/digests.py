"""Digests of code: the files of this package that an entry imports, found without running them.

Snakemake sees an edit of a `script:` file and never one of an imported module; so each rule carries this digest in its
recipe (docs/explanation/architecture.md).
"""

import ast
import functools
from pathlib import Path

from workflow_scripts.files.artifacts import PACKAGE, digest, sha256_file


@functools.cache
def _imports(path: Path) -> tuple[Path, ...]:
    """Files of this package that `path` imports anywhere in its text, found by `ast`: nothing is run."""
    found = set()
    root = PACKAGE.parent
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE.name:
                file = root.joinpath(*name.split(".")).with_suffix(".py")
                if file.is_file():
                    found.add(file)
    return tuple(sorted(found))


@functools.cache
def _content(path: Path) -> str:
    return sha256_file(path)


@functools.cache
def import_closure(entry: str, also: tuple[str, ...] = (), optional: frozenset[str] = frozenset()) -> tuple:
    """Files (relative to the package) that `entry` reaches by imports inside the package, itself included.

    `optional` modules serve single methods and are loaded lazily: they count only if named in `also`.
    """
    waiting = [PACKAGE / name for name in (entry, *also)]
    skipped = {PACKAGE / name for name in optional} - set(waiting)
    seen: set[Path] = set()
    while waiting:
        file = waiting.pop()
        if file not in seen and file not in skipped:
            seen.add(file)
            waiting.extend(_imports(file))
    return tuple(sorted(str(file.relative_to(PACKAGE)) for file in seen))


@functools.cache
def code_digest(entry: str, also: tuple[str, ...] = (), optional: frozenset[str] = frozenset()) -> str:
    """SHA-256 over the contents of `import_closure`."""
    return digest({name: _content(PACKAGE / name) for name in import_closure(entry, also, optional)})

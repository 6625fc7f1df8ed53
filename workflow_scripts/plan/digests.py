"""Digests of code: the files of this package that an entry imports, found without running them.

Snakemake sees an edit of a `script:` file and never one of an imported module; so each rule carries this digest in its
recipe (docs/explanation/architecture.md). A job holds its code against it before and after.
"""

import ast
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from workflow_scripts.files.artifacts import PACKAGE, ArtifactError, digest, sha256_file

# Modules that serve single kinds of methods, or compress by one engine: imported lazily, digested only where used.
MODULES = {
    "lora": ("recover/lora.py",),
    "eora": ("recover/eora.py", "recover/lora.py"),
    "peft": ("recover/peft_methods.py",),
    "prompt": (),
    "prefix": (),
    "idp": ("recover/idp.py", "recover/learned_selector.py"),
    "concat": (),
    "none": (),
    "text": (),
    "fewshot": (),
    "context": (),
}
# A compressor's `engine`, or its algorithm if that has a module of its own.
ENGINES = {
    "own": ("compress/engines/own.py",),
    "optimum": ("compress/engines/optimum.py",),
    "llmcompressor": ("compress/engines/llmcompressor.py",),
    "drop-layers": ("compress/engines/drop_layers.py",),
    "svd": ("compress/engines/svd.py",),
    "external": ("compress/engines/external.py",),
}
# Modules that only refuse: no result depends on them.
CHECKS = (
    *(f"evaluate/{name}_check.py" for name in ("task", "answer", "list", "repeat")),
    "plan/after_fetch.py",
    "plan/digests.py",
)
OPTIONAL = frozenset((*CHECKS, *(module for modules in (MODULES | ENGINES).values() for module in modules)))


@functools.cache
def _imports(path: Path) -> tuple[Path, ...]:
    """Files of this package that `path` imports anywhere in its text, found by `ast`: nothing is run."""
    found = set()
    root = PACKAGE.parent
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
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


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """A node and the statements below it. Every process of Snakemake looks through the whole package: without
    expressions, which import nothing, it does so in a third of the time."""
    yield node
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for statement in getattr(node, block, ()):
            yield from _statements(statement)


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


def code_of(entry: str, *kinds: str) -> str:
    """The digest of the code of jobs/<entry>.py for these kinds of methods, or this engine."""
    return code_digest(f"jobs/{entry}.py", _modules(kinds), OPTIONAL)


def engine_of(compressor: dict) -> str:
    """The engine of a compressor's settings, a key of ENGINES."""
    algorithm = compressor["algorithm"]
    return compressor.get("engine", algorithm if algorithm in ENGINES else "own")


def _modules(kinds: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted({module for kind in kinds for module in (MODULES | ENGINES)[kind]}))


# ---------------------------------------------------------------------------------------- while a job runs


def unchanged(entry: str) -> Callable[[dict[str, Any]], AbstractContextManager[None]]:
    """A frame for the work of an entry, to be called with the arguments that the plan gave it. `contents` among them
    are the digests of other files of the checkout that it reads (task definitions, templates), by path.

    ArtifactError, before the work, if code or contents are not the planned ones or were changed since this process
    began to import them; and after the work, if a file was edited meanwhile, even if the edit was taken back: the
    result would bear the recipe of code that did not make it.
    """

    @contextmanager
    def frame(args: dict[str, Any]) -> Iterator[None]:
        files = [
            PACKAGE / name for name in import_closure(f"jobs/{entry}.py", _modules(_kinds(args)), OPTIONAL)
        ]
        contents = {PACKAGE.parent / name: sha for name, sha in args.get("contents", {}).items()}
        watched = [*files, *contents]
        before = _states(watched)
        _refuse_others(files, args["code"], contents)
        # A time in the future comes from a clock that was set back.
        if late := [file for file in watched if _process_start() < before[file][0] / 1e9 <= time.time()]:
            raise ArtifactError(_said(late[0], "was edited while this job began"))
        yield
        if late := [file for file, state in _states(watched).items() if state != before[file]]:
            raise ArtifactError(_said(late[0], "was edited while this job ran"))
        _refuse_others(files, args["code"], contents)

    return frame


def _kinds(args: dict[str, Any]) -> tuple[str, ...]:
    """The kinds of methods, or the engine, of which a job's arguments speak."""
    methods = [*args.get("methods", {}).values(), *([args["method"]] if "method" in args else [])]
    kinds = kinds_of(methods)
    return (*kinds, engine_of(args["compressor"])) if "compressor" in args else kinds


def kinds_of(methods: Iterable[dict]) -> tuple[str, ...]:
    """The kinds whose code these methods need: their own kind, the start's and the members'."""
    found: list[str] = []
    for method in methods:
        found += [method["kind"], *([method["start"]] if method.get("start") else ())]
        found += ["prompt"] if "members" in method else []
    return tuple(found)


def _states(files: list[Path]) -> dict[Path, tuple[int, ...]]:
    """Values that change with every edit, also if it is undone: the file system sets the first, nobody else can."""
    found = {file: os.stat(file) for file in files}
    return {file: (stat.st_ctime_ns, stat.st_mtime_ns, stat.st_size) for file, stat in found.items()}


def _process_start() -> float:
    """The start of this process (seconds since 1970)."""
    with open("/proc/self/stat", encoding="utf-8") as handle:
        ticks = float(handle.read().rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _refuse_others(files: list[Path], planned: str, contents: dict[Path, str]) -> None:
    code = {str(file.relative_to(PACKAGE)): sha256_file(file) for file in files}
    if digest(code) != planned:
        raise ArtifactError(_said(files[0], "or a module that it imports is not the code that was planned"))
    if others := [file for file, sha in contents.items() if sha256_file(file) != sha]:
        raise ArtifactError(_said(others[0], "is not the file that was planned"))


def _said(file: Path, trouble: str) -> str:
    return f"{file.relative_to(PACKAGE.parent)} {trouble}: nothing is kept, run again once the code rests"

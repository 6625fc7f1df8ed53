"""Write ARCHITECTURE.md from the package: its rooms in order, their docstrings, their modules, their imports.

    python docs/hooks/architecture.py

Run it after a module, its first line or an import between rooms has changed; tests/unit/test_architecture.py fails
until then. Needs the standard library alone.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "workflow_scripts"
PAGE = ROOT / "ARCHITECTURE.md"
COMMAND = "python docs/hooks/architecture.py"
# From the top: a room imports only rooms that stand after it.
ROOMS = (
    "jobs",
    "commands",
    "report",
    "evaluate",
    "archive",
    "recover",
    "compress",
    "judge",
    "sources",
    "kernels",
    "plan",
    "cluster",
    "files",
)
HEAD = f"""# Architecture

`{COMMAND}` makes this page from the package's docstrings and imports; a test fails if it is out
of date. [docs/explanation/architecture.md](docs/explanation/architecture.md) explains why things are as they are.

`rules/` says which files a job reads and writes, and names its entry in `workflow_scripts/jobs/`. The Snakefile and the
rules import only `plan`, `cluster` and `files`. Rooms stand below in order: a room imports only rooms after it, and no
modules import each other in a circle. The same test reads the imports and fails otherwise.
"""


def rooms() -> list[str]:
    """The package's folders that hold modules."""
    return sorted(file.parent.name for file in PACKAGE.glob("*/__init__.py"))


def modules(room: str) -> list[Path]:
    """The modules of a room, those of its sub-packages included, without any `__init__`."""
    return sorted(file for file in (PACKAGE / room).rglob("*.py") if file.name != "__init__.py")


def names(file: Path) -> set[str]:
    """Dotted names that a file imports anywhere in its text: modules, and what is taken from them.

    ValueError for a relative import: no digest of code sees it (plan/digests.py).
    """
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise ValueError(f"{file}:{node.lineno}: a relative import; write the whole name")
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {name.value for name in node.args[:1] if isinstance(name, ast.Constant)}
    return found


def imports(file: Path) -> set[Path]:
    """Files of the package that a file imports."""
    inside = (name.split(".") for name in names(file) if name.split(".")[0] == PACKAGE.name)
    files = (ROOT.joinpath(*parts).with_suffix(".py") for parts in inside)
    return {found for found in files if found.is_file()}


def room_of(file: Path) -> str:
    """The room of a file; "" for one that stands beside the rooms."""
    first, *rest = file.relative_to(PACKAGE).parts
    return first if rest else ""


def arrows(room: str) -> list[str]:
    """The other rooms that a room's modules import, in order."""
    found = {room_of(target) for file in modules(room) for target in imports(file)} - {room}
    return [name for name in ROOMS if name in found]


def docstring(file: Path) -> str:
    """A file's docstring; "" if it has none."""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def first_line(file: Path) -> str:
    """The first paragraph of a docstring as one line."""
    return " ".join(docstring(file).split("\n\n")[0].split())


def section(room: str) -> str:
    """A room: its docstring, the rooms that it imports, and a line per module."""
    lines = [f"## {room}", "", docstring(PACKAGE / room / "__init__.py"), ""]
    lines += [f"Imports today: {', '.join(arrows(room)) or 'no other room'}.", ""]
    for file in modules(room):
        path = file.relative_to(PACKAGE / room)
        lines.append(f"- [`{path}`](workflow_scripts/{room}/{path}): {first_line(file)}")
    return "\n".join(lines)


def beside() -> str:
    """A line per module that stands beside the rooms."""
    files = sorted(file for file in PACKAGE.glob("*.py") if file.name != "__init__.py")
    return "\n".join(f"- [`{file.name}`](workflow_scripts/{file.name}): {first_line(file)}" for file in files)


def page() -> str:
    """The text of ARCHITECTURE.md."""
    text = "\n\n".join(filter(None, [HEAD.rstrip(), beside(), *map(section, ROOMS)]))
    return re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

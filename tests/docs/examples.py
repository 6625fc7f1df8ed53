"""Commands and configuration that the pages tell their readers to type, with the files that a page names."""

import re
import textwrap
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FRONT = ("README.md", "CONTRIBUTING.md")  # pages whose inline code is prose
PAGES = [*(ROOT / name for name in FRONT), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)(?: +title=\"([^\"]+)\")?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
PROGRAMS = ("make", "snakemake", "python", "source", "pip", "sbatch", "scancel", "squeue", "mkdocs")
PLACEHOLDER = re.compile(r"<|…|\.\.\.|(?<![\w=])(NAME|PATH|FILE|FOLDER)\b|=NAME\b|=FILE\b|results/NAME/")


class Example(NamedTuple):
    """A command as a page gives it."""

    page: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


class Block(NamedTuple):
    """A fenced block: language, title (a file's name) or "", content."""

    line: int
    language: str
    title: str
    content: str


@cache
def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(text.count("\n", 0, match.start()) + 1, match[2], match[3] or "", textwrap.dedent(match[4]))
        for match in FENCE.finditer(text)
    ]


@cache
def files(page: str) -> dict[str, str]:
    """Name -> content of the files that a page tells to write."""
    titled = [block for block in blocks(ROOT / page) if block.title]
    named = {block.title: block.content for block in titled}
    assert len(named) == len(titled), (
        f"{page}: two blocks have one title; a reader would not know which to write"
    )
    return named


def commands() -> list[Example]:
    """Every command of every page: lines of bash blocks, and inline code of the docs that could be typed as it stands.

    Inline code of the front pages is prose; their blocks are commands like any other.
    """
    found = []
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        for block in blocks(page):
            if block.language in ("bash", "sh", "shell", "console"):
                joined = re.sub(r"\\\n\s*", " ", block.content)
                found += [
                    Example(name, block.line, text)
                    for line in joined.splitlines()
                    if (text := re.sub(r"(^|\s+)#.*", "", line).strip())
                ]
        if name not in FRONT:
            prose = FENCE.sub(lambda match: "\n" * match[0].count("\n"), page.read_text())
            for number, line in enumerate(prose.splitlines(), 1):
                found += [
                    Example(name, number, text)
                    for text in SPAN.findall(line)
                    if text.split()[0] in PROGRAMS and " " in text and not PLACEHOLDER.search(text)
                ]
    return found

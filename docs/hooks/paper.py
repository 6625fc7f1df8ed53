"""Write the findings on the page about the paper's tables from the audit itself.

    python docs/hooks/paper.py

Run it after a change of the audit; tests/docs/test_pages.py fails until then. Only the marked region changes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from workflow_scripts.judge.audit import audit  # noqa: E402
from workflow_scripts.judge.paper import read_tables  # noqa: E402

PAGE = ROOT / "docs" / "explanation" / "paper.md"
BEGIN = "<!-- findings: written by docs/hooks/paper.py, not by hand -->"
END = "<!-- end of findings -->"


def findings() -> str:
    """Markdown: how many statements hold, and a row per statement with the numbers that decide it."""
    report = audit(read_tables())
    counts = report["counts"]
    lines = [
        f"{counts['holds']} statements hold, {counts['does not hold']} do not, {counts['cannot be known']} cannot be "
        "known from what is printed.",
        "",
        "| statement | where | verdict | numbers |",
        "|---|---|---|---|",
    ]
    for found in report["findings"]:
        cells = [found[key].replace("|", "\\|") for key in ("statement", "where", "verdict", "numbers")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """The page's text with today's findings between the marks; ValueError if it lacks a mark."""
    before, after = text.index(BEGIN), text.index(END)
    return f"{text[:before]}{BEGIN}\n\n{findings()}\n\n{text[after:]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))

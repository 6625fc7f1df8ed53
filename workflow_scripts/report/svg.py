"""A figure's SVG file, as pages show it: an image, and the notes that its drawing left in it."""

import base64
import html
import re
from pathlib import Path

NOTHING = "Nothing to draw."  # the notes of a figure without its data


def image(path: Path) -> str:
    """A data URI of an SVG file; as an image its ids can't clash with another figure's."""
    return "data:image/svg+xml;base64," + base64.b64encode(Path(path).read_bytes()).decode()


def notes_of(path: Path) -> str | None:
    """The notes that the figure was saved with; None if there was nothing to draw."""
    found = re.search("<dc:description>(.*?)</dc:description>", path.read_text(encoding="utf-8"), re.S)
    notes = html.unescape(found[1]) if found else ""
    return None if notes == NOTHING else notes

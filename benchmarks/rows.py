"""What a benchmark prints, as JSON lines too: `--output FILE`.

A row is appended as soon as it is measured, so that a run which is ended early leaves those before.
"""

import argparse
import json
from pathlib import Path


def add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, help="append each row to this file, as a line of JSON")


def keep(file: Path | None, /, **row: object) -> None:
    """Append a row, if a file is asked for. The keys say the units, as they become the heads of a table."""
    if file:
        with file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")

"""Compare a grid's verdicts with the labels that its configuration expected before the run.

  python -m workflow_scripts truth --grid truth

Prints a table in Markdown: copy, text, expected label, verdict, support. Fails if no verdict is there yet.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from workflow_scripts.commands.options import add_grid
from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.plan.config import files
from workflow_scripts.plan.layout import VERDICT
from workflow_scripts.plan.recipes import plan_of
from workflow_scripts.report.truth import rows, to_markdown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid(parser, "truth")


def main(grid: str, blocks: list[str] | None = None, configfile: Sequence[str] = ()) -> int:
    """Print the table; returns an exit status. Raises ArtifactError without expected labels or without a verdict."""
    expected = plan_of(files(*configfile), grid, blocks).grid(grid).expected
    if not expected:
        raise ArtifactError(
            f"grids.{grid}.expected: nothing is expected of this grid; name a label per verdict"
        )
    path = Path(VERDICT.path(grid))
    if not path.exists():
        raise ArtifactError(f"{path}: not there yet; run the grid first: make run GRID={grid}")
    print(to_markdown(rows(read_json(path, schema="verdict"), expected)))
    return 0

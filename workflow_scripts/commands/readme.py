"""Write the README's results from a committed archive.

  python -m workflow_scripts readme --archive reports/bench

Only the marked region of the page changes.
"""

import argparse
from pathlib import Path

from workflow_scripts.archive.unpacking import opened
from workflow_scripts.files.artifacts import atomic_path, read_json
from workflow_scripts.plan.layout import VERDICT
from workflow_scripts.report.readme import region, replaced

ARCHIVE = "reports/bench"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--archive", default=ARCHIVE, help="an archive's folder (default: %(default)s)")
    parser.add_argument("--readme", default="README.md", help="the page to change (default: %(default)s)")


def results_of(archive: str) -> str:
    """Text of the README's marked region for an archive's folder."""
    with opened(Path(archive)) as (folder, index, _):
        verdict = read_json(folder / VERDICT.path(index["grid"]), schema="verdict")
        return region(verdict, index, archive)


def main(archive: str = ARCHIVE, readme: str = "README.md") -> int:
    """Rewrite the marked region of `readme`; returns an exit status."""
    text = replaced(Path(readme).read_text(), results_of(archive))
    with atomic_path(readme) as temporary:
        temporary.write_text(text)
    print(f"{readme}: results of {archive}")
    return 0

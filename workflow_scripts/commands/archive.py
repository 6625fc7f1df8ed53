"""Pack what a grid measured and made into one file or folder.

  python -m workflow_scripts archive --grid bench
  python -m workflow_scripts archive --grid bench --out reports/bench --small

The grid must have a report that is up to date.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from workflow_scripts.archive.packing import pack_grid, packed_by
from workflow_scripts.commands.options import add_configfile
from workflow_scripts.plan.layout import ARCHIVE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grid", required=True, help="the grid to pack")
    parser.add_argument(
        "--out", help=f"a .tar.gz file or a folder (default: {ARCHIVE.format(grid='<grid>')})"
    )
    parser.add_argument(
        "--small",
        action="store_true",
        help="leave out the adapters' weights, page, report and ledger (default: pack them)",
    )
    add_configfile(parser)


def main(grid: str, out: str | None = None, small: bool = False, configfile: Sequence[str] = ()) -> int:
    """Write the archive and print what it holds; returns an exit status."""
    target = Path(out or ARCHIVE.format(grid=grid))
    index = pack_grid(grid, target, small, configfile)
    for name, block in index["blocks"].items():
        print(f"  block {name:<15} {block['evaluated']:>4} of {block['planned']} cells")
    files = [target] if target.is_file() else [file for file in target.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    if (commit := index["commit"] or "").endswith("+"):
        warning = f"Warning: packed by {packed_by(commit)}: nobody else has it; commit and pack again"
        print(warning, file=sys.stderr)
    again = shlex.join(["make", "rebuild", f"FROM={target}"])
    print(f"{target}: {len(index['files'])} files, {size:.1f} MB. Rebuild it: {again}")
    return 0

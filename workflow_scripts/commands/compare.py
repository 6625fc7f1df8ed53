"""Compare two archives item by item, in every cell that both hold.

  python -m workflow_scripts compare archives/one.tar.gz archives/two.tar.gz --out difference.json

Differences are those of the second archive from the first.
"""

import argparse
from contextlib import ExitStack
from pathlib import Path

from workflow_scripts.archive.comparison import compare, lines
from workflow_scripts.archive.unpacking import opened, unpack
from workflow_scripts.commands.options import add_archive
from workflow_scripts.files.artifacts import named, write_json
from workflow_scripts.files.scratch import scratch_folder
from workflow_scripts.judge.results import Results, read_results


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_archive(parser, "a")
    add_archive(parser, "b")
    parser.add_argument("--out", help="a JSON file for all numbers (default: none is written)")


def main(a: str, b: str, out: str | None = None) -> int:
    """Print b's differences from a, and write them to the JSON file `out`; returns an exit status."""
    with ExitStack() as stack:
        report = compare(_results(stack, a), _results(stack, b))
    if out:
        write_json(out, report)
    print("\n".join(lines(report)))
    return 0


def _results(stack: ExitStack, source: str) -> Results:
    archive, index, plan = stack.enter_context(opened(Path(source)))
    root = stack.enter_context(scratch_folder("compare"))
    stack.enter_context(named(root, Path(source)))
    unpack(archive, index, plan, root)
    return read_results([str(root / cell.json) for cell in plan.cells(index["grid"])])

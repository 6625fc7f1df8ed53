"""`make compare A=<archive> B=<archive>`: B against A, every common cell, item by item."""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from workflow_scripts.archive.comparison import compare, lines
from workflow_scripts.archive.unpacking import named, opened, unpack
from workflow_scripts.files.artifacts import ArtifactError, write_json
from workflow_scripts.judge.results import Results, read_results


def main(a: str, b: str, output: str | None = None) -> int:
    """Print the comparison and write it as JSON where `output` names a file; returns an exit status."""
    try:
        with ExitStack() as stack:
            report = compare(*(_results(stack, source) for source in (a, b)))
        if output:
            write_json(output, report)
    except ArtifactError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(lines(report)))
    return 0


def _results(stack: ExitStack, source: str) -> Results:
    archive, index, plan = stack.enter_context(opened(Path(source)))
    root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-")))
    stack.enter_context(named(root, Path(source)))
    unpack(archive, index, plan, root)
    return read_results([str(root / cell.json) for cell in plan.cells(index["grid"])])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a", help="an archive: a folder or a .tar.gz file")
    parser.add_argument("b", help="another")
    parser.add_argument("--out", help="a JSON file for all numbers")
    arguments = parser.parse_args()
    sys.exit(main(arguments.a, arguments.b, arguments.out))

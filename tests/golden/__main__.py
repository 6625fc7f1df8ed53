"""`python -m tests.golden FOLDER... [--device cuda]`: check every golden file, a line per file and method.

A line: verdict, file or case, method, figure, reference, deviation, notes. NPZ files hold compression problems,
JSON files selection scores. It fails on a deviation, an unknown method or format, and an empty folder.
"""

import argparse
import sys
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.rows import add_output, keep
from tests.golden import Row

CHECKS = {".npz": "tests.golden.compress", ".json": "tests.golden.idp"}
IGNORED = {".md", ".txt", ".py", ".pyc"}


def main(paths: list[Path], device: str = "cpu", output: Path | None = None) -> int:
    """Check files and folders, compression on `device`; the exit status. `output` gets a row for each file."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    files = [file for file in files if not file.is_dir() and file.suffix not in IGNORED]
    checked, failed = 0, 0
    for file in files:
        rows = _rows(file, device)
        checked += len(rows)
        failed += (wrong := sum(not row.holds() for row in rows))
        worst = max((row.deviation for row in rows if row.holds()), default=None)
        keep(
            output,
            file=file.name,
            figures=len(rows),
            failed=wrong,
            largest_deviation_of_those_that_hold=worst,
        )
        for row in rows:
            print(
                f"{'ok    ' if row.holds() else 'FAILED'}  {row.case}  {row.method:34}  figure {row.figure:.8g}  "
                f"reference {row.reference:.8g}  deviation {row.deviation:.1e}  {row.note}",
                flush=True,
            )
    print(f"{checked} figures in {len(files)} files, {failed} failed")
    return 1 if failed or not checked else 0


def _rows(file: Path, device: str) -> list[Row]:
    nan = float("nan")
    if file.suffix not in CHECKS:
        return [Row(str(file), "-", nan, nan, nan, False, f"unknown format; known: {', '.join(CHECKS)}")]
    try:
        check = import_module(CHECKS[file.suffix]).check
        return [Row(*row) for row in (check(file, device) if file.suffix == ".npz" else check(file))]
    except Exception as error:  # whatever a damaged file does to a reader, it fails by its name
        return [Row(str(file), "-", nan, nan, nan, False, f"can't be read as golden data: {error!r}")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where compression is computed"
    )
    add_output(parser)
    args = parser.parse_args()
    if missing := [str(path) for path in args.paths if not path.exists()]:
        parser.error(f"no such file or folder: {', '.join(missing)}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU")
    return args


if __name__ == "__main__":
    args = arguments()
    sys.exit(main(args.paths, args.device, args.output))

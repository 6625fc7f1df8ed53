"""`make archive GRID=bench`: pack what a grid measured and made into one file or folder."""

import argparse
import sys
from pathlib import Path

from workflow_scripts.archive.packing import pack, packed_by
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan.config import ConfigError


def main(grid: str, output: str | None = None, small: bool = False) -> int:
    """Write the archive and say what is in it; returns an exit status."""
    target = Path(output or f"archives/{grid}.tar.gz")
    try:
        index = pack(grid, target, small)
    except (ArtifactError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1
    for name, block in index["blocks"].items():
        print(f"  block {name:<15} {block['evaluated']:>4} of {block['planned']} cells")
    files = [target] if target.is_file() else [file for file in target.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 1e6
    if (index["commit"] or "").endswith("+"):
        warning = (
            f"Warning: packed by {packed_by(index['commit'])}: nobody else has it; commit and pack again"
        )
        print(warning, file=sys.stderr)
    print(
        f"{target}: {len(index['files'])} files, {size:.1f} MB. Make it all again: make rebuild FROM={target}"
    )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grid", required=True)
    parser.add_argument("--out", help="a .tar.gz file or a folder; archives/<grid>.tar.gz if not given")
    parser.add_argument(
        "--small", action="store_true", help="without adapters' weights, page, report and ledger"
    )
    arguments = parser.parse_args()
    sys.exit(main(arguments.grid, arguments.out, arguments.small))

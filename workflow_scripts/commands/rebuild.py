"""Make ledger, verdict, tables, figures, audit and report again from an archive, without any model.

  python -m workflow_scripts rebuild reports/bench
  python -m workflow_scripts rebuild archives/bench.tar.gz --out rebuilt/bench --cores 2

The roll-up rules run in an empty folder on the archive's measurements; their files are then compared with those of
the archive.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from workflow_scripts.archive.packing import METADATA, packed_by
from workflow_scripts.archive.rebuilt import held_against
from workflow_scripts.archive.unpacking import on_one_copy, opened, place_records, unpack
from workflow_scripts.cluster.snakemake_surface import refuse_closed_cache
from workflow_scripts.commands.options import add_archive
from workflow_scripts.files.artifacts import PACKAGE, ArtifactError, read_json
from workflow_scripts.files.sealed_tables import seal_table
from workflow_scripts.plan.config import write_complete
from workflow_scripts.plan.layout import ANSWERS, LOGS, REBUILT, REPORT, VERDICT
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.report.summary import lines

UNFINISHED = ".unfinished"  # in the folder until the archive is unpacked
RULES = ("build_ledger", "judge", "tabulate", "plot_figures", "audit_paper", "draw_page", "report_grid")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_archive(parser, "source")
    parser.add_argument("--out", help=f"a new or empty folder (default: {REBUILT.format(grid='<grid>')})")
    parser.add_argument("--cores", type=int, default=1, help="jobs at a time (default: %(default)s)")


def main(source: str, out: str | None = None, cores: int = 1) -> int:
    """Rebuild into the folder `out`, which must be new or empty; returns an exit status."""
    refuse_closed_cache()
    with opened(Path(source)) as (archive, index, plan):
        grid = index["grid"]
        folder = Path(out or REBUILT.format(grid=grid))
        _unpack(archive, index, plan, folder)
        write_complete(plan.config.dump() | {"grid": grid, "partial": True, "rebuilt": True}, folder)
        if status := _run(folder, REPORT.path(grid), cores):
            print(f"The rebuild did not finish: see the lines above and {folder}/{LOGS}.", file=sys.stderr)
            return status
        print("\n".join(lines(read_json(folder / VERDICT.path(grid)))))
        print("\n".join(held_against(archive, index, folder)))
        print(f"The archive was packed by {packed_by(index['commit'])}.")
        if cells := on_one_copy(index, plan):
            print(
                f"In {len(cells)} of its cells the seed drew the training alone: all stand on one compressed copy."
            )
    print(f"Report: {folder}/{REPORT.path(grid)}")
    return 0


def _unpack(archive: Path, index: dict, plan: Plan, folder: Path) -> None:
    """The archive's measurements in `folder`, which must be new or empty, or left by a rebuild that was killed here."""
    unfinished = folder / UNFINISHED
    if folder.exists() and any(folder.iterdir()) and not unfinished.exists():
        raise ArtifactError(f"{folder}: is not empty; remove it or give another OUT")
    folder.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    unfinished.touch()
    try:
        unpack(archive, index, plan, folder)
        answers = folder / ANSWERS.path(index["grid"])
        if answers.exists():  # an older archive's bear no seal
            seal_table(answers)
        if METADATA in index["files"]:
            place_records(archive, folder)
    except ArtifactError:
        _clear(folder)
        raise
    unfinished.unlink()


def _clear(folder: Path) -> None:
    """Remove what a folder holds; a disk may be mounted there, so the folder itself stays."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _run(folder: Path, target: str, cores: int) -> int:
    """Snakemake's exit status for `target`, made in `folder` by the roll-up rules alone."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PACKAGE.parent / "Snakefile")]
    command += ["--directory", str(folder), "--cores", str(cores), "--quiet", "rules", "progress"]
    command += ["--allowed-rules", *RULES, "--", target]
    return subprocess.run(command, check=False).returncode

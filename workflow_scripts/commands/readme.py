"""Write the README's results from a committed archive.

  python -m workflow_scripts readme --archive reports/bench

Only the marked region of the page changes.
"""

import argparse
from pathlib import Path

from workflow_scripts.archive.unpacking import opened
from workflow_scripts.files.artifacts import ArtifactError, atomic_path, check, read_json
from workflow_scripts.judge.judgement import SCHEMA
from workflow_scripts.plan.layout import VERDICT
from workflow_scripts.report.readme import region, replaced

ARCHIVE = "reports/bench"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--archive", default=ARCHIVE, help="an archive's folder (default: %(default)s)")
    parser.add_argument("--readme", default="README.md", help="the page to change (default: %(default)s)")


def results_of(archive: str) -> str:
    """Text of the README's marked region for an archive's folder."""
    with opened(Path(archive)) as (folder, index, _):
        path = VERDICT.path(index["grid"])
        verdict = read_json(folder / path, advice="take another copy")
        if (schema := verdict.get("schema", 1)) != SCHEMA:
            raise ArtifactError(
                f"{archive}/{path}: has schema {schema}, this version writes {SCHEMA}: `make rebuild FROM={archive}` "
                "makes it anew from the same measurements"
            )
        check(verdict, "verdict", f"{archive}/{path}")
        return region(verdict, index, archive)


def main(archive: str = ARCHIVE, readme: str = "README.md") -> int:
    """Rewrite the marked region of `readme`; returns an exit status."""
    try:
        text = replaced(Path(readme).read_text(encoding="utf-8"), results_of(archive))
    except ArtifactError as error:
        raise ArtifactError(f"{readme}: {error}") from error
    with atomic_path(readme) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{readme}: results of {archive}")
    return 0

"""Write the results of README and recovery page from a committed archive.

  python -m workflow_scripts readme --archive reports/bench

Only the marked regions of the pages change.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from workflow_scripts.archive.unpacking import opened
from workflow_scripts.files.artifacts import ArtifactError, atomic_path, check, read_json, require_regular
from workflow_scripts.judge.judgement import SCHEMA
from workflow_scripts.plan.layout import VERDICT
from workflow_scripts.report.readme import region, replaced
from workflow_scripts.report.recovery import figures

ARCHIVE = "reports/bench"
RECOVERY = "docs/explanation/recovery.md"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--archive", default=ARCHIVE, help="an archive's folder (default: %(default)s)")
    parser.add_argument("--readme", default="README.md", help="the page to change (default: %(default)s)")
    parser.add_argument(
        "--recovery", default=RECOVERY, help="the page with R, g and h (default: %(default)s)"
    )


def results_of(archive: str, text: Callable[[dict, dict, str], str] = region) -> str:
    """Text of a page's marked region for an archive's folder; text: of its verdict.json, archive.json and name."""
    with opened(Path(archive)) as (folder, index, _):
        path = VERDICT.path(index["grid"])
        verdict = read_json(folder / path, advice="take another copy")
        if (schema := verdict.get("schema", 1)) != SCHEMA:
            raise ArtifactError(
                f"{archive}/{path}: has schema {schema}, this version writes {SCHEMA}: `make rebuild FROM={archive}` "
                "makes it anew from the same measurements"
            )
        check(verdict, "verdict", f"{archive}/{path}")
        return text(verdict, index, archive)


def main(archive: str = ARCHIVE, readme: str = "README.md", recovery: str = RECOVERY) -> int:
    """Rewrite the marked regions of `readme` and `recovery`; returns an exit status."""
    pages = {}
    for page, text in ((readme, region), (recovery, figures)):
        try:
            require_regular(page)
            pages[page] = replaced(Path(page).read_text(encoding="utf-8"), results_of(archive, text))
        except UnicodeDecodeError as error:
            raise ArtifactError(
                f"{page}: is no UTF-8 text (byte {error.start + 1}); save it as UTF-8"
            ) from error
        except ArtifactError as error:
            raise ArtifactError(f"{page}: {str(error).removeprefix(f'{page}: ')}") from error
    for page, whole in pages.items():
        with atomic_path(page) as temporary:
            temporary.write_text(whole, encoding="utf-8")
        print(f"{page}: results of {archive}")
    return 0

"""Write the README's results from a committed archive: `python -m workflow_scripts.commands.readme`."""

import argparse
import sys
from pathlib import Path

from workflow_scripts.archive.unpacking import opened
from workflow_scripts.files.artifacts import ArtifactError, atomic_path, read_json
from workflow_scripts.report.readme import region, replaced

ARCHIVE = "reports/bench"


def results_of(archive: str) -> str:
    """The region's text for an archive's folder."""
    with opened(Path(archive)) as (folder, index, _):
        verdict = read_json(folder / f"results/{index['grid']}/verdict.json", schema="verdict")
        return region(verdict, index, archive)


def main(archive: str = ARCHIVE, readme: str = "README.md") -> int:
    """Rewrite the marked region of `readme`; returns an exit status."""
    try:
        text = replaced(Path(readme).read_text(), results_of(archive))
        with atomic_path(readme) as temporary:
            temporary.write_text(text)
    except ArtifactError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{readme}: results of {archive}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", default=ARCHIVE)
    parser.add_argument("--readme", default="README.md")
    arguments = parser.parse_args()
    sys.exit(main(arguments.archive, arguments.readme))

"""`make restore FROM=<archive>`: put finished cells and adapters back, so that nothing of them runs again."""

import argparse
import sys
from pathlib import Path

from workflow_scripts.archive.restoring import restore
from workflow_scripts.archive.unpacking import opened
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan.config import ConfigError, files, load, read
from workflow_scripts.plan.recipes import Plan


def main(source: str, configfiles: list[str]) -> int:
    """Restore into the working folder what was made by the recipes of today's code and configuration; returns an
    exit status (1 where nothing could be restored)."""
    try:
        plan = Plan(load(read(*configfiles)))
        with opened(Path(source)) as (archive, index, _):
            done = restore(archive, index, plan, Path())
    except (ArtifactError, ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(done.lines()))
    return 0 if done.restored or done.present else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", help="an archive: a folder or a .tar.gz file")
    parser.add_argument("--configfile", nargs="+", default=[], help="read over config.yaml")
    arguments = parser.parse_args()
    sys.exit(main(arguments.source, files(*arguments.configfile)))

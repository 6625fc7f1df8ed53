"""Put an archive's finished cells and adapters back into results/, so that none of them runs again.

  python -m workflow_scripts restore archives/bench.tar.gz

A result is restored if today's code and configuration would make it by the same recipe, or if its code alone is another
and nothing is there: `adopt` keeps such results. The others are listed.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from workflow_scripts.archive.restoring import restore
from workflow_scripts.archive.unpacking import opened
from workflow_scripts.commands.options import add_archive, add_configfile
from workflow_scripts.files.locks import hold
from workflow_scripts.files.members import RESULTS
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.recipes import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_archive(parser, "source")
    add_configfile(parser)


def main(source: str, configfile: Sequence[str] = ()) -> int:
    """Restore into the working folder; returns an exit status (1 if nothing could be restored)."""
    plan = Plan(load(read(*files(*configfile))))
    with opened(Path(source)) as (archive, index, _), hold(RESULTS):
        done = restore(archive, index, plan)
    print("\n".join(done.lines()))
    return 0 if done.restored or done.present else 1

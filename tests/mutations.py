"""Does a test fail if a mend is taken out? One mend at a time, in a copy of the checkout.

  python -m tests.mutations                     every mend
  python -m tests.mutations S1 F2               those whose names begin so
  PYTEST="nice python -m pytest -q" python -m tests.mutations F     with another command for the tests

mends/ holds them, each of a fault that once passed in silence (docs/reference/faults.md): the text that mends it,
the text without it, and the test that must fail then. tests/unit/test_mutations.py keeps them in step with the code.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).parents[1]
COPIED = (
    "workflow_scripts",
    "tests",
    "rules",
    "profiles",
    "envs",
    "config",
    "reports",
    "recipes",
    "docs",
    "benchmarks",
)
PYTEST = os.environ.get("PYTEST", f"{sys.executable} -m pytest -q -p no:cacheprovider")
MOST_SECONDS = 900  # of a test: without its mend it may build a thousand million layers


class Mend(NamedTuple):
    """A mend in `file`: `text`, which stands there once, `without` in its place, and the `test` that fails then."""

    name: str
    file: str
    text: str
    without: str
    test: str


TABLES = sorted(Path(__file__).with_name("mends").glob("*.yaml"))
MENDS = tuple(Mend(**mend) for table in TABLES for mend in yaml.safe_load(table.read_text(encoding="utf-8")))


def chosen(names: list[str]) -> list[Mend]:
    """The mends whose names begin with one of `names`; all, without any."""
    return [mend for mend in MENDS if not names or mend.name.startswith(tuple(names))]


def copy_to(folder: Path) -> None:
    """The checkout's tracked parts in `folder`; the tests find what they read there."""
    for name in COPIED:
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file in ROOT.iterdir():
        if file.is_file():
            shutil.copy2(file, folder / file.name)


def without(mend: Mend, folder: Path) -> None:
    """Take the mend out of the copy in `folder`; ValueError if its text does not stand there once."""
    file = folder / mend.file
    text = file.read_text(encoding="utf-8")
    if text.count(mend.text) != 1:
        raise ValueError(
            f"{mend.name}: its text stands {text.count(mend.text)} times in {mend.file}, not once"
        )
    file.write_text(text.replace(mend.text, mend.without), encoding="utf-8")


def outcomes(mends: list[Mend], folder: Path) -> Iterator[tuple[Mend, bool, float]]:
    """(mend, whether its test failed without it, seconds), one after the other, in the copy in `folder`.

    A test that can't be collected has not failed (pytest ends with another status than 1). One without an end has.
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    for mend in mends:
        file, started = folder / mend.file, time.monotonic()
        before = file.read_bytes()
        without(mend, folder)
        command = [*shlex.split(PYTEST), mend.test]
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, check=False, timeout=MOST_SECONDS
            )
            failed = done.returncode == 1
        except subprocess.TimeoutExpired:
            failed = True
        file.write_bytes(before)
        yield mend, failed, time.monotonic() - started


def main(names: list[str]) -> int:
    """Run, print a line per mend; 1 if a test passes without its mend."""
    survived = 0
    with tempfile.TemporaryDirectory() as scratch:
        copy_to(Path(scratch))
        for mend, failed, seconds in outcomes(chosen(names), Path(scratch)):
            survived += not failed
            print(
                f"{'fails' if failed else 'PASSES':<7} {seconds:4.0f} s  {mend.name}  ({mend.test})",
                flush=True,
            )
    print(
        f"{survived} of {len(chosen(names))} mends are held by no test"
        if survived
        else "Every mend is held by its test"
    )
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Fetch one corpus of the catalogue: pinned, verified, whole or not at all."""

from pathlib import Path

from workflow_scripts.files.job import run
from workflow_scripts.files.members import WHEELS
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.sources.corpora import fetch


def main(manifest: str, details: dict, name: str, spec: dict, recipe: str, code: str) -> None:
    """Fill the folder of `manifest` as the catalogue's entry says; `details` are its note, licence and path."""
    fetch(name, spec | details, Path(manifest).parent, WHEELS, recipe=recipe, code=code)


if __name__ == "__main__":
    run(main, unchanged("fetch_corpus"))

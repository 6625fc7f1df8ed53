"""Fetch one model of the catalogue: pinned, verified, whole or not at all."""

from pathlib import Path

from workflow_scripts.files.job import run
from workflow_scripts.files.members import WHEELS
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.sources.models import fetch


def main(manifest: str, details: dict, name: str, spec: dict, recipe: str, code: str, config: dict) -> None:
    """Fill the folder of `manifest` as the catalogue's entry says; `details` are its note, licence and path.

    config: the whole configuration, checked again with the fetched model before any job stands on it.
    """
    from workflow_scripts.plan import after_fetch

    fetch(name, spec | details, Path(manifest).parent, WHEELS, recipe=recipe, code=code)
    after_fetch.check(config, name)


if __name__ == "__main__":
    run(main, unchanged("fetch_model"))

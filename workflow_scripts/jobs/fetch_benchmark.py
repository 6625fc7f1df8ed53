"""Fetch one benchmark of the catalogue: pinned, verified, whole or not at all."""

from pathlib import Path

from workflow_scripts.files.job import run
from workflow_scripts.files.members import WHEELS
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.sources.benchmarks import fetch


def main(manifest: str, details: dict, variant: dict, name: str, spec: dict, recipe: str, code: str) -> None:
    """Fill the folder of `manifest` as the catalogue's entry says; `details` are its note, licence and path.

    variant: {task, num_fewshot, strata} of the task `name` in the catalogue, and its templates that methods fill in. It
    checks that the task can ask every document, and that these have the fields of its strata and templates.
    """

    def check(data: Path, where: str) -> list[str]:
        from workflow_scripts.evaluate import task_check

        return task_check.check(data, where, name, variant)

    fetch(name, spec | details, Path(manifest).parent, WHEELS, recipe=recipe, code=code, check=check)


if __name__ == "__main__":
    run(main, unchanged("fetch_benchmark"))

"""Make Snakemake's own HTML report of a grid from within the run (rule `report_grid`).

It is a rule rather than `--report-after-run`: a partial run (one cell) must not overwrite the grid's report with one on
that cell, and each grid's report belongs into its own folder.
"""

from dataclasses import dataclass
from pathlib import Path

from workflow_scripts.files.artifacts import read_json, sha256_file, write_json
from workflow_scripts.files.job import run
from workflow_scripts.files.work_folders import clear_work, work_folder
from workflow_scripts.plan import layout
from workflow_scripts.plan.config import load
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.plan.forecast import warnings
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.report.landing import shortcomings, unmeasured
from workflow_scripts.report.snakemake_report import write_report
from workflow_scripts.report.svg import notes_of


@dataclass(frozen=True)
class Contents:
    """Files of a grid: all planned cells; `counted` evaluations and measurements; `inputs`, tables, figures, pages."""

    cells: list[str]
    counted: list[str]
    inputs: list[str]


def main(
    config: dict, contents: Contents, output: str, stamp: str, recipe: str, recipes: dict[str, str]
) -> None:
    """Write `output` (one offline HTML file) about the jobs that made the grid's evaluations and `contents.inputs`.

    `stamp` (JSON) says what the report was made from: the recipe, those of the roll-ups (by entry), the SHA-256 of
    every counted file and of every roll-up, the configuration. Files that a partial run lacks are left out.
    """
    results = Path(output).parent
    if config["grid"] != results.name:
        config = config | {"grid": results.name, "blocks": None}
    counted = [file for file in contents.counted if Path(file).exists()]
    evaluations = [file for file in counted if file in contents.cells]
    unshown = [str(Path(file).relative_to(results)) for file in contents.inputs if not shows_something(file)]
    shown = config | {"unshown": unshown}
    minded = shortcomings(_unmeasured(contents.counted), warnings(Plan(load(config)), results.name))
    write_report([*evaluations, *contents.inputs], shown, work_folder(output), Path(output), minded)
    hashes = {file: sha256_file(file) for file in counted}
    roll_ups = {file: sha256_file(file) for file in _roll_ups(results)}
    made_from = {"recipe": recipe, "recipes": recipes, "files": hashes, "roll_ups": roll_ups}
    write_json(stamp, made_from | {"config": config})
    clear_work(output)


def _unmeasured(counted: list[str]) -> dict[str, dict]:
    """Measurements among the counted files that are not there."""
    kinds = {"similarity": layout.SIMILARITY, "latency": layout.LATENCY}
    planned = {kind: [file for file in counted if made.parse(file)] for kind, made in kinds.items()}
    measured = {kind: [file for file in files if Path(file).exists()] for kind, files in planned.items()}
    return unmeasured({kind: len(files) for kind, files in planned.items()}, measured)


def _roll_ups(results: Path) -> list[str]:
    """The grid's roll-ups that are there, in every format, and the report."""
    files = (results.parents[1] / file.path(results.name) for file in layout.SEALED)
    return [str(file) for file in files if file.exists()]


def shows_something(file: str) -> bool:
    """Whether a page or figure speaks of the grid: a figure has its data, the audit a cell that the paper prints."""
    path = Path(file)
    if path.name == layout.AUDIT_PAGE.name:
        return bool(read_json(path.with_name(layout.AUDIT.name), schema="audit")["cells"])
    return path.suffix != ".svg" or notes_of(path) is not None


if __name__ == "__main__":
    run(main, unchanged("report_grid"))

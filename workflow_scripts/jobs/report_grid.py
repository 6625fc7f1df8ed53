"""Make Snakemake's own HTML report of a grid from within the run (rule `report_grid`).

It is a rule rather than `--report-after-run`: a partial run (one cell) must not overwrite the grid's report with one on
that cell, and each grid's report belongs into its own folder.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from workflow_scripts.files.artifacts import (
    PACKAGE,
    ArtifactError,
    atomic_path,
    read_json,
    sha256_file,
    write_json,
)
from workflow_scripts.files.checkpoints import clear_work, work_folder
from workflow_scripts.files.job import run
from workflow_scripts.plan import layout
from workflow_scripts.plan.digests import unchanged
from workflow_scripts.report.landing import HEADLINE, landing, style, with_frames
from workflow_scripts.report.svg import notes_of

CONFIG, STYLE = "config.yaml", "style.css"  # of the report, in its work folder


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
    every counted file, the configuration. Files that a partial run lacks are left out.
    """
    results = Path(output).parent
    if config["grid"] != results.name:
        config = config | {"grid": results.name, "blocks": None}
    work = work_folder(output)
    shown = _with_verdict(config, results)
    (work / CONFIG).write_text(yaml.safe_dump(shown, sort_keys=False), encoding="utf-8")
    (work / STYLE).write_text(style(), encoding="utf-8")
    counted = [file for file in contents.counted if Path(file).exists()]
    evaluations = [file for file in counted if file in contents.cells]
    with atomic_path(Path(output)) as temporary:
        _report([*evaluations, *filter(_shows_something, contents.inputs)], work, temporary)
        temporary.write_text(with_frames(temporary.read_text(encoding="utf-8")), encoding="utf-8")
    made_from = {file: sha256_file(file) for file in counted}
    write_json(stamp, {"recipe": recipe, "recipes": recipes, "files": made_from, "config": config})
    clear_work(output)


def _shows_something(file: str) -> bool:
    return not file.endswith(".svg") or notes_of(Path(file)) is not None


def _report(targets: list[str], work: Path, path: Path) -> None:
    """Snakemake's report about the jobs that made `targets`; ArtifactError with its last line if it fails.

    work: the folder of CONFIG and STYLE.
    """
    html = path.with_suffix(".html")
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(PACKAGE.parent / "Snakefile")]
    command += ["--configfile", str(work / CONFIG), "--nolock", "--report", str(html)]
    command += ["--report-stylesheet", str(work / STYLE), "--", *targets]
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
        )
        print(done.stdout)
        if done.returncode:
            reason = done.stdout.strip().splitlines()[-1:] or ["no output"]
            raise ArtifactError(f"snakemake --report failed: {reason[0]}")
        html.rename(path)
    finally:
        html.unlink(missing_ok=True)


def _with_verdict(config: dict, results: Path) -> dict:
    """The configuration with the report's first view as the grid's description: reports/workflow.rst shows it."""
    grid = results.name
    settings = config["grids"][grid]
    figure = results / layout.figure(HEADLINE).name
    html = landing(
        read_json(results / layout.VERDICT.name, schema="verdict"),
        settings["description"],
        figure if figure.exists() else None,
        layout.PAGE.path(grid),
    )
    return config | {"grids": config["grids"] | {grid: settings | {"description": html}}}


if __name__ == "__main__":
    run(main, unchanged("report_grid"))

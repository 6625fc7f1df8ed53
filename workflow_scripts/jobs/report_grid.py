"""Make Snakemake's own HTML report of a grid from within the run (rule `report_grid`).

A rule, and not `--report-after-run`: a partial run (one cell) must not overwrite the grid's report with
a report on that cell, and each grid's report belongs into its own folder.
"""

import subprocess
import sys
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
from workflow_scripts.files.job import job
from workflow_scripts.report.summary import lines


def main(
    config: dict, targets: list[str], counted: list[str], output: str, stamp: str, recipe: str, recipes: dict[str, str]
) -> None:  # fmt: skip
    """Write `output` (one offline HTML file) about the jobs that made `targets`.

    `stamp` (JSON) says what the report was made from: the recipe, those of the roll-ups (by entry), the SHA-256 of
    every `counted` evaluation and measurement, the configuration.
    """
    results = Path(output).parent
    if config["grid"] != results.name:
        config = config | {"grid": results.name, "blocks": None}
    configfile = work_folder(output) / "config.yaml"
    configfile.write_text(yaml.safe_dump(_with_verdict(config, results), sort_keys=False))
    with atomic_path(Path(output)) as temporary:
        html = temporary.with_suffix(".html")
        command = [
            sys.executable, "-m", "snakemake", "--snakefile", str(PACKAGE.parent / "Snakefile"),
            "--configfile", str(configfile),
            "--nolock", "--report", str(html), "--", *targets,
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
            )
            print(done.stdout)
            if done.returncode:
                reason = done.stdout.strip().splitlines()[-1:] or ["no output"]
                raise ArtifactError(f"snakemake --report failed: {reason[0]}")
            html.rename(temporary)
        finally:
            html.unlink(missing_ok=True)
    made_from = {file: sha256_file(file) for file in counted}
    write_json(stamp, {"recipe": recipe, "recipes": recipes, "files": made_from, "config": config})
    clear_work(output)


def _with_verdict(config: dict, results: Path) -> dict:
    """The configuration with the verdict as the grid's description: what reports/workflow.rst shows is the
    configuration, and the first screen should say what came out."""
    grid = results.name
    found = "\n".join(lines(read_json(results / "verdict.json", schema="verdict")))
    settings = config["grids"][grid]
    told = settings | {"description": f"{settings['description']}\n\n{found}"}
    return config | {"grids": config["grids"] | {grid: told}}


if __name__ == "__main__":
    with job(snakemake):
        args = snakemake.params.args
        counted = [file for file in args["counted"] if Path(file).exists()]  # all, unless the run is partial
        evaluations = [file for file in counted if file in args["cells"]]
        main(
            snakemake.config, [*evaluations, *snakemake.input], counted, snakemake.output.report,
            snakemake.output.stamp, args["recipe"], args["recipes"],
        )  # fmt: skip

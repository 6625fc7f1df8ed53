"""Snakemake's own HTML report about the jobs that made a grid's results, with the verdict as its first view."""

import subprocess
import sys
from pathlib import Path

import yaml

from workflow_scripts.files.artifacts import PACKAGE, ArtifactError, atomic_path, read_json
from workflow_scripts.plan import layout
from workflow_scripts.report.landing import HEADLINE, landing, style, with_frames

CONFIG, STYLE = "config.yaml", "style.css"  # of the report, in its work folder


def write_report(targets: list[str], config: dict, work: Path, output: Path, not_run: str = "") -> None:
    """Write `output`, one offline HTML file, about the jobs that made `targets`; config: with the grid that is shown.

    not_run: shortcomings of the plan and its run, in sentences. work: folder of the report's configuration and
    stylesheet. ArtifactError with Snakemake's last line if it fails.
    """
    shown = _with_verdict(config, output.parent, not_run)
    (work / CONFIG).write_text(yaml.safe_dump(shown, sort_keys=False), encoding="utf-8")
    (work / STYLE).write_text(style(), encoding="utf-8")
    with atomic_path(output) as temporary:
        _report(targets, work, temporary)
        temporary.write_text(with_frames(temporary.read_text(encoding="utf-8")), encoding="utf-8")


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


def _with_verdict(config: dict, results: Path, not_run: str) -> dict:
    """The configuration with the report's first view as the grid's description: reports/workflow.rst shows it."""
    grid = results.name
    settings = config["grids"][grid]
    figure = results / layout.figure(HEADLINE).name
    html = landing(
        read_json(results / layout.VERDICT.name, schema="verdict"),
        settings,
        figure if figure.exists() else None,
        layout.PAGE.path(grid),
        config.get("blocks"),
        not_run,
    )
    return config | {"grids": config["grids"] | {grid: settings | {"description": html}}}

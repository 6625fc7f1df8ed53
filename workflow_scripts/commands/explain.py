"""Explain a cell: why it would run, its inputs, its manifest, and the command that reruns it.

  python -m workflow_scripts explain results/smoke/evaluations/<model>/<compressor>/<corpus>/<method>/seed-0.json

Changes nothing.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from workflow_scripts.commands.options import add_configfile
from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.plan.adopted import evidence_of
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.layout import (
    BENCHMARK,
    CHECKPOINT,
    CORPUS,
    EVALUATION,
    MODEL,
    Cell,
    check_path,
    companions,
)
from workflow_scripts.plan.recipes import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help=f"path of the cell's evaluation: {EVALUATION.shape}")
    add_configfile(parser)


def parse(path: str, plan: Plan) -> Cell:
    """The cell that an evaluation's path names. Raises ValueError that names the unknown part."""
    names = EVALUATION.parse(path)
    if not names:
        raise ValueError(f"{path}: not a cell's path; it looks like {EVALUATION.shape}")
    check_path(path, plan.config.names())
    return plan.check(Cell.of(names))


def inputs(plan: Plan, cell: Cell) -> list[str]:
    """Paths of all files that the cell's evaluation reads."""
    grid = plan.grid(cell.grid)
    made = [plan.compression(cell), *(member.training for member in plan.members(cell))]
    return [
        MODEL.path(model=cell.model),
        *([CHECKPOINT.path(compressor=cell.compressor)] if plan.is_checkpoint(cell.compressor) else []),
        *(file for path in made for file in (path, *companions(path))),
        *(BENCHMARK.path(benchmarks=grid.benchmarks, task=task) for task in plan.tasks(cell.grid)),
        *(CORPUS.path(corpus=corpus) for corpus in grid.evaluation.perplexity.corpora),
    ]


def reasons(path: str, options: list[str]) -> list[str]:
    """Snakemake's reasons to run jobs for this path, from a dry run of it alone."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", *options, "--", path]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if "Nothing to be done" in done.stdout:
        return ["up to date: nothing would run"]
    jobs = re.findall(r"^Job \d+: (.*)\nReason: (.*)$", done.stdout, flags=re.MULTILINE)
    return [f"{message}: {reason}" for message, reason in jobs] or done.stdout.strip().splitlines()[-5:]


def main(path: str, configfile: Sequence[str] = ()) -> int:
    """Print the explanation; returns an exit status. Raises ArtifactError for a path that names no cell."""
    plan = Plan(load(read(*files(*configfile))))
    try:
        cell = parse(path, plan)
    except ValueError as error:
        raise ArtifactError(str(error)) from error
    options = ["--configfile", *configfile] if configfile else []
    print(f"Cell     {cell.json}\n\nWhy it would run")
    for line in reasons(cell.json, options):
        print(f"  {line}")
    print("\nInputs")
    for file in inputs(plan, cell):
        print(f"  {'there  ' if Path(file).exists() else 'missing'}  {file}")
    print("\nManifest")
    for line in manifest_lines(cell, plan.evaluate(cell)):
        print(f"  {line}")
    command = ["snakemake", "--force", *options, *(["--"] if options else []), cell.json]
    print(f"\nRerun    {' '.join(command)}")
    return 0


def manifest_lines(cell: Cell, planned: dict) -> list[str]:
    """The manifest of the cell's evaluation, recipe and code held against the planned ones; or why there is none."""
    if not Path(cell.json).exists():
        return ["none: the cell was not evaluated yet"]
    try:
        manifest = read_json(cell.json, "evaluation")["manifest"]
    except ArtifactError as error:
        return [str(error)]
    recipe = manifest["recipe"]
    as_planned = recipe == planned["recipe"]
    lines = [
        f"recipe   {recipe[:16]} ({'as planned' if as_planned else 'planned is ' + planned['recipe'][:16]})"
    ]
    code = "today's"
    if manifest["code"] != planned["code"]:
        record = evidence_of(cell.grid, (manifest["code"], planned["code"]))
        evidence = f"adopted: {planned['code'][:16]} makes the same, {record}"
        code = evidence if as_planned else f"today's is {planned['code'][:16]}"
    lines.append(f"code     {manifest['code'][:16]} ({code})")
    for key in ("started", "seconds", "peak_memory_mb", "host", "device", "threads", "python"):
        lines.append(f"{key:<15} {manifest[key]}")
    for group in ("libraries", "inputs"):
        lines += [group, *(f"  {name:<13} {value}" for name, value in manifest[group].items())]
    return lines

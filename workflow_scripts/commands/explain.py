"""`make explain CELL=<path>`: why a result would run, its inputs, its manifest, and the command that reruns it."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.plan.config import ConfigError, files, load, read
from workflow_scripts.plan.layout import BENCHMARK, CORPUS, EVALUATION, MODEL, Cell, check_path, companions
from workflow_scripts.plan.recipes import Plan


def parse(path: str, plan: Plan) -> Cell:
    """The cell that an evaluation's path names; ValueError says which part is unknown."""
    names = EVALUATION.parse(path)
    if not names:
        raise ValueError(f"{path}: not a cell's path; it looks like {EVALUATION.shape}")
    check_path(path, plan.config.names())
    return plan.check(Cell.of(names))


def inputs(plan: Plan, cell: Cell) -> list[str]:
    """Paths of everything that the cell's evaluation reads."""
    grid = plan.grid(cell.grid)
    made = [plan.compression(cell), *(member.training for member in plan.members(cell))]
    return [
        MODEL.path(model=cell.model),
        *(file for path in made for file in (path, *companions(path))),
        *(BENCHMARK.path(benchmarks=grid.benchmarks, task=task) for task in plan.tasks(cell.grid)),
        *(CORPUS.path(corpus=corpus) for corpus in grid.evaluation.perplexity.corpora),
    ]


def why(path: str, options: list[str]) -> list[str]:
    """Snakemake's own reasons (dry run of this path alone)."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nolock", *options, "--", path]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if "Nothing to be done" in done.stdout:
        return ["up to date: nothing would run"]
    jobs = re.findall(r"^Job \d+: (.*)\nReason: (.*)$", done.stdout, flags=re.MULTILINE)
    return [f"{message}: {reason}" for message, reason in jobs] or done.stdout.strip().splitlines()[-5:]


def main(path: str, configfiles: list[str]) -> int:
    """Print the explanation; returns an exit status. configfiles: read over config.yaml, as Snakemake does."""
    try:
        plan = Plan(load(read(*files(*configfiles))))
        cell = parse(path, plan)
    except (ValueError, ArtifactError, OSError) as error:
        kind = "The configuration has errors:\n" if isinstance(error, ConfigError) else ""
        print(f"{kind}{error}", file=sys.stderr)
        return 1
    options = ["--configfile", *configfiles] if configfiles else []
    expected = plan.evaluate(cell)
    print(f"Cell     {cell.json}\n\nWhy it would run")
    for line in why(cell.json, options):
        print(f"  {line}")
    print("\nInputs")
    for file in inputs(plan, cell):
        print(f"  {'there  ' if Path(file).exists() else 'missing'}  {file}")
    print("\nManifest")
    if Path(cell.json).exists():
        try:
            manifest = read_json(cell.json, "evaluation")["manifest"]
        except ArtifactError as error:
            print(f"  {error}")
        else:
            same = (
                "as planned"
                if manifest["recipe"] == expected["recipe"]
                else f"planned is {expected['recipe'][:16]}"
            )
            print(f"  recipe   {manifest['recipe'][:16]} ({same})")
            for key in ("started", "seconds", "peak_memory_mb", "host", "device", "threads", "python"):
                print(f"  {key:<15} {manifest[key]}")
            for group in ("libraries", "inputs"):
                print(f"  {group}")
                for name, value in manifest[group].items():
                    print(f"    {name:<13} {value}")
    else:
        print("  none: the cell was not evaluated yet")
    command = ["snakemake", "--force", *options, *(["--"] if options else []), cell.json]
    print(f"\nRerun    {' '.join(command)}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="results/<grid>/evaluations/…/seed-<n>.json")
    parser.add_argument("--configfile", nargs="+", default=[], help="read over config.yaml")
    arguments = parser.parse_args()
    sys.exit(main(arguments.path, arguments.configfile))

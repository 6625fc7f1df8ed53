"""How long Snakemake takes to plan a grid, from 100 to 10,000 cells, and what one job pays to parse the workflow.

    python benchmarks/scale.py [--sizes 100 1000 10000] [--figure docs/scale.svg]

The grid has the shape of the paper's tables (12 methods, 9 of them trained, with more seeds); nothing of it has run.
Seconds are CPU time: neighbours on the machine lengthen the wall time. Prints JSON: seconds of `snakemake -n` per size,
which lists every job, and of `snakemake -n --quiet`, which counts them; seconds that a job pays to parse the workflow
(an empty one deducted).
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PER_SEED = 96  # 2 models x 2 compressors x 2 corpora x 12 methods


def product(folder: Path, cells: int) -> Path:
    """A copy of the workflow whose grid `scale` has about `cells` cells."""
    for name in ("rules", "profiles", "reports", "workflow_scripts", "envs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "site.yaml"))
    shutil.copy(ROOT / "Snakefile", folder)
    config = yaml.safe_load((ROOT / "config.yaml").read_text())
    paper = config["grids"]["paper"]
    block = paper["blocks"]["tables"]
    methods = [method for method in block["methods"] if method != "none"]
    seeds = list(range(max(1, round(cells / PER_SEED))))
    grid = {key: value for key, value in paper.items() if key not in ("similarity", "latency")}
    config["grids"]["scale"] = grid | {"blocks": {"all": block | {"methods": methods, "seeds": seeds}}}
    config["grid"] = "scale"
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    return folder


def seconds(folder: Path, *arguments: str, repeats: int = 1) -> float:
    """CPU time of one Snakemake command, the best of the repeats; it must end well."""
    best = float("inf")
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
            cwd=folder, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if done.returncode:
            raise RuntimeError(done.stdout[-3000:])
    return best


def parse_cost(folder: Path) -> dict:
    """Seconds to list the rules (the Snakefile is parsed, nothing is planned), beside an empty Snakefile."""
    (folder / "empty.smk").write_text("rule nothing:\n    output: 'x'\n")
    ours = seconds(folder, "--list-rules", repeats=5)
    empty = seconds(
        folder, "--list-rules", "--snakefile", "empty.smk", "--workflow-profile", "none", repeats=5
    )
    return {"workflow": round(ours, 2), "empty": round(empty, 2), "beyond": round(ours - empty, 2)}


def draw(rows: list[dict], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    for key, colour, label in (("seconds", "#0072B2", "-n"), ("quiet", "#D55E00", "-n --quiet")):
        axes.plot([row["cells"] for row in rows], [row[key] for row in rows], "o-", color=colour, label=label)
    axes.axhline(25, color="#999999", linewidth=1, linestyle="--")
    axes.set(xscale="log", yscale="log", xlabel="cells of the grid", ylabel="CPU seconds of a dry run")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    for row in rows:
        axes.annotate(
            f"{row['seconds']:.1f}",
            (row["cells"], row["seconds"]),
            xytext=(4, -12),
            textcoords="offset points",
        )
    figure.savefig(file, metadata={"Date": None})


def main(sizes: list[int], figure: Path | None) -> None:
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            clone = product(Path(folder), size)
            cells = PER_SEED * max(1, round(size / PER_SEED))
            every, counted = seconds(clone, "-n"), seconds(clone, "-n", "--quiet")
            rows.append({"cells": cells, "seconds": round(every, 2), "quiet": round(counted, 2)})
            print(json.dumps(rows[-1]), flush=True)
            if size == sizes[0]:
                parse = parse_cost(clone)
    load = round(os.getloadavg()[0], 1)
    print(json.dumps({"dry_run": rows, "parse": parse, "cores": os.cpu_count(), "load": load}))
    if figure:
        draw(rows, figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    main(arguments.sizes, arguments.figure)

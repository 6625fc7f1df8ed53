"""How long Snakemake takes to plan a grid, from 100 to 10,000 cells, and what one job pays to parse the workflow.

    python -m benchmarks.scale [--sizes 100 1000 10000] [--figure docs/scale.svg]

The grid has the shape of the paper's tables (12 methods, 9 of them trained, with more seeds). Seconds are CPU time:
neighbours on the machine lengthen the wall time. Prints JSON, for each size: `list`, `snakemake -n`, which lists every
job; `count`, `snakemake -n --quiet`; `finished`, the same where every result but the report is there; `bare`, the
floor: the same files and dependencies in rules that hold nothing but input and output; `keywords`, bare rules that also
have the other keywords of ours, with constants. Then seconds that a job pays to parse the workflow (an empty one
deducted).
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

from workflow_scripts.plan.config import files, load, read, write_complete
from workflow_scripts.plan.layout import (
    ADAPTER,
    BENCHMARK,
    COMPRESSED,
    CORPUS,
    EVALUATION,
    MODEL,
    companions,
)
from workflow_scripts.plan.recipes import Plan

ROOT = Path(__file__).resolve().parents[1]
PER_SEED = 96  # 2 models x 2 compressors x 2 corpora x 12 methods


def product(folder: Path, cells: int) -> Path:
    """A copy of the workflow whose grid `scale` has about `cells` cells."""
    for name in ("rules", "profiles", "reports", "recipes", "workflow_scripts", "envs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "site.yaml"))
    shutil.copy(ROOT / "Snakefile", folder)
    config = read(*files(root=ROOT))
    paper = config["grids"]["paper"]
    block = paper["blocks"]["tables"]
    methods = [method for method in block["methods"] if method != "none"]
    seeds = list(range(max(1, round(cells / PER_SEED))))
    grid = {key: value for key, value in paper.items() if key not in ("similarity", "latency")}
    config["grids"]["scale"] = grid | {"blocks": {"all": block | {"methods": methods, "seeds": seeds}}}
    config["grid"] = "scale"
    write_complete(config, folder)
    return folder


BARE = """
import json, re
NEEDS = json.load(open("needs.json"))
def needs(path):
    return lambda wildcards: NEEDS[path.format(**wildcards)]
def one_of(names):
    return "|".join(map(re.escape, names))
wildcard_constraints:
    **{wildcard: one_of(names) for wildcard, names in json.load(open("names.json")).items()}, seed="[0-9]+"
rule all:
    input: NEEDS["all"]
"""
KEYWORDS = """    log: {log!r}
    conda: "conda.yaml"
    threads: lambda wildcards: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1000,
        runtime=lambda wildcards, attempt: 10,
        gpu=lambda wildcards: 0,
    params:
        args=lambda wildcards: "{arguments}",
        code=lambda wildcards, output: "code",
    message: "Make it"
    script: "job.py"
"""
BARE_RULES = {
    artefact.rule: artefact.pattern.replace("{grid}", "scale")
    for artefact in (MODEL, CORPUS, BENCHMARK, COMPRESSED, ADAPTER, EVALUATION)
}


def plan_in(folder: Path) -> Plan:
    return Plan(load(read(*files(root=folder))))


def bare(plan: Plan, folder: Path, keywords: str = "") -> Path:
    """The plan's files and dependencies as a workflow of rules with input and output alone, or these keywords too."""
    grid, settings = "scale", plan.grid("scale")
    fetched = [path for path in plan.artefacts(grid) if path.startswith("resources/")]
    shared = [path for path in fetched if BENCHMARK.parse(path)]
    shared += [CORPUS.path(corpus=name) for name in settings.evaluation.perplexity.corpora]
    needs: dict[str, list[str]] = {path: [] for path in fetched}
    for cell in [*plan.cells(grid), *plan.adapters(grid)]:
        model, corpus = MODEL.path(model=cell.model), CORPUS.path(corpus=cell.corpus)
        compression = plan.compression(cell)
        needs[compression] = [model, corpus]
        needs[cell.training] = [model, compression, corpus]
        trained = [member.training for member in plan.members(cell)]
        needs[cell.json] = [model, compression, *trained, *shared]
    needs["all"] = [cell.json for cell in plan.cells(grid)]
    text = BARE
    for rule, output in BARE_RULES.items():
        text += f"rule {rule}:\n    input: needs({output!r})\n    output: {output!r}\n"
        text += keywords.format(log=f"{output}.log", arguments=1500 * "x")
    folder.mkdir()
    (folder / "conda.yaml").write_text("dependencies: [python]\n")
    (folder / "job.py").touch()
    (folder / "Snakefile").write_text(text)
    (folder / "needs.json").write_text(json.dumps(needs))
    catalogues = {"model": "models", "compressor": "compressors", "corpus": "corpora", "method": "methods"}
    catalogues |= {"task": "tasks", "benchmarks": "benchmarks"}
    names = {wildcard: list(getattr(plan.config, key)) for wildcard, key in catalogues.items()}
    (folder / "names.json").write_text(json.dumps(names))
    return folder


def finish(plan: Plan, folder: Path) -> None:
    """Put the plan's results there, as far as planning looks at them: a JSON with its recipe, and what lies beside."""
    for path, recipe in plan.artefacts("scale").items():
        for other in (path, *companions(path)):
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            (folder / other).write_text(json.dumps({"manifest": {"recipe": recipe}}))


def seconds(folder: Path, *arguments: str, repeats: int = 1) -> float:
    """CPU time of one Snakemake command, the best of the repeats; it must end well."""
    best = float("inf")
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "2", *arguments],
            cwd=folder,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
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


LINES = {
    "list": "-n",
    "count": "-n --quiet",
    "finished": "-n --quiet, finished",
    "bare": "-n --quiet, bare rules",
    "keywords": "-n --quiet, bare rules, all keywords",
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#999999", "#CC79A7")


def draw(rows: list[dict], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.2), layout="constrained")
    cells = [row["cells"] for row in rows]
    for (key, label), colour in zip(LINES.items(), COLOURS):
        axes.plot(cells, [row[key] for row in rows], "o-", markersize=3, color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="cells of the grid", ylabel="CPU seconds of a dry run")
    axes.set_yticks([2, 5, 10, 20, 50], labels=["2", "5", "10", "20", "50"])
    axes.set_yticks([], minor=True)
    axes.set_xticks(cells, labels=[f"{count:,}" for count in cells])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})


def main(sizes: list[int], figure: Path | None) -> None:
    rows = []
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            clone = product(Path(folder), size)
            plan = plan_in(clone)
            row = {"cells": len(plan.cells("scale")), "jobs": len(plan.artefacts("scale"))}
            row["list"], row["count"] = seconds(clone, "-n"), seconds(clone, "-n", "--quiet")
            triggers = ("--rerun-triggers", "input", "params", "software-env")  # as the profile has them
            for name, keywords in (("bare", ""), ("keywords", KEYWORDS)):
                row[name] = seconds(bare(plan, clone / name, keywords), "-n", "--quiet", *triggers)
            finish(plan, clone)
            row["finished"] = seconds(clone, "-n", "--quiet")
            rows.append({key: round(value, 2) for key, value in row.items()})
            print(json.dumps(rows[-1]), flush=True)
            if size == sizes[0]:
                parse = parse_cost(clone)
    load = round(os.getloadavg()[0], 1)
    print(json.dumps({"dry_run": rows, "parse": parse, "cores": os.cpu_count(), "load": load}))
    if figure:
        draw(rows, figure)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    main(arguments.sizes, arguments.figure)

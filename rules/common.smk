# Reads the configuration, checks it, constrains the wildcards. Nothing here may import torch:
# every job parses the Snakefile again.
import functools
import os
import re
import signal
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)
# Scripts run from a copy: this is how they find the package.
os.environ.update(PYTHONPATH=workflow.basedir)
# Many container images forbid byte code: every job would compile its libraries anew, 20 s each on a slow core.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from workflow_scripts.cluster import runs
from workflow_scripts.files.artifacts import ArtifactError, read_json, recorded_recipe, sha256_file
from workflow_scripts.plan import layout, requests
from workflow_scripts.plan.config import ConfigError, load, named_files
from workflow_scripts.plan.recipes import Plan

# Archives and reports keep the list that is there.
config.setdefault("called_with", named_files(workflow.overwrite_configfiles))
try:
    PLAN = Plan(load(config))
    SITE = requests.read_site(Path(workflow.basedir, requests.SITE))
except (ConfigError, ArtifactError) as error:
    # A WorkflowError would come with a line of this file, which is not what must be corrected; so below.
    raise SystemExit(f"The configuration has errors, nothing was started:\n{error}") from None
config = PLAN.config.dump()
# The jobs of a plan ask for the same files again and again.
recorded_recipe = functools.cache(recorded_recipe)
if workflow.is_main_process:
    # Of a path with a wrong name Snakemake would only say that no rule makes it.
    for before, asked in zip(sys.argv, sys.argv[1:]):
        try:
            if before not in ("--report", "--configfile"):
                layout.check_path(asked, PLAN.config.names())
        except ValueError as error:
            raise SystemExit(f"Nothing was started: {error}") from None
REQUESTS = requests.Requests(PLAN, SITE)

# SLURM sends SIGUSR1 to every process of a job before its time ends. Training has a handler for it (a checkpoint);
# Snakemake has none and would die of it. What is ignored here is ignored in the processes that jobs start, too.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

if SITE["setup"]:
    shell.prefix("set -e\n" + SITE["setup"].replace("{", "{{").replace("}", "}}") + "\nset -uo pipefail; ")
if SITE["container"]:

    container: SITE["container"]


if workflow.is_main_process and (state := runs.state_of_folder()):
    print(state, file=sys.stderr)


onstart:
    try:
        runs.begin(on_cluster=not workflow.local_exec)
        runs.refuse_missing_sources(workflow.dag.needrun_jobs())
        if not workflow.local_exec:
            runs.refuse_impossible(job for job in workflow.dag.needrun_jobs() if not job.is_local)
    except ArtifactError as error:
        raise SystemExit(f"Nothing was started: {error}") from None


def one_of(names):
    """A pattern that matches these names; of no names, nothing."""
    return "|".join(sorted(map(re.escape, names))) or "(?!)"


wildcard_constraints:
    grid=one_of(PLAN.config.grids),
    model=one_of(PLAN.config.models),
    compressor=one_of(PLAN.config.compressors),
    corpus=one_of([*PLAN.config.corpora, "none"]),
    method=one_of(PLAN.config.methods),
    benchmarks=one_of(PLAN.config.benchmarks),
    task=one_of(PLAN.config.tasks),
    seed=layout.NUMBER,


def cell_of(wildcards):
    cell = layout.Cell.of(wildcards)
    try:
        return PLAN.check(cell)
    except ValueError as error:
        raise WorkflowError(str(error)) from None


def cells(grid):
    return [cell.json for cell in PLAN.cells(grid)]


def settled(path, recipe, finished=True):
    """`path` as an input that counts by content, not by time.

    An artefact that was made by the planned recipe is `ancient`: touching, cloning or copying it costs
    nothing. Any other is an ordinary input: what stands on it reruns with it. So it is for a job that is not
    `finished`: behind a job that runs, Snakemake would look at nothing but ancient inputs and pass over it.
    """
    return ancient(path) if finished and recorded_recipe(path) == recipe else path


# kind of result -> its path and its parameters
RESULTS = {
    "adapters": (lambda w: cell_of(w).training, lambda w: PLAN.train(cell_of(w))),
    "evaluations": (lambda w: cell_of(w).json, lambda w: PLAN.evaluate(cell_of(w))),
    "similarity": (lambda w: cell_of(w).similarity, lambda w: PLAN.similarity(cell_of(w))),
    "latency": (lambda w: layout.LATENCY.path(**w), lambda w: PLAN.latency(**w)),
}


def is_finished(kind, wildcards):
    path, args = (function(wildcards) for function in RESULTS[kind])
    asked = path in workflow.dag.forcefiles
    return recorded_recipe(path) == args["recipe"] and not asked and not layout.lacks_companions(path)


def renewed(output, args, entry=None, stands_on=lambda wildcards: []):
    """No input, but a reason to run: the job is forced where `output` was made by another recipe than the planned one.

    Snakemake's own records of parameters would say so too, but copied or restored results come without them. The
    recipe stands in the artefact; that of a roll-up (of `entry`) in the stamp of the grid's report.

    Snakemake does not miss an output that no job names as its input. So an evaluation whose samples are gone is made
    again; weights are large and may be deleted once they have served: a job that will run has those that it
    `stands_on` made again, and nothing else does.
    """

    def inputs(wildcards):
        path = output.format(**wildcards)
        recorded = stamp(wildcards.grid).get("recipes", {}).get(entry) if entry else recorded_recipe(path)
        recipe, forced = args(wildcards)["recipe"], workflow.dag.forcefiles
        if recorded not in (None, recipe) or (
            recorded and "/evaluations/" in path and layout.lacks_companions(path)
        ):
            forced.add(path)
        if recorded != recipe or path in forced:
            forced.update(filter(layout.lacks_companions, stands_on(wildcards)))
        return []

    return inputs


def untracked(parameter):
    """A parameter that no result depends on: Snakemake tracks none that is derived from `output`."""
    return lambda wildcards, output: parameter(wildcards)


@functools.cache
def say_what_is_gone(grid):
    """A line where something is deleted that a finished report was made from: no job needs it, so none makes it again."""
    if workflow.is_main_process and ROLLED_UP(grid) and (gone := PLAN.missing_files(grid)):
        more = f", ... ({len(gone)} files)" if len(gone) > 5 else ""
        print(
            f"Grid '{grid}' is complete, but files that it was made from are gone: {', '.join(gone[:5])}{more}. "
            "A job that needs one makes it again; `snakemake <path>` does so now.",
            file=sys.stderr,
        )
    return []


@functools.cache
def stamp(grid):
    """What the grid's report was made from; empty where there is none."""
    path = f"results/{grid}/report.json"
    return read_json(path) if os.path.exists(path) else {}


def model_input(wildcards):
    return settled(layout.MODEL.path(**wildcards), PLAN.recipe("models", wildcards.model))


def corpus_input(corpus):
    return settled(layout.CORPUS.path(corpus=corpus), PLAN.recipe("corpora", corpus))


def compressed(wildcards):
    """compression.json that a job stands on."""
    corpus = PLAN.calibration_corpus(wildcards.compressor, wildcards.corpus)
    return layout.COMPRESSED.path(**{**wildcards, "corpus": corpus})


def compression_input(kind):
    def inputs(wildcards):
        corpus = PLAN.calibration_corpus(wildcards.compressor, wildcards.corpus)
        recipe = PLAN.compress(wildcards.grid, wildcards.model, wildcards.compressor, corpus)["recipe"]
        return settled(compressed(wildcards), recipe, is_finished(kind, wildcards))

    return inputs


def what_cells_stand_on(wildcards):
    """Of a cell: its compressed model, its adapters, and what those stand on if they must be made again."""
    cell = cell_of(wildcards)
    members = PLAN.members(cell)
    torn = [member for member in members if layout.lacks_companions(member.training)]
    return [*map(PLAN.compression, [cell, *torn]), *(member.training for member in members)]


def on_cluster():
    """True where jobs leave this machine, in such jobs, and in dry runs, which show what jobs would ask for."""
    return workflow.non_local_exec_or_dryrun or workflow.remote_exec


def model_job(rule):
    """Resources of a job that computes on a model."""
    return {
        "mem_mb": lambda wildcards, attempt: REQUESTS.mem_mb(rule, wildcards, attempt),
        "runtime": lambda wildcards, attempt: REQUESTS.runtime(rule, wildcards, attempt),
        "gpu": lambda wildcards: REQUESTS.gpus(rule, wildcards) if on_cluster() else None,
        "gpu_model": SITE["gpu_model"],
        "slurm_extra": REQUESTS.extra(),
        **REQUESTS.where("partition"),
    }


def reading_job():
    """Resources of a job that only reads files; it runs beside Snakemake if the site names no partition for it."""
    return REQUESTS.where("cpu_partition")


READ_HERE = SITE["cpu_partition"] is None


def calibration_corpus(wildcards):
    return [] if wildcards.corpus == "none" else corpus_input(wildcards.corpus)


def attached(kind):
    """The adapters that a cell attaches (its own, or its members')."""

    def inputs(wildcards):
        finished = is_finished(kind, wildcards)
        return [
            settled(member.training, PLAN.train_recipe(member), finished)
            for member in PLAN.members(cell_of(wildcards))
        ]

    return inputs


def task_data(wildcards):
    data = PLAN.grid(wildcards.grid).benchmarks
    return [
        settled(layout.BENCHMARK.path(benchmarks=data, task=task), PLAN.recipe("benchmarks", data, task))
        for task in PLAN.tasks(wildcards.grid)
    ]


def training_text(wildcards):
    """The corpus whose text centres an IDP's `calibrated` scores."""
    calibrated = getattr(PLAN.config.methods[wildcards.method], "calibrated", False)
    return [corpus_input(wildcards.corpus)] if calibrated else []


def perplexity_text(wildcards):
    corpora = PLAN.grid(wildcards.grid).evaluation.perplexity.corpora
    return [corpus_input(corpus) for corpus in corpora]


# ---- roll-ups
FIGURES = [*(f"figure{number}" for number in range(1, 8)), "pareto", "training", "latency"]
FORMATS = ["csv", "md", "tex", "html"]
TABLES = {  # HTML files of tables -> how the report lists them
    "table1": "1: quantised models",
    "table2": "2: sparse models",
    "table3": "3: ablation of dynamic prompting",
    "changes": "Changed answers",
    "compressors": "Compressed models",
}


def rolled_up(grid):
    """True where the report was made by the planned recipe from the very files that are there now, and all of them:
    a partial one is out of date as soon as there is more."""
    stamp = f"results/{grid}/report.json"
    recipe = PLAN.analysis(grid, "report_grid")["recipe"]
    if recorded_recipe(stamp) != recipe:
        return False
    recorded = read_json(stamp)["files"]
    counted = {file for file in PLAN.counted(grid) if not PLAN.config.partial or os.path.exists(file)}
    return recorded.keys() == counted and all(
        os.path.exists(file) and sha256_file(file) == sha and not layout.lacks_companions(file)
        for file, sha in recorded.items()
    )


ROLLED_UP = functools.cache(rolled_up)


def counted(files):
    """Inputs of a roll-up: `ancient` while the grid's report is up to date with their contents.

    With `--config partial=true` the roll-up goes on with what exists; what lacks is shown as missing.
    """

    def inputs(wildcards):
        present = [file for file in files(wildcards) if not PLAN.config.partial or os.path.exists(file)]
        return ancient(present) if ROLLED_UP(wildcards.grid) else present

    return inputs


def made(*names):
    """Files of the grid that other roll-ups make."""

    def inputs(wildcards):
        files = [f"results/{wildcards.grid}/{name}" for name in names]
        files = files[0] if len(files) == 1 else files
        return ancient(files) if ROLLED_UP(wildcards.grid) else files

    return inputs


evaluations = counted(lambda wildcards: cells(wildcards.grid))
trainings = counted(lambda wildcards: [adapter.training for adapter in PLAN.adapters(wildcards.grid)])
compressions = counted(
    lambda wildcards: list(dict.fromkeys(PLAN.compression(cell) for cell in PLAN.cells(wildcards.grid)))
)
similarities = counted(lambda wildcards: [cell.similarity for cell in PLAN.similarity_cells(wildcards.grid)])
latencies = counted(lambda wildcards: list(PLAN.latency_places(wildcards.grid)))
tables = made(*(f"tables/table{number}.html" for number in (1, 2, 3)))
figures = made(*(f"figures/{figure}.svg" for figure in FIGURES))


def analysis(entry):
    return lambda wildcards: PLAN.analysis(wildcards.grid, entry)

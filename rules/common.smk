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

from workflow_scripts import cluster, runs
from workflow_scripts import grid as paths
from workflow_scripts.artifacts import ArtifactError, read_json, recorded_recipe, sha256_file
from workflow_scripts.config import ConfigError, load

try:
    PLAN = paths.Plan(load(config))
    SITE = cluster.read_site(Path(workflow.basedir, cluster.SITE))
except (ConfigError, ArtifactError) as error:
    raise WorkflowError(f"The configuration has errors, nothing was started:\n{error}") from None
config = PLAN.config
recorded_recipe = functools.cache(
    recorded_recipe
)  # the cells of a plan ask for the same files again and again
REQUESTS = cluster.Requests(PLAN, SITE)

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
        if not workflow.local_exec:
            runs.refuse_impossible(job for job in workflow.dag.needrun_jobs() if not job.is_local)
    except ArtifactError as error:
        raise WorkflowError(f"Nothing was started: {error}") from None


def one_of(names):
    return "|".join(sorted(map(re.escape, names)))


wildcard_constraints:
    grid=one_of(config["grids"]),
    model=one_of(config["models"]),
    compressor=one_of(config["compressors"]),
    corpus=one_of([*config["corpora"], "none"]),
    method=one_of(config["methods"]),
    benchmarks=one_of(config["benchmarks"]),
    task=one_of(config["tasks"]),
    seed=r"0|[1-9]\d*",


def cell_of(wildcards):
    cell = paths.Cell(
        wildcards.grid,
        wildcards.model,
        wildcards.compressor,
        wildcards.corpus,
        wildcards.method,
        int(wildcards.seed),
    )
    try:
        return PLAN.check(cell)
    except ValueError as error:
        raise WorkflowError(str(error)) from None


def cells(grid):
    return [cell.json for cell in PLAN.cells(grid)]


def settled(path, recipe):
    """`path` as an input that counts by content, not by time.

    An artefact that was made by the planned recipe is `ancient`: touching, cloning or copying it costs
    nothing. Any other is an ordinary input: what stands on it reruns with it.
    """
    return ancient(path) if recorded_recipe(path) == recipe else path


def renewed(output, args, entry=None):
    """No input, but a reason to run: the job is forced where `output` was made by another recipe than the planned one.

    Snakemake's own records of parameters would say so too, but copied or restored results come without them. The
    recipe stands in the artefact; that of a roll-up (of `entry`) in the stamp of the grid's report.
    """

    def inputs(wildcards):
        path = output.format(**wildcards)
        recorded = stamp(wildcards.grid).get("recipes", {}).get(entry) if entry else recorded_recipe(path)
        if recorded not in (None, args(wildcards)["recipe"]):
            workflow.dag.forcefiles.add(path)
        return []

    return inputs


@functools.cache
def stamp(grid):
    """What the grid's report was made from; empty where there is none."""
    path = f"results/{grid}/report.json"
    return read_json(path) if os.path.exists(path) else {}


def model_input(model):
    return settled(paths.model_manifest(model), PLAN.recipe("models", model))


def corpus_input(corpus):
    return settled(paths.corpus_manifest(corpus), PLAN.recipe("corpora", corpus))


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


def threads_for(model):
    """Small models run fastest as many jobs of one thread; a large one needs its machine's cores."""
    return 1 if config["models"][model]["parameters"] < 1e9 else 8


# Inputs of the rules that compute on a model, each by one function: Snakemake pays for every function of every job.


def compression_inputs(wildcards):
    calibrated = wildcards.corpus != "none"
    return {
        "model": model_input(wildcards.model),
        "corpus": corpus_input(wildcards.corpus) if calibrated else [],
    }


def compressed_inputs(cell):
    return {
        "model": model_input(cell.model),
        "compression": settled(PLAN.compression(cell), PLAN.compressed_recipe(cell)),
    }


def training_inputs(wildcards):
    cell = cell_of(wildcards)
    return compressed_inputs(cell) | {"corpus": corpus_input(cell.corpus)}


def cell_inputs(cell):
    """The models of a cell, the adapters that it attaches (its own, or its members') and the corpus whose text
    centres an IDP's `calibrated` scores."""
    calibrated = config["methods"][cell.method].get("calibrated", False)
    return compressed_inputs(cell) | {
        "adapters": [settled(member.training, PLAN.train_recipe(member)) for member in PLAN.members(cell)],
        "training_text": [corpus_input(cell.corpus)] if calibrated else [],
    }


@functools.cache
def texts_of(grid):
    """What every evaluation of a grid reads: its tasks, and the corpora of its perplexity."""
    data = PLAN.grid(grid)["benchmarks"]
    return {
        "benchmarks": [
            settled(paths.benchmark_manifest(data, task), PLAN.recipe("benchmarks", data, task))
            for task in PLAN.tasks(grid)
        ],
        "corpora": [corpus_input(name) for name in PLAN.grid(grid)["evaluation"]["perplexity"]["corpora"]],
    }


def evaluation_inputs(wildcards):
    return cell_inputs(cell_of(wildcards)) | texts_of(wildcards.grid)


def similarity_inputs(wildcards):
    corpus = PLAN.grid(wildcards.grid)["similarity"]["corpus"]
    return cell_inputs(cell_of(wildcards)) | {"corpus": corpus_input(corpus)}


def latency_inputs(wildcards):
    place = (wildcards.grid, wildcards.model, wildcards.compressor, wildcards.corpus)
    return {
        "model": model_input(wildcards.model),
        "compression": settled(paths.compression_json(*place), PLAN.compress(*place)["recipe"]),
    }


# ---- roll-ups
FIGURES = [*(f"figure{number}" for number in range(1, 8)), "pareto", "training", "latency"]
FORMATS = ["csv", "md", "tex", "html"]


def rolled_up(grid):
    """True where the report was made by the planned recipe from the very files that are there now."""
    stamp = f"results/{grid}/report.json"
    recipe = PLAN.analysis(grid, "write_report.py")["recipe"]
    if recorded_recipe(stamp) != recipe:
        return False
    recorded = read_json(stamp)["files"]
    return all(os.path.exists(file) and sha256_file(file) == sha for file, sha in recorded.items())


ROLLED_UP = functools.cache(rolled_up)


def counted(files):
    """Inputs of a roll-up: `ancient` while the grid's report is up to date with their contents.

    With `--config partial=true` the roll-up goes on with what exists; what lacks is shown as missing.
    """

    def inputs(wildcards):
        present = [file for file in files(wildcards) if not config["partial"] or os.path.exists(file)]
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

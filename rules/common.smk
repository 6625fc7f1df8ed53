# Reads the configuration, checks it, constrains the wildcards. Nothing here may import torch:
# every job parses the Snakefile again.
import functools
import gc
import os
import re
import signal
import sys
from pathlib import Path

import snakemake
from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)
# Scripts run from a copy: this is how they find the package.
os.environ.update(PYTHONPATH=workflow.basedir)
# Many container images forbid byte code: every job would compile its libraries anew, 20 s each on a slow core.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

from workflow_scripts.cluster import runs, snakemake_surface
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.job import as_text
from workflow_scripts.plan import adopted, layout, questions, readiness, requests, soundness
from workflow_scripts.plan.config import ConfigError, load, named_files, read
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.reruns import Input, Reruns

# A plan is millions of objects that all stay. Python's collector would look through them again and again: a fifth of
# the time of a large dry run. The libraries stay as well.
gc.freeze()
gc.set_threshold(100_000, 100, 100)

snakemake_surface.refuse_untried(snakemake.__version__)
snakemake_surface.refuse_braces(workflow.basedir, os.getcwd())
snakemake_surface.look_for_scripts_once()
IS_MAIN = snakemake_surface.is_main(workflow)

try:
    # Snakemake has read the same files, but lets the last of two equal keys win, reads 010 as 8 and 1e3 as text.
    config = read(
        *snakemake_surface.merged_files(workflow),
        over=snakemake_surface.values_of_options(workflow),
    )
    # Archives and reports keep the list that is there.
    config.setdefault("called_with", named_files(snakemake_surface.configfiles(workflow)))
    PLAN = Plan(load(config))
    for grid in (None, PLAN.config.grid):
        PLAN.equivalent(grid)  # a damaged record of adopted results is named here, not by a job
    SITE = requests.read_site(Path(workflow.basedir, requests.SITE))
except (ConfigError, ArtifactError) as error:
    # A WorkflowError would come with a line of this file, which needs no correction; so below.
    raise SystemExit(f"The configuration has errors, nothing was started:\n{error}") from None
config = PLAN.config.dump()
REQUESTS = requests.Requests(PLAN, SITE)
RERUNS = Reruns(
    PLAN,
    forced=lambda: snakemake_surface.forced_files(workflow),
    has_record=lambda path: snakemake_surface.has_record(workflow, path),
)
if IS_MAIN:
    runs.keep_what_is_whole(lambda path: soundness.is_whole(path, RERUNS))
    # Snakemake would say only that no rule makes a path with a wrong name, and would answer an impossible cell by a
    # traceback.
    asked = readiness.targets(sys.argv[1:])
    try:
        for path in asked:
            readiness.check_target(RERUNS, path)
    except (ValueError, ArtifactError) as error:
        raise SystemExit(f"Nothing was started: {error}") from None
    if "--unlock" not in sys.argv and (problems := readiness.problems(PLAN, asked)):
        raise SystemExit("\n".join(["Nothing was started:", *problems]))
    for said in (runs.state_of_folder(), *map(adopted.older_record, (None, PLAN.config.grid))):
        if said:
            print(said, file=sys.stderr)

# SLURM sends SIGUSR1 to every process of a job before its time ends. Training has a handler for it (a checkpoint);
# Snakemake has none and would die of it. A signal that is ignored here is ignored in the processes that jobs start, too.
signal.signal(signal.SIGUSR1, signal.SIG_IGN)

if SITE["setup"]:
    shell.prefix("set -e\n" + SITE["setup"].replace("{", "{{").replace("}", "}}") + "\nset -uo pipefail; ")
if SITE["container"]:

    container: SITE["container"]


onstart:
    try:
        planned = list(snakemake_surface.planned_jobs(workflow))
        runs.check_start(planned, snakemake_surface.runs_here(workflow))
        # A rebuild asks nothing anew: the record is the archive's, or there is none.
        for grid in [] if PLAN.config.rebuilt else snakemake_surface.values_of_wildcard("grid", planned):
            questions.note(**PLAN.question(grid))
    except ArtifactError as error:
        raise SystemExit(f"Nothing was started: {error}") from None


def one_of(names):
    """A pattern that matches these names; of no names, nothing."""
    return "|".join(sorted(map(re.escape, names))) or "(?!)"


wildcard_constraints:
    grid=one_of(PLAN.config.grids),
    model=one_of(PLAN.config.models),
    compressor=one_of(PLAN.config.compressors),
    corpus=one_of([*PLAN.config.corpora, layout.NO_CORPUS]),
    method=one_of(PLAN.config.methods),
    benchmarks=one_of(PLAN.config.benchmarks),
    task=one_of(PLAN.config.tasks),
    seed=layout.NUMBER,


def shown(made, **how):
    """The output file `made`, which the report shows unless it has nothing of the grid to show."""
    return made.pattern if made.name in PLAN.config.unshown else report(made.pattern, **how)


# ---- inputs and parameters: plan/reruns.py decides


def inputs(artefact, **found):
    """All inputs of the job that makes `artefact`, in one function: Snakemake's time grows with the number of functions.

    `found` names the files that the job reads, and gives them and their recipes for given wildcards; a file that is as
    planned is `ancient`. Forces the job if its output was made by another recipe. Snakemake's own records of parameters
    do so too, but copied or restored results come without them. Snakemake does not notice that an output is missing if
    no job uses it as input: lost samples and weights are forced here as well.
    """

    def files(wildcards):
        names = dict(wildcards.items())
        try:
            RERUNS.force_if_outdated(artefact, names)
        except ValueError as error:  # a cell that can't be
            raise WorkflowError(str(error)) from None

        def path(file):
            return ancient(file.path) if RERUNS.is_ancient(file, artefact, names) else file.path

        read = {name: of_job(names) for name, of_job in found.items()}
        return {
            name: path(one) if isinstance(one, Input) else [path(file) for file in one]
            for name, one in read.items()
        }

    return unpack(snakemake_surface.signed(files))


def untracked(parameter):
    """A parameter that no result depends on: Snakemake tracks none that is derived from `output`."""
    return snakemake_surface.signed(lambda wildcards, output: parameter(wildcards))


def parameters(artefact, **besides):
    """The parameters of a job as two texts: `args`, with its recipe, and `beside`, on which no result depends. Two, since
    Snakemake's time grows with the number of functions. The code's digest is in `beside`: the recipe covers it.
    """

    def args(wildcards):
        tracked = RERUNS.arguments(artefact, dict(wildcards.items()))
        return as_text({key: value for key, value in tracked.items() if key != "code"})

    def beside(wildcards):
        values = {name: of_job(wildcards) for name, of_job in besides.items()}
        return as_text({"code": RERUNS.arguments(artefact, dict(wildcards.items()))["code"], **values})

    return {"args": snakemake_surface.signed(args), "beside": untracked(beside)}


# ---- resources


def on_cluster():
    return snakemake_surface.on_cluster(workflow)


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

# Reads the configuration, checks it, constrains the wildcards. Nothing here may import torch:
# every job parses the Snakefile again.
import os
import re
import sys

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)
# Scripts run from a copy: this is how they find the package.
os.environ["PYTHONPATH"] = os.pathsep.join(
    dict.fromkeys(
        [
            workflow.basedir,
            *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)),
        ]
    )
)

from workflow_scripts import grid as paths
from workflow_scripts.artifacts import recorded_recipe
from workflow_scripts.config import ConfigError, load

try:
    PLAN = paths.Plan(load(config))
except ConfigError as error:
    raise WorkflowError(f"The configuration has errors, nothing was started:\n{error}") from None
config = PLAN.config


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
    seed=r"\d+",


def cell_of(wildcards):
    return paths.Cell(
        wildcards.grid,
        wildcards.model,
        wildcards.compressor,
        wildcards.corpus,
        wildcards.method,
        int(wildcards.seed),
    )


def cells(grid):
    return [cell.json for cell in PLAN.cells(grid)]


def settled(path, recipe):
    """`path` as an input that counts by content, not by time.

    An artefact that was made by the planned recipe is `ancient`: touching, cloning or copying it costs
    nothing. Any other is an ordinary input: what stands on it reruns with it.
    """
    return ancient(path) if recorded_recipe(path) == recipe else path


def model_input(wildcards):
    return settled(paths.model_manifest(wildcards.model), PLAN.recipe("models", wildcards.model))


def corpus_input(corpus):
    return settled(paths.corpus_manifest(corpus), PLAN.recipe("corpora", corpus))


def compression_input(wildcards):
    cell = cell_of(wildcards)
    return settled(PLAN.compression(cell), PLAN.compressed_recipe(cell))


def memory(model, copies):
    """Host memory of a job (MB): float32 copies of the weights, plus what Python and two Snakemakes take."""
    return int(copies * config["models"][model]["parameters"] * 4 / 1e6) + 3500

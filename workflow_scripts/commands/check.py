"""Try every method of a grid on the longest items of every task, in a minute or two, before the long run.

  python -m workflow_scripts check --grid bench

Models, tasks and texts are fetched if they are not there. Then each model, dense, answers the longest item of every
task, the one with the longest answer and the shortest, with every method. Adapters are untrained and make one training
step. A line per problem names model, method, task and item, and the command ends with 1. Nothing is written to
results/.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from workflow_scripts.commands.options import add_grid, grid_words, warning
from workflow_scripts.commands.run import SNAKEMAKE, follow
from workflow_scripts.files.artifacts import ArtifactError, recorded_recipe
from workflow_scripts.plan.config import files
from workflow_scripts.plan.forecast import warnings
from workflow_scripts.plan.layout import BENCHMARK, CHECK_LOG, CORPUS, MODEL, Cell
from workflow_scripts.plan.recipes import Plan, plan_of

PROBLEMS = 3  # the program's exit status if it found any, as evaluate/rehearsal.py has it
PROGRAM = (sys.executable, "-m", "workflow_scripts.evaluate.rehearsal")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid(parser, "smoke")


def main(grid: str, blocks: list[str] | None = None, configfile: Sequence[str] = ()) -> int:
    """Fetch what is missing, try everything; returns an exit status."""
    plan = plan_of(files(*configfile), grid, blocks)
    if missing := [path for path, recipe in sources(plan, grid) if recorded_recipe(path) != recipe]:
        words = ["--quiet", "host", "reason", *grid_words(grid, blocks, configfile)]
        if status := follow([*SNAKEMAKE, *words, "--", *missing]):
            print("Nothing was tried: see the lines above.", file=sys.stderr)
            return status
        plan = plan_of(files(*configfile), grid, blocks)  # checked anew, with the models that are there now
    asked = {"models": [of_model(plan, grid, model) for model in _models(plan, grid)]}
    log = Path(CHECK_LOG.format(grid=grid))
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as handle:
        status = subprocess.run(
            PROGRAM, input=json.dumps(asked), text=True, stderr=handle, check=False
        ).returncode
    if status not in (0, PROBLEMS):
        raise ArtifactError(f"check ended with {status}: see {log}")
    minded = [warning(text) for text in warnings(plan, grid)]
    print("".join(f"{line}\n" for line in minded), end="")
    if not status:
        print(f"No {'other ' if minded else ''}problem was found. Next: {plan.make('run', grid)}")
    return 1 if status else 0


def sources(plan: Plan, grid: str) -> Iterator[tuple[str, str]]:
    """Inputs of the grid's evaluations beside compressed models and adapters: path and recipe."""
    settings, models = plan.grid(grid), _models(plan, grid)
    for model in models:
        yield _dense(plan, model), plan.recipe("models", Path(_dense(plan, model)).parent.name)
    for task in plan.tasks(grid):
        path = BENCHMARK.path(benchmarks=settings.benchmarks, task=task)
        yield path, plan.recipe("benchmarks", settings.benchmarks, task)
    choosing = [
        text for model in models for cell in _cells(plan, grid, model) for text in plan.choosing_text(cell)
    ]
    for corpus in dict.fromkeys([*settings.evaluation.perplexity.corpora, *choosing]):
        yield CORPUS.path(corpus=corpus), plan.recipe("corpora", corpus)


def of_model(plan: Plan, grid: str, model: str) -> dict:
    """A model in the request to evaluate/rehearsal.py: its cells, one of each method, and their adapters."""
    cells, settings = _cells(plan, grid, model), plan.grid(grid)
    adapters = {member.method: member for cell in cells for member in plan.members(cell)}
    corpora = settings.evaluation.perplexity.corpora
    return {
        "name": model,
        "folder": str(Path(_dense(plan, model)).parent),
        "adapters": {
            name: {"method": plan.method(member), "training": plan.training(grid, name)}
            for name, member in adapters.items()
        },
        "cells": [_of_cell(plan, cell) for cell in cells],
        "benchmarks": [
            str(Path(BENCHMARK.path(benchmarks=settings.benchmarks, task=task)).parent)
            for task in plan.tasks(grid)
        ],
        "corpora": [str(Path(CORPUS.path(corpus=corpus)).parent) for corpus in corpora],
    }


def _of_cell(plan: Plan, cell: Cell) -> dict:
    asked, text = plan.evaluate(cell), plan.choosing_text(cell)
    return {
        "cell": cell._asdict(),
        "settings": {key: value for key, value in asked.items() if key not in ("code", "recipe")},
        "members": [member.method for member in plan.members(cell)],
        "training_text": str(Path(CORPUS.path(corpus=text[0])).parent) if text else None,
    }


def _models(plan: Plan, grid: str) -> list[str]:
    return list(dict.fromkeys(cell.model for cell in plan.cells(grid)))


def _cells(plan: Plan, grid: str, model: str) -> list[Cell]:
    """The model's first cell of each method."""
    first = {cell.method: cell for cell in reversed(plan.cells(grid)) if cell.model == model}
    return list(reversed(first.values()))


def _dense(plan: Plan, model: str) -> str:
    """The fetched model; of a taught one, which takes long to make, the model that it is made of: it has its shapes."""
    lesson = plan.lesson("models", model)
    return MODEL.path(model=lesson.base if lesson else model)

"""Send a grid's finished cells to MLflow: a run per cell with its settings, its numbers and its JSON.

  python -m workflow_scripts publish --grid bench --uri http://tracking:5000

It reads results and sends them; no job of a run ever does. A cell of other settings or code than the planned ones is
left out, as it is no result of the grid. A cell whose recipe is there already is not sent again. A
run in MLflow that was cut short stands there as failed until the next call finishes it. It needs a library that the
environment leaves out: pip install mlflow-skinny.
"""

import argparse
import importlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from workflow_scripts.commands.options import add_grid
from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.plan.config import files
from workflow_scripts.plan.layout import EVALUATION
from workflow_scripts.plan.recipes import plan_of
from workflow_scripts.plan.reruns import Reruns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid(parser, "smoke")
    parser.add_argument("--uri", required=True, help="of the tracking server, http://...")


def main(grid: str, uri: str, blocks: list[str] | None = None, configfile: Sequence[str] = ()) -> int:
    """Send the cells; returns an exit status. Raises ArtifactError without the library, without a finished cell, and
    if the server does not take them."""
    # mlflow's own 7 tries are four silent minutes for a wrong address; what was cut short the next call finishes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    try:
        mlflow = importlib.import_module("mlflow")
    except ModuleNotFoundError:
        raise ArtifactError("mlflow is not installed here: pip install mlflow-skinny") from None
    plan = plan_of(files(*configfile), grid, blocks)
    reruns, cells = Reruns(plan, set), plan.cells(grid)
    there = [cell.json for cell in cells if reruns.is_finished(EVALUATION, EVALUATION.parse(cell.json) or {})]
    if outdated := [cell.json for cell in cells if cell.json not in there and Path(cell.json).exists()]:
        print(
            f"Left out, as a run makes them again: {len(outdated)} cells not as planned, {outdated[0]} among them"
        )
    if not there:
        raise ArtifactError(f"grid '{grid}' has no finished cell yet: make run GRID={grid}")
    try:
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name(grid)
        number = experiment.experiment_id if experiment else client.create_experiment(grid)
        sent = sum(_send(mlflow, client, number, path) for path in there)
    except ModuleNotFoundError as error:  # of a data base, for which the slim library lacks parts
        raise ArtifactError(f"{uri}: mlflow needs {error.name} for it: pip install mlflow") from None
    except mlflow.exceptions.MlflowException as error:
        raise ArtifactError(f"{uri}: {str(error).partition(chr(10))[0]}") from error
    print(f"{sent} of {len(there)} finished cells sent to {uri}, experiment '{grid}'; the others were there")
    return 0


def _send(mlflow: Any, client: Any, experiment: str, path: str) -> bool:
    """Send one cell, unless its recipe is there in a finished run."""
    record = read_json(path, "evaluation")
    recipe = record["manifest"]["recipe"]
    # the recipe stands in a run from its start, so that one which was cut short is found again and finished
    found = client.search_runs([experiment], f"tags.recipe = '{recipe}'", max_results=1)
    if found and found[0].info.status == "FINISHED":
        return False
    name = "/".join(str(part) for part in record["cell"].values())
    run = found[0] if found else client.create_run(experiment, tags={"recipe": recipe}, run_name=name)
    try:
        _fill(mlflow.entities, client, run.info.run_id, record, path)
    except BaseException:
        with suppress(Exception):  # a server that is gone is told by the first error
            client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id)
    return True


def _fill(kinds: Any, client: Any, run: str, record: dict, path: str) -> None:
    now = int(time.time() * 1000)
    client.log_batch(
        run,
        metrics=[kinds.Metric(key, value, now, 0) for key, value in figures(record)],
        params=[kinds.Param(key, str(value)) for key, value in record["cell"].items()],
        tags=[kinds.RunTag("code", record["manifest"]["code"])],
    )
    client.log_artifact(run, path)


def figures(record: dict) -> Iterator[tuple[str, float]]:
    """(name, value) of a cell's numbers: average, domains, each task's, perplexity, parameters."""
    yield "average", record["average"]
    for part in ("domains", "tasks", "perplexity", "parameters"):
        yield from _numbers(part, record[part])


def _numbers(name: str, value: object) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _numbers(f"{name}/{key}", child)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)

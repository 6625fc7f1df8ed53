"""Finished cells go to MLflow once, with their numbers, and only when somebody asks."""

import json
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.unit.synthetic_results import study, write_grid
from workflow_scripts.__main__ import main
from workflow_scripts.files.artifacts import PACKAGE, read_json, write_json
from workflow_scripts.plan.config import files
from workflow_scripts.plan.layout import companions
from workflow_scripts.plan.recipes import plan_of

URI = "file:/somewhere"


class Refused(Exception):
    """As mlflow raises it."""


class Server(ModuleType):
    """The part of mlflow that the command calls: entities are tuples, runs are kept; `refuses` names what fails."""

    refuses = ""

    def __init__(self):
        super().__init__("mlflow")
        self.runs: dict[str, dict] = {}
        self.entities = SimpleNamespace(
            Metric=lambda *parts: parts, Param=lambda *parts: parts, RunTag=lambda *parts: parts
        )
        self.exceptions = SimpleNamespace(MlflowException=Refused)

    def MlflowClient(self, uri):
        assert uri == URI
        return self

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="7") if self.runs else None

    def create_experiment(self, name):
        return "7"

    def search_runs(self, experiments, query, max_results):
        assert experiments == ["7"]
        return [
            SimpleNamespace(info=SimpleNamespace(run_id=number, status=run["status"]))
            for number, run in self.runs.items()
            if query == f"tags.recipe = '{run.get('recipe')}'"
        ]

    def create_run(self, experiment, tags=None, run_name=None):
        number = f"{len(self.runs)}"
        self.runs[number] = {"name": run_name, "status": "RUNNING"} | (tags or {})
        return SimpleNamespace(info=SimpleNamespace(run_id=number, status="RUNNING"))

    def log_batch(self, run, metrics, params, tags):
        self._may("log_batch")
        self.runs[run] |= {"metrics": {name: value for name, value, *_ in metrics}, "params": dict(params)}

    def log_artifact(self, run, path):
        self._may("log_artifact")
        self.runs[run]["artifact"] = path

    def set_terminated(self, run, status="FINISHED"):
        self._may("set_terminated")
        self.runs[run]["status"] = status

    def _may(self, call):
        if call in self.refuses.split():
            raise self.error


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """A folder with the shipped configuration and nothing else."""
    for name in ("config", "config.yaml", "recipes"):
        (tmp_path / name).symlink_to(PACKAGE.parent / name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cells(configured, tmp_path):
    """Two finished cells of grid smoke."""
    made = write_grid(tmp_path / "elsewhere", study("m", {"lora-r4": 0.2}), 5)
    plan = plan_of(files(), "smoke")
    planned = plan.cells("smoke")[:2]
    for cell, source in zip(planned, made, strict=False):
        record = read_json(source)
        write_json(
            cell.json, record | {"manifest": record["manifest"] | {"recipe": plan.evaluate_recipe(cell)}}
        )
        for file in companions(cell.json):
            Path(file).touch()
    return [cell.json for cell in planned]


def test_each_recipe_is_sent_once_with_all_numbers(cells, monkeypatch, capsys):
    server = Server()
    monkeypatch.setitem(sys.modules, "mlflow", server)
    assert main(["publish", "--grid", "smoke", "--uri", URI]) == 0
    recipes = {read_json(path)["manifest"]["recipe"] for path in cells}
    assert len(server.runs) == len(recipes) and {run["recipe"] for run in server.runs.values()} == recipes
    run = next(iter(server.runs.values()))
    record = json.loads(Path(run["artifact"]).read_text())
    assert run["metrics"]["average"] == record["average"] and run["status"] == "FINISHED"
    for task, result in record["tasks"].items():
        assert run["metrics"][f"tasks/{task}/acc"] == result["acc"]
    assert run["params"] == {key: str(value) for key, value in record["cell"].items()}
    before = dict(server.runs)
    assert main(["publish", "--grid", "smoke", "--uri", URI]) == 0
    assert server.runs == before and "0 of 2 finished cells sent" in capsys.readouterr().out


def test_a_cell_that_is_not_as_planned_is_no_result_of_the_grid(cells, monkeypatch, capsys):
    """One of other settings was sent as the grid's."""
    server = Server()
    monkeypatch.setitem(sys.modules, "mlflow", server)
    record = read_json(cells[0])
    write_json(cells[0], record | {"manifest": record["manifest"] | {"recipe": "f" * 64}})
    assert main(["publish", "--grid", "smoke", "--uri", URI]) == 0
    assert [run["artifact"] for run in server.runs.values()] == cells[1:]
    said = capsys.readouterr().out
    assert f"1 cells not as planned, {cells[0]} among them" in said
    assert "1 of 1 finished cells sent" in said


@pytest.mark.parametrize(
    ("refuses", "error"),
    [
        ("log_batch", Refused("the server is full")),
        ("log_artifact", PermissionError(13, "Permission denied", "/mlruns")),
        ("log_artifact set_terminated", Refused("no answer")),
    ],
)
def test_a_run_that_was_cut_short_is_finished_by_the_next_call(cells, monkeypatch, capsys, refuses, error):
    server = Server()
    server.refuses, server.error = refuses, error
    monkeypatch.setitem(sys.modules, "mlflow", server)
    for _ in range(2):
        assert main(["publish", "--grid", "smoke", "--uri", URI]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    open_or_failed = "RUNNING" if "set_terminated" in refuses else "FAILED"
    assert [run["status"] for run in server.runs.values()] == [open_or_failed]
    server.refuses = ""
    assert main(["publish", "--grid", "smoke", "--uri", URI]) == 0
    recipes = {read_json(path)["manifest"]["recipe"] for path in cells}
    assert {run["recipe"] for run in server.runs.values()} == recipes
    assert all(run["status"] == "FINISHED" and run["artifact"] for run in server.runs.values())


def test_without_the_library_one_line_says_how_to_get_it(cells, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert main(["publish", "--grid", "smoke", "--uri", URI]) == 1
    assert capsys.readouterr().err == "mlflow is not installed here: pip install mlflow-skinny\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Refused("API request failed\nwith more lines"), "API request failed"),
        (ModuleNotFoundError("No module", name="alembic"), "mlflow needs alembic for it: pip install mlflow"),
    ],
)
def test_a_server_that_takes_nothing_is_one_line(cells, monkeypatch, capsys, error, said):
    server = Server()

    def refuse(name):
        raise error

    monkeypatch.setattr(server, "get_experiment_by_name", refuse, raising=False)
    monkeypatch.setitem(sys.modules, "mlflow", server)
    assert main(["publish", "--grid", "smoke", "--uri", URI]) == 1
    assert capsys.readouterr().err == f"{URI}: {said}\n"


@pytest.mark.parametrize(("own", "tries"), [(None, "2"), ("9", "9")])
def test_an_address_where_nobody_answers_is_told_in_seconds(configured, monkeypatch, own, tries):
    """mlflow's seven tries took four minutes without a line."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    monkeypatch.setenv(name, own or "")  # so that it is put back
    if own is None:
        monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "mlflow", Server())
    main(["publish", "--grid", "smoke", "--uri", URI])
    assert os.environ[name] == tries


def test_a_grid_without_a_finished_cell_is_named(configured, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", Server())
    assert main(["publish", "--grid", "smoke", "--uri", URI]) == 1
    assert "grid 'smoke' has no finished cell yet" in capsys.readouterr().err

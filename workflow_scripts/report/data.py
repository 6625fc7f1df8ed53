"""The data that tables, figures and the page draw: a grid's plan, its verdict.json, its measurements."""

from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from workflow_scripts.files.artifacts import read_json
from workflow_scripts.judge.paper import read_tables
from workflow_scripts.judge.results import Results, results_of
from workflow_scripts.plan.layout import Cell, Group, RollUp

KINDS = {  # kind of record, as its schema is named -> the rules' input of such files
    "compression": "compressions",
    "training": "trainings",
    "similarity": "similarities",
    "latency": "latencies",
}


@dataclass
class GridData:
    """A grid's verdict.json and its measurements.

    methods, compressors, tasks: the catalogue that the grid uses; printed: the paper's tables; measured: kind of record
    (compression, training, similarity, latency) -> path -> JSON; planned: similarity, latency -> how many
    measurements the grid plans.
    """

    verdict: dict
    methods: dict[str, dict]
    compressors: dict[str, dict]
    tasks: dict[str, dict]
    printed: pd.DataFrame
    measured: dict[str, dict[str, dict]] = field(default_factory=dict)
    planned: dict[str, int] = field(default_factory=dict)

    @cached_property
    def results(self) -> Results:
        """The plan, and of each evaluated cell the row of verdict.json's `scores`."""
        return results_of(self.verdict)

    def command(self, file: RollUp) -> str:
        """The command that makes a file of the grid again."""
        return f"{self.verdict['settings']['command']} {file.path(self.results.grid)}"

    def records(self, kind: str) -> dict[str, dict]:
        """Path -> JSON of one kind of measurement."""
        return self.measured.get(kind, {})

    def groups(self, recovered: bool = True) -> list[Group]:
        """The grid's compressed groups; only those with a recovery method if `recovered`."""
        return [g for g in self.results.groups() if not recovered or self.results.methods(g)]

    def tokens(self, prompt: str) -> int:
        """The length of a prompt; KeyError for a method without a length of its own."""
        return self.methods[prompt]["tokens"]

    def judged(self, group: Group) -> dict:
        """The statistics of a compressed group."""
        return self._judged[group]

    def accuracy(self, group: Group) -> dict:
        """A group's statistics of accuracy over all tasks; of a dense group those without a test."""
        return self._judged[group]["metrics"]["accuracy_all_tasks"]

    def informative(self, model: str) -> list[str]:
        """The informative tasks of a model; none if its dense cell is missing."""
        tasks = self.verdict["informative"].get(model, {})
        return [task for task, row in tasks.items() if row["informative"]]

    def covers(self, group: Group, method: str) -> str:
        """The coverage of the interval of a method's Average, in words."""
        accuracy = self.accuracy(group)
        return accuracy.get("methods", {}).get(method, {}).get("covers", accuracy.get("loss_covers", "items"))

    def average(self, group: Group, method: str) -> dict | None:
        """{value, low, high} in percent of a method's Average; `dense` and `none` included; None if missing.

        None too if a task of the grid is missing: a mean over fewer tasks is no point of a figure.
        """
        accuracy = self.accuracy(group)
        value = value_of(accuracy, method)
        if not value or accuracy.get("absent_tasks"):
            return None
        return {key: None if number is None else 100 * number for key, number in value.items()}

    def drawn_average(self, group: Group, method: str) -> dict:
        """`average` of a setting that a figure draws; KeyError if it is missing."""
        if average := self.average(group, method):
            return average
        raise KeyError((group, method))

    def cell(self, group: Group, method: str) -> Cell:
        """The evaluated cell of a setting's first seed; KeyError if there is none."""
        if cell := self.results.first(*group, method):
            return cell
        raise KeyError((group, method))

    def evaluation(self, group: Group, method: str) -> dict:
        """The row of `scores` of a setting's first seed; KeyError if it is missing."""
        return self.results.evaluations[self.cell(group, method)]

    def choices(self, group: Group, method: str) -> dict | None:
        """The other ways to choose among the prompts of a group's IDP method; None for another method."""
        return next(
            (c for c in self.verdict["choices"] if _group(c) == group and c["method"] == method), None
        )

    @cached_property
    def _judged(self) -> dict[Group, dict]:
        return {_group(row): row for row in (*self.verdict["groups"], *self.verdict["dense_groups"])}


def value_of(statistics: dict, method: str) -> dict | None:
    """{value, low, high} of a method, `dense` or `none` in a group's statistics of a metric; None if it is missing."""
    role = {"dense": "dense", "none": "compressed"}.get(method)
    judged = statistics.get("methods", {}).get(method)
    return statistics.get(role) if role else judged and judged["value"]


def _group(row: dict) -> Group:
    return Group(row["model"], row["compressor"], row["corpus"])


@dataclass
class MeasuredFiles:
    """Paths of JSON files by kind, as the rules' inputs name them; none if nothing was measured."""

    compressions: list[str] = field(default_factory=list)
    trainings: list[str] = field(default_factory=list)
    similarities: list[str] = field(default_factory=list)
    latencies: list[str] = field(default_factory=list)

    def read(self) -> dict[str, dict[str, dict]]:
        """Kind -> path -> JSON."""
        return {
            kind: {path: read_json(path, schema=kind) for path in getattr(self, name)}
            for kind, name in KINDS.items()
        }


def read_grid(
    verdict: str,
    catalogue: dict[str, dict],
    measured: MeasuredFiles,
    planned: dict[str, int] | None = None,
) -> GridData:
    """verdict: a path; catalogue: {methods, compressors, tasks}."""
    judged = read_json(verdict, schema="verdict")
    return GridData(
        judged, **catalogue, printed=read_tables(), measured=measured.read(), planned=planned or {}
    )

"""Reruns: whether a result is as planned, which weights a job needs, whether a grid is rolled up.

A result is as planned if it holds the planned recipe, whatever file times say, and also if it was copied or restored
without Snakemake's records. Weights may be deleted once they have served: a job that will run has the weights that it
reads made again; no other job does.

Jobs are forced through the set of files that `--force` names, which Snakemake reads when the graph is complete. A
public way was tried with Snakemake 9.27.1: a marker file as an input of every rule, `ancient` if the result is as
planned. It reruns outdated results, but it loses deleted weights. Snakemake calls the input functions of a job once,
when it first meets the job, and often meets the job that made the weights before the job that needs them. The weights
were not made again for a missing similarity or latency behind a finished cell, for several targets (by the order of a
set of strings) and for `--force PATH`. Weights cannot be inputs either: finished cells would run again with them.
"""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.files.artifacts import ArtifactError, read_json, recorded_recipe, sha256_file
from workflow_scripts.plan.layout import (
    ADAPTER,
    ANSWERS,
    BENCHMARK,
    CHECKPOINT,
    COMPRESSED,
    CORPUS,
    EVALUATION,
    EXPORTED,
    LATENCY,
    MODEL,
    NO_CORPUS,
    REPORT,
    REPORTED,
    SEALED,
    SIMILARITY,
    STAMP,
    Artefact,
    Cell,
    RollUp,
    is_shared,
    lacks_companions,
)
from workflow_scripts.plan.recipes import Plan

Names = Mapping[str, str]  # wildcard -> name
REPORT_RULE = "report_grid"
READ_CELLS = (
    "build_ledger",
    "judge",
    "draw_page",
    REPORT_RULE,
)  # they read all evaluations, which only find_answers has as inputs
READ_MEASUREMENTS = ("plot_figures", "draw_page", REPORT_RULE)  # the others stand on evaluations alone
DAMAGED = {"damaged": True}  # in place of a report's record


class Input(NamedTuple):
    """An artefact that a job reads, and the recipe that it should be made by."""

    path: str
    recipe: str


class Reruns:
    """Decides which jobs of a plan run again.

    forced: returns Snakemake's set of files that are made whatever their state; this class adds to it. has_record: says
    whether Snakemake knows by what a file was made.
    """

    def __init__(
        self,
        plan: Plan,
        forced: Callable[[], set[str]],
        has_record: Callable[[str], bool] = lambda path: True,
    ):
        self.plan, self.forced, self.has_record = plan, forced, has_record
        # The jobs of a plan ask for the same files.
        self.recorded = functools.cache(recorded_recipe)
        for name in ("corpus", "benchmark"):
            setattr(self, name, functools.cache(getattr(self, name)))
        self.lacks_weights = functools.cache(_lacks_weights)
        self.stamp = functools.cache(_stamp)
        self.sha256 = functools.cache(sha256_file)
        self.is_reported = functools.cache(self._is_reported)
        self.other_results = functools.cache(self._other_results)
        self.changed_roll_ups = functools.cache(self._changed_roll_ups)

    # ------------------------------------------------------------------------------------- one artefact

    def arguments(self, artefact: Artefact, names: Names) -> dict:
        """Parameters of the job that makes the artefact, its recipe among them; ValueError for a cell that can't be."""
        plan = self.plan
        of_cells: dict[Artefact, Callable[[Cell], dict]] = {
            ADAPTER: plan.train,
            EVALUATION: plan.evaluate,
            SIMILARITY: plan.similarity,
        }
        if artefact in of_cells:
            return of_cells[artefact](plan.check(Cell.of(names)))
        if artefact == MODEL:
            return plan.fetch("models", names["model"])
        if artefact == CHECKPOINT:
            return plan.fetch("compressors", names["compressor"])
        if artefact == CORPUS:
            return plan.fetch("corpora", names["corpus"])
        if artefact == BENCHMARK:
            return plan.fetch("benchmarks", names["benchmarks"], names["task"])
        of_models: dict[Artefact, Callable[..., dict]] = {
            COMPRESSED: plan.compress,
            EXPORTED: plan.export,
            LATENCY: plan.latency,
        }
        plan.check(_unrecovered(names), lambda cell: artefact.path(**{**names, **cell._asdict()}))
        return of_models[artefact](**names)

    def is_finished(self, artefact: Artefact, names: Names) -> bool:
        """True if the artefact is as planned, with its samples, and nobody forces it. Weights that are gone are no
        matter: a job that needs them forces it."""
        path = artefact.path(**names)
        planned = self.recorded(path) == self.arguments(artefact, names)["recipe"]
        return planned and path not in self.forced() and not _lacks_samples(artefact, path)

    def is_ancient(self, file: Input, artefact: Artefact, names: Names) -> bool:
        """True if the time of a file that the artefact's job reads is ignored.

        So it is if the file is as planned: to touch, clone or copy it costs nothing. A computed file, or a source that
        is fetched again, counts by its time all the same if the artefact is not finished: Snakemake passes over a job
        behind another job that runs if all files between them are ancient.
        """
        if self.recorded(file.path) != file.recipe:
            return False
        stays = is_shared(file.path) and file.path not in self.forced()
        return stays or self.is_finished(artefact, names)

    def force_if_outdated(self, artefact: Artefact, names: Names) -> None:
        """Force the job if its output was made by another recipe, or if an evaluation lacks its samples. If the job
        will run, force also the jobs whose weights it needs and which are deleted."""
        path, recipe = artefact.path(**names), self.arguments(artefact, names)["recipe"]
        recorded, forced = self.recorded(path), self.forced()
        if recorded and (recorded != recipe or _lacks_samples(artefact, path)):
            forced.add(path)
        if recorded != recipe or path in forced:
            forced.update(filter(self.lacks_weights, self.stands_on(artefact, names)))

    def stands_on(self, artefact: Artefact, names: Names) -> list[str]:
        """Artefacts whose weights the job reads, and those that these need if they must be made again."""
        if artefact in (MODEL, CHECKPOINT, CORPUS, BENCHMARK):
            return []
        model = MODEL.path(**names)
        if artefact == COMPRESSED:
            foreign = self.plan.is_checkpoint(names["compressor"])
            return [model, *([CHECKPOINT.path(**names)] if foreign else [])]
        if artefact in (ADAPTER, EXPORTED, LATENCY):
            return [model, self.compression(names).path]
        cell = Cell.of(names)
        members = self.plan.members(cell)
        incomplete = [member for member in members if lacks_companions(member.training)]
        compressed = map(self.plan.compression, [cell, *incomplete])
        return [model, *compressed, *(member.training for member in members)]

    # ------------------------------------------------------------------------------- what a job reads

    def model(self, names: Names) -> Input:
        return Input(MODEL.path(**names), self.plan.recipe("models", names["model"]))

    def base_of_model(self, names: Names) -> Input:
        """The model that a taught one is made of."""
        return self._base("models", names["model"])

    def base_of_checkpoint(self, names: Names) -> Input:
        """The model that a taught checkpoint is made of."""
        return self._base("compressors", names["compressor"])

    def _base(self, catalogue: str, name: str) -> Input:
        lesson = self.plan.lesson(catalogue, name)
        if lesson is None:
            raise KeyError(f"{catalogue}.{name} has no lesson")
        return self.model({"model": lesson.base})

    def corpus(self, name: str) -> Input:
        return Input(CORPUS.path(corpus=name), self.plan.recipe("corpora", name))

    def calibration_text(self, names: Names) -> Input | list[Input]:
        """The text that calibrates a compressor; an empty list if it calibrates nothing."""
        return [] if names["corpus"] == NO_CORPUS else self.corpus(names["corpus"])

    def checkpoint(self, names: Names) -> Input | list[Input]:
        """The checkpoint that somebody else compressed; an empty list for other compressors."""
        name = names["compressor"]
        if not self.plan.is_checkpoint(name):
            return []
        return Input(CHECKPOINT.path(compressor=name), self.plan.recipe("compressors", name))

    def compression(self, names: Names) -> Input:
        """The compressed copy that a cell, an export or a latency measurement reads."""
        cell = _unrecovered(names)
        return Input(self.plan.compression(cell), self.plan.compressed_recipe(cell))

    def training_text(self, names: Names) -> Input:
        """The text that an adapter is trained on: a corpus, or items of a task; of a family's adapter the path's
        corpus, on whose held-out text it is watched."""
        text = self.plan.training_text(Cell.of(names))
        if text.task is not None:
            return self.benchmark(names["grid"], text.task)
        return self.corpus(text.corpus or names["corpus"])

    def family(self, names: Names) -> list[Input]:
        """The tasks on whose unscored items an adapter is trained."""
        return [
            self.benchmark(names["grid"], task)
            for task in self.plan.training_text(Cell.of(names)).tasks or ()
        ]

    def asked(self, names: Names) -> list[Input]:
        """The tasks whose questions an adapter of a family may not be told."""
        return [self.benchmark(names["grid"], task) for task in self.plan.asked(Cell.of(names))]

    def repair_text(self, names: Names) -> list[Input]:
        """The calibration text of an adapter that is computed, or starts, from weights and such text."""
        return [self.corpus(names["corpus"])] if self.plan.repairs(Cell.of(names)) else []

    def adapters(self, names: Names) -> list[Input]:
        """The adapters that a cell attaches: its own, or its members'."""
        members = self.plan.members(Cell.of(names))
        return [Input(member.training, self.plan.train_recipe(member)) for member in members]

    def benchmarks(self, names: Names) -> list[Input]:
        """The grid's tasks."""
        return [self.benchmark(names["grid"], task) for task in self.plan.tasks(names["grid"])]

    def benchmark(self, grid: str, task: str) -> Input:
        """A task's items in the grid's set."""
        data = self.plan.grid(grid).benchmarks
        return Input(BENCHMARK.path(benchmarks=data, task=task), self.plan.recipe("benchmarks", data, task))

    def perplexity_text(self, names: Names) -> list[Input]:
        """The corpora whose perplexity the grid's evaluations measure."""
        return [*map(self.corpus, self.plan.grid(names["grid"]).evaluation.perplexity.corpora)]

    def similarity_text(self, names: Names) -> Input:
        """The text on which the grid's cells are compared with the dense model."""
        return self.corpus(self.plan.grid(names["grid"]).compared.corpus)

    def centring_text(self, names: Names) -> list[Input]:
        """The text that centres an IDP's `calibrated` scores, or teaches it to choose."""
        return [*map(self.corpus, self.plan.choosing_text(Cell.of(names)))]

    # ---------------------------------------------------------------------------------------- roll-ups

    def force_roll_up_if_outdated(self, entry: str, path: str, grid: str) -> None:
        """Force the job of `entry` if `path` was made by another recipe, or from other results, or if a file that it
        made was changed since: the grid's report records all three. If the job will run and reads evaluations, force
        also those that are deleted: it would leave them out."""
        stamp, forced = self.stamp(grid), self.forced()
        found = self.recorded(path) if entry == REPORT_RULE else stamp.get("recipes", {}).get(entry)
        there = os.path.exists(path)
        if found is None:  # `restore` puts answers back without a record
            outdated = there and entry != "find_answers" and not self.has_record(path)
        else:
            outdated = found != self.plan.analysis(grid, entry)["recipe"]
        if outdated or (entry == REPORT_RULE and stamp == DAMAGED):
            forced.add(path)
        # A result that was put in place with an older time is not newer than the roll-up, which is all Snakemake sees.
        if there and self.other_results(grid, entry) and not _is_newer(path, STAMP.path(grid)):
            forced.add(path)
        if any(file.rule == entry for file in self.changed_roll_ups(grid)):
            forced.add(path)
        shown = [file.path(grid) for file in (REPORT, *REPORTED)] if entry == REPORT_RULE else []
        will_run = path in forced or not all(map(os.path.exists, (path, *shown)))
        if entry in READ_CELLS and will_run and os.path.exists(ANSWERS.path(grid)):
            cells = self.present(cell.json for cell in self.plan.cells(grid))
            forced.update(cell for cell in cells if not os.path.exists(cell))

    def is_rolled_up(self, grid: str) -> bool:
        """True if the grid's report and all that it shows are as the plan and the results that are there make them."""
        return self.is_reported(grid) and not self.changed_roll_ups(grid)

    def _changed_roll_ups(self, grid: str) -> list[RollUp]:
        """Roll-ups that the report shows, and the report, that were changed since it was made, as by a spreadsheet that
        saved a table; without those that are made of other results in any case."""
        recorded = self.stamp(grid).get("roll_ups", {})
        paths = {file: file.path(grid) for file in SEALED}
        return [
            file
            for file, path in paths.items()
            if path in recorded
            and os.path.exists(path)
            and sha256_file(path) != recorded[path]
            and not self.other_results(grid, file.rule)
        ]

    def _other_results(self, grid: str, entry: str) -> list[str]:
        """Results that a roll-up of the grid stands on and that its report was not made from; none without a report."""
        if "files" not in self.stamp(grid):
            return []
        known, cells = self.stamp(grid)["files"], [cell.json for cell in self.plan.cells(grid)]
        read = self.plan.counted(grid) if entry in READ_MEASUREMENTS else cells
        return [file for file in read if os.path.exists(file) and self.sha256(file) != known.get(file)]

    def _is_reported(self, grid: str) -> bool:
        """True if the grid's report was made by the planned recipe from the very files that are there now, and from
        all of them: a partial report is outdated as soon as there is more."""
        planned = self.recorded(STAMP.path(grid)) == self.plan.analysis(grid, REPORT_RULE)["recipe"]
        if not planned or "files" not in self.stamp(grid):
            return False
        files = self.stamp(grid)["files"].keys()
        return (
            files == {*self.present(self.plan.counted(grid))}
            and all(os.path.exists(file) and not lacks_companions(file) for file in files)
            and not self.other_results(grid, REPORT_RULE)
        )

    def present(self, files: Iterable[str]) -> list[str]:
        """The files that a roll-up reads: with `partial` those that exist, missing cells are then shown as missing."""
        return [file for file in files if not self.plan.config.partial or os.path.exists(file)]

    def missing_files(self, grid: str) -> str | None:
        """A line on deleted files that a finished report was made from; None if there is none. No job needs these
        files, so none makes them again."""
        if not self.is_rolled_up(grid) or not (missing := self.plan.missing_files(grid)):
            return None
        more = f", ... ({len(missing)} files)" if len(missing) > 5 else ""
        return (
            f"Grid '{grid}' is complete, but files that it was made from are gone: {', '.join(missing[:5])}{more}. "
            "A job that needs one makes it again; `snakemake <path>` does so now."
        )


def _unrecovered(names: Names) -> Cell:
    """The cell without recovery at the place of a result."""
    return Cell.of({**names, "method": "none"})


def _lacks_samples(artefact: Artefact, path: str) -> bool:
    return artefact == EVALUATION and lacks_companions(path)


def _lacks_weights(path: str) -> bool:
    """True if weights that were made with the JSON at `path` are gone; of a local source, whether it was moved away."""
    linked = MODEL.parse(path) or CHECKPOINT.parse(path)
    files = Path(path).parent.glob("*") if linked else ()
    return lacks_companions(path) or any(file.is_symlink() and not file.exists() for file in files)


def _stamp(grid: str) -> dict:
    """The record of what the grid's report was made from; empty without a report, DAMAGED if it can't be read."""
    path = STAMP.path(grid)
    if not os.path.exists(path):
        return {}
    try:
        found = read_json(path)
    except ArtifactError:
        return DAMAGED  # the report is made again, and says so as a job
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else DAMAGED


def _is_newer(path: str, other: str) -> bool:
    """True if a file was made after another."""
    return os.stat(path).st_mtime_ns > os.stat(other).st_mtime_ns

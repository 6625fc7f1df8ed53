"""Slices of a checked configuration: the part that each rule gets. Pure Python, never imports torch."""

from typing import ClassVar

from workflow_scripts.plan.cells import Cells
from workflow_scripts.plan.layout import Cell
from workflow_scripts.plan.schema.compressors import External, Recipe
from workflow_scripts.plan.schema.grids import Regime
from workflow_scripts.plan.schema.meaning import TUNERS
from workflow_scripts.plan.schema.methods import Context
from workflow_scripts.plan.schema.sources import Benchmark, Corpus, Lesson, Model
from workflow_scripts.plan.schema.training_text import tasks_told

# Keys of a source that serve readers or name its place. Results depend on what lies there, see plan/contents.py.
DESCRIPTIVE_KEYS = ("note", "licence", "path")
# Default values of a compressor that are dropped, so that writing them changes no recipe.
KEYS_AT_NEUTRAL_VALUE = (("engine", "own"), ("forward", "fp32"))
# Keys of a task on which the evaluations of some methods alone depend.
NOT_EVALUATED = {"wordings", "context", "strata"}
# Keys of a regime that EoRA reads.
UNTRAINED = ("sequence_length", "micro_batch", "precision", "heldout_windows")


class Slices(Cells):
    """A checked configuration's cells, and the settings that their rules get."""

    CACHED: ClassVar[tuple[str, ...]] = (
        *(*Cells.CACHED, "task_settings", "evaluation", "training", "_without_training"),
    )

    def catalogue(self, grid: str) -> dict:
        """Methods (members included), compressors and tasks that the grid uses, for labels of tables and figures."""
        cells = [*self.cells(grid), *self.adapters(grid)]
        return {
            "methods": {
                name: self.config.methods[name].dump() for name in {cell.method: None for cell in cells}
            },
            "compressors": {
                name: self.compressor(name) for name in {cell.compressor: None for cell in cells}
            },
            "tasks": self.task_settings(grid),
        }

    def method(self, cell: Cell) -> dict:
        """The cell's method as its entry gets it: members resolved to adapter and seed."""
        method = self._without_training(cell.method)
        if "members" not in method:
            return method
        return method | {"members": [{"adapter": m.method, "seed": m.seed} for m in self.members(cell)]}

    def _without_training(self, method: str) -> dict:
        return self.config.methods[method].model_dump(exclude={"training"})

    def task_settings(self, grid: str) -> dict[str, dict]:
        """The settings of each of the grid's tasks, as far as they are evaluated by them."""
        return {task: self.config.tasks[task].model_dump(exclude=NOT_EVALUATED) for task in self.tasks(grid)}

    def evaluation(self, grid: str) -> dict:
        """Settings of the evaluation of the grid's cells."""
        return self.grid(grid).evaluation.dump()

    def regime(self, grid: str) -> Regime:
        return self.config.training[self.grid(grid).training]

    def training(self, grid: str, method: str) -> dict:
        """Training settings of one adapter: the regime, its tuner's settings, the method's own on top.

        Without `checkpoint_minutes`, on which no result depends.
        """
        regime, settings = self.regime(grid).dump(), self.config.methods[method].dump()
        if settings["kind"] == "eora":
            return {key: regime[key] for key in UNTRAINED}
        shared = {key: value for key, value in regime.items() if key not in (*TUNERS, "checkpoint_minutes")}
        tuner = "lora" if settings["kind"] == "peft" else settings["kind"]
        return shared | regime[tuner] | settings.get("training", {})

    def compressor(self, name: str) -> dict:
        """The compressor's settings, without keys whose value changes nothing; a recipe's file by its content."""
        entry = self.config.compressors[name]
        kept = ("algorithm", "distilled") if isinstance(entry, External) else entry.dump()
        settings = {key: value for key, value in entry.dump().items() if key in kept}
        if isinstance(entry, Recipe):  # whose path makes no difference
            settings["recipe"] = entry.content()
        return {key: value for key, value in settings.items() if (key, value) not in KEYS_AT_NEUTRAL_VALUE}

    def lesson(self, catalogue: str, name: str) -> Lesson | None:
        """The lesson of a model (`models`) or a checkpoint (`compressors`); None if it isn't taught here."""
        return lesson_of(getattr(self.config, catalogue)[name])

    def lessons(self, grid: str) -> dict[tuple[str, str], Lesson]:
        """(catalogue, name) -> lesson of everything that is taught for the grid."""
        models = self.models(grid)
        names = [
            *(("models", name) for name in models),
            *(("compressors", name) for name in self.checkpoints(grid)),
        ]
        return {place: lesson for place in names if (lesson := self.lesson(*place))}

    def models(self, grid: str) -> list[str]:
        """The models of the grid's cells, and those that taught models and checkpoints are made of, each once."""
        models = list(dict.fromkeys(cell.model for cell in self.cells(grid)))
        places = [("compressors", name) for name in self.checkpoints(grid)]
        models += [lesson.base for place in places if (lesson := self.lesson(*place))]
        models += [lesson.base for name in models if (lesson := self.lesson("models", name))]
        return list(dict.fromkeys(models))

    def details(self, catalogue: str, name: str, task: str | None = None) -> dict:
        """A source's note, licence and local path, which its manifest holds and no recipe."""
        source = self.source(catalogue, name, task).dump()
        return {key: source[key] for key in DESCRIPTIVE_KEYS if key in source}

    def variant(self, task: str) -> dict:
        """How a task is asked and its items are grouped, {task, num_fewshot, strata}, and those of its templates
        (context, wordings) that a method of any grid fills in; empty if the catalogue has no such task."""
        asked = self.config.tasks.get(task)
        if asked is None:
            return {}
        blocks = [block for grid in self.config.grids.values() for block in grid.blocks.values()]
        methods = {method for block in blocks for method in block.methods}
        unused = {"domain", "strata"}
        if not any(isinstance(self.config.methods[method], Context) for method in methods):
            unused.add("context")
        if not any(task in tasks_told(self.config, method) for method in methods):
            unused.add("wordings")
        strata = asked.strata.dump() if asked.strata else {}
        return asked.model_dump(exclude=unused) | {"strata": strata}

    def source(
        self, catalogue: str, name: str, task: str | None = None
    ) -> Model | Corpus | Benchmark | External:
        """A catalogue's entry; of a set of benchmarks, that of a task. ValueError for a compressor that is no
        checkpoint."""
        entry = getattr(self.config, catalogue)[name]
        if catalogue == "compressors" and not isinstance(entry, External):
            raise ValueError(f"compressors.{name}: is no checkpoint (algorithm {entry.algorithm})")
        return entry if task is None else entry[task]

    def checkpoints(self, grid: str) -> list[str]:
        """The grid's compressors that are checkpoints, each once."""
        used = dict.fromkeys(cell.compressor for cell in [*self.cells(grid), *self.adapters(grid)])
        return list(filter(self.is_checkpoint, used))

    def is_checkpoint(self, compressor: str) -> bool:
        """True if the compressor is a checkpoint that must be fetched."""
        return isinstance(self.config.compressors[compressor], External)


def lesson_of(entry: object) -> Lesson | None:
    """The lesson of a catalogue's entry, if it has one."""
    lesson: Lesson | None = getattr(entry, "lesson", None)
    return lesson

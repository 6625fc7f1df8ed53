"""Slices and recipes of a checked configuration's cells. Pure Python, never imports torch.

A *recipe* is a digest of everything that determines an artefact: its rule's code, its config slice and
the recipes of its inputs. Each rule carries it in `params`, so Snakemake reruns an artefact exactly when
its recipe changes, whatever the file times say. If evidence says that today's code makes what an older one made
(plan/adopted.py), the older one's digest stands in the recipe.
"""

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from workflow_scripts.files.artifacts import digest, sha256_file
from workflow_scripts.plan import adopted, contents
from workflow_scripts.plan.adopted import TEXTS, of_part
from workflow_scripts.plan.config import load, named_files, read
from workflow_scripts.plan.definitions import definition_digest, definition_files
from workflow_scripts.plan.devices import DEVICES
from workflow_scripts.plan.digests import code_of, engine_of, kinds_of
from workflow_scripts.plan.kinds import OF_MODEL, Kinds, of_model
from workflow_scripts.plan.layout import (
    BENCHMARK,
    CHECKPOINT,
    CORPUS,
    EXPORTED,
    MODEL,
    QUESTIONS,
    Cell,
    companions,
)
from workflow_scripts.plan.schema.configuration import Config
from workflow_scripts.plan.schema.methods import FewShot, TrainingText
from workflow_scripts.plan.slices import DESCRIPTIVE_KEYS, lesson_of

FETCHES = {
    "models": "fetch_model",
    "compressors": "fetch_checkpoint",
    "corpora": "fetch_corpus",
    "benchmarks": "fetch_benchmark",
}
OF_USE = ("algorithm", "model", "distilled")  # keys of a checkpoint that say nothing of where it comes from
ANALYSIS = ("find_answers", "build_ledger", "judge", "tabulate", "plot_figures", "audit_paper", "draw_page")


class Plan(Kinds):
    """A checked configuration's cells and, for each artefact, its inputs and parameters.

    equivalent: of a grid (None: what all grids share), digest of today's code and kind of result (plan/kinds.py), or of
    an evaluation's part -> digest that stands in recipes for it.
    """

    CACHED: ClassVar[tuple[str, ...]] = (
        *Kinds.CACHED,
        *("fetch", "compress", "train", "evaluate", "similarity", "latency", "measured", "analysis"),
    )

    def __init__(
        self, config: Config, equivalent: Callable[[str | None], adopted.Codes] = adopted.equivalent_codes
    ):
        super().__init__(config)
        self.equivalent = functools.cache(equivalent)

    # ------------------------------------------------------------------------- parameters of each rule

    def fetch(self, catalogue: str, name: str, task: str | None = None) -> dict:
        source = self.source(catalogue, name, task)
        lesson = lesson_of(source)
        code = code_of("teach_model" if lesson else FETCHES[catalogue])
        spec = {k: v for k, v in source.dump().items() if k not in (*OF_MODEL, *DESCRIPTIVE_KEYS)}
        if catalogue == "compressors":
            spec = {key: value for key, value in spec.items() if key not in OF_USE}
        trusted = catalogue == "models" and name in self.config.trusted_code
        if catalogue == "models":
            spec["allow_remote_code"] = trusted
        made_from = [self.recipe("models", lesson.base)] if lesson else contents.of_source(source, trusted)
        kinds = self.source_kinds(catalogue, name, task)
        return self._with_recipe(None, {"name": task or name, "spec": spec}, code, made_from, *kinds)

    def compress(self, grid: str, model: str, compressor: str, corpus: str, seed: str) -> dict:
        settings = {"compressor": self.compressor(compressor)}
        inputs = [self.recipe("models", model), seed]
        if corpus != "none":
            settings["calibration"] = self.grid(grid).calibration.dump()
            inputs.append(self.recipe("corpora", corpus))
        if self.is_checkpoint(compressor):
            inputs.append(self.recipe("compressors", compressor))
        code = code_of("compress_model", engine_of(settings["compressor"]))
        return self._with_recipe(
            grid, settings, code, inputs, *of_model(self.compressor_kind(compressor), model)
        )

    def export(self, grid: str, model: str, compressor: str, corpus: str, seed: str, form: str) -> dict:
        if form != "plain" and self.config.compressors[compressor].whole:
            asked = {"grid": grid, "model": model, "compressor": compressor, "corpus": corpus, "seed": seed}
            raise ValueError(
                f"{EXPORTED.path(**asked, form=form)} can't be: {compressor} is stored whole; export it as plain"
            )
        inputs = [self.compress(grid, model, compressor, corpus, seed)["recipe"]]
        return self._with_recipe(grid, {"form": form}, code_of("export_model"), inputs)

    def train(self, cell: Cell) -> dict:
        settings: dict[str, Any] = {
            "method": self.method(cell),
            "training": self.training(cell.grid, cell.method),
        }
        text = self.training_text(cell)
        inputs = [self.compressed_recipe(cell), *self.text_recipes(cell, text), cell.seed]
        if tasks := text.tasks or ([] if text.task is None else [text.task]):
            grid, wordings = self.grid(cell.grid), {task: self.config.tasks[task].wordings for task in tasks}
            settings["wordings"] = wordings if text.task is None else wordings[text.task]
            settings["scored"] = dict.fromkeys(grid.tasks if text.tasks else tasks, grid.evaluation.items)
        if self.repairs(cell):
            settings["calibration"] = self.grid(cell.grid).calibration.dump()
            inputs.append(self.recipe("corpora", cell.corpus))
        code = code_of("train_adapter", *kinds_of([settings["method"]]))
        return self._with_recipe(
            cell.grid, settings, code, inputs, *of_model(self.adapter_kind(cell), cell.model)
        )

    def evaluate(self, cell: Cell) -> dict:
        grid, tasks = self.grid(cell.grid), self.tasks(cell.grid)
        tasks_as_asked = {
            task: settings | self._before_questions(cell, task)
            for task, settings in self.task_settings(cell.grid).items()
        }
        settings: dict[str, Any] = {
            "method": self.method(cell),
            "tasks": tasks_as_asked,
            "evaluation": self.evaluation(cell.grid),
        }
        if self.config.models[cell.model].chat:
            settings["chat"] = True
        inputs = [
            *self._attached(cell),
            *(self.recipe("benchmarks", grid.benchmarks, task) for task in tasks),
            *(definition_digest(self.config.tasks[task].task or task) for task in tasks),
            *(self.recipe("corpora", corpus) for corpus in grid.evaluation.perplexity.corpora),
            *(self.recipe("corpora", corpus) for corpus in self.choosing_text(cell)),
        ]
        code = self._evaluation_code("evaluate_cell", cell)
        kinds = of_model(self.evaluation_kind(cell), cell.model)
        return self._with_recipe(cell.grid, settings, code, inputs, *kinds, parts=tasks)

    def adopted_codes(self, cell: Cell) -> dict[str, str]:
        """Names of a cell's benchmarks and corpora -> the first code whose results were adopted for those of its own,
        from one code to the next; without those of which none were."""
        grid, code = self.grid(cell.grid), self._evaluation_code("evaluate_cell", cell)
        kinds = of_model(self.evaluation_kind(cell), cell.model)
        parts = {f"benchmark {task}": task for task in self.tasks(cell.grid)}
        parts |= dict.fromkeys((f"corpus {name}" for name in grid.evaluation.perplexity.corpora), TEXTS)
        first = {name: self._first_code(cell.grid, code, kinds, part) for name, part in parts.items()}
        return {name: found for name, found in first.items() if found != code}

    def definitions(self, grid: str) -> dict[str, str]:
        """Our definitions of the grid's tasks, which its evaluations read: path in the checkout -> digest."""
        return definition_files(frozenset(self.config.tasks[task].task or task for task in self.tasks(grid)))

    def _before_questions(self, cell: Cell, task: str) -> dict[str, object]:
        """The settings of a task that a cell's method changes."""
        method = self.config.methods[cell.method]
        if isinstance(method, FewShot):
            return {"num_fewshot": method.shots}
        if self.has_passage(cell, task):
            return {"context": self.config.tasks[task].context}
        return {}

    def similarity(self, cell: Cell) -> dict:
        measured = self.grid(cell.grid).compared
        settings = {"method": self.method(cell), "windows": measured.windows, "length": measured.length}
        inputs = [*self._attached(cell), self.recipe("corpora", measured.corpus)]
        code = self._evaluation_code("measure_similarity", cell)
        return self._with_recipe(
            cell.grid, settings, code, inputs, *of_model(self.similarity_kind(cell), cell.model)
        )

    def artefacts(self, grid: str) -> dict[str, str]:
        """Path of everything that the grid fetches, computes or measures -> its recipe, in the workflow's order."""
        cells, adapters, settings = self.cells(grid), self.adapters(grid), self.grid(grid)
        corpora = {cell.corpus for cell in cells} - {"none"}
        corpora |= self.trained_on(adapters)
        corpora |= {*settings.evaluation.perplexity.corpora}
        corpora |= {settings.similarity.corpus} if settings.similarity else set()
        data = settings.benchmarks
        return {
            **{MODEL.path(model=name): self.recipe("models", name) for name in self.models(grid)},
            **{
                CHECKPOINT.path(compressor=name): self.recipe("compressors", name)
                for name in self.checkpoints(grid)
            },
            **{CORPUS.path(corpus=name): self.recipe("corpora", name) for name in sorted(corpora)},
            **{
                BENCHMARK.path(benchmarks=data, task=task): self.recipe("benchmarks", data, task)
                for task in dict.fromkeys([*self.tasks(grid), *self.families(adapters)])
            },
            **{self.compression(copy): self.compressed_recipe(copy) for copy in self.copies(grid)},
            **{adapter.training: self.train_recipe(adapter) for adapter in adapters},
            **{cell.json: self.evaluate_recipe(cell) for cell in cells},
            **{cell.similarity: self.similarity(cell)["recipe"] for cell in self.similarity_cells(grid)},
            **{path: self.latency(grid, **at)["recipe"] for path, at in self.latency_places(grid).items()},
        }

    def counted(self, grid: str) -> list[str]:
        """Evaluations and measurements of the grid, from which a report is made."""
        measured = [cell.similarity for cell in self.similarity_cells(grid)]
        return [*(cell.json for cell in self.cells(grid)), *measured, *self.latency_places(grid)]

    def missing_files(self, grid: str) -> list[str]:
        """The grid's artefacts, and the files made with them, that are not there."""
        files = (file for path in self.artefacts(grid) for file in (path, *companions(path)))
        return [file for file in files if not os.path.exists(file)]

    def analysis(self, grid: str, entry: str) -> dict:
        """Parameters of a rule that rolls up the grid: they change with any cell, the pair or its own code."""
        settings: dict[str, Any] = {
            "cells": [cell.json for cell in self.cells(grid)],
            "pair": self.grid(grid).pair.dump(),
            "metric": self.grid(grid).metric,
            "catalogue": self.catalogue(grid),
        }
        asked = {task: self.config.tasks[task].strata for task in self.tasks(grid)}
        if strata := {task: fields.dump() for task, fields in asked.items() if fields}:
            settings["strata"] = strata
        inputs: list[object] = [*self.measured(grid)]
        if entry == "find_answers":
            settings["corpora"] = {
                corpus: [CORPUS.path(corpus=name) for name in names]
                for corpus, names in self.training_corpora(grid).items()
            }
            settings["benchmarks"] = {
                task: BENCHMARK.path(benchmarks=self.grid(grid).benchmarks, task=task)
                for task in self.tasks(grid)
            }
            places = [
                (c, task) for c in self.cells(grid) for task in self.tasks(grid) if self.has_passage(c, task)
            ]
            if contexts := {task: self.config.tasks[task].context for _, task in places}:
                settings["contexts"] = contexts
        if entry == "judge":
            made = (
                {}
                if self.config.rebuilt
                else {cell.json: self.evaluate_recipe(cell) for cell in self.cells(grid)}
            )
            settings["cell_recipes"] = made
        if entry in ("plot_figures", "draw_page"):
            measured = {"similarity": self.similarity_cells(grid), "latency": self.latency_places(grid)}
            settings["planned"] = {kind: len(jobs) for kind, jobs in measured.items()}
        if entry == "draw_page":  # its forecast's constants are no code
            settings["description"] = self.grid(grid).description
            of_cells = [row for row in adopted.released() if row["rule"] == "evaluate_cell"]
            settings["adopted"] = [*of_cells, *adopted.equivalences(None), *adopted.equivalences(grid)]
            counted = list(self.blocks(grid))
            left_out = [name for name in self.grid(grid).blocks if name not in counted]
            settings["blocks"] = {"counted": counted, "left_out": left_out}
            models = {cell.model for cell in self.cells(grid)}
            settings["parameters"] = {m: self.config.models[m].parameters for m in sorted(models)}
            inputs += [sha256_file(DEVICES), self.grid(grid).device]
        if entry == "report_grid":
            settings["counted"] = self.counted(grid)
            settings["recipes"] = {other: self.analysis(grid, other)["recipe"] for other in ANALYSIS}
        inputs.append(read := contents.of_reports(entry))
        made = self._with_recipe(None, settings, code_of(entry), inputs)
        return made | {"contents": {f"{contents.REPORTS}/{name}": sha for name, sha in read.items()}}

    def measured(self, grid: str) -> list[str]:
        """Recipes of the grid's evaluations and measurements, which every roll-up stands on."""
        return [
            *(self.evaluate_recipe(cell) for cell in self.cells(grid)),
            *(self.similarity(cell)["recipe"] for cell in self.similarity_cells(grid)),
            *(self.latency(grid, **place)["recipe"] for place in self.latency_places(grid).values()),
        ]

    def question(self, grid: str) -> dict[str, Any]:
        """The grid's question, with the digests of the judging code and of the configuration (plan/questions.py)."""
        settings = self.grid(grid)
        return {
            "path": QUESTIONS.path(grid),
            "question": {"pair": settings.pair.dump(), "metric": settings.metric},
            "code": code_of("judge"),
            "config": digest(self.config.dump()),
            "cells": [cell.json for cell in self.cells(grid)],
        }

    def latency(self, grid: str, model: str, compressor: str, corpus: str, seed: str) -> dict:
        """Latency depends on shapes, not on training: methods get fresh adapters, so only the model is an input."""
        latency = self.grid(grid).timed
        cells = [Cell(grid, model, compressor, corpus, method, int(seed)) for method in latency.methods]
        every = [*cells, *(member for cell in cells for member in self.members(cell))]
        settings = {
            "methods": {cell.method: self.method(cell) for cell in every},
            "precision": self.grid(grid).evaluation.precision,
            **latency.model_dump(exclude={"compressors", "methods"}),
        }
        kinds = kinds_of(settings["methods"].values())
        code = code_of("measure_latency", *kinds)
        return self._with_recipe(grid, settings, code, [self.compressed_recipe(cells[0]), seed])

    def _with_recipe(
        self,
        grid: str | None,
        settings: dict,
        code: str,
        inputs: list,
        *kinds: str,
        parts: Iterable[str | None] = (None,),
    ) -> dict:
        """A rule's parameters: its settings, the digest of its code, and the recipe of what it makes. kinds: by which
        results are adopted; none if they are not. parts: of an evaluation, its tasks."""
        recipe = digest([settings, self.stands_for(grid, code, kinds, parts), inputs])
        return settings | {"code": code, "recipe": recipe}

    def stands_for(
        self, grid: str | None, code: str, kinds: Iterable[str], parts: Iterable[str | None] = (None,)
    ) -> str:
        """The digest that stands in recipes for that of a code, by evidence of the first kind that has some of every
        part, and of each the same."""
        for kind in kinds if self.equivalent(grid) else ():
            found = {self._older_code(grid, code, kind, part) for part in parts}
            if len(found) == 1 and (older := found.pop()):
                return older
        return code

    def _older_code(self, grid: str | None, code: str, kind: str, part: str | None) -> str | None:
        """The code whose results `code` was shown to make, by evidence of a kind's part or of the kind."""
        known = self.equivalent(grid)
        return known.get((code, of_part(kind, part)), known.get((code, kind)))

    def _first_code(self, grid: str, code: str, kinds: Iterable[str], part: str) -> str:
        """The last of the older codes that lead from `code` back to one another."""
        codes = [code]
        while (older := self.stands_for(grid, codes[-1], kinds, (part,))) not in codes:
            codes.append(older)
        return codes[-1]

    def _evaluation_code(self, entry: str, cell: Cell) -> str:
        return code_of(entry, *kinds_of([self.method(cell)]))

    def _attached(self, cell: Cell) -> list:
        return [self.compressed_recipe(cell), *(self.train_recipe(member) for member in self.members(cell))]

    def recipe(self, catalogue: str, name: str, task: str | None = None) -> str:
        return self.fetch(catalogue, name, task)["recipe"]

    def text_recipes(self, adapter: Cell, text: TrainingText) -> list[str]:
        """Recipes of a training text: a corpus, items of a task, or the path's corpus and items of several tasks, with
        the tasks of the grid, whose questions are left out."""
        tasks = [*text.tasks, *self.asked(adapter)] if text.tasks else [text.task] if text.task else []
        found = [self.recipe("benchmarks", self.grid(adapter.grid).benchmarks, task) for task in tasks]
        if text.task is None:
            found.insert(0, self.recipe("corpora", text.corpus or adapter.corpus))
        return found

    def compressed_recipe(self, cell: Cell) -> str:
        copy = self.copy(cell)
        return self.compress(copy.grid, *copy.group, str(copy.seed))["recipe"]

    def train_recipe(self, cell: Cell) -> str:
        return self.train(cell)["recipe"]

    def evaluate_recipe(self, cell: Cell) -> str:
        return self.evaluate(cell)["recipe"]


def plan_of(configfiles: Iterable[object], grid: str, blocks: list[str] | None = None) -> Plan:
    """The plan of these files, merged as Snakemake merges them, with this grid (and its blocks) as the configured one.

    Raises ConfigError with every mistake in them.
    """
    paths = list(configfiles)
    chosen = {"grid": grid, "called_with": named_files(paths)} | ({"blocks": blocks} if blocks else {})
    return Plan(load(read(*paths) | chosen))

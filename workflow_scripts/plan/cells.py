"""The cells that a checked configuration asks for, with the copy, text and adapters of each. Never imports torch."""

import functools
import itertools
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

from workflow_scripts.plan import model_limits
from workflow_scripts.plan.layout import COMPRESSED, LATENCY, NO_CORPUS, Cell, Group
from workflow_scripts.plan.schema.configuration import Config
from workflow_scripts.plan.schema.grids import Block, Grid
from workflow_scripts.plan.schema.methods import Context, Eora, Idp, Lora, TrainingText


class Cells:
    """A checked configuration's cells, their adapters and compressed models, grid by grid."""

    # Computed once: nobody changes what they return.
    CACHED: ClassVar[tuple[str, ...]] = ("cells", "copy", "members", "check", "_unfit", "limits")

    def __init__(self, config: Config):
        self.config = config
        for name in self.CACHED:
            setattr(self, name, functools.cache(getattr(self, name)))

    def grid(self, name: str) -> Grid:
        return self.config.grids[name]

    def cells(self, name: str) -> list[Cell]:
        """The grid's cells, blocks in their order, each cell once."""
        return list(dict.fromkeys(cell for block in self.blocks(name).values() for cell in block))

    def blocks(self, name: str) -> dict[str, list[Cell]]:
        """The grid's blocks by name, the chosen ones if it is the configured grid; a cell may stand in several."""
        chosen = self.config.blocks if name == self.config.grid else None
        return {
            block: list(dict.fromkeys(self._block(name, axes)))
            for block, axes in self.grid(name).blocks.items()
            if chosen is None or block in chosen
        }

    def _block(self, grid: str, block: Block) -> Iterator[Cell]:
        axes = (block.models, block.compressors, block.corpora, block.methods, block.seeds)
        for names in itertools.product(*axes):
            cell = Cell(grid, *names)
            yield self.copy(cell) if cell.method == "none" else cell

    def copy(self, cell: Cell) -> Cell:
        """The cell without recovery on the same compressed weights: their path has its corpus and seed.

        The corpus is 'none' if nothing calibrated the weights. The seed is 0 if the compressor has one copy.
        """
        compressor = self.config.compressors[cell.compressor]
        corpus = cell.corpus if compressor.calibrated else NO_CORPUS
        return cell._replace(corpus=corpus, method="none", seed=cell.seed if compressor.random else 0)

    def check(self, cell: Cell, path: Callable[[Cell], str] = lambda cell: cell.json) -> Cell:
        """The cell. ValueError if its corpus or seed is impossible, with the path that is meant, or if its model cannot
        run its settings. path: spells the result that was asked for."""
        calibrated = self.config.compressors[cell.compressor].calibrated
        if cell.corpus == NO_CORPUS and (calibrated or self.members(cell)):
            needs = f"{cell.compressor} is calibrated" if calibrated else f"{cell.method} is trained"
            raise ValueError(
                f"{path(cell)}: corpus 'none' can't be, {needs} on a corpus: {', '.join(self.config.corpora)}"
            )
        if cell.method == "none" and (meant := self.copy(cell)) != cell:
            raise ValueError(
                f"{path(cell)}: nothing is trained and {cell.compressor} calibrates nothing, so this is {path(meant)}; "
                "ask for that"
            )
        self._check_members(cell)
        if found := self._unfit(*cell[:3], cell.method):
            raise ValueError(f"{path(cell)} can't be: {'; '.join(found)}")
        return cell

    def _check_members(self, cell: Cell) -> None:
        """ValueError for a member whose adapter was trained on another copy than the cell's."""
        for member in self.members(cell):
            if self.copy(member) != self.copy(cell):
                raise ValueError(
                    f"{cell.json} can't be: methods.{cell.method}.members: seed {member.seed} of {member.method} is "
                    f"trained on another copy of {cell.compressor}; name a prompt with a `seed_offset` instead"
                )

    def compression(self, cell: Cell) -> str:
        """compression.json of the copy that the cell stands on."""
        return COMPRESSED.path(**self.copy(cell)._asdict())

    def copies(self, grid: str) -> list[Cell]:
        """Every compressed copy that the grid needs, as its cell without recovery, each once."""
        return list(dict.fromkeys(map(self.copy, [*self.cells(grid), *self.adapters(grid)])))

    def members(self, cell: Cell) -> list[Cell]:
        """The cells whose adapters this cell attaches: its own, or its members'."""
        method = self.config.methods[cell.method]
        if method.trains:
            return [cell]
        return [
            cell._replace(method=member.adapter, seed=cell.seed if member.seed is None else member.seed)
            for member in method.combines
        ]

    def training_text(self, adapter: Cell) -> TrainingText:
        """The text that an adapter is trained on: its method's own, else the path's, which calibrated the weights."""
        own = getattr(self.config.methods[adapter.method], "corpus", None)
        return TrainingText(corpus=adapter.corpus) if own is None else own

    def repairs(self, adapter: Cell) -> bool:
        """True if an adapter is computed, or starts, from weights and calibration text."""
        method = self.config.methods[adapter.method]
        return isinstance(method, Eora) or (isinstance(method, Lora) and method.start is not None)

    def choosing_text(self, cell: Cell) -> list[str]:
        """The corpus whose text centres an IDP's scores, or teaches it to choose; empty for other methods."""
        method = self.config.methods[cell.method]
        needs = isinstance(method, Idp) and (method.calibrated or method.score == "learned")
        return [cell.corpus] if needs else []

    def has_passage(self, cell: Cell, task: str) -> bool:
        """True if a cell gives a task's passage with its questions."""
        return isinstance(self.config.methods[cell.method], Context) and bool(self.config.tasks[task].context)

    def trained_on(self, adapters: Iterable[Cell]) -> set[str]:
        """The corpora that adapters are trained on; items of a task are none."""
        names = (self.training_text(adapter).corpus for adapter in adapters)
        return {name for name in names if name is not None}

    def families(self, adapters: Iterable[Cell]) -> list[str]:
        """The tasks on whose unscored items adapters are trained."""
        return [task for adapter in adapters for task in self.training_text(adapter).tasks or ()]

    def asked(self, adapter: Cell) -> list[str]:
        """The tasks whose questions an adapter of a family may not be told: all of the grid."""
        return self.tasks(adapter.grid) if self.training_text(adapter).tasks else []

    def training_corpora(self, grid: str) -> dict[str, list[str]]:
        """Corpus of a path -> the corpora that the pair's adapters are trained on there."""
        pair = [method for _, method in self.grid(grid).pair.items()]
        corpora: dict[str, set[str]] = {}
        for cell in self.cells(grid):
            if cell.method in pair:
                corpora.setdefault(cell.corpus, set()).update(self.trained_on(self.members(cell)))
        return {corpus: sorted(trained_on) for corpus, trained_on in corpora.items()}

    def adapters(self, grid: str) -> list[Cell]:
        """Every adapter that the grid trains, each once."""
        return list(dict.fromkeys(member for cell in self.cells(grid) for member in self.members(cell)))

    def command(self, grid: str, *options: str) -> str:
        """Snakemake with the options under which it knows this grid's cells; a path after it makes that file."""
        chosen = ["--configfile", *self.config.called_with] if self.config.called_with else []
        if self.config.blocks and grid == self.config.grid:
            chosen += ["--config", f"grid={grid}", f"blocks=[{','.join(self.config.blocks)}]"]
        return shlex.join(["snakemake", *options, *chosen, *(["--"] if chosen else [])])

    def make(self, target: str, grid: str) -> str:
        """A target of make with the options under which it knows this grid's cells."""
        words = ["make", target, f"GRID={grid}"]
        if self.config.blocks and grid == self.config.grid:
            words.append(f"BLOCKS={','.join(self.config.blocks)}")
        if self.config.called_with:
            words.append(f"CONFIG={' '.join(self.config.called_with)}")
        return shlex.join(words)

    def tasks(self, grid: str) -> list[str]:
        return self.grid(grid).tasks

    def similarity_cells(self, grid: str) -> list[Cell]:
        measured = self.grid(grid).similarity
        methods = measured.methods if measured else ()
        return [cell for cell in self.cells(grid) if cell.method in methods and cell.compressor != "dense"]

    def remade_to_measure(self, grid: str) -> list[str]:
        """Compressed models of the grid, and adapters that a similarity reads: a measurement has their weights made
        again if these were deleted."""
        adapters = [member.training for cell in self.similarity_cells(grid) for member in self.members(cell)]
        return list(dict.fromkeys([*map(self.compression, self.cells(grid)), *adapters]))

    def latency_places(self, grid: str) -> dict[str, dict]:
        """Path of each latency measurement of the grid -> its model, compressor, corpus and seed.

        Latency depends on shapes alone, so one copy of each compressed model is timed: that of the lowest seed.
        """
        measured = self.grid(grid).latency
        timed: dict[Group, Cell] = {}
        for copy in map(self.copy, self.cells(grid)):
            if measured and copy.compressor in measured.compressors:
                timed[copy.group] = min(copy, timed.get(copy.group, copy))
        return {
            LATENCY.path(grid=grid, seed=copy.seed, **group._asdict()): group._asdict()
            | {"seed": str(copy.seed)}
            for group, copy in timed.items()
        }

    def _unfit(self, grid: str, model: str, compressor: str, method: str) -> list[str]:
        """The settings of such cells that their model cannot run."""
        case = model_limits.Case(self.config, self.limits(model), grid, model, compressor, method)
        return model_limits.problems(case)

    def limits(self, model: str) -> model_limits.Limits:
        """What is known of a model's limits."""
        return model_limits.known(self.config, model)

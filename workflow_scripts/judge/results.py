"""A grid's planned cells and the evaluations that exist: JSON files and their samples, read once and checked.

A planned cell without a file is *missing*: it stays in the plan, so that every table and figure can name it.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from pyarrow import parquet

from workflow_scripts.files.artifacts import ArtifactError, read_json, recorded_recipe, sha256_file
from workflow_scripts.plan.layout import EVALUATION, NO_CORPUS, Cell, Group, companions

INDEX_COLUMNS = ("task", "doc_id", "doc_hash")
ITEM_COLUMNS = ("correct", "gold_loglik", "margin", "selected_prompt", "choice_logliks")


@dataclass
class Results:
    """A grid's plan with what exists of it."""

    grid: str
    planned: dict[Cell, Path]
    evaluations: dict[Cell, dict]
    _items: dict[Cell, pd.DataFrame] = field(default_factory=dict, repr=False)

    def under(self, grid: str) -> "Results":
        """The same results as cells of another grid, so that two grids can be compared cell by cell."""

        def renamed(cells: dict) -> dict:
            return {cell._replace(grid=grid): value for cell, value in cells.items()}

        return Results(grid, renamed(self.planned), renamed(self.evaluations), renamed(self._items))

    @property
    def missing(self) -> list[Cell]:
        return [cell for cell in self.planned if cell not in self.evaluations]

    def missing_in_words(self, most: int = 6) -> str:
        """ "5 of 15 planned cells have no result: m / sparsegpt-50 / c4 (5)."; empty if nothing is missing."""
        counts = Counter(str(cell.group) for cell in self.missing)
        named = [f"{place} ({count})" for place, count in counts.items()]
        more = f"; and {len(named) - most} more" if len(named) > most else ""
        head = f"{len(self.missing)} of {len(self.planned)} planned cells have no result"
        return f"{head}: {'; '.join(named[:most])}{more}." if named else ""

    @property
    def models(self) -> list[str]:
        return unique(cell.model for cell in self.planned)

    @property
    def tasks(self) -> list[str]:
        return unique(task for evaluation in self.evaluations.values() for task in evaluation["tasks"])

    @property
    def chats(self) -> dict[str, str]:
        """Model -> SHA-256 of the chat template that its tasks were asked through; none of a model in plain text."""
        formats = {cell.model: self._format(cell) for cell in self.evaluations}
        return {model: chat["template_sha256"] for model, chat in formats.items() if chat}

    @property
    def without_system(self) -> list[str]:
        """Models whose chat template leaves out a system message, so the descriptions of tasks too."""
        formats = {cell.model: self._format(cell) or {} for cell in self.evaluations}
        return [model for model, chat in formats.items() if chat.get("system_message") == "left out"]

    def _format(self, cell: Cell) -> dict | None:
        """The chat format in which a cell's tasks were asked; None for plain text."""
        return self.evaluations[cell]["manifest"]["config"].get("chat")

    def groups(self) -> list[Group]:
        """Every (model, compressor, corpus) of a compressed model, in the order of the plan.

        A compressor that calibrates nothing has its cell without a method under the corpus `none`. This is a group only
        if no other group of the compressor takes the cell as its own.
        """
        found = unique(cell.group for cell in self.planned if cell.compressor != "dense")
        taken = {group[:2] for group in found if group.corpus != NO_CORPUS}
        return [group for group in found if group.corpus != NO_CORPUS or group[:2] not in taken]

    def dense_groups(self) -> list[Group]:
        """Every (model, dense, corpus) with a recovery method, in the order of the plan."""
        return unique(
            cell.group for cell in self.planned if cell.compressor == "dense" and cell.method != "none"
        )

    def methods(self, group: Group) -> list[str]:
        """Recovery methods planned for a group, in the order of the plan."""
        return unique(c.method for c in self.planned if c.group == group and c.method != "none")

    def seeds(
        self, model: str, compressor: str, corpus: str, method: str, planned: bool = False
    ) -> list[Cell]:
        """The cells (one per seed, ascending) of a setting that exist, or that are planned.

        The unrecovered cell of a compressor that calibrates nothing lies under the corpus `none`.
        """
        source = self.planned if planned else self.evaluations
        found = [cell for cell in source if cell[1:5] == (model, compressor, corpus, method)]
        if not found and method == "none" and corpus != NO_CORPUS:
            found = [cell for cell in source if cell[1:5] == (model, compressor, NO_CORPUS, method)]
        return sorted(found)

    def first(self, model: str, compressor: str, corpus: str, method: str) -> Cell | None:
        """The existing cell with the lowest seed, or None."""
        return next(iter(self.seeds(model, compressor, corpus, method)), None)

    def copy(self, group: Group, seed: int) -> Cell | None:
        """The existing cell without recovery of the copy that a seed's cells stand on: its own, or the only one."""
        planned = {cell.seed: cell for cell in self.seeds(*group, "none", planned=True)}
        found = next(iter(planned.values())) if len(planned) == 1 else planned.get(seed)
        return found if found in self.evaluations else None

    def items(self, cell: Cell) -> pd.DataFrame:
        """Outcomes of a cell's items, indexed by (task, doc_hash, nth occurrence of that hash in the task).

        choices: how many an item has, nan without; choice_loglik: log-softmax of the right one (nats);
        bits_per_byte: an item's bits over the mean length of its task's gold answers, so that the mean over items is
        the task's bits per byte.
        """
        if cell not in self._items:
            items = self._read(cell, ITEM_COLUMNS)
            logliks = items.pop("choice_logliks")
            items["choices"], total = _over_choices(logliks)
            items["choice_loglik"] = items["gold_loglik"] - total
            bits = {task: _bits(scores) for task, scores in self.evaluations[cell]["tasks"].items()}
            items["bits_per_byte"] = items["gold_loglik"] * items.index.get_level_values("task").map(bits)
            self._items[cell] = items
        return self._items[cell]

    def left_out(self, cells: Iterable[Cell]) -> set[str]:
        """doc_hash of the items that no half of a task told, since both ask their question."""
        return {doc_hash for cell in cells for doc_hash in self.evaluations[cell].get("left_out", ())}

    def texts(self, cell: Cell, *columns: str) -> pd.DataFrame:
        """Text columns (question, gold, prediction) of a cell's items; read each time, since they are large."""
        return self._read(cell, columns)

    def _read(self, cell: Cell, columns: Iterable[str]) -> pd.DataFrame:
        recorded = self.evaluations[cell]["manifest"].get("samples_sha256")
        path = samples_beside(self.planned[cell])
        if recorded and path.exists() and sha256_file(path) != recorded:
            raise ArtifactError(
                f"{path}: not the file that {self.planned[cell].name} describes (SHA-256); "
                f"delete {self.planned[cell]} to compute both again"
            )
        return read_samples(self.planned[cell], columns)

    def check_paired(self, cells: Iterable[Cell]) -> None:
        """Refuse to pair cells whose benchmarks come from different source files, or that were evaluated otherwise."""
        seen: dict[str, tuple[str, Cell]] = {}
        same: dict[str, tuple[object, Cell]] = {}
        for cell in cells:
            asked = self.evaluations[cell]["manifest"]["config"].get("evaluation", {})
            settings = {f"evaluation.{key}": value for key, value in asked.items()}
            for key, value in (settings | {"chat": self._format(cell)}).items():
                other, earlier = same.setdefault(key, (value, cell))
                if other != value:
                    raise ArtifactError(
                        f"{self.planned[earlier]} and {self.planned[cell]} can't be paired: they were evaluated with "
                        f"{key} {other} and {value}; evaluate both with the same settings"
                    )
            for task, scores in self.evaluations[cell]["tasks"].items():
                sha, first = seen.setdefault(task, (scores["data_sha256"], cell))
                if sha != scores["data_sha256"]:
                    raise ArtifactError(
                        f"{self.planned[first]} and {self.planned[cell]} can't be paired: their {task} data differ "
                        f"(sha256 {sha[:12]} and {scores['data_sha256'][:12]}); evaluate both on the same source"
                    )


def _over_choices(logliks: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Number of choices and log of their summed likelihoods of each item; nan without choices."""
    known = logliks.notna().to_numpy()
    counts, totals = np.full(len(logliks), np.nan), np.full(len(logliks), np.nan)
    lists = logliks[known].tolist()
    if lists:
        counts[known] = sizes = np.array([len(each) for each in lists])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        totals[known] = np.logaddexp.reduceat(np.concatenate(lists), starts)
    return counts, totals


def _bits(scores: dict) -> float:
    """Bits per byte of one nat of an item: what its task's mean log-likelihood becomes in bits per byte."""
    return scores["bits_per_byte"] / scores["gold_loglik"] if scores["gold_loglik"] else float("nan")


def unique(values: Iterable) -> list:
    """Values without repetition, in order of first appearance."""
    return list(dict.fromkeys(values))


def read_results(paths: list[str]) -> Results:
    """Read a plan: the paths of all cells that the grid plans, whether or not they exist.

    Raises ArtifactError for an empty plan, a broken evaluation, or one that describes another cell.
    """
    if not paths:
        raise ArtifactError("the plan holds no cell: the grid is empty")
    planned, evaluations = {}, {}
    for path in map(Path, paths):
        cell = _cell_at(path)
        planned[cell] = path
        if not path.exists():
            continue
        evaluation = read_json(path, schema="evaluation")
        described = Cell.of(evaluation["cell"])
        if described != cell:
            raise ArtifactError(f"{path}: $.cell describes {described}; its path says {cell}")
        evaluations[cell] = evaluation
    return Results(cell.grid, planned, evaluations)


def refuse_other_recipes(results: Results, recipes: dict[str, str]) -> None:
    """Raises ArtifactError if an evaluation was made by another recipe than the planned one.

    recipes: path of a planned cell's evaluation -> its recipe; empty if nothing is known, as in a rebuild.
    """
    made = {str(results.planned[cell]) for cell in results.evaluations} & recipes.keys()
    if other := sorted(path for path in made if recorded_recipe(path) != recipes[path]):
        raise ArtifactError(
            f"{other[0]}: made by another recipe than the planned one ({len(other)} such), so it is compared with "
            "nothing; `snakemake` without --allowed-rules, --touch or --rerun-triggers makes it again"
        )


def results_of(verdict: dict) -> Results:
    """A grid's plan and what verdict.json tells of its cells: `scores`' rows in place of evaluations, without items."""
    grid = verdict["grid"]
    planned = {cell: Path(cell.json) for cell in (Cell(grid, *row) for row in verdict["plan"])}
    return Results(grid, planned, {Cell.of({"grid": grid, **row}): row for row in verdict["scores"]})


def _cell_at(path: Path) -> Cell:
    names = EVALUATION.parse(path)
    if names is None:
        raise ArtifactError(f"{path}: no path of a cell ({EVALUATION.shape})")
    return Cell.of(names)


def samples_beside(evaluation: Path) -> Path:
    """The samples of an evaluation's JSON."""
    return Path(companions(str(evaluation))[0])


def read_samples(evaluation: Path, columns: Iterable[str]) -> pd.DataFrame:
    """Columns of the samples beside an evaluation JSON; equal questions of a task are told apart by their order."""
    path, wanted = samples_beside(evaluation), [*INDEX_COLUMNS, *columns]
    try:
        absent = set(wanted) - set(parquet.read_schema(path).names)
        items = pd.DataFrame() if absent else pd.read_parquet(path, columns=wanted)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path}: can't be read ({error}); delete {evaluation} to compute both again"
        ) from error
    if absent:
        raise ArtifactError(
            f"{path}: lacks the columns {', '.join(sorted(absent))}; delete {evaluation} to compute both again"
        )
    items = items.sort_values(["task", "doc_id"], kind="stable")
    items["occurrence"] = items.groupby(["task", "doc_hash"]).cumcount()
    return items.set_index(["task", "doc_hash", "occurrence"])


def paired_items(results: Results, cells: list[Cell], column: str) -> dict[str, pd.DataFrame]:
    """Task -> frame (items, cells; columns 0, 1, ...) of one samples column, over the items that all cells share.

    Items whose value is missing or not finite in any of the cells are left out.
    """
    results.check_paired(cells)
    return side_by_side(results.items(cell)[column] for cell in cells)


def side_by_side(columns: Iterable[pd.Series]) -> dict[str, pd.DataFrame]:
    """Pair columns as `paired_items` does; they are indexed as in `Results.items`."""
    values = pd.concat([c.astype("float64").rename(i) for i, c in enumerate(columns)], axis=1, join="inner")
    values = values.replace([float("inf"), float("-inf")], float("nan")).dropna()
    return {str(task): frame for task, frame in values.groupby(level="task", sort=False)}

"""Restores an archive into the working folder: only results that today's code and configuration would make again."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from workflow_scripts.archive.packing import METADATA, copy, rolled_up
from workflow_scripts.archive.unpacking import place_records, split_samples
from workflow_scripts.files.artifacts import (
    ArtifactError,
    atomic_path,
    read_json,
    recorded_recipe,
    sha256_file,
)
from workflow_scripts.files.scratch import scratch_folder
from workflow_scripts.plan.adopted import asked_about, older_record, record_path, rows, write_rows
from workflow_scripts.plan.layout import (
    ADAPTER,
    ANSWERS,
    COMPRESSED,
    EVALUATION,
    QUESTIONS,
    REPORT,
    STAMP,
    companions,
    lacks_companions,
)
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.schema.configuration import Config
from workflow_scripts.plan.soundness import damage, is_bare
from workflow_scripts.plan.upgrades import older_results, outdated_by


@dataclass
class Restored:
    """Outcome of a restore: names of the archive's results by what was done with them.

    bare: records whose weights or texts no archive holds. answers, rolled_up: whether answers and report are in place.
    small: whether the adapters come without weights. older: results that differ from today's plan in their code alone.
    unread: a line on each record of evidence that is of an older version.
    """

    grid: str
    small: bool = False
    older: list[str] = field(default_factory=list)
    evidence: bool = True
    unread: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    other_recipe: list[str] = field(default_factory=list)
    rolled_up: bool = False
    answers: bool = False
    bare: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The outcome, for the terminal."""
        cells = sum(EVALUATION.parse(name) is not None for name in self.restored)
        adapters = sum(ADAPTER.parse(name) is not None for name in self.restored)
        weights = ", these without weights: a job that needs one makes it again" if self.small else ""
        lines = [
            f"Restored {cells} cells and {adapters} adapters{weights}; {len(self.present)} results were here already."
        ]
        if self.older:
            lines.append(
                f"{len(self.older)} of them differ from today's plan in their code alone: keep them with `make adopt "
                f"GRID={self.grid}`, or a run makes them again."
            )
        if not self.evidence:
            lines.append(
                "Its evidence of adopted results is left out: with it results here would be made again."
            )
        lines += [f"The archive's {line}" for line in self.unread]
        if self.other_recipe:
            lines.append(
                f"Left out, since today's code or configuration would make them differently ({len(self.other_recipe)}):"
            )
            lines += [f"  {name}" for name in self.other_recipe[:10]]
            lines += ["  ..."] if len(self.other_recipe) > 10 else []
        lines.append(
            f"The report was restored too: `snakemake {REPORT.path(self.grid)}` has nothing to do."
            if self.rolled_up
            else "Tables, figures and report are made again by the next run, in seconds to minutes"
            + ("." if self.answers else ", once the training text is back (the command below).")
        )
        if self.bare:
            lines.append(
                "An archive holds no weights of models and no texts. Before new cells can be added, make these again "
                "(results that depend on them stay):"
            )
            lines.append(f"  snakemake --force {' '.join(self.bare)}")
        return lines


def restore(archive: Path, index: dict, plan: Plan) -> Restored:
    """Copy each result whose recorded recipe is the planned one, unless it is here already; also one that an older code
    made, if nothing is here.

    A result is there if it has that recipe and is whole; one that is damaged is replaced. All is checked before the
    first file is written, each file takes its place whole, and a JSON comes after the files that it describes. A small
    archive brings adapters without weights: a job that needs one has it made again. Raises ArtifactError for an archive
    with damaged results, and for a grid that the configuration lacks.
    """
    grid = index["grid"]
    if grid not in plan.config.grids:
        raise ArtifactError(
            f"grid '{grid}' is not in your configuration; the archive's own is the config.yaml in it"
        )
    done, samples = Restored(grid, index["small"]), []
    held = [place for place in (None, grid) if record_path(place) in index["files"]]
    done.unread = [line for place in held if (line := older_record(place, archive))]
    cells = {cell.json: cell for cell in plan.cells(grid)}
    with scratch_folder("restore") as split:
        with _adoptions(archive, index, plan.config) as done.evidence:
            older = {result.path for result in older_results(plan, grid, archive)}
            for name, recipe in plan.artefacts(grid).items():
                if name not in index["files"]:
                    continue
                recorded = recorded_recipe(archive / name)
                is_older = name in older and recorded_recipe(name) in (None, recorded)
                if recorded != recipe and not is_older:
                    done.other_recipe.append(name)
                    continue
                done.older += [name] if is_older else []
                if _is_present(Path(name), recorded, index["small"]):
                    done.present.append(name)
                elif problem := damage(archive / name):
                    raise ArtifactError(f"{problem}; take another copy, nothing was restored")
                else:
                    samples += [cells[name]] if name in cells else []
                    done.restored.append(name)
            split_samples(archive, split, samples)
        for name in done.restored:
            for file in (*companions(name), name):
                source = (archive if file in index["files"] else split) / file
                if source.exists():
                    _put(source, Path(file))
    if (asked := QUESTIONS.path(grid)) in index["files"] and not Path(asked).exists():
        _put(archive / asked, Path(asked))
    done.bare = [name for name in (*done.present, *done.restored) if is_bare(Path(name))]
    done.answers = _answers(archive, index, plan, done)
    done.rolled_up = done.answers and _roll_ups(archive, index, plan)
    if METADATA in index["files"]:
        place_records(archive, Path())
    return done


@contextmanager
def _adoptions(archive: Path, index: dict, config: Config) -> Iterator[bool]:
    """Add the archive's evidence of adopted results to that which is here, for a plan reads it when it is first asked
    for a recipe; take it away again if the block raises. Gives whether it counts.

    Of what both name, what is here stays: later rows count. None counts if results here would no longer be as planned.
    """
    grid, before = index["grid"], dict[Path, bytes | None]()
    now = Plan(config)
    for name in map(record_path, (None, grid)):
        file = Path(name)
        here = rows(file) if file.exists() else []
        there = rows(archive / name) if name in index["files"] else []
        known = {key for row in here for key in asked_about(row)}
        fresh = [
            row | {"kinds": kinds}
            for row in there
            if (kinds := [kind for kind in row["kinds"] if not known.issuperset(asked_about(row, [kind]))])
        ]
        if fresh:
            now.artefacts(grid)  # it keeps the recipes that hold without the evidence
            before[file] = file.read_bytes() if file.exists() else None
            write_rows(file, [*fresh, *here])
    counts = not (before and outdated_by(now, Plan(config), grid))
    if not counts:
        _put_back(before)
        before = {}
    try:
        yield counts
    except BaseException:
        _put_back(before)
        raise


def _put_back(contents: dict[Path, bytes | None]) -> None:
    for file, content in contents.items():
        file.unlink()
        if content is not None:
            with atomic_path(file) as temporary:
                temporary.write_bytes(content)


def _is_present(path: Path, recipe: str | None, small: bool) -> bool:
    """True if the result of a recipe is there and whole; weights that the archive does not hold are no matter."""
    bare = COMPRESSED.parse(path) or (small and ADAPTER.parse(path))
    incomplete = lacks_companions(str(path)) and not bare
    return recorded_recipe(path) == recipe and not incomplete and damage(path) is None


def _put(source: Path, target: Path) -> None:
    """Copy a file to its place, whole or not at all."""
    with atomic_path(target) as temporary:
        copy(source, temporary)


def _answers(archive: Path, index: dict, plan: Plan, done: Restored) -> bool:
    """Put answers.parquet back if its recipe and all results are those of today; returns whether it is there.

    It can't be made again before the training text is back, which an archive does not hold.
    """
    name = ANSWERS.path(index["grid"])
    same = index["answers_recipe"] == plan.analysis(index["grid"], "find_answers")["recipe"]
    if not same or name not in index["files"] or done.other_recipe:
        return Path(name).exists()
    _put(archive / name, Path(name))
    return True


def _roll_ups(archive: Path, index: dict, plan: Plan) -> bool:
    """Put the report and all that it shows back if today's code would make the same; returns whether it did."""
    grid = index["grid"]
    stamp = STAMP.path(grid)
    recipe = plan.analysis(grid, "report_grid")["recipe"]
    if stamp not in index["files"] or recorded_recipe(archive / stamp) != recipe:
        return False
    files = read_json(archive / stamp)["files"]
    if any(not Path(file).exists() or sha256_file(Path(file)) != sha for file, sha in files.items()):
        return False
    for name in filter(index["files"].__contains__, rolled_up(grid, archive)):
        _put(archive / name, Path(name))
    return True

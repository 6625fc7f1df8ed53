"""The place of every file: one pattern per artefact. Rules, commands and the report spell and parse paths by it.

A pattern holds Snakemake's wildcards, `{model}` and the like. Weights, an adapter's configuration and an evaluation's
samples belong to the artefact that they are made with: they are its companions.
"""

import functools
import os
import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import NamedTuple

from workflow_scripts.files.members import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    COMPRESSION,
    MANIFEST,
    RESOURCES,
    RESULTS,
    SAMPLES,
    TRAINING,
    WEIGHTS,
)
from workflow_scripts.plan.names import unknown

LOGS = "logs"
EXPORTS = ("plain", "gptq", "gptq_v2", "compressed-tensors")  # formats of rule export_model
PLACE = "{model}/{compressor}/{corpus}"
COPY = f"{PLACE}/seed-{{seed}}"
CELL = f"{PLACE}/{{method}}/seed-{{seed}}"
NUMBER = r"0|[1-9]\d*"  # a seed
NO_CORPUS = "none"  # the corpus in the path of a model that nothing calibrated
SHOWN = {"seed": "n", "form": "format", "benchmarks": "set"}  # wildcards, as messages name them
CATALOGUES = {
    "grid": "grids",
    "model": "models",
    "compressor": "compressors",
    "corpus": "corpora",
    "method": "methods",
}


class Artefact(NamedTuple):
    """One kind of result: `<folder>/<name><ending>`, made by `rule`; `beside` are the files made with it."""

    folder: str
    name: str
    ending: str
    rule: str
    beside: tuple[str, ...] = ()  # endings; of a JSON in a folder of its own, names in that folder

    @property
    def pattern(self) -> str:
        """The path of the JSON that describes the artefact."""
        return f"{self.folder}/{self.name}{self.ending}"

    @property
    def companions(self) -> tuple[str, ...]:
        """Patterns of the files that are made with it."""
        return tuple(f"{self.folder}/{self.name}{ending}" for ending in self.beside)

    @property
    def log(self) -> str:
        """The log of the job that makes it."""
        return f"{LOGS}/{'{grid}/' if '{grid}' in self.folder else ''}{self.rule}/{self.name}.log"

    @property
    def shape(self) -> str:
        """The pattern of the JSON as messages show it."""
        return shown(self.pattern)

    def path(self, **names: object) -> str:
        """The path for these names; names that the pattern lacks are ignored."""
        return self.pattern.format(**names)

    def title(self, **names: object) -> str:
        """The names in their order, joined by slashes: what logs and forecasts call the artefact."""
        return self.name.format(**names)

    def parse(self, path: object) -> dict[str, str] | None:
        """The names in the path of this artefact or of a companion, below any folder; None for another path."""
        match = _parser(self).fullmatch(str(path))
        return match.groupdict() if match else None


MODEL = Artefact(f"{RESOURCES}/models", "{model}", f"/{MANIFEST}", "fetch_model")
CHECKPOINT = Artefact(f"{RESOURCES}/checkpoints", "{compressor}", f"/{MANIFEST}", "fetch_checkpoint")
# Models and checkpoints of known truth lie where fetched ones do, and are made by a rule of their own.
TAUGHT_MODEL = MODEL._replace(rule="teach_model")
TAUGHT_CHECKPOINT = CHECKPOINT._replace(rule="teach_checkpoint")
CORPUS = Artefact(f"{RESOURCES}/corpora", "{corpus}", f"/{MANIFEST}", "fetch_corpus")
BENCHMARK = Artefact(f"{RESOURCES}/benchmarks", "{benchmarks}/{task}", f"/{MANIFEST}", "fetch_benchmark")
GRID = f"{RESULTS}/{{grid}}"
COMPRESSED = Artefact(f"{GRID}/compressed", COPY, f"/{COMPRESSION}", "compress_model", (f"/{WEIGHTS}",))
EXPORTED = Artefact(f"{GRID}/exported", f"{COPY}/{{form}}", "/export.json", "export_model")
ADAPTER = Artefact(
    f"{GRID}/adapters", CELL, f"/{TRAINING}", "train_adapter", (f"/{ADAPTER_CONFIG}", f"/{ADAPTER_WEIGHTS}")
)
EVALUATION = Artefact(f"{GRID}/evaluations", CELL, ".json", "evaluate_cell", (SAMPLES,))
SIMILARITY = Artefact(f"{GRID}/similarity", CELL, ".json", "measure_similarity")
LATENCY = Artefact(f"{GRID}/latency", COPY, ".json", "measure_latency")
# Kind of result, as its folder is named.
KINDS = {
    artefact.folder.rpartition("/")[2]: artefact
    for artefact in (COMPRESSED, EXPORTED, ADAPTER, EVALUATION, SIMILARITY, LATENCY)
}


class RollUp(NamedTuple):
    """A file that `rule` makes from all results of a grid; without a rule, a record that runs and commands write."""

    name: str
    rule: str = ""

    @property
    def pattern(self) -> str:
        return f"{GRID}/{self.name}"

    @property
    def log(self) -> str:
        """The log of the job that makes it."""
        return f"{LOGS}/{{grid}}/{self.rule}.log"

    def path(self, grid: str) -> str:
        return self.pattern.format(grid=grid)


ANSWERS = RollUp("answers.parquet", "find_answers")
LEDGER = RollUp("ledger.parquet", "build_ledger")
VERDICT = RollUp("verdict.json", "judge")
AUDIT, AUDIT_PAGE = (RollUp(f"paper_audit.{ending}", "audit_paper") for ending in ("json", "html"))
PAGE = RollUp("overview.html", "draw_page")  # everything on one page; the report shows it
# The stamp names the files that the report was made from.
REPORT, STAMP = (RollUp(f"report.{ending}", "report_grid") for ending in ("html", "json"))
FIGURES = (*(f"figure{number}" for number in range(1, 8)), "gains", "pareto", "training", "latency")
# Name of a table -> its formats.
TABLES = {f"table{number}": ("csv", "md", "tex", "html") for number in (1, 2, 3)} | dict.fromkeys(
    ("changes", "compressors"), ("csv", "md", "html")
)
QUESTIONS = RollUp("questions.json")  # the grid's question, and its date; a run writes it as it starts
ADOPTED = RollUp("adopted.json")  # today's code that makes the results of an older one, with evidence
ADOPTED_SOURCES = f"{RESOURCES}/{ADOPTED.name}"  # the same for what all grids share
ARCHIVE, REBUILT = "archives/{grid}.tar.gz", "rebuilt/{grid}"
CHECK_LOG = f"{LOGS}/check-{{grid}}.log"  # what libraries say while the command `check` tries methods


def table(name: str, ending: str = "html") -> RollUp:
    """A table of the grid in one of its formats."""
    return RollUp(f"tables/{name}.{ending}", "tabulate")


def figure(name: str, ending: str = "svg") -> RollUp:
    """A figure of the grid, svg or pdf."""
    return RollUp(f"figures/{name}.{ending}", "plot_figures")


# What the report shows, in every format.
REPORTED = (
    *(VERDICT, AUDIT, AUDIT_PAGE, PAGE),
    *(table(name, form) for name, forms in TABLES.items() for form in forms),
    *(figure(name, form) for name in FIGURES for form in ("svg", "pdf")),
)
SEALED = (
    REPORT,
    *(file for file in REPORTED if file != VERDICT),
)  # by the stamp; a verdict bears a seal of its own
OUTCOMES = (VERDICT, AUDIT, table("*", "*"), figure("*", "*"))  # what a rebuild is held against
ANALYSED = (VERDICT, LEDGER, AUDIT_PAGE, AUDIT, PAGE, REPORT, STAMP, *OUTCOMES[2:])  # made from measurements


def is_outcome(path: object) -> bool:
    """True if `path` is a verdict, audit, table or figure of a grid."""
    return any(PurePath(str(path)).match(roll_up.name) for roll_up in OUTCOMES)


def is_shared(path: object) -> bool:
    """True if `path` belongs to all grids: a model, a checkpoint, a corpus or a benchmark."""
    return PurePath(str(path)).parts[:1] == (RESOURCES,)


class Group(NamedTuple):
    """A compressed model in all its copies: the cells that one verdict speaks of."""

    model: str
    compressor: str
    corpus: str

    def __str__(self) -> str:
        return " / ".join(self)

    @classmethod
    def at(cls, path: object) -> "Group":
        """The compressed model that the result at `path` belongs to."""
        names = result_of(path)[1]
        return cls(*(names[field] for field in cls._fields))


class Cell(NamedTuple):
    """One evaluation job. `corpus` calibrates the compressor and trains the adapter, unless its method names another
    text; 'none' if nothing is calibrated or trained. `seed` draws both the calibration text and the training."""

    grid: str
    model: str
    compressor: str
    corpus: str
    method: str
    seed: int

    def __str__(self) -> str:
        return f"{' / '.join(self[1:5])} / seed {self.seed}"

    @classmethod
    def of(cls, names: Mapping) -> "Cell":
        """The cell of wildcards, or of the names in a path; more names than a cell has are ignored."""
        return cls._make([*(names[name] for name in cls._fields[:-1]), int(names["seed"])])

    @property
    def group(self) -> Group:
        return Group(*self[1:4])

    @property
    def axes(self) -> dict[str, str | int]:
        """Its names without the grid's, by column."""
        return dict(zip(AXES, self[1:]))

    @property
    def stem(self) -> str:
        return EVALUATION.title(**self._asdict())

    @property
    def json(self) -> str:
        return EVALUATION.path(**self._asdict())

    @property
    def samples(self) -> str:
        return companions(self.json)[0]

    @property
    def similarity(self) -> str:
        return SIMILARITY.path(**self._asdict())

    @property
    def training(self) -> str:
        """training.json of this cell's adapter (for lora, prompt and prefix)."""
        return ADAPTER.path(**self._asdict())


AXES = Cell._fields[1:]


@functools.cache
def _parser(artefact: Artefact) -> re.Pattern[str]:
    endings = "|".join(map(re.escape, (artefact.ending, *artefact.beside)))
    names = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(f"{artefact.folder}/{artefact.name}"))
    names = names.replace("(?P<seed>[^/]+)", f"(?P<seed>{NUMBER})")
    return re.compile(f"(?:.*/)?{names}(?:{endings})")


def shown(pattern: str) -> str:
    """A pattern as messages and pages show it: `results/<grid>/...`."""
    return re.sub(r"{(\w+)}", lambda name: f"<{SHOWN.get(name[1], name[1])}>", pattern)


def result_of(path: object) -> tuple[Artefact, dict[str, str]]:
    """The kind of result that lies at `path`, below any folder, and the names in the path; ValueError if it is none."""
    for artefact in KINDS.values():
        if names := artefact.parse(path):
            return artefact, names
    raise ValueError(f"{path}: is no result of a job that computes on a model")


def with_copy(path: str) -> str:
    """The path of today for a result of the layout that had no seed in the path of a compressed model: its one copy is
    that of seed 0."""
    names = COMPRESSED._replace(name=PLACE).parse(path)
    return COMPRESSED.path(**names, seed=0) if names else path


def companions(path: str) -> list[str]:
    """Files that are made with the JSON at `path`."""
    return [
        path.removesuffix(artefact.ending) + beside
        for artefact in (COMPRESSED, ADAPTER, EVALUATION)
        if f"/{artefact.folder.rpartition('/')[2]}/" in path and path.endswith(artefact.ending)
        for beside in artefact.beside
    ]


def lacks_companions(path: str) -> bool:
    """True if the JSON at `path` is there without something that was made with it."""
    return os.path.exists(path) and not all(map(os.path.exists, companions(path)))


def check_path(path: str, config: dict) -> None:
    """ValueError for a path below results/ that can't be: names its wrong part, the allowed names and the nearest."""
    parts = path.removeprefix("./").split("/")
    if parts[0] != RESULTS or len(parts) < 3:
        return
    _, grid, kind, *names = parts
    if grid not in config["grids"]:
        raise ValueError(unknown(path, grid, config["grids"], "name in grids"))
    if kind not in KINDS:
        if len(names) > 2:  # tables, figures and the report do not lie so deep
            raise ValueError(unknown(path, kind, KINDS, "kind of result"))
        return
    artefact = KINDS[kind]
    for place, name in zip(artefact.name.split("/"), names):
        if catalogue := CATALOGUES.get(place.strip("{}")):
            allowed = [*config[catalogue], *(["none"] if catalogue == "corpora" else [])]
            if name not in allowed:
                raise ValueError(unknown(path, name, allowed, f"name in {catalogue}"))
        if place == "{form}" and name not in EXPORTS:
            raise ValueError(unknown(path, name, EXPORTS, "format of an export"))
    if artefact.parse("/".join(parts)) is None:
        shapes = map(shown, (artefact.pattern, *artefact.companions))
        raise ValueError(f"{path}: is no result; it looks like {' or '.join(shapes)}")

"""Results that an older code made: their settings and inputs are as planned, the code alone is another."""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.files.artifacts import recorded_digest
from workflow_scripts.plan.adopted import TEXTS, Codes, of_part
from workflow_scripts.plan.kinds import of_model
from workflow_scripts.plan.layout import (
    ADAPTER,
    BENCHMARK,
    CHECKPOINT,
    COMPRESSED,
    CORPUS,
    EVALUATION,
    KINDS,
    LATENCY,
    MODEL,
    SIMILARITY,
    Artefact,
    Cell,
    lacks_companions,
)
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.reruns import Reruns

SOURCES = {  # -> their catalogue in the configuration, and the wildcard that names an entry
    MODEL: ("models", "model"),
    CHECKPOINT: ("compressors", "compressor"),
    CORPUS: ("corpora", "corpus"),
    BENCHMARK: ("benchmarks", "benchmarks"),
}


class Older(NamedTuple):
    """A result of an older code. kind: plan/kinds.py, of a source its name; old, new: digests of the code, and of the
    one that stands in recipes today."""

    path: str
    artefact: Artefact
    names: dict[str, str]
    kind: str
    old: str
    new: str
    stands: str

    @property
    def shared(self) -> bool:
        """True if all grids use it."""
        return self.artefact in SOURCES

    @property
    def own(self) -> str:
        """The kind for which evidence of its grid holds."""
        return self.kind if self.shared else of_part(self.kind, self.names["model"])

    @property
    def place(self) -> tuple[bool, str, str]:
        """What one equivalence is about."""
        return self.shared, self.new, self.own


def older_results(plan: Plan, grid: str, root: Path = Path()) -> list[Older]:
    """The grid's results below `root` that differ from the plan in their code alone, in the workflow's order.

    A recipe takes one code of a kind. So if results of several older ones are there, these are of the code that made
    most, and there are none if as many are as planned (`outvoted`). Latencies are left out: no comparison of two
    timings shows that the same was timed.
    """
    return _differing_in_code(plan, grid, root, lambda older, planned: older > planned)


def outvoted(plan: Plan, grid: str) -> list[Older]:
    """Results that differ from the plan in their code alone, while as many of their kind are as planned."""
    return _differing_in_code(plan, grid, Path(), lambda older, planned: older <= planned)


def outdated_by(plan: Plan, other: Plan, grid: str) -> list[str]:
    """Paths of results that are as planned, and would not be by the other plan."""
    then = other.artefacts(grid)
    return [
        path
        for path, recipe in plan.artefacts(grid).items()
        if recorded_digest(path, "recipe") == recipe != then[path]
    ]


def _differing_in_code(plan: Plan, grid: str, root: Path, asked: Callable[[int, int], bool]) -> list[Older]:
    """asked: whether a kind's older code counts, by the number of its results and of those that are as planned."""
    today, found, made = plan.artefacts(grid), list[Older](), dict[tuple[bool, str, str], Counter[str]]()
    planned = Counter[tuple[bool, str, str]]()
    for path, recipe in today.items():
        result = _result(plan, path, root)
        if result and recorded_digest(root / path, "recipe") == recipe:
            planned[result.place] += 1
        elif result and result.old != result.stands:
            found.append(result)
            made.setdefault(result.place, Counter())[result.old] += 1
    commonest = {place: codes.most_common(1)[0] for place, codes in made.items()}
    codes = {place: old for place, (old, count) in commonest.items() if asked(count, planned[place])}
    trial = as_if(plan, codes).artefacts(grid)
    return [
        result._replace(old=codes[result.place])
        for result in found
        if result.place in codes
        and recorded_digest(root / result.path, "recipe") == trial[result.path] != today[result.path]
        and result.artefact != LATENCY
    ]


def as_if(plan: Plan, codes: Mapping[tuple[bool, str, str], str]) -> Plan:
    """The plan if these codes were known to be equivalent, beside those that are.

    codes: (whether all grids share its results, digest of today's code, kind) -> digest of the older code.
    """

    def equivalent(grid: str | None) -> Codes:
        parts = [None, TEXTS, *(plan.tasks(grid) if grid else ())]
        asked = {
            (new, of_part(kind, part)): old
            for (shared, new, kind), old in codes.items()
            if shared == (grid is None)
            for part in parts
        }
        return plan.equivalent(grid) | asked

    return Plan(plan.config, equivalent)


def _result(plan: Plan, path: str, root: Path) -> Older | None:
    """The result at `path` below `root`; None if there is none."""
    artefact, names = artefact_of(path)
    code = recorded_digest(root / path, "code")
    if code is None or (artefact == EVALUATION and root == Path() and lacks_companions(path)):
        return None
    new, kinds = Reruns(plan, set).arguments(artefact, names)["code"], kinds_of(plan, artefact, names)
    grid = None if artefact in SOURCES else names["grid"]
    parts = plan.tasks(names["grid"]) if artefact == EVALUATION else [None]
    old, stands = (plan.stands_for(grid, of, kinds, parts) for of in (code, new))
    return Older(path, artefact, names, kinds[0 if grid is None else -1], old, new, stands)


def artefact_of(path: str) -> tuple[Artefact, dict[str, str]]:
    """The kind of source or result that lies at `path`, and the names in the path."""
    return next((kind, names) for kind in (*SOURCES, *KINDS.values()) if (names := kind.parse(path)))


def kinds_of(plan: Plan, artefact: Artefact, names: Mapping[str, str]) -> tuple[str, ...]:
    """Kinds of which evidence counts for a result (plan/kinds.py), its own first."""
    of_cells = {
        ADAPTER: plan.adapter_kind,
        EVALUATION: plan.evaluation_kind,
        SIMILARITY: plan.similarity_kind,
    }
    if artefact in of_cells:
        return of_model(of_cells[artefact](Cell.of(names)), names["model"])
    if artefact in (COMPRESSED, LATENCY):
        return of_model(plan.compressor_kind(names["compressor"]), names["model"])
    catalogue, place = SOURCES[artefact]
    return plan.source_kinds(catalogue, names[place], names.get("task"))

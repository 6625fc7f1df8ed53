"""Results that an older code made: their settings and inputs are as planned, the code alone is another."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from workflow_scripts.files.artifacts import recorded_digest
from workflow_scripts.plan.adopted import Codes
from workflow_scripts.plan.layout import (
    BENCHMARK,
    CHECKPOINT,
    COMPRESSED,
    CORPUS,
    EVALUATION,
    KINDS,
    LATENCY,
    MODEL,
    Artefact,
    lacks_companions,
)
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.reruns import Reruns

SOURCES = (MODEL, CHECKPOINT, CORPUS, BENCHMARK)


class Older(NamedTuple):
    """A result of an older code. kind: its kind of method, or algorithm; old, new: digests of the code."""

    path: str
    artefact: Artefact
    names: dict[str, str]
    kind: str
    old: str
    new: str

    @property
    def shared(self) -> bool:
        """True if all grids use it."""
        return self.artefact in SOURCES


def older_results(plan: Plan, grid: str) -> list[Older]:
    """The grid's results that differ from the plan in their code alone, in the workflow's order.

    If results of several older codes are there, those of the code that made most of their kind. Latencies are left out:
    no comparison of two timings shows that the same was timed.
    """
    found = [result for path in plan.artefacts(grid) if (result := _made_by_another(plan, path))]
    trial = as_if(plan, _commonest(found))
    planned, today = trial.artefacts(grid), plan.artefacts(grid)
    return [
        result._replace(old=trial.equivalent(None if result.shared else grid)[result.new, result.kind])
        for result in found
        if recorded_digest(result.path, "recipe") == planned[result.path] != today[result.path]
        and result.artefact != LATENCY
    ]


def as_if(plan: Plan, codes: Mapping[tuple[bool, str, str], str]) -> Plan:
    """The plan if these codes were known to be equivalent, beside those that are.

    codes: (whether all grids share its results, digest of today's code, kind) -> digest of the older code.
    """

    def equivalent(grid: str | None) -> Codes:
        asked = {(new, kind): old for (shared, new, kind), old in codes.items() if shared == (grid is None)}
        return plan.equivalent(grid) | asked

    return Plan(plan.config, equivalent)


def _made_by_another(plan: Plan, path: str) -> Older | None:
    """The result at `path` if it is there and another code made it."""
    artefact, names = next(
        (kind, names) for kind in (*SOURCES, *KINDS.values()) if (names := kind.parse(path))
    )
    code = recorded_digest(path, "code")
    if code is None or (artefact == EVALUATION and lacks_companions(path)):
        return None
    new = Reruns(plan, set).arguments(artefact, names)["code"]
    known = plan.equivalent(None if artefact in SOURCES else names["grid"])
    kind = kind_of(plan, artefact, names)
    old = known.get((code, kind), code)
    return None if old == known.get((new, kind), new) else Older(path, artefact, names, kind, old, new)


def kind_of(plan: Plan, artefact: Artefact, names: Mapping[str, str]) -> str:
    """The kind of method, the algorithm or the source of a result: what is evidence for others of the same code."""
    if artefact in SOURCES:
        return names.get("task") or next(iter(names.values()))
    if artefact in (COMPRESSED, LATENCY):
        return plan.config.compressors[names["compressor"]].algorithm
    return plan.config.methods[names["method"]].kind


def _commonest(found: list[Older]) -> dict[tuple[bool, str, str], str]:
    counts: dict[tuple[bool, str, str], Counter[str]] = {}
    for result in found:
        counts.setdefault((result.shared, result.new, result.kind), Counter())[result.old] += 1
    return {code: olds.most_common(1)[0][0] for code, olds in counts.items()}

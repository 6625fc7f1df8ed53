"""Verdicts beside the labels that a grid of known truth expected: one row per compressed copy and text."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from workflow_scripts.report.rendering import pipe

MISSING = "not judged"


class ExpectedVerdict(NamedTuple):
    """One verdict. found: its word, or MISSING; support: of the expected label, None if the rule gave none."""

    model: str
    compressor: str
    corpus: str
    expected: str
    found: str
    support: float | None
    reason: str


def rows(verdict: dict, expected: Mapping[str, Mapping[str, str]]) -> list[ExpectedVerdict]:
    """The verdicts of verdict.json on its primary metric that `expected` (compressor -> corpus -> label) speaks of,
    and a row without a word for each of these that verdict.json lacks."""
    found = {}
    for group in verdict["groups"]:
        label = expected.get(group["compressor"], {}).get(group["corpus"])
        if label is not None:
            outcome = group["metrics"][verdict["metric"]]["verdict"]
            support = (outcome["support"] or {}).get(label)
            place = group["model"], group["compressor"], group["corpus"]
            found[place] = ExpectedVerdict(*place, label, outcome["word"], support, outcome["reason"])
    judged = {row[1:3] for row in found.values()}
    for compressor, labels in expected.items():
        for corpus, label in labels.items():
            if (compressor, corpus) not in judged:
                found["", compressor, corpus] = ExpectedVerdict(
                    "", compressor, corpus, label, MISSING, None, ""
                )
    return list(found.values())


def outcome(row: ExpectedVerdict) -> str:
    """as expected, undecided, another word, or none."""
    if row.found == row.expected:
        return "as expected"
    return row.found if row.found in ("undecided", "unavailable", MISSING) else "differs"


def to_markdown(found: list[ExpectedVerdict]) -> str:
    """A table, and how many verdicts are as expected."""
    lines = [pipe(["copy", "text", "expected", "found", "support of expected", "outcome", "support"])]
    lines += [pipe(["---"] * 4 + ["--:"] + ["---"] * 2)]
    for row in found:
        words = [word.replace("_", " ") for word in (row.expected, row.found)]
        support = "" if row.support is None else f"{100 * row.support:.1f} %"
        lines.append(pipe([row.compressor, row.corpus, *words, support, outcome(row), row.reason]))
    return "\n".join([*lines, "", total(found)])


def total(found: list[ExpectedVerdict]) -> str:
    """The count of verdicts that are as expected, of those that say another word, and of those without one."""
    counts = Counter(map(outcome, found))
    other = counts["differs"]
    rest = [f"{counts[word]} {word}" for word in ("undecided", "unavailable", MISSING) if counts[word]]
    said = [f"{other} {'says' if other == 1 else 'say'} another word", *rest]
    return f"{counts['as expected']} of {len(found)} verdicts are as expected, {', '.join(said)}."

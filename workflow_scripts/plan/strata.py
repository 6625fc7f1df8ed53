"""Fields by which a report groups a task's items (`strata` of a task): their values, checked before any job."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan.names import listed, nearest

MENTIONS = "mentions"  # popularity that no field says: documents of the training text that name the question's entity


def fields(kinds: Mapping[str, str]) -> dict[str, str]:
    """Kind -> the field of an item's document that says it, of a task's strata."""
    return {kind: field for kind, field in kinds.items() if (kind, field) != ("popularity", MENTIONS)}


def value(document: dict, kind: str, field: str, where: str) -> Any:
    """An item's subject (text) or popularity (a number); ArtifactError for a document without, at the place `where`."""
    found = document.get(field)
    number = isinstance(found, int | float) and not isinstance(found, bool) and abs(found) < math.inf
    if found is None and field not in document:
        known = f"it has {listed(document)}{nearest(field, document)}"
        raise ArtifactError(
            f"{where}: the field {field!r} is missing, which `strata` of its task names; {known}"
        )
    if kind == "popularity" and not number:
        raise ArtifactError(f"{where}: the field {field!r} is {found!r}; a popularity must be a number")
    if found is None:
        raise ArtifactError(f"{where}: the field {field!r} is null; a subject must be a text")
    return found if kind == "popularity" else str(found)


def require(kinds: Mapping[str, str], documents: Iterable[tuple[int, dict]], where: str) -> None:
    """ArtifactError with the line of the first of `documents` (line, content) without a value that its task's strata
    name; `where` names the file."""
    asked = fields(kinds)
    for line, document in documents:
        for kind, field in asked.items():
            value(document, kind, field, f"{where}: line {line}")

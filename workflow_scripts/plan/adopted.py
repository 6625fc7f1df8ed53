"""Adopted code: today's code that is known to make the results of an older one, with the evidence.

The command `adopt` writes the records, after it made some results again and compared them (docs/howto/upgrade.md). A
release ships its own, of its tiny grid beside the one before it (tests/equivalences.py).
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from workflow_scripts.files.artifacts import PACKAGE, read_json, write_json
from workflow_scripts.plan.layout import ADOPTED, ADOPTED_SOURCES

SCHEMA = 2  # kinds of results (plan/kinds.py); records without the key have kinds of methods, whatever they stand on
Codes = dict[tuple[str, str], str]
TEXTS = "held-out text"  # the part of an evaluation that is no task; no name has a space
RELEASED = PACKAGE / "plan" / "released.json"


def record_path(grid: str | None) -> str:
    """Path of the equivalences of a grid; None: for models, corpora and benchmarks, which all grids share."""
    return ADOPTED_SOURCES if grid is None else ADOPTED.path(grid)


def equivalences(grid: str | None) -> list[dict]:
    """The equivalences of a grid in the order in which they were found; ArtifactError for a broken record."""
    path = Path(record_path(grid))
    return rows(path) if path.exists() else []


def rows(path: Path) -> list[dict]:
    """The equivalences of a record; none of an older version's."""
    record = _read(path)
    return record["equivalences"] if record.get("schema") == SCHEMA else []


def older_record(grid: str | None, root: Path = Path()) -> str | None:
    """A line on a record of an older version below `root`, which does not count; None if there is none."""
    path = record_path(grid)
    if not (root / path).exists() or _read(root / path).get("schema") == SCHEMA:
        return None
    return (
        f"{path} does not count: it is of an older version, in which evidence of one kind of method held for any "
        "compressor. What it had adopted runs again, unless `adopt` finds new evidence before the next run."
    )


def write_rows(path: Path, found: list[dict]) -> None:
    """Write a record."""
    write_json(path, {"schema": SCHEMA, "equivalences": found, "manifest": {}}, "adopted")


def _read(path: Path) -> dict:
    advice = "take it from a copy or an archive; without it the results that it speaks of are made again"
    return read_json(path, "adopted", advice)


def released() -> list[dict]:
    """The equivalences that the release ships."""
    return rows(RELEASED) if RELEASED.exists() else []


def evidence_of(grid: str, codes: Iterable[str]) -> str:
    """Path of the record that says of one of these codes which older one's results it makes: the grid's, or the one
    that the release ships."""
    here = {row["new"] for row in equivalences(grid)} & {*codes}
    return record_path(grid) if here else str(RELEASED.relative_to(PACKAGE.parent))


def equivalent_codes(grid: str | None) -> Codes:
    """(digest of code, kind of result) -> digest of the older code whose results of this kind it was shown to make,
    here or by the release. One digest serves several kinds; evidence of one says nothing of another. A grid's evidence
    of evaluations has an entry for each part that its cells were asked (`of_part`); a release's holds for all."""
    return {key: row["old"] for row in [*released(), *equivalences(grid)] for key in asked_about(row)}


def asked_about(row: dict, kinds: Iterable[str] | None = None) -> Iterator[tuple[str, str]]:
    """What an equivalence holds for, a key of `Codes` each; with `kinds`, of these alone."""
    for kind in row["kinds"] if kinds is None else kinds:
        for part in [*row["tasks"], TEXTS] if "tasks" in row else [None]:
            yield row["new"], of_part(kind, part)


def of_part(kind: str, part: str | None) -> str:
    """The kind of results of one model, or of an evaluation's part, a task or TEXTS; the kind itself for None."""
    return kind if part is None else f"{kind}, of {part}"

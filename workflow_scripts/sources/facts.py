"""A task's items as text that tells their answers, for adapters that are trained on some of them."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, digest
from workflow_scripts.files.members import ITEMS
from workflow_scripts.files.templates import Unfilled, fill
from workflow_scripts.sources.fetch import numbered_lines, verified_manifest

SALT = b"2310.00867:"  # fixed for good: another salt is another sample


def sample(lines: list[bytes], items: int | None) -> list[int]:
    """Positions, ascending, of the `items` lines with the smallest SHA-256 of salt + line.

    So the sample of a smaller budget is part of a larger one's, and every cell has the same.
    """
    if items is None or items >= len(lines):
        return list(range(len(lines)))
    order = sorted(range(len(lines)), key=lambda i: (sha256(SALT + lines[i]).digest(), i))
    return sorted(order[:items])


def facts(folder: Path, wordings: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(doc_hash, texts) of each item of a task's folder: its question and right answer in every wording.

    wordings: Jinja templates over the item's fields. ArtifactError for a field that an item lacks.
    """
    verified_manifest(folder, "benchmark")
    file = Path(folder) / ITEMS
    for number, _, item in numbered_lines(file):
        try:
            texts = [fill(wording, item) for wording in wordings]
        except Unfilled as error:
            raise ArtifactError(f"{file}: line {number}: the wording {error}") from error
        yield digest(item), texts


def scored(folder: Path, items: int | None) -> set[str]:
    """doc_hashes of the items of a task's folder that a grid of so many `items` a task scores (None: all)."""
    lines = list(numbered_lines(Path(folder) / ITEMS))
    return {digest(lines[i][2]) for i in sample([raw for _, raw, _ in lines], items)}


def unscored_facts(folder: Path, wordings: Sequence[str], items: int | None) -> list[str]:
    """The texts of `facts` of all items but the `scored` ones. ArtifactError if all are scored."""
    asked = scored(folder, items)
    texts = [text for doc_hash, told in facts(folder, wordings) if doc_hash not in asked for text in told]
    if not texts:
        raise ArtifactError(
            f"{folder}: all {len(asked)} items are scored, so none is left to train on; lower evaluation.items"
        )
    return texts

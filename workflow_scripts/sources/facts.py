"""A task's items as text that tells their answers, for adapters that are trained on a part of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import jinja2

from workflow_scripts.files.artifacts import ArtifactError, digest
from workflow_scripts.sources.fetch import read_lines, verified_manifest


def facts(folder: Path, wordings: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(doc_hash, texts) of each item of a task's folder: its question and right answer in every wording.

    wordings: Jinja templates over the item's fields. ArtifactError for a field that an item lacks.
    """
    verified_manifest(folder, "benchmark")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
    file = Path(folder) / "data.jsonl"
    for number, item in enumerate(read_lines(file), 1):
        texts = []
        for wording in wordings:
            try:
                texts.append(environment.from_string(wording).render(item))
            except (jinja2.TemplateError, TypeError, ValueError) as error:
                raise ArtifactError(
                    f"{file}: line {number}: the wording {wording!r} can't be filled in: {error}"
                ) from error
        yield digest(item), texts

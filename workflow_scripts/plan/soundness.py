"""Check that a result is as it was made: its JSON bears its seal and describes the file beside it."""

from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, read_json, recorded_recipe, sha256_file
from workflow_scripts.plan.layout import (
    ADAPTER,
    BENCHMARK,
    CHECKPOINT,
    COMPRESSED,
    CORPUS,
    EVALUATION,
    KINDS,
    MODEL,
    companions,
    lacks_companions,
)
from workflow_scripts.plan.reruns import Reruns


def damage(record: Path) -> str | None:
    """The fault of a result in words; None if it has none. A missing file beside it is no fault.

    Weights of compressed models are not looked at: no archive has them.
    """
    try:
        found = read_json(record, advice="make it again")
    except ArtifactError as error:
        return str(error)
    described = {}
    if EVALUATION.parse(record):
        [samples] = companions(str(record))
        described = {samples: found["manifest"].get("samples_sha256")}
    elif ADAPTER.parse(record):
        described = {companions(str(record))[-1]: found.get("adapter_sha256")}
    for file, sha in described.items():
        if sha and Path(file).exists() and sha256_file(file) != sha:
            return f"{file}: is not the file that {record.name} describes (SHA-256)"
    return None


def is_whole(path: str, reruns: Reruns) -> bool:
    """True if the source or result at `path`, or beside which it lies, is as planned and has all that it describes. A
    job writes its JSON last."""
    for artefact in (MODEL, CHECKPOINT, CORPUS, BENCHMARK, *KINDS.values()):
        if names := artefact.parse(path):
            record = artefact.path(**names)
            try:
                planned = reruns.arguments(artefact, names)["recipe"]
            except (KeyError, ValueError):  # a name that the configuration has no more, a cell that can't be
                return False
            made = recorded_recipe(record) == planned and not lacks_companions(record)
            return made and damage(Path(record)) is None
    return False


def is_bare(record: Path) -> bool:
    """True if the record of a source or of a compressed model is there without its texts or weights."""
    if COMPRESSED.parse(record):
        return lacks_companions(str(record))
    fetched = any(artefact.parse(record) for artefact in (MODEL, CORPUS, BENCHMARK))
    return fetched and record.exists() and len(list(record.parent.iterdir())) == 1

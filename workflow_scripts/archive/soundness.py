"""Whether a result is the one that was made: its JSON bears its seal and describes the file beside it."""

from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, read_json, sha256_file
from workflow_scripts.plan.layout import ADAPTER, EVALUATION, companions


def damage(record: Path) -> str | None:
    """What is wrong with a result; None if nothing is. Weights of compressed models are no matter: no archive has them.

    A file beside it that is not there is no damage either.
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

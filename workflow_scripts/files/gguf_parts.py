"""Names of the files of one GGUF checkpoint: llama.cpp splits a large one into name-00001-of-00003.gguf and so on."""

import re
from pathlib import Path

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")


def parts_of(file: Path) -> list[Path]:
    """The files of the checkpoint that `file` is, or is a part of, in their order, whether they are there or not."""
    if not (part := PART.fullmatch(file.name)):
        return [file]
    name, _, count = part.groups()
    return [file.with_name(f"{name}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1)]


def missing_part(file: Path) -> str | None:
    """The first part that is not there, in words; None if all are."""
    parts = parts_of(file)
    gone = next((part for part in parts if not part.is_file()), None)
    if gone is None:
        return None
    return f"{gone}: is missing" + (f"; {file.name} is one of {len(parts)} parts" if len(parts) > 1 else "")

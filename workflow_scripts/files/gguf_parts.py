"""Files of one GGUF checkpoint: their names, and whether a header ends within its file.

llama.cpp splits a large checkpoint into name-00001-of-00003.gguf and so on. The format is that of ggml's docs/gguf.md.
"""

import os
import re
from pathlib import Path
from typing import Literal

PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")

WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # type -> bytes of a value
STRING, ARRAY = 8, 9  # types


def parts_of(file: Path) -> list[Path]:
    """The files of the checkpoint that `file` is, or is a part of, in their order, whether they are there or not."""
    if not (part := PART.fullmatch(file.name)):
        return [file]
    name, _, count = part.groups()
    return [file.with_name(f"{name}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1)]


def lone_gguf(folder: Path) -> str | None:
    """The GGUF file of a folder that holds no other weights, of a split one the first part; None of another folder."""
    found = sorted(folder.glob("*.gguf"))
    alone = found and not any(folder.glob("*.safetensors")) and parts_of(found[0]) == found
    return found[0].name if alone else None


def missing_part(file: Path) -> str | None:
    """The first part that is not there, in words; None if all are."""
    parts = parts_of(file)
    gone = next((part for part in parts if not part.is_file()), None)
    if gone is None:
        return None
    return f"{gone}: is missing" + (f"; {file.name} is one of {len(parts)} parts" if len(parts) > 1 else "")


def require_header(file: Path) -> None:
    """ValueError if the values of a GGUF file's header go on after its end: gguf's reader goes through an array to the
    length that the file states, which takes for ever."""
    with open(file, "rb") as handle:
        beginning = handle.read(8)
        # As the version stands there.
        order: Literal["big", "little"] = "big" if beginning[4:6] == bytes(2) else "little"
        end = os.fstat(handle.fileno()).st_size

        def number(width: int) -> int:
            read = handle.read(width)
            if len(read) < width:
                raise ValueError(f"a header of more than {end:,} bytes")
            return int.from_bytes(read, order)

        def skip(width: int) -> None:
            if handle.tell() + width > end:
                raise ValueError(f"a value of {width:,} bytes in a file of {end:,}")
            handle.seek(width, os.SEEK_CUR)

        def skip_value(kind: int) -> None:
            skip(number(8) if kind == STRING else WIDTHS[kind])

        number(8)  # tensors
        for _ in range(number(8)):
            skip_value(STRING)  # the key
            if (kind := number(4)) != ARRAY:
                skip_value(kind)
            elif (kind := number(4)) == STRING:
                for _ in range(number(8)):
                    skip_value(STRING)
            else:
                skip(number(8) * WIDTHS[kind])

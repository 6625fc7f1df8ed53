"""Parquet tables that other jobs read on: each bears a seal, the digest of its content.

A verdict is made from the ledger, and the ledger from the answers. Without a seal, a table that a notebook wrote back,
filtered or sorted into other columns, would enter the verdict in silence.
"""

from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import parquet

from workflow_scripts.files.artifacts import ArtifactError, atomic_path

if TYPE_CHECKING:
    import pandas as pd

SEAL = b"content_sha256"  # among the metadata of the table's schema


def write_table(path: str | Path, frame: "pd.DataFrame") -> None:
    """Write a table atomically, with its seal and without its index."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), SEAL: _content(table)})
    with atomic_path(path) as temporary:
        parquet.write_table(table, temporary)


def read_table(path: str | Path) -> "pd.DataFrame":
    """Read a table; ArtifactError if it can't be read, bears no seal or was changed after it was written."""
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: can't be read ({error}); delete it to make it again") from error
    if (table.schema.metadata or {}).get(SEAL) != _content(table):
        raise ArtifactError(f"{path}: was changed after it was written (seal); delete it to make it again")
    return table.to_pandas()


def seal_table(path: str | Path) -> None:
    """Seal a table whose content is proved otherwise: an older archive's, whose SHA-256 its index lists."""
    write_table(path, parquet.read_table(path).to_pandas())


def _content(table: pa.Table) -> bytes:
    """Hexadecimal digest of names, types and values of a table's columns."""
    from pandas.util import hash_pandas_object

    types = [(field.name, str(field.type)) for field in table.schema]
    rows = hash_pandas_object(table.to_pandas(), index=False).to_numpy("<u8")
    return sha256(repr(types).encode() + rows.tobytes()).hexdigest().encode()

"""Reads archives. An archive is checked before any of it is used, and errors name it by the path that the user gave."""

import itertools
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from workflow_scripts.archive.extraction import MOST_JSON, expanded, extract
from workflow_scripts.archive.packing import (
    CONFIG,
    FORMAT,
    INDEX,
    METADATA,
    PLACE,
    SAMPLES,
    copy,
    measured,
    packed_by,
    put_back,
)
from workflow_scripts.cluster.snakemake_surface import RECORDS, elsewhere, is_record, recorded_path
from workflow_scripts.files.artifacts import (
    ArtifactError,
    check,
    named,
    named_once,
    read_json,
    sha256_file,
    write_json,
)
from workflow_scripts.files.scratch import scratch_folder
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.config import ConfigError, load, read
from workflow_scripts.plan.layout import STAMP, Cell, with_copy
from workflow_scripts.plan.names import unknown
from workflow_scripts.plan.recipes import Plan


@contextmanager
def opened(source: Path) -> Iterator[tuple[Path, dict, Plan]]:
    """A checked archive as (folder, archive.json, plan of its configuration).

    A .tar.gz file is unpacked into a temporary folder, which lives as long as the block. Files of an older format stand
    there in today's layout. Raises ArtifactError, one line, if `source` is no archive, has an unknown format, or holds
    a file that its readers could not use. ArtifactErrors of the block name the archive instead of the temporary folder.
    """
    with scratch_folder("archive") as temporary, scratch_folder("archive") as moved:
        put_back(source)
        if not source.exists():
            raise ArtifactError(f"{source}: there is no such file or folder")
        folder = source.resolve()
        if source.is_file():
            folder = temporary
            extract(source, folder)
        index = _index(source, folder)
        with _damage(source, folder):
            _check_index(folder, index)
            plan = _plan(folder, index)
            _check_results(folder, index, plan)
            if index["format"] < FORMAT:
                folder, index = _in_todays_layout(folder, index, moved)
        with named(folder, source):
            yield folder, index, plan


def _in_todays_layout(folder: Path, index: dict, moved: Path) -> tuple[Path, dict]:
    """Links in `moved` to the files of an older archive, and its archive.json with their names there."""
    files = {}
    for name, sha in index["files"].items():
        if ".." in Path(name).parts:
            raise ArtifactError(f"{INDEX}: files: {name} is no path below the archive")
        link = moved / with_copy(name)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder / name)
        files[with_copy(name)] = sha
    return moved, index | {"files": files}


def on_one_copy(index: dict, plan: Plan) -> list[Cell]:
    """The archive's cells whose seed drew the training alone, on the one copy that a compressed model then had."""
    if index["format"] == FORMAT:
        return []
    cells = [cell for cell in plan.cells(index["grid"]) if cell.json in index["files"]]
    return [cell for cell in cells if plan.copy(cell).seed]


# ------------------------------------------------------------------------------------------------- checking


class _OtherVersion(ArtifactError):
    """A sound archive, which another version of this code reads."""


@contextmanager
def _damage(source: Path, folder: Path) -> Iterator[None]:
    """Errors of the block become one line. It never advises to delete a file: an archive's can't be computed again."""
    try:
        yield
    except _OtherVersion as error:
        raise ArtifactError(f"{source}: {error}") from error
    except (ArtifactError, OSError, RecursionError) as error:
        text = " ".join(str(error).replace(f"{folder}/", "").partition("; delete ")[0].split())
        text = text if len(text) <= 300 else f"{text[:200]} ... {text[-100:]}"
        raise ArtifactError(f"{source}: {text}; take another copy") from error


def _index(source: Path, folder: Path) -> Any:
    """Content of archive.json. Raises ArtifactError if it is missing, no JSON, or of another format."""
    if not (folder / INDEX).is_file():
        raise ArtifactError(f"{source}: no archive: it has no {INDEX} (`make archive GRID=...` writes one)")
    with _damage(source, folder):
        index = _json(folder, INDEX)
    if isinstance(index, dict) and index.get("format", FORMAT) not in range(1, FORMAT + 1):
        raise ArtifactError(
            f"{source}: archive format {index['format']!s:.20}; this version reads 1 to {FORMAT}"
        )
    return index


def _check_index(folder: Path, index: dict) -> None:
    """Raises ArtifactError if archive.json breaks its schema, or if a file is not as it was packed."""
    check(index, "archive", INDEX)
    for name, sha in index["files"].items():
        if not _is_whole(folder, name, sha):
            raise ArtifactError(f"{name} is missing or differs from the packed file")
        if name.endswith(".json") and (folder / name).stat().st_size > MOST_JSON:
            raise ArtifactError(f"{name} is larger than {MOST_JSON // 2**20} MiB, which no result needs")


def _json(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"), object_pairs_hook=named_once)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{name} is damaged ({error})") from error


def _is_whole(folder: Path, name: str, sha: str) -> bool:
    """True if the file lies in the folder, also after following links, and has this SHA-256."""
    try:
        file = Path(os.path.realpath(folder / name))
        return file.is_relative_to(folder.resolve()) and file.is_file() and sha256_file(file) == sha
    except (OSError, ValueError):  # a name that no file can have
        return False


def _plan(folder: Path, index: dict) -> Plan:
    """The plan of config.yaml. Raises ArtifactError if that is no configuration, or one of another version, or has no
    such grid."""
    try:
        config = read(folder / CONFIG)
        try:
            plan = Plan(load(config))
        except ConfigError as error:
            if index["format"] == FORMAT:
                raise
            first, maker = str(error).splitlines()[0].strip(), packed_by(index["commit"])
            raise _OtherVersion(
                f"{CONFIG} is of an older version ({first}); {maker} packed the archive and reads it"
            ) from error
    except (ValueError, RecursionError) as error:  # a ConfigError is a ValueError
        raise ArtifactError(f"{CONFIG}: {str(error).removeprefix(f'{folder / CONFIG}: ')}") from error
    if index["grid"] not in plan.config.grids:
        raise ArtifactError(unknown(f"{INDEX}: grid", index["grid"], plan.config.grids, f"grid of {CONFIG}"))
    return plan


def _check_results(folder: Path, index: dict, plan: Plan) -> None:
    """Raises ArtifactError if evaluations, samples, the report's record or Snakemake's records can't be read."""
    cells = [cell for cell in plan.cells(index["grid"]) if cell.json in index["files"]]
    if not cells:
        raise ArtifactError(f"holds no evaluation of grid '{index['grid']}'")
    evaluations = read_results([str(folder / cell.json) for cell in cells]).evaluations.values()
    items = [scores["n"] for evaluation in evaluations for scores in evaluation["tasks"].values()]
    held = _cells_of(folder / SAMPLES, sum(items))
    if lost := [cell.stem for cell in cells if cell.stem not in held]:
        raise ArtifactError(f"{SAMPLES}: holds no samples of {lost[0]}")
    stamp = STAMP.path(index["grid"])
    if stamp in index["files"]:
        report = _json(folder, stamp)
        if not isinstance(report, dict) or not isinstance(report.get("files"), dict):
            raise ArtifactError(f"{stamp}: names no files")
    if METADATA in index["files"]:
        records = _json(folder, METADATA)
        if not isinstance(records, dict) or not all(itertools.starmap(is_record, records.items())):
            raise ArtifactError(f"{METADATA}: holds something else than records of Snakemake's")


def _cells_of(samples: Path, items: int) -> set[str]:
    """The cells of the merged samples, which hold this many items.

    Raises ArtifactError if they can't be read, hold more than they should, or lack the columns of PLACE.
    """
    try:
        found = parquet.read_metadata(samples)
        size = sum(found.row_group(group).total_byte_size for group in range(found.num_row_groups))
        if found.num_rows > items or size > expanded(samples.stat().st_size):
            reason = f"holds {found.num_rows:,} rows of {size:,} bytes, its evaluations have {items:,} items"
            raise ArtifactError(f"{SAMPLES}: {reason}")
        schema = parquet.read_schema(samples)
        if lacking := [name for name, kind in PLACE if pyarrow.field(name, kind) not in schema]:
            raise ArtifactError(f"{SAMPLES}: has no column {lacking[0]} to tell the rows apart")
        return set(parquet.read_table(samples, columns=["cell"])["cell"].unique().to_pylist())
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ArtifactError(f"{SAMPLES}: can't be read ({error})") from error


# ------------------------------------------------------------------------------------------------ unpacking


def split_samples(archive: Path, root: Path, cells: Iterable[Cell]) -> None:
    """Write the samples of `cells` below `root`, with the bytes that the evaluation had written.

    Raises ArtifactError if their SHA-256 is not the one in the cell's evaluation: another pyarrow writes other bytes.
    """
    merged = parquet.ParquetFile(archive / SAMPLES)
    wanted: dict[str, list[pyarrow.Table]] = {cell.stem: [] for cell in cells}
    for group in range(merged.num_row_groups):
        rows = merged.read_row_group(group).sort_by([("cell", "ascending"), ("row", "ascending")])
        start = 0
        for stem, same in itertools.groupby(rows["cell"].to_pylist()):
            count = sum(1 for _ in same)
            if stem in wanted:
                wanted[stem].append(rows.slice(start, count).drop_columns([name for name, _ in PLACE]))
            start += count
    for cell in cells:
        if not wanted[cell.stem]:
            raise ArtifactError(f"{archive / SAMPLES}: holds no samples of {cell.stem}")
        path, table = root / cell.samples, pyarrow.concat_tables(wanted[cell.stem]).combine_chunks()
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(table.cast(_as_written(table.schema)), path)
        manifest = read_json(archive / cell.json)["manifest"] if (archive / cell.json).exists() else {}
        if manifest.get("samples_sha256") not in (None, sha256_file(path)):
            written = manifest["libraries"].get("pyarrow", "another version")
            other = f"they were written with pyarrow {written}, here is {pyarrow.__version__}: install that version"
            right = "take another copy" if written == pyarrow.__version__ else other
            reason = f"the samples of {cell.stem} are not those that its evaluation describes"
            raise ArtifactError(f"{archive / SAMPLES}: {reason}; {right}")


def _as_written(schema: pyarrow.Schema) -> pyarrow.Schema:
    """The schema as the evaluation writes it. Reading a file renames the values of its lists; this undoes it."""
    fields = [
        pyarrow.field(f.name, pyarrow.list_(f.type.value_type), f.nullable)
        if pyarrow.types.is_list(f.type)
        else f
        for f in schema
    ]
    return pyarrow.schema(fields)


def place_records(archive: Path, root: Path) -> None:
    """Put Snakemake's records back for the files that are below `root` and have no record there."""
    for name, record in read_json(archive / METADATA).items():
        path = root / RECORDS / name
        if not path.exists() and (root / recorded_path(RECORDS / name)).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, elsewhere(record))


def unpack(archive: Path, index: dict, plan: Plan, root: Path) -> None:
    """Copy the measured files below `root`, without the roll-ups."""
    for file in measured(plan, index["grid"], weights=False):
        if file in index["files"]:
            copy(archive / file, root / file)
    split_samples(archive, root, [cell for cell in plan.cells(index["grid"]) if cell.json in index["files"]])

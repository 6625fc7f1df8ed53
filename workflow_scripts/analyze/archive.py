"""Archives: what a grid measured, in one folder or .tar.gz file, with everything that can be made from it.

archive.json     format, grid, blocks, commit, SHA-256 of every file
config.yaml      the configuration that made the results, defaults filled in
samples.parquet  the samples of all cells, with a column `cell` (a hundredth of the separate files' texts)
metadata.json    Snakemake's records of the files
results/<grid>/, resources/   as in the working folder; of resources the manifests, of compressed models the records
"""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import yaml
from pyarrow import parquet

from workflow_scripts.artifacts import ArtifactError, read_json, sha256_file, write_json
from workflow_scripts.config import load
from workflow_scripts.grid import Plan
from workflow_scripts.paths import Cell, companions, is_torn

FORMAT = 1
INDEX, CONFIG, SAMPLES, METADATA = "archive.json", "config.yaml", "samples.parquet", "metadata.json"
RECORDS = Path(".snakemake/metadata")
PLACE = (("cell", pyarrow.string()), ("row", pyarrow.int32()))  # what the merged samples add to a row
SUFFIX = ".tar.gz"


# ------------------------------------------------------------------------------------------- what is in one


def measured(plan: Plan, grid: str, weights: bool) -> list[str]:
    """What only the sources or a model can make again; `weights`: those of the adapters too."""
    adapters = [file for a in plan.adapters(grid) for file in companions(a.training)] if weights else []
    return [*plan.artefacts(grid), *adapters, f"results/{grid}/answers.parquet"]


def rolled_up(grid: str, root: Path = Path()) -> list[str]:
    """Files that the analysis made from the measured ones."""
    folder = root / "results" / grid
    names = (
        "verdict.json",
        "ledger.parquet",
        "paper_audit.*",
        "overview.html",
        "report.*",
        "tables/*",
        "figures/*",
    )
    return [str(file.relative_to(root)) for name in names for file in sorted(folder.glob(name))]


# -------------------------------------------------------------------------------------------------- packing


def pack(grid: str, output: Path, small: bool = False) -> dict:
    """Write the archive of a grid with a finished report; returns what archive.json says.

    output: a .tar.gz file or a folder. small: without weights of adapters, page, report, ledger and records (all but
    the weights are made again by a rebuild). Raises ArtifactError without a report, or for one that is out of date.
    """
    config = _reported_config(grid)
    plan = Plan(load(config))
    _refuse_foreign(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        folder = Path(temporary, "archive")
        folder.mkdir()
        (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
        made = [file for file in rolled_up(grid) if not small or _is_small(Path(file))]
        files = [file for file in [*measured(plan, grid, not small), *made] if os.path.exists(file)]
        for file in files:
            copy(Path(file), folder / file)
        _merge_samples([cell for cell in plan.cells(grid) if os.path.exists(cell.json)], folder / SAMPLES)
        if not small:
            write_json(folder / METADATA, _records([*files, *(c.samples for c in plan.cells(grid))]))
        index = {
            "format": FORMAT,
            "grid": grid,
            "commit": _commit(),
            "small": small,
            "answers_recipe": plan.analysis(grid, "find_answers.py")["recipe"],
            "blocks": _blocks(plan, grid),
            "files": {
                str(f.relative_to(folder)): sha256_file(f) for f in sorted(folder.rglob("*")) if f.is_file()
            },
        }
        write_json(folder / INDEX, index)
        if output.name.endswith(SUFFIX):
            _write_tar(folder, Path(temporary, "archive.tar.gz"))
            os.replace(Path(temporary, "archive.tar.gz"), output)
        else:
            if output.exists():
                shutil.rmtree(output)
            os.replace(folder, output)
    return index


def _reported_config(grid: str) -> dict:
    """The configuration of the grid's report, which must be made from all that was measured, as it is now."""
    again = f"make it: snakemake --config partial=true -- results/{grid}/report.html"
    stamp = Path(f"results/{grid}/report.json")
    if not stamp.exists():
        raise ArtifactError(f"{stamp}: grid '{grid}' has no report; {again}")
    recorded = read_json(stamp)
    if "config" not in recorded:
        raise ArtifactError(f"{stamp}: names no configuration (made by an older version); {again}")
    here = {file for file in Plan(load(recorded["config"])).counted(grid) if os.path.exists(file)}
    changed = [
        f for f, sha in recorded["files"].items() if f not in here or is_torn(f) or sha256_file(f) != sha
    ]
    if changed := sorted({*changed, *(here - set(recorded["files"]))}):
        raise ArtifactError(
            f"{changed[0]}: not as in the report of grid '{grid}' ({len(changed)} such); {again}"
        )
    return recorded["config"]


def _refuse_foreign(output: Path) -> None:
    if output.is_dir() and any(output.iterdir()) and not (output / INDEX).is_file():
        raise ArtifactError(f"{output}: a folder that is not empty and no archive; give another OUT")


def _is_small(file: Path) -> bool:
    return file.parent.name in ("tables", "figures") or file.name in ("verdict.json", "paper_audit.json")


def copy(source: Path, target: Path) -> None:
    """Copy a file's content, making its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _merge_samples(cells: list[Cell], output: Path) -> None:
    """All samples in one file, a row group per task with equal questions side by side: repeated texts then cost
    next to nothing."""
    if not cells:
        raise ArtifactError("no cell has been evaluated: there is nothing to archive")
    tasks = dict.fromkeys(
        task
        for cell in cells
        for task in parquet.read_table(cell.samples, columns=["task"])["task"].unique().to_pylist()
    )
    schema = pyarrow.unify_schemas(  # a column of nulls may have no type in one cell and have one in another
        [parquet.read_schema(cell.samples).remove_metadata() for cell in cells], promote_options="permissive"
    )
    for name, kind in PLACE:
        schema = schema.append(pyarrow.field(name, kind))
    strings = (pyarrow.string(), pyarrow.large_string())
    texts = [field.name for field in schema if field.type in strings]
    numbers = [field.name for field in schema if pyarrow.types.is_floating(field.type)]
    with parquet.ParquetWriter(
        output, schema, compression="zstd", compression_level=19, use_dictionary=texts,
        use_byte_stream_split=[*numbers, "choice_logliks.list.element"],
    ) as writer:  # fmt: skip
        for task in tasks:
            merged = pyarrow.concat_tables(_placed(cell, task).cast(schema) for cell in cells)
            merged = merged.sort_by([("doc_id", "ascending"), ("cell", "ascending")])
            writer.write_table(merged, row_group_size=max(1, len(merged)))


def _placed(cell: Cell, task: str) -> pyarrow.Table:
    """A cell's samples of one task, each row with its place."""
    table = parquet.read_table(cell.samples, filters=[("task", "=", task)]).replace_schema_metadata(None)
    places = ([cell.stem] * len(table), range(len(table)))
    for (name, kind), values in zip(PLACE, places, strict=True):
        table = table.append_column(name, pyarrow.array(values, kind))
    return table


def _records(files: Iterable[str]) -> dict[str, dict]:
    """Name below .snakemake/metadata -> Snakemake's record, for these files."""
    wanted, records = set(files), {}
    for record in RECORDS.rglob("*") if RECORDS.is_dir() else ():
        if record.is_file() and _recorded_path(record) in wanted:
            records[str(record.relative_to(RECORDS))] = json.loads(record.read_text())
    return dict(sorted(records.items()))


def _recorded_path(record: Path) -> str:
    """The file that a record speaks of: its path in base64, a long one cut into folders that begin with @."""
    encoded = "".join(part.removeprefix("@") for part in record.relative_to(RECORDS).parts)
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError:  # no record of Snakemake's
        return ""


def _blocks(plan: Plan, grid: str) -> dict[str, dict[str, int]]:
    """Cells of each block; one that stands in several counts in the first, so that no block that was not begun seems
    to be."""
    counts, seen = {}, set()
    for name, cells in plan.blocks(grid).items():
        own = [cell for cell in cells if cell not in seen]
        seen.update(own)
        counts[name] = {"planned": len(own), "evaluated": sum(os.path.exists(cell.json) for cell in own)}
    return counts


def _commit() -> str | None:
    """The commit that is checked out, with + where the package differs from it; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if head.returncode:
        return None
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", ".."], capture_output=True, check=False)
    return head.stdout.strip() + ("+" if changed.returncode else "")


def _write_tar(folder: Path, output: Path) -> None:
    with tarfile.open(output, "w:gz", compresslevel=6) as tar:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            tar.add(file, file.relative_to(folder), filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


# ------------------------------------------------------------------------------------------------ unpacking


@contextmanager
def opened(source: Path) -> Iterator[tuple[Path, dict]]:
    """A checked archive as (folder, archive.json); a file is unpacked into a temporary folder for the while.

    Raises ArtifactError for what is no archive, one of another format, and a file that is missing or was changed.
    """
    with tempfile.TemporaryDirectory(prefix="archive-") as temporary:
        folder = Path(source)
        if not folder.exists():
            raise ArtifactError(f"{source}: there is no such file or folder")
        if folder.is_file():
            folder = Path(temporary)
            try:
                with tarfile.open(source) as tar:
                    tar.extractall(folder, filter="data")
            except (tarfile.TarError, EOFError, OSError) as error:
                reason = (
                    str(error).partition("\n")[0].rstrip(": ")
                )  # what follows are all kinds of file that it isn't
                raise ArtifactError(f"{source}: can't be unpacked: {reason}; take another copy") from error
        index = _index(source, folder)
        for name, sha in index["files"].items():
            file = folder / name
            if (
                not file.resolve().is_relative_to(folder.resolve())
                or not file.is_file()
                or sha256_file(file) != sha
            ):
                raise ArtifactError(f"{source}: {name} is missing or not what was packed; take another copy")
        yield folder, index


def _index(source: Path, folder: Path) -> dict:
    """archive.json with the keys that a reader needs."""
    if not (folder / INDEX).is_file():
        raise ArtifactError(f"{source}: no archive: it has no {INDEX} (`make archive GRID=...` writes one)")
    try:
        index = json.loads((folder / INDEX).read_text())
    except ValueError as error:
        raise ArtifactError(f"{source}: {INDEX} is damaged ({error}); take another copy") from error
    index = index if isinstance(index, dict) else {}
    if "format" in index and index["format"] != FORMAT:
        raise ArtifactError(f"{source}: archive format {index['format']}; this version reads {FORMAT}")
    if lacking := [key for key in ("format", "grid", "blocks", "files") if key not in index]:
        raise ArtifactError(f"{source}: {INDEX} is damaged (no {', '.join(lacking)}); take another copy")
    return index


def split_samples(archive: Path, root: Path, cells: Iterable[Cell]) -> None:
    """Write the samples of `cells` below `root`, byte by byte as the evaluation had written them.

    Raises ArtifactError where the bytes are not those that the cell's evaluation names: another pyarrow writes others.
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
            raise ArtifactError(
                f"{path}: is not the file that was packed; it was written with pyarrow {written}, here is "
                f"{pyarrow.__version__}: install that version"
            )


def _as_written(schema: pyarrow.Schema) -> pyarrow.Schema:
    """The schema as the evaluation writes it: reading a file back renames the values of its lists."""
    fields = [
        pyarrow.field(f.name, pyarrow.list_(f.type.value_type), f.nullable)
        if pyarrow.types.is_list(f.type)
        else f
        for f in schema
    ]
    return pyarrow.schema(fields)


def place_records(archive: Path, root: Path) -> None:
    """Put Snakemake's records back for the files that are there and that it has no record of."""
    for name, record in read_json(archive / METADATA).items():
        path = root / RECORDS / name
        if not path.exists() and (root / _recorded_path(RECORDS / name)).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record))


def unpack(archive: Path, index: dict, root: Path) -> Plan:
    """Put what was measured below `root`, with the configuration; returns the plan. The roll-ups are left out."""
    grid, config = index["grid"], load(yaml.safe_load((archive / CONFIG).read_text()))
    plan = Plan(config)
    for file in measured(plan, grid, weights=False):
        if file in index["files"]:
            copy(archive / file, root / file)
    split_samples(archive, root, [cell for cell in plan.cells(grid) if cell.json in index["files"]])
    return plan

"""Archives: a grid's measurements and all that was made from them, in one folder or .tar.gz file.

archive.json     format (of the layout below), grid, blocks, commit, SHA-256 of every file
config.yaml      the configuration that made the results, defaults filled in
samples.parquet  the samples of all cells, with a column `cell` (a hundredth of the separate files' texts)
metadata.json    Snakemake's records of the files
results/<grid>/, resources/   as in the working folder; of resources the manifests, of compressed models the records
"""

import gzip
import os
import shlex
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import yaml
from pyarrow import parquet

from workflow_scripts.cluster.snakemake_surface import RECORDS, recorded_path
from workflow_scripts.files.artifacts import ArtifactError, read_json, sha256_file, write_json
from workflow_scripts.files.disks import cause
from workflow_scripts.files.locks import hold
from workflow_scripts.files.scratch import temporary_sibling
from workflow_scripts.files.sealed_tables import read_table
from workflow_scripts.plan.adopted import record_path
from workflow_scripts.plan.config import load
from workflow_scripts.plan.layout import (
    ANALYSED,
    ANSWERS,
    LEDGER,
    QUESTIONS,
    STAMP,
    Cell,
    companions,
    is_outcome,
    lacks_companions,
)
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.soundness import damage

FORMAT = 2  # 1 is the layout in which a compressed model had one copy, without a seed in its path
INDEX, CONFIG, SAMPLES, METADATA = "archive.json", "config.yaml", "samples.parquet", "metadata.json"
PLACE = (("cell", pyarrow.string()), ("row", pyarrow.int32()))  # added to each row of the merged samples
SUFFIX = ".tar.gz"


# --------------------------------------------------------------------------------------- the contents of one


def measured(plan: Plan, grid: str, weights: bool) -> list[str]:
    """Files that only the sources or a model can make again, and the evidence by which results of an older code were
    adopted; with `weights`, the adapters' weights too."""
    adapters = [file for a in plan.adapters(grid) for file in companions(a.training)] if weights else []
    return [
        *plan.artefacts(grid),
        *adapters,
        ANSWERS.path(grid),
        QUESTIONS.path(grid),
        *map(record_path, (None, grid)),
    ]


def rolled_up(grid: str, root: Path = Path()) -> list[str]:
    """Files that the analysis made from the measured ones."""
    patterns = (roll_up.path(grid) for roll_up in ANALYSED)
    return [str(file.relative_to(root)) for pattern in patterns for file in sorted(root.glob(pattern))]


# --------------------------------------------------------------------------------------------------- packing


def pack_grid(grid: str, output: Path, small: bool = False, configfiles: Sequence[str] = ()) -> dict:
    """Write the archive of a grid with a finished report; returns the content of archive.json.

    output: a .tar.gz file or a folder. small: leave out the adapters' weights, page, report, ledger and records (a
    rebuild makes all but the weights again). Raises ArtifactError if the report is missing or out of date, and if a
    result is damaged. configfiles: named in the command that makes a missing report.
    """
    output = Path(os.path.realpath(output))  # a link stays, and what it leads to is replaced
    config = _reported_config(grid, configfiles)
    plan = Plan(load(config))
    _refuse_damaged(plan, grid)
    with _replaced(output) as temporary:
        folder = temporary / "archive"
        folder.mkdir()
        (folder / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        made = [file for file in rolled_up(grid) if not small or is_outcome(file)]
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
            "answers_recipe": plan.analysis(grid, "find_answers")["recipe"],
            "blocks": _blocks(plan, grid),
            "files": {
                str(f.relative_to(folder)): sha256_file(f) for f in sorted(folder.rglob("*")) if f.is_file()
            },
        }
        write_json(folder / INDEX, index, schema="archive")
        if output.name.endswith(SUFFIX):
            _write_tar(folder, temporary / "archive.tar.gz")
            os.replace(temporary / "archive.tar.gz", output)
        else:
            if output.exists():
                os.replace(output, former_content(output))
            os.replace(folder, output)
    return index


def _refuse_damaged(plan: Plan, grid: str) -> None:
    for file in filter(os.path.exists, plan.artefacts(grid)):
        if problem := damage(Path(file)):
            raise ArtifactError(f"{problem}; nothing was packed")
    for table in filter(os.path.exists, (ANSWERS.path(grid), LEDGER.path(grid))):
        read_table(table)


@contextmanager
def _replaced(output: Path) -> Iterator[Path]:
    """Yield an empty folder beside an archive that the block writes; the former one is there until it is done.

    One writer at a time (ArtifactError for the second). The remains of a killed writer are removed, or put back.
    """
    _refuse_foreign(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with hold(output):
        temporary = temporary_sibling(output)
        temporary.mkdir()
        try:
            yield temporary
        except OSError as error:
            places = [place for place in (error.filename, error.filename2) if place]
            if places and str(temporary) not in str(places[-1]):  # a result that can't be read
                raise
            raise ArtifactError(f"{output}: can't be written: {cause(error, output)}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            put_back(output)  # if the new one could not take its place
            shutil.rmtree(former_content(output), ignore_errors=True)


def former_content(archive: Path) -> Path:
    """The name of an archive's folder while another takes its place."""
    return archive.with_name(f".{archive.name}.former")


def put_back(archive: Path) -> None:
    """Put an archive's folder back if a writer was killed after it had moved it away."""
    archive = Path(os.path.realpath(archive))
    if not archive.exists() and former_content(archive).is_dir():
        os.replace(former_content(archive), archive)


def _reported_config(grid: str, configfiles: Sequence[str] = ()) -> dict:
    """The configuration of the grid's report. Raises ArtifactError if results changed or appeared after the report."""
    chosen = f" CONFIG={shlex.quote(' '.join(configfiles))}" if configfiles else ""
    again = f"make it: make run GRID={grid}{chosen}"
    stamp = Path(STAMP.path(grid))
    if not stamp.exists():
        raise ArtifactError(f"{stamp}: grid '{grid}' has no report; {again}")
    recorded = read_json(stamp, advice=again)
    if not isinstance(recorded, dict) or not {"config", "files"} <= recorded.keys():
        raise ArtifactError(
            f"{stamp}: names no configuration or no files (cut, or made by an older version); {again}"
        )
    plan = Plan(load(recorded["config"]))
    again = f"make it: {plan.make('run', grid)}"
    here = {file for file in plan.counted(grid) if os.path.exists(file)}
    changed = here - set(recorded["files"])
    for file, sha in recorded["files"].items():
        if file not in here or lacks_companions(file) or sha256_file(file) != sha:
            changed.add(file)
    for file, sha in recorded.get("roll_ups", {}).items():  # none in a report of an older version
        if not os.path.exists(file) or sha256_file(file) != sha:
            changed.add(file)
    if changed:
        raise ArtifactError(
            f"{min(changed)}: not as in the report of grid '{grid}' ({len(changed)} such); {again}"
        )
    return recorded["config"]


def _refuse_foreign(output: Path) -> None:
    """ArtifactError if the archive would take the place of something else, or if nothing can take that place."""
    if os.path.ismount(output):
        raise ArtifactError(
            f"{output}: a disk is mounted there, so no archive takes its place; give a folder in it"
        )
    if output.is_dir() and any(output.iterdir()) and not (output / INDEX).is_file():
        raise ArtifactError(f"{output}: a folder that is not empty and no archive; give another OUT")
    if output.exists() and output.is_dir() == output.name.endswith(SUFFIX):
        kind, other = ("folder", "file") if output.is_dir() else ("file", "folder")
        raise ArtifactError(f"{output}: a {kind}, and an archive of this name is a {other}; give another OUT")
    if output.exists() and not output.is_dir() and not _is_packed(output):
        raise ArtifactError(f"{output}: a file that is no archive; give another OUT")


def _is_packed(file: Path) -> bool:
    """True if a file begins as `_write_tar` begins one."""
    if not file.is_file():  # a pipe would be waited for
        return False
    try:
        with gzip.open(file) as handle:
            return tarfile.TarInfo.frombuf(handle.read(tarfile.BLOCKSIZE), "utf-8", "strict").name == INDEX
    except (OSError, EOFError, ValueError, zlib.error, tarfile.HeaderError):
        return False


def copy(source: Path, target: Path) -> None:
    """Copy a file's content, making its folder."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _merge_samples(cells: list[Cell], output: Path) -> None:
    """Write all samples into one file, a row group per task. Equal questions stand side by side, so that a repeated
    text costs next to nothing. Raises ArtifactError without a cell."""
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
    small = {"compression": "zstd", "compression_level": 19, "use_dictionary": texts}
    small["use_byte_stream_split"] = [*numbers, "choice_logliks.list.element"]
    with parquet.ParquetWriter(output, schema, **small) as writer:
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
        if record.is_file() and recorded_path(record) in wanted:
            records[str(record.relative_to(RECORDS))] = read_json(record)
    return dict(sorted(records.items()))


def _blocks(plan: Plan, grid: str) -> dict[str, dict[str, int]]:
    """Planned and evaluated cells of each block. A cell of several blocks counts in the first: else a block that was
    never started would seem started."""
    counts, seen = {}, set()
    for name, cells in plan.blocks(grid).items():
        own = [cell for cell in cells if cell not in seen]
        seen.update(own)
        counts[name] = {"planned": len(own), "evaluated": sum(os.path.exists(cell.json) for cell in own)}
    return counts


def packed_by(commit: str | None) -> str:
    """An archive's `commit` in words."""
    if commit is None:
        return "code outside a git repository"
    changed = " with changes in workflow_scripts that were not committed" if commit.endswith("+") else ""
    return f"the code of commit {commit[:12]}{changed}"


def _commit() -> str | None:
    """The commit that is checked out, with + if the package differs from it; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if head.returncode:
        return None
    changed = subprocess.run([*git, "status", "--porcelain", "--", ".."], capture_output=True, check=False)
    return head.stdout.strip() + ("+" if changed.stdout or changed.returncode else "")


def _write_tar(folder: Path, output: Path) -> None:
    with tarfile.open(output, "w:gz", compresslevel=6) as tar:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            tar.add(file, file.relative_to(folder), filter=_anonymous)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member

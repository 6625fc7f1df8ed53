"""Archives hold whole results alone, and a restore puts whole results back, whatever lay there before."""

import errno
import gzip
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.unit.archive.conftest import evaluation, write_index
from workflow_scripts.__main__ import main
from workflow_scripts.archive import packing
from workflow_scripts.archive.packing import INDEX, pack_grid
from workflow_scripts.archive.unpacking import opened, place_records
from workflow_scripts.commands import rebuild
from workflow_scripts.files.artifacts import ArtifactError, digest, read_json, sha256_file, write_json
from workflow_scripts.plan import recipes
from workflow_scripts.plan.adopted import equivalent_codes, record_path, write_rows
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.layout import EVALUATION, Cell
from workflow_scripts.plan.recipes import Plan


def samples_of(record: Path) -> Path:
    return record.with_name("seed-0.samples.parquet")


def restored(capsys) -> str:
    assert main(["restore", "it"]) == 0
    return capsys.readouterr().out


@pytest.fixture
def finished(it, monkeypatch, capsys):
    """The archive's two cells in the working folder, each with the hash of its samples; `it` is packed from them."""
    restored(capsys)
    for record in Path("results").rglob("seed-0.json"):
        value = read_json(record)
        value["manifest"]["samples_sha256"] = sha256_file(samples_of(record))
        write_json(record, value)
    config = packing.yaml.safe_load((it / packing.CONFIG).read_text())
    monkeypatch.setattr(packing, "_reported_config", lambda *_: config)
    shutil.rmtree(it)
    pack_grid("smoke", it)
    return it


@pytest.mark.parametrize("kind", ["samples", "evaluation"])
def test_a_damaged_result_is_not_packed(finished, kind, capsys):
    record = evaluation(Path())
    damaged = samples_of(record) if kind == "samples" else record
    damaged.write_bytes(damaged.read_bytes().replace(b"wikipedia", b"wikipedib"))
    if kind == "samples":
        damaged.write_bytes(damaged.read_bytes() + b" ")
    before = sha256_file(finished / INDEX)
    with pytest.raises(ArtifactError, match=f"{damaged.name}: .*nothing was packed"):
        pack_grid("smoke", finished)
    assert sha256_file(finished / INDEX) == before


def test_wrong_samples_are_refused_at_every_call_and_nothing_is_written(finished, capsys):
    shutil.rmtree("results")
    record = evaluation(finished)
    value = read_json(record)
    value["manifest"]["samples_sha256"] = "0" * 64
    write_json(record, value)
    for adopted in map(
        record_path, (None, "smoke")
    ):  # evidence that the plan reads before it checks a result
        write_rows(finished / adopted, [])
    write_index(finished)
    for _ in range(2):
        assert main(["restore", "it"]) == 1
        assert "the samples of smollm2-135m/" in capsys.readouterr().err
        assert not [file for kind in ("json", "parquet") for file in Path("results").glob(f"**/*.{kind}")]
        assert not Path(record_path(None)).exists()


def equivalence(old: str, new: str, kind: str) -> dict:
    made = {"host": "h", "cpu": "c", "python": "3"}
    row = {"rule": "evaluate_cell", "kinds": [kind], "old": old * 64, "new": new * 64, "results": 1}
    return row | {"compared": [], "machine": made, "user": "u", "time": "t"}


@pytest.mark.parametrize("readable", [True, False])
def test_an_archives_evidence_is_added_to_that_which_is_here(finished, readable, capsys):
    """Of one code and kind that both name, what is here stays; nothing does if the restore fails."""
    here, both = equivalence("a", "b", "none"), equivalence("c", "d", "lora")
    other, fresh = equivalence("e", "d", "lora"), equivalence("a", "b", "prompt")
    mine = Path(record_path("smoke"))
    write_rows(finished / mine, [other, fresh])
    write_rows(mine, [here, both])
    before = mine.read_bytes()
    for record in Path("results").rglob("seed-0.json"):
        record.unlink()
    if not readable:
        for samples in finished.rglob("samples.parquet"):
            samples.write_bytes(samples.read_bytes()[:-9])
    write_index(finished)
    if readable:
        restored(capsys)
        assert read_json(mine, "adopted")["equivalences"] == [fresh, here, both]
    else:
        assert main(["restore", "it"]) == 1
        assert mine.read_bytes() == before


def test_evidence_of_another_kind_of_the_same_code_is_added(finished, capsys):
    both = equivalence("a", "b", "none") | {"kinds": ["none", "prompt"]}
    write_rows(finished / record_path("smoke"), [both])
    write_rows(Path(record_path("smoke")), [equivalence("c", "b", "none")])
    write_index(finished)
    restored(capsys)
    [added, _] = read_json(record_path("smoke"), "adopted")["equivalences"]
    assert added["old"] == "a" * 64 and added["kinds"] == ["prompt"]


def test_evidence_of_more_tasks_is_added_and_what_is_here_counts(finished, capsys):
    """It was adopted here for one task; the archive's evidence of two was left out, and its cells ran again."""
    more = equivalence("a", "b", "none") | {"tasks": ["arc_easy", "boolq"]}
    mine = equivalence("c", "b", "none") | {"tasks": ["arc_easy"]}
    write_rows(finished / record_path("smoke"), [more])
    write_rows(Path(record_path("smoke")), [mine])
    write_index(finished)
    restored(capsys)
    found = {kind.rpartition(" ")[2]: old[0] for (_, kind), old in equivalent_codes("smoke").items()}
    assert found == {"arc_easy": "c", "boolq": "a", "text": "c"}


def test_evidence_of_an_older_version_is_named_and_added_to_none(finished, capsys):
    """It was passed over in silence, and what it had adopted ran again."""
    record = record_path("smoke")
    rows = [equivalence("a", "b", "none")]
    write_json(finished / record, {"equivalences": rows, "manifest": {}}, "adopted")
    write_index(finished)
    assert f"The archive's {record} does not count: it is of an older version" in restored(capsys)
    assert not Path(record).exists()


def edited(monkeypatch) -> None:
    """Today's code of evaluations is another than that which made the archive."""
    today = recipes.code_of

    def code_of(entry, *kinds):
        code = today(entry, *kinds)
        return digest(code) if entry == "evaluate_cell" else code

    monkeypatch.setattr(recipes, "code_of", code_of)


def test_evidence_that_would_outdate_results_here_is_left_out(finished, capsys):
    """It says that today's code makes what an older one made; but results of today's are here."""
    cell = Cell.of(EVALUATION.parse(evaluation(Path())))
    plan = Plan(load(read(*files())))
    row = equivalence("0", "0", plan.evaluation_kind(cell)) | {"new": plan.evaluate(cell)["code"]}
    write_rows(finished / record_path("smoke"), [row])
    write_index(finished)
    assert "Its evidence of adopted results is left out" in restored(capsys)
    assert not Path(record_path("smoke")).exists()


def test_results_of_an_older_code_are_restored_where_nothing_is_and_named(finished, monkeypatch, capsys):
    edited(monkeypatch)
    for record in Path("results").rglob("seed-0.json"):
        record.unlink()
    said = restored(capsys)
    assert "Restored 2 cells" in said and "2 of them differ from today's plan in their code alone" in said
    assert "2 results were here already" in restored(capsys)
    write_json(record, read_json(record) | {"manifest": {"recipe": "f" * 64}})
    assert "Left out" in restored(capsys), "another result is here"


@pytest.mark.parametrize("damage", ["cut", "other", "gone", "record"])
def test_only_a_whole_result_counts_as_present(finished, damage, capsys):
    assert "Restored 0 cells" in restored(capsys)
    record = evaluation(Path())
    samples, whole = samples_of(record), samples_of(record).read_bytes()
    match damage:
        case "cut":
            samples.write_bytes(whole[: len(whole) // 2])
        case "other":
            samples.write_bytes(whole + b" ")
        case "gone":
            samples.unlink()
        case "record":
            record.write_text(record.read_text().replace("wikipedia", "wikipedib"))
    said = restored(capsys)
    assert "Restored 1 cells" in said and "1 results were here already" in said
    assert samples.read_bytes() == whole and read_json(record) == read_json(finished / record)


def test_a_restore_that_is_killed_leaves_no_result_without_its_samples(finished, monkeypatch, capsys):
    shutil.rmtree("results")
    replaced, count = os.replace, iter(range(100))

    def killed(source, target):
        if next(count) == 3:
            raise KeyboardInterrupt
        replaced(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        main(["restore", "it"])
    for record in Path("results").rglob("seed-0.json"):
        assert sha256_file(samples_of(record)) == read_json(record)["manifest"]["samples_sha256"]
    monkeypatch.undo()


@pytest.mark.parametrize("step", [0, 1])
def test_an_archive_survives_a_writer_that_is_killed_while_it_takes_its_place(finished, step, monkeypatch):
    replaced, calls = os.replace, []

    def killed(source, target):
        if Path(target).name in ("it", ".it.former"):
            calls.append(target)
            if len(calls) == step + 1:
                os._exit(9)
        replaced(source, target)

    if not (child := os.fork()):
        os.replace = killed
        pack_grid("smoke", finished)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9 << 8
    with monkeypatch.context() as broken:  # a writer that fails takes nothing away
        broken.setattr(packing, "_commit", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack_grid("smoke", finished)
    with opened(Path("it")) as (_, index, _):
        assert index["grid"] == "smoke"
    pack_grid("smoke", finished)
    assert not [name for name in os.listdir() if name.startswith(".it")], "what it left was not removed"


def test_an_archive_survives_a_writer_whose_new_one_cannot_take_its_place(finished, monkeypatch):
    replaced = os.replace

    def full(source, target):
        if Path(target).name == "it":
            raise OSError("no room")
        replaced(source, target)

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", full)
        with pytest.raises(OSError, match="no room"):
            pack_grid("smoke", finished)
    with opened(Path("it")) as (_, index, _):
        assert index["grid"] == "smoke"


def test_a_link_in_the_archives_place_stays_and_leads_to_the_new_one(finished):
    """The link was moved away, and the next archive ended in "Not a directory"."""
    os.mkdir("disk")
    Path("there").symlink_to("disk")
    for _ in range(2):
        pack_grid("smoke", Path("there"))
        assert Path("there").is_symlink() and Path("disk", INDEX).is_file()
    os.replace("disk", packing.former_content(Path("disk").resolve()))  # as a writer leaves it that is killed
    with opened(Path("there")) as (_, index, _):
        assert index["grid"] == "smoke"


def holds(content: bytes):
    return lambda file: file.write_bytes(content)


@pytest.mark.parametrize(
    ("out", "make", "says"),
    [
        ("notes.md", holds(b"mine"), "a file, and an archive of this name is a folder"),
        ("notes", os.mkfifo, "a file, and an archive of this name is a folder"),
        ("data.tar.gz", holds(b"mine"), "a file that is no archive"),
        ("other.tar.gz", holds(gzip.compress(b"mine" * 1000)), "a file that is no archive"),
        ("cut.tar.gz", holds(gzip.compress(b"mine" * 1000)[:20]), "a file that is no archive"),
        ("pipe.tar.gz", os.mkfifo, "a file that is no archive"),
        ("folder.tar.gz", Path.mkdir, "a folder, and an archive of this name is a file"),
        ("/proc", lambda _: None, "a disk is mounted there"),
    ],
)
def test_an_archive_takes_the_place_of_no_other_file(finished, out, make, says):
    """A file of the user's was replaced by the archive's folder."""
    make(Path(out))
    before = Path(out).read_bytes() if Path(out).is_file() else None
    with pytest.raises(ArtifactError, match=f"{re.escape(out)}: {says}"):
        pack_grid("smoke", Path(out))
    assert before is None or Path(out).read_bytes() == before


@pytest.mark.parametrize("fails", ["copy", "merge"])
def test_a_disk_without_room_for_an_archive_is_named_while_it_is_full(finished, fails, monkeypatch, capsys):
    """The results' disk was named, whose file was copied; and once the half archive was gone, no disk was full."""
    (Path("small")).mkdir()

    def full(*places):
        raise OSError(
            errno.ENOSPC, "No space left on device", *([places[0], None, places[1]] if places else [])
        )

    def inodes(folder):
        writing = list(Path("small").resolve().glob(".x.*.tmp"))
        return (
            "no room for more files (inodes) on the small disk" if folder.name == "small" and writing else ""
        )

    monkeypatch.setattr("workflow_scripts.files.disks._full", inodes)
    if fails == "copy":
        monkeypatch.setattr(shutil, "copyfile", full)
    else:
        monkeypatch.setattr(packing, "_merge_samples", lambda *_: full())
    assert main(["archive", "--grid", "smoke", "--out", "small/x"]) == 1
    out = Path("small/x").resolve()
    said = "no room for more files (inodes) on the small disk"
    assert capsys.readouterr().err == f"{out}: can't be written: {said}\n"
    assert os.listdir("small") == []


def test_a_result_that_can_not_be_read_is_not_a_disk_that_can_not_be_written(finished, monkeypatch, capsys):
    def closed(source, target):
        raise PermissionError(errno.EACCES, "Permission denied", source)

    monkeypatch.setattr(shutil, "copyfile", closed)
    assert main(["archive", "--grid", "smoke", "--out", "x"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("results/smoke/") and "can't be written" not in said


def test_an_archive_takes_the_place_of_an_older_one(finished):
    for _ in range(2):
        pack_grid("smoke", Path("again.tar.gz"))
    with opened(Path("again.tar.gz")) as (_, index, _):
        assert index["grid"] == "smoke"


def test_what_a_killed_rebuild_left_is_replaced(it, monkeypatch):
    monkeypatch.setattr(rebuild, "_run", lambda *_: 3)
    monkeypatch.setattr(rebuild, "unpack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        main(["rebuild", "it", "--out", "made"])
    monkeypatch.setattr(rebuild, "unpack", lambda archive, index, plan, folder: (folder / "done").touch())
    assert main(["rebuild", "it", "--out", "made"]) == 3
    assert sorted(os.listdir("made")) == ["config", "config.yaml", "done"]


def test_a_rebuild_goes_into_the_folder_of_a_disk(it, monkeypatch):
    """A folder at which a disk is mounted can be emptied, not removed."""
    removed = shutil.rmtree

    def busy(path, *rest, **options):
        if Path(path).name == "disk":
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        removed(path, *rest, **options)

    Path("disk", "results").mkdir(parents=True)
    Path("disk", rebuild.UNFINISHED).touch()  # of a rebuild that was killed
    monkeypatch.setattr(shutil, "rmtree", busy)
    monkeypatch.setattr(rebuild, "_run", lambda *_: 3)
    assert main(["rebuild", "it", "--out", "disk"]) == 3
    assert evaluation(Path("disk")).is_file()


def test_records_bring_no_software_environment_along(it):
    """Snakemake's report would load it as YAML with code."""
    import base64

    name = base64.b64encode(b"results/smoke/verdict.json").decode()
    record = {
        "rule": "judge",
        "job_hash": 1,
        "starttime": 1,
        "endtime": 2,
        "conda_env": "eA==",
        "container_img_url": "</script>",
    }
    (it / "metadata.json").write_text(json.dumps({name: record}))
    Path("results/smoke").mkdir(parents=True)
    Path("results/smoke/verdict.json").touch()
    place_records(it, Path())
    placed = json.loads(Path(".snakemake/metadata", name).read_text())
    assert placed == record | {"conda_env": None, "container_img_url": None}

"""Archives hold whole results alone, and a restore puts whole results back, whatever lay there before."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.unit.archive.conftest import evaluation, write_index
from workflow_scripts.__main__ import main
from workflow_scripts.archive import packing
from workflow_scripts.archive.packing import INDEX, pack_grid
from workflow_scripts.archive.unpacking import opened, place_records
from workflow_scripts.commands import rebuild
from workflow_scripts.files.artifacts import ArtifactError, read_json, sha256_file, write_json
from workflow_scripts.plan.adopted import record_path


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
        write_json(finished / adopted, {"equivalences": [], "manifest": {}}, schema="adopted")
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
    write_json(finished / mine, {"equivalences": [other, fresh], "manifest": {}}, "adopted")
    write_json(mine, {"equivalences": [here, both], "manifest": {}}, "adopted")
    before = mine.read_bytes()
    for record in Path("results").rglob("seed-0.json"):
        record.unlink()
    if not readable:
        for samples in finished.rglob("samples.parquet"):
            samples.write_bytes(samples.read_bytes()[:-9])
    write_index(finished)
    if readable:
        restored(capsys)
        assert read_json(mine, "adopted")["equivalences"] == [here, both, fresh]
    else:
        assert main(["restore", "it"]) == 1
        assert mine.read_bytes() == before


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


def test_what_a_killed_rebuild_left_is_replaced(it, monkeypatch):
    monkeypatch.setattr(rebuild, "_run", lambda *_: 3)
    monkeypatch.setattr(rebuild, "unpack", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        main(["rebuild", "it", "--out", "made"])
    monkeypatch.setattr(rebuild, "unpack", lambda archive, index, plan, folder: (folder / "done").touch())
    assert main(["rebuild", "it", "--out", "made"]) == 3
    assert sorted(os.listdir("made")) == ["config", "config.yaml", "done"]


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

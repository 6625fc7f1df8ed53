"""Archives that are not sound: one line names the archive and its trouble, and nothing has been written by then."""

import base64
import json
import re
import shutil
import tarfile
from pathlib import Path

import pyarrow
import pytest
import yaml
from pyarrow import compute, parquet

from tests.unit.archive.conftest import evaluation, packed, refusals, write_index
from workflow_scripts.__main__ import main
from workflow_scripts.archive.packing import CONFIG, INDEX, METADATA, SAMPLES
from workflow_scripts.archive.unpacking import on_one_copy, opened, unpack
from workflow_scripts.commands import rebuild
from workflow_scripts.files.artifacts import ArtifactError, read_json, sha256_file, write_json
from workflow_scripts.judge.results import read_samples, results_of
from workflow_scripts.plan.config import load
from workflow_scripts.plan.layout import COMPRESSED, EVALUATION, VERDICT
from workflow_scripts.plan.recipes import Plan

FORMAT_1 = Path(__file__).parent / "format-1"  # of commit a664cef's reports/bench: the cells without a method


# ---------------------------------------------------------------------------------------------------- sound


def test_a_folder_and_a_file_open_alike(it):
    for source in (it, packed(it)):
        with opened(source) as (folder, index, plan):
            assert (folder / CONFIG).is_file() and index["grid"] == "smoke" and plan.cells("smoke")


def test_an_archive_of_format_1_opens_in_todays_layout(tmp_path):
    bench = FORMAT_1
    assert read_json(bench / INDEX)["format"] == 1
    with opened(bench) as (folder, index, plan):
        records = {name for name in index["files"] if COMPRESSED.parse(name)}
        assert records == {plan.compression(cell) for cell in plan.cells("bench")} and len(records) == 3
        assert all(sha256_file(folder / name) == sha for name, sha in index["files"].items())
        assert on_one_copy(index, plan) == []
        unpack(folder, index, plan, tmp_path)
    for name in records:
        there = bench / name.replace("/seed-0/", "/")
        assert (tmp_path / name).read_bytes() == there.read_bytes() and not (tmp_path / name).is_symlink()


def test_an_archive_whose_configuration_is_of_an_older_version_names_the_code_that_reads_it(it):
    """IDP members had a `corpus` of their own before 0.1.0: the archive was called damaged."""
    config = yaml.safe_load((it / CONFIG).read_text())
    config["methods"]["idp-50-corpora"]["members"] = [{"adapter": "prompt-50", "corpus": "wikipedia"}]
    (it / CONFIG).write_text(yaml.safe_dump(config))
    write_index(it, format=1)
    with pytest.raises(ArtifactError) as found, opened(it):
        pass
    said = str(found.value)
    assert "config.yaml is of an older version" in said and "corpus: unknown key" in said
    assert (
        "the code of commit aaaaaaaaaaaa packed the archive and reads it" in said
        and "take another copy" not in said
    )


def test_results_of_older_schemas_are_read_item_by_item(tmp_path):
    """Evaluations and samples of an older code, and a verdict."""
    with opened(FORMAT_1) as (folder, index, plan):
        unpack(folder, index, plan, tmp_path)
        cells = [cell for cell in plan.cells("bench") if (tmp_path / cell.json).exists()]
    assert len(cells) == len({name for name in index["files"] if EVALUATION.parse(name)}) > 0
    for cell in cells:
        record = read_json(tmp_path / cell.json, "evaluation")
        samples = read_samples(tmp_path / cell.json, ["correct", "gold_loglik"])
        for task, result in record["tasks"].items():
            mine = samples.loc[task]
            assert len(mine) == result["n"] and mine["correct"].mean() == pytest.approx(result["acc"])
            assert mine["gold_loglik"].mean() == pytest.approx(result["gold_loglik"])
    verdict = read_json(FORMAT_1 / VERDICT.path("bench"), "verdict")
    assert results_of(verdict).planned.keys() == {*plan.cells("bench")}


def test_seeds_of_an_archive_of_one_copy_are_named(it):
    with opened(it) as (_, index, plan):
        made = index | {"files": index["files"] | {plan.cells("smoke")[1]._replace(seed=1).json: "0" * 64}}
        seeds = plan.config.dump()
        seeds["grids"]["smoke"]["blocks"]["core"]["seeds"] = [1]
        plan = Plan(load(seeds))
        assert [cell.seed for cell in on_one_copy(made | {"format": 1}, plan)] == [1]
        assert on_one_copy(made, plan) == []


def test_an_older_archive_writes_no_link_outside(it):
    write_index(it, format=1)
    index = json.loads((it / INDEX).read_text())
    index["files"][f"results/../{CONFIG}"] = sha256_file(it / CONFIG)
    write_json(it / INDEX, index)
    with (
        pytest.raises(ArtifactError, match=r"files: results/\.\./config.yaml is no path below the archive"),
        opened(it),
    ):
        pass


def test_sound_archives_are_compared_rebuilt_and_restored(it, monkeypatch, capsys):
    source = str(packed(it))
    assert main(["compare", source, "it"]) == 0
    assert "2 cells in common" in capsys.readouterr().out
    monkeypatch.setattr(rebuild, "_run", lambda *_: 3)
    assert main(["rebuild", source]) == 3
    assert evaluation(Path("rebuilt/smoke")).with_name("seed-0.samples.parquet").is_file()
    assert main(["restore", source]) == 0
    assert "Restored 2 cells and 0 adapters" in capsys.readouterr().out
    assert evaluation(Path()).read_bytes() == evaluation(it).read_bytes()
    assert evaluation(Path()).with_name("seed-0.samples.parquet").is_file()


@pytest.mark.parametrize("commit", ["c" * 40, "c" * 40 + "+", None])
def test_a_rebuild_says_which_code_packed(it, monkeypatch, capsys, commit):
    write_json(it / INDEX, json.loads((it / INDEX).read_text()) | {"commit": commit})
    monkeypatch.setattr(rebuild, "_run", lambda *_: 0)
    monkeypatch.setattr(rebuild, "read_json", lambda _: {})
    monkeypatch.setattr(rebuild, "lines", lambda _: [])
    assert main(["rebuild", "it"]) == 0
    said = {None: "code outside a git repository.", "c" * 40: "the code of commit cccccccccccc."}
    changed = "the code of commit cccccccccccc with changes in workflow_scripts that were not committed."
    assert f"The archive was packed by {said.get(commit, changed)}" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------ not sound


def index(**changes):
    return lambda folder: write_index(folder, **changes)


def text(name: str, content: str):
    """A file with another content, listed as it is."""

    def change(folder):
        (evaluation(folder) if name == "evaluation" else folder / name).write_text(content)
        write_index(folder)

    return change


def without(name: str):
    def change(folder):
        (folder / name).unlink()
        write_index(folder)

    return change


def missing(name: str):
    return lambda folder: (folder / name).unlink()


def raw(content: str):
    return lambda folder: (folder / INDEX).write_text(content)


def other_cells(folder):
    shutil.rmtree(folder / "results")
    write_index(folder)


def samples_of_one_cell(folder):
    table = parquet.read_table(folder / SAMPLES)
    parquet.write_table(table.filter(compute.equal(table["cell"], table["cell"][0])), folder / SAMPLES)
    write_index(folder)


def samples_without_place(folder):
    table = parquet.read_table(folder / SAMPLES)
    parquet.write_table(table.drop_columns(["cell"]), folder / SAMPLES)
    write_index(folder)


def link(folder):
    Path("secret").write_text("x")
    (folder / "link").symlink_to(Path("secret").resolve())
    write_index(folder)


RECORD = base64.b64encode(b"results/smoke/verdict.json").decode()
CASES = {
    "truncated index": (raw('{"format": 1'), r"archive.json is damaged \("),
    "deep index": (raw("[" * 100000), r"archive.json is damaged \("),
    "index a list": (raw("[]"), r"archive.json: \$: \[\] is not of type 'object'"),
    "a key of the index twice": (
        lambda folder: (folder / INDEX).write_text(
            (folder / INDEX).read_text().rstrip()[:-1] + ', "grid": "other"}'
        ),
        r"archive.json is damaged \(the key 'grid' stands there twice\)",
    ),
    "a key of an evaluation twice": (
        text("evaluation", '{"cell": {}, "tasks": {"a": 1, "a": 2}}'),
        r"results/\S+.json: not valid JSON \(the key 'a' stands there twice\)",
    ),
    "a key of the report twice": (
        text("results/smoke/report.json", '{"files": {}, "files": {}}'),
        r"report.json is damaged \(the key 'files' stands there twice\)",
    ),
    "config with a tag": (text(CONFIG, "a: !!float x"), "config.yaml: line 1: x is no number"),
    "format": (index(format=99), "archive format 99; this version reads 1 to 2"),
    "no grid": (index(grid=None), "'grid' is a required property"),
    "no small": (index(small=None), "'small' is a required property"),
    "no answers_recipe": (index(answers_recipe=None), "'answers_recipe' is a required property"),
    "no files": (index(files=None), "'files' is a required property"),
    "files a list": (
        index(files=["config.yaml"] * 999),
        r"\$.files: \['config.yaml', .* is not of type 'object'",
    ),
    "files of numbers": (index(files={CONFIG: 1, SAMPLES: 2}), r"\$.files\S*: [12] is not of type 'string'"),
    "unknown grid": (
        index(grid="smok"),
        "archive.json: grid: 'smok' is no grid of config.yaml; allowed: smoke",
    ),
    "grid outside": (index(grid="../../evil"), r"\$.grid: '../../evil' does not match"),
    "grid absolute": (index(grid="/evil"), r"\$.grid: '/evil' does not match"),
    "blocks": (index(blocks={"core": 3}), r"\$.blocks.core: 3 is not of type 'object'"),
    "config a string": (text(CONFIG, "hello"), "config.yaml: holds no mapping"),
    "config broken": (text(CONFIG, "a: [1\nb: }"), "config.yaml: line 2: not valid YAML"),
    "config impossible": (text(CONFIG, "a: 12:30"), "config.yaml: line 1: 12:30 counts by sixties"),
    "config of itself": (text(CONFIG, "a: &x [*x]"), "config.yaml: line 1: an anchor holds itself"),
    "config of unknown keys": (text(CONFIG, "grids: {}\nb: 2"), "config.yaml: .*unknown key"),
    "config lost": (missing(CONFIG), "config.yaml is missing or differs from the packed file"),
    "config unlisted": (without(CONFIG), r"\$.files: 'config.yaml' is a required property"),
    "samples lost": (missing(SAMPLES), "samples.parquet is missing or differs from the packed file"),
    "samples unlisted": (without(SAMPLES), r"\$.files: 'samples.parquet' is a required property"),
    "samples a text": (text(SAMPLES, "hello"), r"samples.parquet: can't be read \("),
    "samples of one cell": (samples_of_one_cell, "samples.parquet: holds no samples of smollm2-135m/"),
    "samples without place": (samples_without_place, "samples.parquet: has no column cell"),
    "no evaluation": (other_cells, "holds no evaluation of grid 'smoke'"),
    "evaluation a list": (text("evaluation", "[]"), r"results/\S+.json: \$: \[\] is not of type 'object'"),
    "evaluation cut": (text("evaluation", '{"cell": '), r"results/\S+.json: not valid JSON"),
    "report a list": (text("results/smoke/report.json", "[]"), "report.json: names no files"),
    "records a list": (text(METADATA, "[]"), "metadata.json: holds something else than records"),
    "record outside": (
        text(METADATA, '{"../../../evil": {}}'),
        "metadata.json: holds something else than records",
    ),
    "record of a rule that is none": (
        text(
            METADATA, json.dumps({RECORD: {"rule": "</script>", "job_hash": 1, "starttime": 1, "endtime": 2}})
        ),
        "metadata.json: holds something else",
    ),
    "record of a time that is none": (
        text(
            METADATA, json.dumps({RECORD: {"rule": "judge", "job_hash": 1, "starttime": 1, "endtime": 1e300}})
        ),
        "metadata.json: holds something else",
    ),
    "record absolute": (text(METADATA, '{"/evil": {}}'), "metadata.json: holds something else than records"),
}


@pytest.mark.parametrize(("change", "says"), CASES.values(), ids=CASES)
def test_what_is_wrong_is_said_in_one_line_before_anything_is_written(it, change, says, capsys):
    change(it)
    for line in refusals(it, capsys):
        assert re.search(says, line), line


@pytest.mark.parametrize("name", ["unknown grid", "config broken", "evaluation cut", "samples lost"])
def test_a_file_is_named_as_it_was_given(it, name, capsys):
    change, says = CASES[name]
    change(it)
    for line in refusals(packed(it), capsys):
        assert line.startswith("it.tar.gz: ") and re.search(says, line), line


@pytest.mark.parametrize("place", [0.02, 0.2, 0.4, 0.5, 0.6, 0.8, 0.99])
def test_a_damaged_file_is_damaged_wherever_it_is(it, place, capsys):
    source = packed(it)
    content = bytearray(source.read_bytes())
    start = int(place * len(content)) - 25
    content[start : start + 50] = bytes(byte ^ 0xFF for byte in content[start : start + 50])
    source.write_bytes(content)
    assert all("can't be unpacked: " in line for line in refusals(source, capsys))


@pytest.mark.parametrize("size", [0, 10, 0.5, 0.999])
def test_a_file_that_was_cut_can_not_be_unpacked(it, size, capsys):
    source = packed(it)
    content = source.read_bytes()
    source.write_bytes(content[: size if isinstance(size, int) else int(size * len(content))])
    assert all("can't be unpacked: " in line for line in refusals(source, capsys))


def test_what_is_no_archive_says_so(it, capsys):
    Path("text.tar.gz").write_text("hello")
    Path("empty").mkdir()
    for name, says in (
        ("text.tar.gz", "can't be unpacked: "),
        ("nowhere", "there is no such file or folder"),
        ("empty", "no archive: it has no archive.json"),
    ):
        assert all(says in line for line in refusals(Path(name), capsys))


def test_files_outside_the_archive_are_refused(it, capsys):
    Path("secret").write_text("x")
    files = json.loads((it / INDEX).read_text())["files"]
    for name in ("../secret", str(Path("secret").resolve()), "nul\0", "x" * 300):
        write_index(it, files=files | {name: sha256_file("secret")})
        assert all("missing or differs from the packed file" in line for line in refusals(it, capsys))
    link(it)
    assert all("link is missing or differs from the packed file" in line for line in refusals(it, capsys))


@pytest.mark.parametrize("name", ["../outside", "/outside", "link", "hard"])
def test_members_outside_the_archive_and_links_are_not_unpacked(it, name, capsys):
    Path("secret").write_text("x")
    with tarfile.open("evil.tar.gz", "w:gz") as tar:
        tar.add(it, ".")
        member = tarfile.TarInfo(name)
        if name in ("link", "hard"):
            member.type = tarfile.SYMTYPE if name == "link" else tarfile.LNKTYPE
            member.linkname = "archive.json"
        tar.addfile(member)
    assert all("can't be unpacked: " in line for line in refusals(Path("evil.tar.gz"), capsys))
    assert not Path("/outside").exists()


def test_samples_of_more_rows_than_the_evaluations_have_items_are_refused(it, capsys):
    table = parquet.read_table(it / SAMPLES)
    parquet.write_table(pyarrow.concat_tables([table] * 50), it / SAMPLES)
    write_index(it)
    assert all("rows of" in line and "have 54 items" in line for line in refusals(it, capsys))


def test_trouble_while_it_is_used_names_the_archive_too(it):
    with (
        pytest.raises(ArtifactError, match=r"^it\.tar\.gz/results: bad$"),
        opened(packed(it)) as (folder, *_),
    ):
        raise ArtifactError(f"{folder}/results: bad")

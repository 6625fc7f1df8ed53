"""Archives: what goes in comes out the same, foreign folders are refused, two runs are compared by item."""

import secrets
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from tests.unit.synthetic_results import study, write_grid
from workflow_scripts.__main__ import main
from workflow_scripts.archive import packing as archives
from workflow_scripts.archive.comparison import compare, lines, provenance
from workflow_scripts.archive.unpacking import split_samples
from workflow_scripts.commands import archive
from workflow_scripts.evaluate.samples import write_samples
from workflow_scripts.files.artifacts import ArtifactError, sha256_file, write_json
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.layout import Cell
from workflow_scripts.plan.recipes import Plan

GAINS = {"idp-50-100": 0.1, "lora-r4": 0.1}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A working folder with six cells; returns their cells."""
    monkeypatch.chdir(tmp_path)
    truth = study("m", GAINS)
    write_grid(tmp_path, truth, items=6)
    return [Cell("synthetic", *cell) for cell in truth]


def test_samples_come_out_as_they_went_in(run, tmp_path):
    frame = pd.read_parquet(run[0].samples)  # a cell with fewer items, in an order of its own
    frame[(frame["task"] != "piqa") | (frame["doc_id"] > 3)].to_parquet(run[0].samples, index=False)
    archives._merge_samples(run, tmp_path / "samples.parquet")
    split_samples(tmp_path, tmp_path / "out", run)
    for cell in run:
        before, after = pd.read_parquet(cell.samples), pd.read_parquet(tmp_path / "out" / cell.samples)
        assert list(before.columns) == list(after.columns)
        before, after = (part.astype(object).where(part.notna(), None) for part in (before, after))
        lists = "choice_logliks"
        assert [None if x is None else list(x) for x in before[lists]] == [
            None if x is None else list(x) for x in after[lists]
        ]
        pd.testing.assert_frame_equal(before.drop(columns=lists), after.drop(columns=lists))


def test_samples_that_the_evaluation_wrote_come_out_byte_by_byte(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = [Cell("g", "m", "c", "t", method, 0) for method in ("none", "idp")]
    for number, cell in enumerate(cells):
        rows = [
            {
                "task": task,
                "doc_id": i,
                "doc_hash": f"{task}{i}",
                "correct": i % 2 == 0,
                "gold_loglik": -1.5 - i,
                "acc_norm": None if task == "b" else True,
                "margin": None if task == "b" else i / 3,
                "prediction": "x" * i,
                "selected_prompt": None if number == 0 else f"p{i % 2}",
                "question": f"Question {i}?",
                "gold": "é",
                "choice_logliks": None if task == "b" else [-1.0, -2.0 - i],
            }
            for task in ("b", "a")
            for i in (3, 1, 2)
        ]
        Path(cell.samples).parent.mkdir(parents=True)
        write_samples(Path(cell.samples), rows)
        manifest = {"samples_sha256": sha256_file(cell.samples), "libraries": {"pyarrow": "1.0"}}
        write_json(cell.json, {"manifest": manifest})
    archives._merge_samples(cells, tmp_path / "samples.parquet")
    split_samples(tmp_path, tmp_path / "out", cells)
    for cell in cells:
        assert (tmp_path / "out" / cell.samples).read_bytes() == Path(cell.samples).read_bytes()
    write_json(cells[1].json, {"manifest": manifest | {"samples_sha256": "0" * 64}})
    with pytest.raises(ArtifactError, match=r"written with pyarrow 1\.0"):
        split_samples(tmp_path, tmp_path / "again", cells)


def test_a_text_that_all_cells_share_is_stored_about_once(run, tmp_path):
    texts = [secrets.token_hex(500) for _ in range(54)]
    for cell in run:
        pd.read_parquet(cell.samples).assign(question=texts).to_parquet(cell.samples, index=False)
    archives._merge_samples(run, tmp_path / "samples.parquet")
    apart = sum((tmp_path / cell.samples).stat().st_size for cell in run)
    assert (tmp_path / "samples.parquet").stat().st_size < apart / 3  # six cells


def test_samples_of_a_cell_that_was_not_packed_are_missed(run, tmp_path):
    archives._merge_samples(run[:2], tmp_path / "samples.parquet")
    with pytest.raises(ArtifactError, match="holds no samples of"):
        split_samples(tmp_path, tmp_path / "out", run[:3])


def test_a_grid_without_report_cannot_be_packed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"has no report; make it: make run GRID=synthetic$"):
        archives.pack_grid("synthetic", tmp_path / "out")
    assert main(["archive", "--grid", "synthetic", "--configfile", "mine.yaml", "my own.yaml"]) == 1
    assert "make it: make run GRID=synthetic CONFIG='mine.yaml my own.yaml'" in capsys.readouterr().err


def test_a_folder_that_is_no_archive_is_not_overwritten(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ArtifactError, match="not empty and no archive"):
        archives._refuse_foreign(tmp_path / "mine")


@pytest.mark.parametrize(
    ("commit", "warned"),
    [("a" * 40, False), ("a" * 40 + "+", True), (None, False)],
    ids=["clean", "changed", "no repository"],
)
def test_packing_from_a_changed_tree_is_warned_of(tmp_path, monkeypatch, capsys, commit, warned):
    (tmp_path / "a.tar.gz").touch()
    monkeypatch.setattr(archive, "pack_grid", lambda *_: {"commit": commit, "blocks": {}, "files": {}})
    assert archive.main("g", str(tmp_path / "a.tar.gz")) == 0
    error = capsys.readouterr().err
    assert (
        ("commit aaaaaaaaaaaa with changes in workflow_scripts that were not committed" in error)
        == warned
        == bool(error)
    )


def test_a_new_module_that_is_not_committed_is_a_change(tmp_path, monkeypatch):
    package = tmp_path / "workflow_scripts" / "judge"
    package.mkdir(parents=True)
    (package / "archive.py").touch()
    monkeypatch.setattr(archives, "__file__", str(package / "archive.py"))
    assert archives._commit() is None
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], [*author, "commit", "-q", "-m", "a"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    assert len(archives._commit()) == 40
    (tmp_path / "README.md").touch()
    assert len(archives._commit()) == 40
    (package / "new.py").touch()
    assert archives._commit().endswith("+")


# ------------------------------------------------------------------------------------------------ compare


def two_runs(tmp_path, change=None, noise=0.02, items=60):
    """Results of one grid, written twice; `change` alters the second's folder."""
    truth = study("m", GAINS)
    paths = write_grid(tmp_path / "a", truth, items, noise)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    others = [path.replace(f"{tmp_path}/a", f"{tmp_path}/b") for path in paths]
    if change:
        change(others)
    return read_results(paths), read_results(others)


def flip(task, count):
    def change(paths):
        for path in (path for path in paths if "gptq-w3" in path and "lora-r4" in path):
            samples = path.replace(".json", ".samples.parquet")
            frame = pd.read_parquet(samples)
            rows = frame.index[(frame["task"] == task) & ~frame["correct"]][:count]
            frame.loc[rows, "correct"] = True
            frame.to_parquet(samples, index=False)

    return change


def test_equal_runs_have_no_difference(tmp_path):
    report = compare(*two_runs(tmp_path), resamples=200)
    assert len(report["cells"]) == 6
    for row in report["cells"]:
        assert row["accuracy"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert row["accuracy"]["p"] == row["accuracy"]["p_holm"] == 1.0
        assert row["accuracy"]["smallest_detectable"] > 0
        assert row["differs"] == []
    assert lines(report)[-1] == "The manifests agree."


def test_a_planted_change_is_found_in_its_cell_and_task_alone(tmp_path):
    report = compare(*two_runs(tmp_path, flip("piqa", 20)), resamples=2000)
    changed = {
        row["cell"]["method"]: row for row in report["cells"] if row["accuracy"]["difference"]["value"]
    }
    assert list(changed) == ["lora-r4"]
    metric, task = changed["lora-r4"]["accuracy"], changed["lora-r4"]["tasks"]["piqa"]
    assert metric["difference"]["value"] == pytest.approx(20 / 60 / 9)
    assert metric["difference"]["low"] > 0
    assert (task["gained"], task["lost"]) == (20, 0) and task["p_holm"] < 0.01
    assert task["low"] < 1 / 3 < task["high"]
    assert "piqa: 20 items gained, 0 lost of 60" in "\n".join(lines(report))


def test_other_benchmark_data_are_never_paired(tmp_path):
    a, b = two_runs(tmp_path)
    first = next(iter(b.evaluations.values()))
    first["tasks"]["sciq"]["data_sha256"] = "f" * 64
    with pytest.raises(ArtifactError, match="evaluated on different sciq data"):
        compare(a, b, resamples=50)


def test_cells_of_one_side_are_named_and_no_common_cell_is_an_error(tmp_path):
    a, b = two_runs(tmp_path)
    lost = next(iter(b.evaluations))
    del b.evaluations[lost]
    report = compare(a, b, resamples=50)
    assert report["a"]["only"] == [str(lost)] and report["b"]["only"] == []
    b.evaluations.clear()
    with pytest.raises(ArtifactError, match="no cell"):
        compare(a, b)


def test_what_differs_between_manifests_is_named():
    one = {"code": "a", "libraries": {"torch": "1", "numpy": "2"}, "host": "x"}
    two = {"code": "b", "libraries": {"torch": "2", "numpy": "2"}, "host": "x"}
    assert provenance(one, two) == ["code", "libraries.torch"]


def test_a_cell_of_several_blocks_counts_in_the_first_so_that_no_block_seems_begun(tmp_path, monkeypatch):
    plan = Plan(load(read(*files(root=Path(__file__).parents[3]))))
    monkeypatch.chdir(tmp_path)
    for cell in plan.blocks("bench")["core"]:
        Path(cell.json).parent.mkdir(parents=True, exist_ok=True)
        Path(cell.json).touch()
    blocks = archives._blocks(plan, "bench")
    assert blocks.pop("core") == {"planned": 15, "evaluated": 15}
    assert sum(block["planned"] for block in blocks.values()) + 15 == len(plan.cells("bench"))
    assert not any(block["evaluated"] for block in blocks.values())

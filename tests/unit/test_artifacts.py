"""artifacts: atomic, checked, one writer; digests of code follow imports."""

import json
import multiprocessing
import os

import pytest

from workflow_scripts import artifacts
from workflow_scripts.artifacts import ArtifactError
from workflow_scripts.job import full_disks


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "a.json"
    artifacts.write_json(target, {"x": 1})
    with pytest.raises(ZeroDivisionError), artifacts.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert json.loads(target.read_text()) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_numbers_are_never_written(tmp_path, bad):
    with pytest.raises(ArtifactError, match=r"a\.json: \$\.tasks\[1\]\.acc"):
        artifacts.write_json(tmp_path / "a.json", {"tasks": [{"acc": 1.0}, {"acc": bad}]})
    assert not (tmp_path / "a.json").exists()


def test_reading_names_file_and_trouble(tmp_path):
    file = tmp_path / "a.json"
    with pytest.raises(ArtifactError, match="No such file"):
        artifacts.read_json(file)
    file.write_text('{"x": 1')
    with pytest.raises(ArtifactError, match=r"a\.json: not valid JSON"):
        artifacts.read_json(file)
    file.write_text('{"x": NaN}')
    with pytest.raises(ArtifactError, match=r"a\.json: holds NaN"):
        artifacts.read_json(file)


def test_an_artefact_that_was_changed_by_hand_is_refused_by_name(tmp_path):
    file = tmp_path / "a.json"
    artifacts.write_json(file, {"acc": 0.25, "manifest": {"recipe": "r", "pair": (1, 2)}})
    assert artifacts.read_json(file)["acc"] == 0.25
    file.write_text(file.read_text().replace("0.25", "0.75"))
    with pytest.raises(ArtifactError, match=r"a\.json: was changed after it was written"):
        artifacts.read_json(file)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    class Usage:
        free = 0

    assert full_disks(tmp_path / "not/yet/there.json") == ""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage)
    assert f"no space left on the disk of {tmp_path}" in full_disks(tmp_path / "not/yet/there.json")


def test_digest_ignores_key_order_and_sees_values():
    assert artifacts.digest({"a": 1, "b": 2}) == artifacts.digest({"b": 2, "a": 1})
    assert artifacts.digest({"a": 1}) != artifacts.digest({"a": 1.5})


def _hold(path, entered, leave):
    with artifacts.hold(path):
        entered.set()
        leave.wait(20)


def test_a_second_writer_is_told_who_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    context = multiprocessing.get_context("fork")
    entered, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=("results/x.json", entered, leave))
    other.start()
    assert entered.wait(20)
    told = rf"results/x\.json: is being written by pid {other.pid} on "
    with pytest.raises(ArtifactError, match=told), artifacts.hold("results/x.json"):
        pass
    leave.set()
    other.join()
    with artifacts.hold("results/x.json"):
        pass


def test_code_digests_follow_imports_but_not_optional_modules():
    optional = frozenset({"recover/idp.py"})
    without = artifacts.import_closure("evaluate_cell.py", optional=optional)
    within = artifacts.import_closure("evaluate_cell.py", ("recover/idp.py",), optional)
    assert "evaluate_cell.py" in without and "artifacts.py" in without
    assert "recover/idp.py" not in without and "recover/idp.py" in within
    assert artifacts.code_digest("evaluate_cell.py", (), optional) != artifacts.code_digest(
        "evaluate_cell.py", ("recover/idp.py",), optional
    )

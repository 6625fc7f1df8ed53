"""artifacts: atomic, checked, one writer; digests of code follow imports."""

import errno
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from workflow_scripts.files import artifacts, locks
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.disks import cause, full_disks
from workflow_scripts.plan import digests


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


@pytest.mark.parametrize(
    ("text", "key"),
    [('{"a": 1, "b": 2, "a": 3}', "a"), ('{"x": [{"b": 1, "b": 1}]}', "b"), ('{"\\u0061": 1, "a": 1}', "a")],
)
def test_a_key_that_stands_twice_is_refused_by_file_and_key(text, key, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(
        ArtifactError, match=rf"a\.json: not valid JSON \(the key '{key}' stands there twice\)"
    ):
        artifacts.read_json(tmp_path / "a.json")


@pytest.mark.parametrize("read", [artifacts.read_json, artifacts.safetensors_header])
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_refused_and_never_waited_for(read, kind, tmp_path):
    path = tmp_path / "a.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ArtifactError, match=r"a\.json: is no regular file"):
        read(path)


@pytest.mark.parametrize("error", [ArtifactError, ValueError, RuntimeError])
def test_an_error_names_the_file_and_not_the_temporary_one(error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    named = pytest.raises(ArtifactError, match=rf"^{tmp_path}/a\.json: is odd$")
    with named, artifacts.atomic_path(tmp_path / "a.json") as temporary:
        raise error(f"{temporary}: is odd")
    named = pytest.raises(ArtifactError, match=r"^given/x: is odd$")
    with named, locks.whole_folder(out, "given") as temporary:
        raise error(f"{temporary}/x: is odd")
    named = pytest.raises(ArtifactError, match=rf"^{out}: can't be written: No such file")
    with named, locks.whole_folder(out) as temporary:
        (temporary / "sub/x").write_text("")
    with pytest.raises(error, match=r"^another$"), locks.whole_folder(out):
        raise error("another")
    assert not (tmp_path / "out").exists()


def test_an_artefact_that_was_changed_by_hand_is_refused_by_name(tmp_path):
    file = tmp_path / "a.json"
    artifacts.write_json(file, {"acc": 0.25, "manifest": {"recipe": "r", "pair": (1, 2)}})
    assert artifacts.read_json(file)["acc"] == 0.25
    file.write_text(file.read_text().replace("0.25", "0.75"))
    with pytest.raises(ArtifactError, match=r"a\.json: was changed after it was written"):
        artifacts.read_json(file)


@pytest.mark.parametrize("seal", ["removed", None, ""])
def test_an_artefact_without_its_seal_is_refused_by_name(tmp_path, seal):
    """Or who edits it would only have to remove the seal, and with it the hash of the samples."""
    file = tmp_path / "a.json"
    artifacts.write_json(file, {"acc": 0.25, "manifest": {"samples_sha256": "0" * 64}})
    value = json.loads(file.read_text())
    value["manifest"] = {} if seal == "removed" else {"content_sha256": seal}
    file.write_text(json.dumps(value))
    with pytest.raises(ArtifactError, match=r"a\.json: was changed after it was written"):
        artifacts.read_json(file)
    file.write_text(json.dumps(value | {"manifest": None}))
    with pytest.raises(ArtifactError, match=r"a\.json: was changed after it was written"):
        artifacts.read_json(file)


def safetensors(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        safetensors(b"{}", 2**62),  # no such memory is asked for
        safetensors(b"{'no json'"),
        safetensors(b"[]"),
        safetensors(b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', data=b"1234"),
    ],
    ids=["empty", "short", "wild length", "no JSON", "no object", "cut data"],
)
def test_damaged_weights_are_named(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.safetensors: cut short, or no safetensors file"):
        artifacts.safetensors_header(tmp_path / "model.safetensors")


def test_a_header_as_long_as_the_weights_is_not_read(tmp_path):
    """A file of 20 GB whose first bytes say so was read into memory whole."""
    file = tmp_path / "model.safetensors"
    with file.open("wb") as handle:  # of holes: it takes no room
        handle.write((2**35).to_bytes(8, "little"))
        handle.truncate(2**35 + 8)
    with pytest.raises(
        ArtifactError, match=r"model\.safetensors: cut short, .*a header of 34359738368 bytes"
    ):
        artifacts.safetensors_header(file)


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
    with locks.hold(path):
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
    with pytest.raises(ArtifactError, match=told), locks.hold("results/x.json"):
        pass
    leave.set()
    other.join()
    with locks.hold("results/x.json"):
        pass


@pytest.mark.parametrize(
    ("artefact", "lock"),
    [
        (".", "work.lock"),
        ("x", "work/x.lock"),
        ("deep/x", "work/deep/x.lock"),
        ("/else/x", "work/else/x.lock"),
    ],
)
def test_the_lock_of_what_lies_in_no_shared_folder_is_in_work(tmp_path, monkeypatch, artefact, lock):
    monkeypatch.chdir(tmp_path)
    with locks.hold(artefact):
        assert locks.held_by(artefact)
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.lock")] == [lock]


def _look(path, looked, seconds):
    """As `make status` does, in a loop."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        locks.held_by(path)
        looked.set()


def test_who_looks_at_a_lock_stops_no_writer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with locks.hold("results/x.json"):
        pass
    context = multiprocessing.get_context("fork")
    looked = context.Event()
    other = context.Process(target=_look, args=("results/x.json", looked, 2))
    other.start()
    assert looked.wait(20)
    while other.is_alive():
        with locks.hold("results/x.json"):
            pass
    other.join()


@pytest.mark.parametrize(
    ("shared", "file"), [("results", "x.json"), ("results", "grid/x.json"), ("results/grid", "deep/x.json")]
)
def test_clones_that_share_a_folder_see_each_others_writers(tmp_path, monkeypatch, shared, file):
    (tmp_path / "one" / shared).mkdir(parents=True)
    (tmp_path / "two" / shared).parent.mkdir(parents=True)
    (tmp_path / "two" / shared).symlink_to(tmp_path / "one" / shared)
    monkeypatch.chdir(tmp_path / "one")
    with locks.hold(f"{shared}/{file}"):
        monkeypatch.chdir(tmp_path / "two")
        assert locks.held_by(f"{shared}/{file}")
        assert locks.held_by(f"{shared}/other.json") is None
    assert locks.held_by(f"{shared}/{file}") is None
    assert not (tmp_path / "two/work").exists()


def test_clones_that_share_all_results_see_each_others_runs(tmp_path, monkeypatch):
    (tmp_path / "one/results").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    (tmp_path / "two/results").symlink_to(tmp_path / "one/results")
    monkeypatch.chdir(tmp_path / "one")
    with locks.hold("results"):
        monkeypatch.chdir(tmp_path / "two")
        assert locks.held_by("results")


def test_code_digests_follow_imports_but_not_optional_modules():
    optional = frozenset({"recover/idp.py"})
    without = digests.import_closure("jobs/evaluate_cell.py", optional=optional)
    within = digests.import_closure("jobs/evaluate_cell.py", ("recover/idp.py",), optional)
    assert "jobs/evaluate_cell.py" in without and "files/artifacts.py" in without
    assert "recover/idp.py" not in without and "recover/idp.py" in within
    assert digests.code_digest("jobs/evaluate_cell.py", (), optional) != digests.code_digest(
        "jobs/evaluate_cell.py", ("recover/idp.py",), optional
    )


def test_a_disk_without_room_for_more_files_is_named(tmp_path, monkeypatch):
    room = {"f_frsize": 1, "f_blocks": 2**31, "f_bfree": 2**30, "f_bavail": 2**30}
    monkeypatch.setattr("os.statvfs", lambda folder: SimpleNamespace(f_files=10, f_favail=0, **room))
    said = f"no room for more files (inodes) on the disk of {tmp_path}: delete some and run again"
    assert full_disks(tmp_path / "a.json", tmp_path / "b.json") == f"; {said}"
    error = OSError(errno.ENOSPC, "No space left on device")
    assert cause(error, tmp_path / "a.json") == said


def test_a_file_of_another_user_is_named_with_its_owner(tmp_path, monkeypatch):
    """The folder's owner was told: the user himself, who may write there."""
    lock = tmp_path / ".lock"
    error = PermissionError(errno.EACCES, "Permission denied")
    assert f"may not write to {tmp_path} (of user" in cause(error, lock)
    lock.touch()
    os.chown(lock, 4321, -1) if os.getuid() == 0 else None
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert f"may not write to {lock} (of user {lock.stat().st_uid})" in cause(error, lock)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_file_that_cannot_be_written_says_why_and_leaves_nothing(tmp_path, monkeypatch, number):
    def refused(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(ArtifactError, match=r"value\.json: can't be written: .*(disk of|may not write to)"):
        artifacts.write_json(tmp_path / "value.json", {"a": 1})
    assert os.listdir(tmp_path) == []


def test_a_lock_of_another_user_is_named(tmp_path, monkeypatch):
    def refused(file, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    monkeypatch.chdir(tmp_path)
    with locks.hold("results/x"):
        pass
    monkeypatch.setattr("builtins.open", refused)
    for take in (lambda: locks.hold("results/x").__enter__(), lambda: locks.held_by("results/x")):
        with pytest.raises(
            ArtifactError, match=r"results/x: .*x\.lock.*Permission denied: user \d+ may not write"
        ):
            take()


@pytest.mark.skipif(os.geteuid() != 0, reason="acts as another user")
def test_what_another_users_killed_writer_left_stops_nobody(tmp_path):
    """In a folder where each user removes only his own files."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    host = socket.gethostname().replace(".", "-")
    left = shared / f".value.json.{host}.{int(gone.stdout)}.abcdef12.tmp"
    left.touch()
    if not (child := os.fork()):
        try:
            os.chdir(shared)  # other users can't enter the folders above
            os.setuid(65534)
            artifacts.write_json("value.json", {})
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert left.exists() and (shared / "value.json").exists()


def test_what_a_killed_writer_left_goes_with_the_next_and_that_of_a_living_one_stays(tmp_path):
    def write(end):
        with artifacts.atomic_path(tmp_path / "value.json") as temporary:
            temporary.write_text("half")
            end()

    for _ in range(2):
        if not (child := os.fork()):
            write(lambda: os._exit(9))
        os.waitpid(child, 0)
    assert len(os.listdir(tmp_path)) == 1, "the second writer did not sweep what the first had left"
    other = tmp_path / ".value.json.another-host.1.abcdef12.tmp"
    other.touch()
    with artifacts.atomic_path(tmp_path / "value.json") as mine:
        mine.write_text("whole")
        with artifacts.atomic_path(tmp_path / "value.json") as second:
            second.write_text("whole")
        assert mine.exists(), "a living writer's file was removed"
    assert sorted(os.listdir(tmp_path)) == [other.name, "value.json"]

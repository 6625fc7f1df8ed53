"""Wheels, members, folders: verified, offline after the first fetch, whole or not there at all."""

import io
import os
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from workflow_scripts.files import locks
from workflow_scripts.files.artifacts import ArtifactError, sha256_file, write_json
from workflow_scripts.sources import fetch


def make_wheel(path: Path, files: dict[str, bytes]) -> str:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sha256_file(path)


@pytest.fixture
def no_network(monkeypatch):
    """pip answers as it does without a network; the commands that would have run are returned."""
    calls = []

    def run(command, **kwargs):
        calls.append(command)
        error = "WARNING: retrying\nERROR: No matching distribution found for some-data==1.0\n"
        return subprocess.CompletedProcess(command, 1, "", error)

    monkeypatch.setattr(fetch.subprocess, "run", run)
    return calls


def pip_that_delivers(monkeypatch, files):
    def run(command, **kwargs):
        folder = Path(next(part for part in command if part.startswith("--dest=")).removeprefix("--dest="))
        make_wheel(folder / "some_data-1.0-py3-none-any.whl", files)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch.subprocess, "run", run)


def test_cached_wheel_needs_no_network(tmp_path, no_network):
    sha256 = make_wheel(tmp_path / "some_data-1.0-py3-none-any.whl", {"a.txt": b"a"})
    assert fetch.pypi_wheel("Some.Data", "1.0", sha256, tmp_path).name == "some_data-1.0-py3-none-any.whl"
    assert no_network == []


def test_missing_wheel_without_network_says_what_to_do(tmp_path, no_network):
    with pytest.raises(
        ArtifactError, match=r"some-data==1\.0 is not in .*copy the wheel.*No matching distribution"
    ):
        fetch.pypi_wheel("some-data", "1.0", "0" * 64, tmp_path)
    command = no_network[0]
    assert "--no-deps" in command and "some-data==1.0" in command
    assert list(tmp_path.glob("*.whl")) == []


def test_downloaded_wheel_with_another_hash_is_refused(tmp_path, monkeypatch):
    pip_that_delivers(monkeypatch, {"a.txt": b"a"})
    with pytest.raises(
        ArtifactError, match=rf"some-data==1\.0 has SHA-256 [0-9a-f]{{64}}, pinned is {'0' * 64}"
    ):
        fetch.pypi_wheel("some-data", "1.0", "0" * 64, tmp_path)
    assert list(tmp_path.glob("*.whl")) == []


def test_damaged_cached_wheel_is_downloaded_again(tmp_path, monkeypatch):
    pip_that_delivers(monkeypatch, {"a.txt": b"a"})
    sha256 = make_wheel(tmp_path / "right.zip", {"a.txt": b"a"})
    wheel = tmp_path / "some_data-1.0-py3-none-any.whl"
    wheel.write_bytes(b"half a down")
    if make_wheel(tmp_path / "again.zip", {"a.txt": b"a"}) != sha256:
        pytest.skip("the clock ticked between two archives")
    assert sha256_file(fetch.pypi_wheel("some-data", "1.0", sha256, tmp_path)) == sha256


def test_members_and_members_of_members(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep/b.txt", b"inside" * 100)
    wheel = tmp_path / "x.whl"
    make_wheel(wheel, {"a.txt": b"outside", "data/c.jar": inner.getvalue()})
    assert fetch.read_member(wheel, "a.txt") == b"outside"
    assert fetch.read_member(wheel, "data/c.jar!deep/b.txt") == b"inside" * 100
    fetch.extract_member(wheel, "a.txt", tmp_path / "copy.txt")
    assert (tmp_path / "copy.txt").read_bytes() == b"outside"
    for member in ("z.txt", "data/c.jar!z.txt"):
        with pytest.raises(ArtifactError, match=rf"x\.whl: holds no file '{member}'"):
            fetch.read_member(wheel, member)
    with pytest.raises(ArtifactError, match="not a readable archive"):
        fetch.read_member(wheel, "a.txt!b.txt")


def test_folder_is_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "things" / "one"
    with pytest.raises(RuntimeError, match="half way"), locks.whole_folder(folder) as temporary:
        (temporary / "a").write_text("new")
        raise RuntimeError("half way")
    assert not folder.exists() and list(folder.parent.iterdir()) == []

    abandoned = folder.parent / ".one.12345678.tmp"  # what a killed writer leaves
    abandoned.mkdir()
    folder.mkdir()
    (folder / "old").write_text("old")
    with locks.whole_folder(folder) as temporary:
        (temporary / "a").write_text("new")
    assert [path.name for path in folder.parent.iterdir()] == ["one"]
    assert [path.name for path in folder.iterdir()] == ["a"]


def test_a_folder_whose_name_begins_another_leaves_its_writer_alone(tmp_path, monkeypatch):
    """`qwen2` removed what the fetch of `qwen2.5-0.5b` was writing."""
    monkeypatch.chdir(tmp_path)
    with locks.whole_folder(tmp_path / "qwen2.5-0.5b") as temporary:
        (temporary / "a").write_text("half")
        with locks.whole_folder(tmp_path / "qwen2"):
            pass
        assert (temporary / "a").exists()


def test_second_writer_stops(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with locks.whole_folder(tmp_path / "one"):  # noqa: SIM117
        with (
            pytest.raises(ArtifactError, match="is being written by pid"),
            locks.whole_folder(tmp_path / "one"),
        ):
            pass


def test_lines_round_trip_and_name_a_bad_line(tmp_path):
    rows = [{"text": "ünïcode\nand\u2028line breaks"}, {"text": ""}]
    assert fetch.write_lines(tmp_path / "a.jsonl", rows) == 2
    assert fetch.read_lines(tmp_path / "a.jsonl") == rows
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2
    (tmp_path / "b.jsonl").write_text('{"text": 1}\n{"text": \n')
    with pytest.raises(ArtifactError, match=r"b\.jsonl: line 2: not JSON"):
        fetch.read_lines(tmp_path / "b.jsonl")
    with pytest.raises(ArtifactError, match="can't be read: No such file"):
        fetch.read_lines(tmp_path / "c.jsonl")


def test_changed_or_missing_file_is_named(tmp_path):
    (tmp_path / "data").write_text("x")
    sha256 = sha256_file(tmp_path / "data")
    manifest = {
        "name": "t",
        "recipe": "",
        "code": "",
        "source": "local",
        "revision": None,
        "origin": {},
        "split": "",
        "files": {"data": sha256},
        "sha256": sha256,
        "items": 1,
        "licence": "",
        "notes": "",
    }
    write_json(tmp_path / "manifest.json", manifest)
    assert fetch.verified_manifest(tmp_path, "benchmark") == manifest
    (tmp_path / "data").write_text("y")
    assert fetch.verified_manifest(tmp_path, "benchmark") == manifest  # once per process and manifest
    os.utime(tmp_path / "manifest.json", ns=(0, 0))
    with pytest.raises(ArtifactError, match=r"data: SHA-256 is .* changed since it was fetched"):
        fetch.verified_manifest(tmp_path, "benchmark")
    (tmp_path / "data").unlink()
    with pytest.raises(ArtifactError, match="data: missing"):
        fetch.verified_manifest(tmp_path, "benchmark")


ROW = '{"text": "a"}\n'
BAD = {
    "nan": (ROW + '{"text": NaN}\n', "line 2: not JSON (NaN is no number of JSON)"),
    "infinite": (ROW + '{"text": 1e999}\n', "line 2: $.text: not a finite number"),
    "surrogate": (
        ROW + '{"text": "a \\ud83d b"}\n',
        "line 2: holds \\ud83d, half of a character (a lone surrogate)",
    ),
    "escaped NUL": (ROW + '{"text": "a\\u0000"}\n', "line 2: holds a NUL character"),
    "NUL": (ROW + '{"text": "a\0"}\n', "line 2: holds a NUL byte; save the file as UTF-8"),
    "deep": (ROW + "[" * 100_000 + "\n", "line 2: not JSON (nested too deeply)"),
    "a key twice": (
        ROW + '{"text": "a", "label": 0, "label": 1}\n',
        "line 2: not JSON (the key 'label' stands there twice)",
    ),
    "a key twice inside": (
        ROW + '{"text": {"a": 1, "a": 1}}\n',
        "line 2: not JSON (the key 'a' stands there twice)",
    ),
    "cut": (ROW + ROW + '{"text": "a', "line 3: not JSON (Unterminated string"),
    "latin-1": (
        (ROW + '{"text": "é"}\n').encode("latin-1"),
        "line 2: is not UTF-8 (byte 0xe9); save the file as UTF-8",
    ),
    "UTF-16": (ROW.encode("utf-16"), "line 1: is UTF-16; save the file as UTF-8"),
    "UTF-16 without BOM": (ROW.encode("utf-16-le"), "line 1: holds a NUL byte; save the file as UTF-8"),
    "BOM": (ROW.encode("utf-8-sig"), "line 1: begins with a byte order mark; save the file as UTF-8 without"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_line_that_is_no_text_or_no_json_is_named(case, tmp_path):
    content, said = BAD[case]
    file = tmp_path / "mine.jsonl"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ArtifactError, match=re.escape(f"{file}: {said}")):
        fetch.read_lines(file)


def test_a_backslash_before_u0000_is_text_and_pairs_of_surrogates_are_characters(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "\\\\u0000 \\ud83d\\ude00"}\n')
    assert fetch.read_lines(tmp_path / "a.jsonl") == [{"text": "\\u0000 😀"}]

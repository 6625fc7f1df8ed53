"""What the test jobs of `make preflight` can tell of a shared folder."""

import subprocess
import sys
import threading
import time

import pytest

from workflow_scripts.artifacts import ArtifactError
from workflow_scripts.preflight import SIZE, reading_request, reads_whole, replaced
from workflow_scripts.slurm import REQUEST


def test_a_file_that_is_renamed_into_place_is_seen_whole(tmp_path):
    """By a process of its own, as on a node."""
    look = "from workflow_scripts.preflight import *; sys.exit(0 if reads_whole(Path(sys.argv[1])) else 7)"
    with replaced(tmp_path / "file"):
        seen = subprocess.run([sys.executable, "-c", look, str(tmp_path / "file")], check=False)
    assert seen.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_is_written_in_place_is_seen_cut_short(tmp_path):
    end, file = threading.Event(), tmp_path / "file"
    file.write_text("a" * SIZE)

    def write() -> None:
        while not end.is_set():
            with open(file, "w", buffering=1024) as handle:
                for _ in range(SIZE // 1024):
                    handle.write("b" * 1024)
                    end.wait(0.0005)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert not reads_whole(file)
    finally:
        end.set()
        writer.join()


def test_a_file_that_is_not_there_is_not_whole(tmp_path):
    assert not reads_whole(tmp_path / "file")


def test_a_folder_that_can_no_longer_be_written_does_not_pass(tmp_path):
    (folder := tmp_path / "shared").mkdir()
    words = "file: can't be written: No such file or directory"
    with pytest.raises(ArtifactError, match=words), replaced(folder / "file"):
        folder.rename(tmp_path / "moved")
        time.sleep(0.2)


def test_jobs_that_only_read_ask_for_what_the_profile_says():
    request = reading_request()
    assert request == {"nodes": 1, "mem_mb": 4000, "runtime": 60} and set(request) <= set(REQUEST)

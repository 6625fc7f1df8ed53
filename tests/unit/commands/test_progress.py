"""A run's line: what it says, that it moves on a terminal under Snakemake's words, and the causes at the end."""

import os
import pty
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workflow_scripts.__main__ import main
from workflow_scripts.commands import progress, run
from workflow_scripts.files.artifacts import write_json
from workflow_scripts.files.job import FINISHED
from workflow_scripts.files.locks import hold
from workflow_scripts.files.members import RESULTS
from workflow_scripts.plan.config import files
from workflow_scripts.plan.recipes import plan_of

ROOT = Path(__file__).parents[3]
SHOWS = """
import subprocess, sys
from workflow_scripts.commands import progress
progress.OFTEN = 0.1
lines = iter(range(1000))
with progress.shown(lambda: f"{next(lines)} of 15 cells"):
    subprocess.run(["sh", "-c", "echo Job 1; sleep 0.5; echo Job 2 >&2; sleep 0.5; printf end"])
print("done")
"""


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    for name in files():
        shutil.copy(ROOT / name, name)
    return plan_of(files(), "smoke")


def write_log(path: str, text: str) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    return Path(path)


def test_the_line_counts_cells_names_a_running_job_with_its_own_progress_and_gives_the_time_left(plan):
    watch, cells = progress.Watch(plan, "smoke"), plan.cells("smoke")
    assert watch.line().startswith("0 of 15 cells; about ")
    for cell in cells[:2]:
        write_json(cell.json, {"manifest": {"recipe": plan.evaluate_recipe(cell), "seconds": 60.0}})
        Path(cell.samples).touch()
    assert watch.line().startswith("2 of 15 cells; about ") and watch.line().endswith(" left")
    work = next(work for work in watch.works if work.rule == "train_adapter")
    write_log(
        work.log,
        "[train] 2,048 of 10,240 tokens, loss 3.1\n[train] 400 of 1,200 tokens, loss 3.0, 90 s left\n",
    )
    with hold(work.writes):
        assert f"; train_adapter {work.name}: 400 of 1,200 tokens; about " in watch.line()
        other = next(work for work in watch.works if work.rule == "compress_model")
        with hold(other.writes):
            assert " and 1 more; about " in watch.line()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("layer 16/18 (from checkpoint): error q 0.1; 12 s, about 2 s left\n", ": layer 16 of 18"),
        ("[2/9] arc_easy: 40 of 200 documents\n", ": [2/9] arc_easy: 40 of 200 documents"),
        ("[2/9] arc_easy: 200 items, acc 0.3, 2 s\nperplexity text: 9 (windowed)\n", ": [2/9] arc_easy"),
        ("loads\n", ""),
    ],
)
def test_a_jobs_own_progress_is_what_its_log_said_last(log, said, tmp_path):
    assert progress._progress(str(write_log(f"{tmp_path}/x.log", log))) == said
    assert progress._progress(f"{tmp_path}/none.log") == ""


def test_on_a_terminal_the_line_moves_under_all_that_a_child_says():
    terminal, end = pty.openpty()
    command = [sys.executable, "-c", SHOWS]
    process = subprocess.Popen(command, cwd=ROOT, stdout=end, stderr=end)
    os.close(end)
    shown = b""
    while piece := _read(terminal):
        shown += piece
    assert process.wait() == 0
    lines = shown.decode().replace("\r\n", "\n").split("\n")
    assert [line.rpartition("\x1b[K")[2] for line in lines if "Job" in line] == ["Job 1", "Job 2"]
    assert "\x1b[K0 of 15 cells" in shown.decode() and "\x1b[K1 of 15 cells" in shown.decode()
    assert lines[-2].endswith("\x1b[Kdone")  # nothing of the moving line is left


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other end is closed
        return b""


def test_in_a_log_there_is_a_plain_line_now_and_then():
    command = [sys.executable, "-c", SHOWS.replace("OFTEN = 0.1", "SELDOM = 0.2")]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout == "Job 1\nenddone\n" and "\x1b" not in done.stderr
    assert {"0 of 15 cells", "1 of 15 cells", "Job 2"} <= set(done.stderr.splitlines())


def test_the_causes_of_failed_jobs_are_repeated_at_the_end(plan, monkeypatch, capsys):
    with hold(RESULTS):
        earlier = write_log(
            "logs/smoke/evaluate_cell/a/seed-0.log", "Traceback (most recent call last)\nOld: x\n"
        )
    os.utime(earlier, (time.time() - 100,) * 2)
    os.utime("results/.locks/.lock", (time.time() - 50,) * 2)

    def fails(command):
        with hold(RESULTS):
            write_log("logs/fetch_model/m.log", f"ok\n{FINISHED}\n")
            write_log(
                "logs/smoke/train_adapter/b/seed-0.log",
                "x\nTraceback (most recent call last)\n  ...\nValueError: no room\n",
            )
            write_log("logs/smoke/evaluate_cell/c/seed-0.log", "layer 1/2\n")
        return 1

    monkeypatch.setattr(run, "follow", fails)
    assert main(["run", "--grid", "smoke"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "The run did not finish. Failed jobs:",
        "logs/smoke/evaluate_cell/c/seed-0.log: stopped without a message (killed?)",
        "logs/smoke/train_adapter/b/seed-0.log: ValueError: no room",
    ]
    monkeypatch.setattr(run, "follow", lambda command: 1)  # refused before any job
    assert main(["run", "--grid", "smoke"]) == 1
    assert capsys.readouterr().err == "The run did not finish: see the lines above.\n"

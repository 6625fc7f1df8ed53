"""How a run is stopped: Snakemake gets the time to cancel its jobs and remove its lock."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace as Any

import pytest

from workflow_scripts import run_grid, runs
from workflow_scripts.artifacts import ArtifactError

ROOT = Path(__file__).parents[2]
CHILD = """
import signal, sys, time
stop = lambda *_: (time.sleep(0.6), open("cleaned", "w").close(), sys.exit(3))
signal.signal(signal.SIGINT, stop), signal.signal(signal.SIGTERM, stop)
open("ready", "w").close()
time.sleep(60)
"""
PARENT = """
import sys
from workflow_scripts.run_grid import follow
sys.exit(follow([sys.executable, "-c", sys.argv[1]]))
"""


def test_a_configuration_that_cannot_be_read_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_grid.main("smoke", [], configfiles=["nope.yaml"]) == 1
    assert capsys.readouterr().err == "nope.yaml: can't be read: No such file or directory\n"


@pytest.mark.parametrize("by", ["Ctrl-C", "SIGTERM"])
def test_snakemake_may_clean_up(by, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    if by == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)
    else:
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 3
    assert (tmp_path / "cleaned").exists()


def test_a_local_source_that_is_not_there_stops_a_run_before_its_first_job(tmp_path):
    def fetch(path, source="local", rule="fetch_model"):
        arguments = {"name": "mine", "spec": {"source": source, "path": str(path)}}
        return Any(rule=Any(name=rule), params=Any(args=arguments))

    cell = Any(rule=Any(name="evaluate_cell"), params=Any(args={}))
    runs.refuse_missing_sources([cell, fetch(tmp_path), fetch("nowhere", "hub")])
    with pytest.raises(ArtifactError, match=r"fetch_corpus mine: nowhere/text.jsonl: no such file or folder"):
        runs.refuse_missing_sources([cell, fetch("nowhere/text.jsonl", rule="fetch_corpus")])

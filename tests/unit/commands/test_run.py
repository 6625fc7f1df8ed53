"""How a run is stopped: Snakemake gets the time to cancel its jobs and remove its lock."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace as Any

import pytest

from workflow_scripts.__main__ import main
from workflow_scripts.cluster import runs
from workflow_scripts.commands import new, run
from workflow_scripts.files.artifacts import ArtifactError, sha256_file, write_json
from workflow_scripts.files.job import as_text
from workflow_scripts.plan.config import files
from workflow_scripts.plan.kinds import of_model
from workflow_scripts.plan.layout import STAMP, VERDICT
from workflow_scripts.plan.recipes import Plan, plan_of
from workflow_scripts.plan.upgrades import as_if

ROOT = Path(__file__).parents[3]
CHILD = """
import signal, sys, time
stop = lambda *_: (time.sleep(0.6), open("cleaned", "w").close(), sys.exit(3))
signal.signal(signal.SIGINT, stop), signal.signal(signal.SIGTERM, stop)
open("ready", "w").close()
time.sleep(60)
"""
PARENT = """
import sys
from workflow_scripts.commands.run import follow
sys.exit(follow([sys.executable, "-c", sys.argv[1]]))
"""


def test_a_configuration_that_cannot_be_read_is_named(on_the_cluster, capsys):
    assert main(["run", "--grid", "smoke", "--configfile", "nope.yaml"]) == 1
    assert capsys.readouterr().err == "nope.yaml: can't be read: No such file or directory\n"


@pytest.mark.parametrize("command", ["run", "check", "forecast"])
@pytest.mark.parametrize("name", ["mine.yaml", "config.yaml"])
def test_a_file_on_which_snakemake_would_hang_is_refused_before_it_starts(
    name, command, on_the_cluster, monkeypatch, capsys
):
    """Snakemake merges such a file node by node, before any code of ours."""
    shutil.rmtree(".snakemake")
    bomb = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9 if i else ['x'] * 9)}]\n" for i in range(12))
    Path(name).write_text(bomb)
    monkeypatch.setattr(run, "follow", lambda command: pytest.fail("Snakemake was started"))
    started = time.monotonic()
    assert main([command, "--grid", "smoke", "--configfile", "mine.yaml"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"{name}: ") and told.count("\n") == 1 and time.monotonic() - started < 20


@pytest.mark.parametrize("by", ["Ctrl-C", "SIGTERM"])
def test_snakemake_may_clean_up(by, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PARENT, CHILD]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True)
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
        arguments = {"name": "mine", "spec": {"source": source}}
        beside = as_text({"details": {"path": str(path)}})
        return Any(rule=Any(name=rule), params=Any(args=as_text(arguments), beside=beside))

    cell = Any(rule=Any(name="evaluate_cell"), params=Any(args="{}"))
    runs.refuse_missing_sources([cell, fetch(tmp_path), fetch("nowhere", "hub")])
    with pytest.raises(ArtifactError, match=r"fetch_corpus mine: /.*/nowhere/text.jsonl: no such file"):
        runs.refuse_missing_sources([cell, fetch("nowhere/text.jsonl", rule="fetch_corpus")])


@pytest.fixture
def on_the_cluster(tmp_path, monkeypatch):
    """A folder of which one job waits in a queue; what is asked of scancel goes to cancelled."""
    (folder := tmp_path / "bin").mkdir()
    scripts = {
        "squeue": f'echo "7|displaced_x|PENDING|Priority|{tmp_path}|"',
        "scancel": "echo $* >> cancelled",
    }
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    Path(".snakemake/slurm_logs").mkdir(parents=True)
    Path("mine.yaml").write_text("{}")
    Path("config").mkdir()
    for name in files():
        shutil.copy(ROOT / name, name)
    return folder


def test_a_run_on_the_cluster_is_not_resumed_on_this_machine(on_the_cluster, monkeypatch, capsys):
    monkeypatch.setattr(run, "follow", lambda command: pytest.fail("it ran"))
    assert main(["run", "--grid", "smoke", "--resume", "--blocks", "core", "--configfile", "mine.yaml"]) == 1
    told = capsys.readouterr().err
    assert "make resume GRID=smoke BLOCKS=core CONFIG=mine.yaml PROFILE=slurm" in told
    assert not Path("cancelled").exists()


def test_jobs_that_are_left_and_a_silent_cluster_are_one_line_each(on_the_cluster):
    with pytest.raises(ArtifactError, match=r"jobs of an earlier run .* still on the cluster \(7\)"):
        runs.begin(on_cluster=True)
    (on_the_cluster / "squeue").write_text("#!/bin/sh\necho Unable to contact slurm controller >&2; exit 1\n")
    with pytest.raises(ArtifactError, match="are left: squeue: Unable to contact slurm controller"):
        runs.begin(on_cluster=True)


@pytest.mark.parametrize("command", ["run", "adopt", "new", "rebuild"])
def test_a_cache_that_snakemake_could_not_write_is_named(on_the_cluster, monkeypatch, capsys, command):
    monkeypatch.setattr(run, "follow", lambda command: pytest.fail("it ran"))
    monkeypatch.setattr(new, "follow", lambda command: pytest.fail("it ran"))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it ran"))
    words = {
        "run": ["--grid", "smoke"],
        "adopt": ["--grid", "smoke"],
        "new": ["somewhere"],
        "rebuild": ["archive"],
    }[command]
    (on_the_cluster / "file").touch()
    cache = on_the_cluster / "file" / "cache"
    for variable, cache, why in (
        ("XDG_CACHE_HOME", on_the_cluster / "file", "File exists"),
        ("HOME", on_the_cluster / "file" / ".cache", "Not a directory"),
        ("HOME", Path("/proc/nobody/.cache"), "No such file or directory"),
        ("XDG_CACHE_HOME", on_the_cluster, "can't be written"),
    ):
        with monkeypatch.context() as closed:
            closed.delenv("XDG_CACHE_HOME", raising=False)
            closed.setenv(variable, str(cache.parent if variable == "HOME" else cache))
            closed.setattr(os, "access", lambda path, mode: False)
            assert main([command, *words]) == 1
        assert capsys.readouterr().err == (
            f"{cache}: {why}. Snakemake keeps its cache there: set XDG_CACHE_HOME to a folder where you may write\n"
        )


def report(plan: Plan, **changes: str) -> None:
    """A verdict, and the record of a report on the cells that are there; changes: other digests, by path."""
    files = {cell.json: sha256_file(cell.json) for cell in plan.cells("smoke") if Path(cell.json).exists()}
    recipe = plan.analysis("smoke", "report_grid")["recipe"]
    write_json(STAMP.path("smoke"), {"recipe": recipe, "files": files} | changes)
    write_json(VERDICT.path("smoke"), {})


@pytest.mark.parametrize(
    "stale", ["a cell made again", "a cell that came later", "another recipe", "no report"]
)
def test_a_run_is_complete_only_if_its_verdict_is_of_its_cells(on_the_cluster, monkeypatch, capsys, stale):
    """`run --until evaluate_cell` printed the verdict of the cells that had been there before."""
    shutil.rmtree(".snakemake")  # no cluster
    plan = plan_of(files("mine.yaml"), "smoke")
    for cell in plan.cells("smoke"):
        Path(cell.samples).parent.mkdir(parents=True, exist_ok=True)
        Path(cell.samples).touch()
        Path(cell.json).write_text(f'{{"manifest": {{"recipe": "{plan.evaluate_recipe(cell)}"}}}}')
    first = Path(plan.cells("smoke")[0].json)
    text = first.read_text()
    if stale == "a cell that came later":
        first.unlink()
    report(plan, **({"recipe": "0" * 64} if stale == "another recipe" else {}))
    first.write_text(text + " " * (stale == "a cell made again"))
    if stale == "no report":
        Path(STAMP.path("smoke")).unlink()
    monkeypatch.setattr(run, "follow", lambda command: 0)
    assert main(["run", "--grid", "smoke", "--configfile", "mine.yaml"]) == 1
    said = capsys.readouterr()
    assert "complete" not in said.out
    assert "the verdict of grid 'smoke' was not made from its cells as they are now" in said.err
    assert "snakemake --configfile mine.yaml -- results/smoke/report.html" in said.err


@pytest.mark.parametrize("lost", [0, 1, 15])
def test_a_run_is_complete_only_if_its_cells_are_there(on_the_cluster, monkeypatch, capsys, lost):
    shutil.rmtree(".snakemake")  # no cluster
    plan = plan_of(files("mine.yaml"), "smoke")
    for cell in plan.cells("smoke")[lost:]:
        Path(cell.samples).parent.mkdir(parents=True, exist_ok=True)
        Path(cell.samples).touch()
        Path(cell.json).write_text(f'{{"manifest": {{"recipe": "{plan.evaluate_recipe(cell)}"}}}}')
    monkeypatch.setattr(run, "follow", lambda command: 0)
    monkeypatch.setattr(run, "lines", lambda verdict: [])
    report(plan)
    assert main(["run", "--grid", "smoke", "--configfile", "mine.yaml"]) == (1 if lost else 0)
    said = capsys.readouterr()
    if not lost:
        assert "Grid 'smoke' is complete" in said.out
    else:
        assert "complete" not in said.out
        assert f"grid 'smoke' is not complete: {lost} of 15 cells are missing or not as planned" in said.err
        assert f"snakemake --force --configfile mine.yaml -- {plan.cells('smoke')[0].json}" in said.err


def test_a_dry_run_claims_nothing(on_the_cluster, monkeypatch, capsys):
    shutil.rmtree(".snakemake")
    monkeypatch.setattr(run, "follow", lambda command: 0)
    assert main(["run", "--grid", "smoke", "--dry-run"]) == 0
    assert "complete" not in capsys.readouterr().out


def test_results_of_an_older_code_may_be_kept_and_a_run_says_so(on_the_cluster, monkeypatch, capsys):
    shutil.rmtree(".snakemake")
    plan = plan_of(files(), "smoke")
    cell = plan.cells("smoke")[0]
    monkeypatch.setattr(run, "follow", lambda command: 0)
    for older in (False, True):
        if older:
            code = "0" * 64
            kind = of_model(plan.evaluation_kind(cell), cell.model)[0]
            then = as_if(plan, {(False, plan.evaluate(cell)["code"], kind): code})
            manifest = {"code": code, "recipe": then.evaluate_recipe(cell)}
            write_json(cell.json, {"manifest": manifest})
            Path(cell.samples).touch()
        assert main(["run", "--grid", "smoke", "--dry-run"]) == 0
        said = capsys.readouterr().out
        assert ("1 results differ" in said and "`make adopt GRID=smoke`" in said) == older


@pytest.mark.parametrize("status", [0, 1])
def test_jobs_that_must_succeed_first_stop_the_run(status, on_the_cluster, monkeypatch):
    shutil.rmtree(".snakemake")
    commands = []
    monkeypatch.setattr(run, "follow", lambda command: commands.append(command) or status)
    if status:
        assert run.main("smoke", first="compress_model") == status
        [first] = commands
    else:
        with pytest.raises(ArtifactError, match="grid 'smoke' is not complete"):
            run.main("smoke", first="compress_model")
        first, whole = commands
        assert first == [*whole, "--until", "compress_model"]
    assert first[-2:] == ["--until", "compress_model"]

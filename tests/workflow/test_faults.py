"""Faults: bad configuration, broken artefacts, a killed run. Clear words, nothing computed is lost."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.workflow.conftest import Checkout, jobs_of, product_copy
from workflow_scripts.plan.config import load
from workflow_scripts.plan.layout import companions
from workflow_scripts.plan.recipes import Plan


def test_a_bad_configuration_stops_before_any_job_without_a_traceback(copied):
    config = copied.config()
    config["compressors"]["gptq-w3"]["bits"] = 9
    config["methods"]["idp-5-8"]["members"] = ["prompt-55", "prompt-8"]
    copied.write_config(config)
    done = copied.snakemake(check=False)
    assert done.returncode == 1
    assert "compressors.gptq-w3.bits: 9 is not allowed; allowed: from 2 to 8" in done.stdout
    assert not [word for word in ("Traceback", "common.smk", "Job ") if word in done.stdout]
    config["compressors"]["gptq-w3"]["bits"] = 3
    copied.write_config(config)
    assert "did you mean 'prompt-5'?" in copied.snakemake(check=False).stdout


def test_a_path_with_an_unknown_name_is_answered_with_the_nearest(copied):
    cell = "results/tiny/evaluations/tiny/gptq-w5/text/none/seed-0.json"
    done = copied.snakemake("--dry-run", cell, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout and "MissingRule" not in done.stdout
    assert "'gptq-w5' is no name in compressors" in done.stdout and "did you mean 'gptq-w3'?" in done.stdout


def test_compressed_weights_that_changed_are_refused_by_name(copied):
    plan = Plan(load(copied.config()))
    cell = next(c for c in plan.cells("tiny") if c.method == "none" and c.compressor == "gptq-w3")
    weights = (copied.folder / plan.compression(cell)).with_name("weights.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 255
    weights.write_bytes(data)
    finished = [(copied.folder / file).read_bytes() for file in (cell.json, cell.samples)]
    done = copied.snakemake("--force", cell.json, check=False)
    assert done.returncode == 1
    kept = [(copied.folder / file).read_bytes() for file in (cell.json, cell.samples)]
    assert kept == finished, "the finished cell is gone, and there is no new one"
    line = next(line for line in done.stdout.splitlines() if line.startswith(f"evaluate_cell: {cell.json}: "))
    assert "weights.safetensors" in line and "(log: logs/tiny/evaluate_cell/" in line
    assert "Traceback" not in done.stdout


def test_files_from_the_future_cost_no_result(copied):
    """As after a clock that was set back: Snakemake deletes what is older than an input."""
    cell = next(c for c in Plan(load(copied.config())).cells("tiny") if c.method == "lora-r2")
    later = time.time() + 3600
    for folder in ("resources", "results"):
        for file in (copied.folder / folder).rglob("*"):
            os.utime(file, (later, later))
    assert "Nothing to be done" in copied.snakemake("--dry-run").stdout
    for file in (cell.json, cell.training, *companions(cell.training)):
        (copied.folder / file).unlink()
    copied.snakemake(cell.json)
    assert (copied.folder / cell.json).exists() and (copied.folder / cell.training).exists()
    assert "Nothing to be done" in copied.snakemake("--dry-run", cell.json).stdout


SBATCH = """#!/bin/sh
case "$*" in *--test-only*) exit 0;; esac
echo "sbatch: error: Batch job submission failed: Invalid account" >&2; exit 1
"""
SCONTROL = "#!/bin/sh\necho 'PartitionName=main Default=YES MaxTime=UNLIMITED State=UP'\n"


@pytest.mark.slow
def test_a_finished_cell_stays_if_its_job_can_not_be_sent(copied, tmp_path, monkeypatch):
    """Of a job that is sent to a cluster Snakemake keeps no older version."""
    for name, text in {"sbatch": SBATCH, "scontrol": SCONTROL}.items() | dict.fromkeys(
        ("squeue", "sacct", "sacctmgr", "sinfo", "scancel"), "#!/bin/sh\n"
    ).items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cell = next(c for c in Plan(load(copied.config())).cells("tiny") if c.method == "lora-r2")
    files = [copied.folder / file for file in (cell.json, cell.samples, *companions(cell.training))]
    finished = [file.read_bytes() for file in files]
    sent = ("--profile", "profiles/slurm", "--config", "grid=tiny", "--retries", "1")
    for target in (cell.json, cell.training):
        done = copied.snakemake(*sent, "--force", "--", target, check=False)
        assert done.returncode == 1 and "SLURM sbatch failed" in done.stdout
        assert [file.read_bytes() for file in files] == finished


def test_what_the_loader_refuses_is_refused_whoever_reads_the_file(copied):
    (copied.folder / "mine.yaml").write_text("activation_memory: 3\nactivation_memory: 4\n")
    said = "mine.yaml: line 2: the key 'activation_memory' stands in line 1 already"
    for done in (
        copied.snakemake("--dry-run", "--configfile", "mine.yaml", check=False),
        copied.displaced("run", "--grid", "tiny", "--configfile", "mine.yaml"),
        copied.displaced("status", "--grid", "tiny", "--configfile", "mine.yaml"),
    ):
        assert done.returncode == 1 and said in done.stdout and "Traceback" not in done.stdout
    (copied.folder / "mine.yaml").write_text(
        "activation_memory: 3e0\ngrids: {tiny: {evaluation: {items: 6.0}}}\n"
    )
    assert "Nothing to be done" in copied.snakemake("--dry-run", "--configfile", "mine.yaml").stdout


def test_a_cell_that_cannot_be_and_a_source_that_is_gone_are_one_line_in_a_dry_run(copied):
    cell = "results/tiny/evaluations/tiny/gptq-w3/none/prompt-5/seed-0.json"
    done = copied.snakemake("--dry-run", cell, check=False)
    assert done.returncode == 1 and f"Nothing was started: {cell}: corpus 'none' can't be" in done.stdout
    assert not [word for word in ("Traceback", "Exception", "evaluate.smk") if word in done.stdout]
    config = copied.config()
    config["corpora"]["text"]["path"] = "nowhere.jsonl"
    copied.write_config(config)
    done = copied.snakemake("--dry-run", check=False)
    said = f"corpora.text.path: {copied.folder}/nowhere.jsonl: no such file or folder"
    assert done.returncode == 1 and said in done.stdout


@pytest.mark.parametrize("content", ["", '{"recipe": '])
def test_a_record_of_the_report_that_is_cut_is_made_again(copied, content):
    stamp = copied.folder / "results/tiny/report.json"
    stamp.write_text(content)
    done = copied.displaced("archive", "--grid", "tiny")
    assert done.returncode == 1 and "report.json: not valid JSON" in done.stdout
    assert "make it: make run GRID=tiny" in done.stdout and len(done.stdout.splitlines()) == 1
    assert jobs_of(copied.snakemake("--dry-run").stdout) == ["Write the report of tiny"]


def test_a_run_looks_at_the_cells_before_it_says_complete(copied):
    """Here Snakemake is told to pass over a cell that is missing."""
    cell = next(c for c in Plan(load(copied.config())).cells("tiny") if c.method == "prompt-5")
    (copied.folder / cell.json).unlink()
    done = copied.displaced("run", "--grid", "tiny", "--cores", "2", "--omit-from", cell.json)
    assert done.returncode == 1 and "is complete" not in done.stdout
    assert "grid 'tiny' is not complete: 1 of 11 cells are missing or not as planned" in done.stdout
    assert f"snakemake --force {cell.json}" in done.stdout


MARKED = {
    "read by all cells": "resources/benchmarks/local/triviaqa/manifest.json",
    "read through a finished adapter": "resources/corpora/other/manifest.json",
    "no source": "results/tiny/compressed/tiny/gptq-w3/text/seed-0/weights.safetensors",
}


@pytest.mark.parametrize("path", MARKED.values(), ids=MARKED)
def test_a_run_that_was_killed_as_a_job_ended_leaves_no_outdated_cell_out(copied, path):
    """The output is whole but bears Snakemake's mark: the next run made it again, no cell behind it, and ended well."""
    config = copied.config()
    config["grids"]["tiny"]["evaluation"]["items"] = 5
    copied.write_config(config)
    outdated = set(jobs_of(copied.snakemake("--dry-run").stdout))
    mark = copied.folder / ".snakemake" / "incomplete" / base64.b64encode(path.encode()).decode()
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    assert set(jobs_of(copied.snakemake("--dry-run").stdout)) == outdated


def test_an_output_that_lacks_something_stays_marked(copied):
    path = "results/tiny/evaluations/tiny/gptq-w3/text/none/seed-0.json"
    (copied.folder / path).with_name("seed-0.samples.parquet").write_bytes(b"")
    mark = copied.folder / ".snakemake" / "incomplete" / base64.b64encode(path.encode()).decode()
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    assert "Evaluate tiny gptq-w3 text none (seed 0)" in jobs_of(copied.snakemake("--dry-run").stdout)


@pytest.mark.slow
def test_a_killed_run_continues_and_ends_with_the_same_results(finished, tmp_path):
    checkout = Checkout(product_copy(tmp_path / "clone"))
    checkout.write_config(finished.config())
    command = [sys.executable, "-m", "workflow_scripts", "run", "--grid", "tiny", "--cores", "2"]
    log = tmp_path / "run.txt"
    with log.open("w") as output:
        run = subprocess.Popen(
            command, cwd=checkout.folder, start_new_session=True, stdout=output, stderr=subprocess.STDOUT
        )
    deadline = time.time() + 600
    while not re.search(r"Finished jobid: \d+ \(Rule: train_adapter\)", log.read_text()):
        assert run.poll() is None and time.time() < deadline, "the run ended before it could be killed"
        time.sleep(0.2)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    # The first adapter is finished; another may be written but not yet recorded, and is then made again.
    written = checkout.folder.glob("results/tiny/adapters/**/training.json")
    first = min(written, key=lambda file: file.stat().st_mtime_ns)
    finished_at = first.stat().st_mtime_ns
    again = subprocess.run(
        command, cwd=checkout.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert again.returncode == 0, again.stdout[-3000:]
    assert first.stat().st_mtime_ns == finished_at, "finished work was done again"
    for cell in Plan(load(finished.config())).cells("tiny"):
        ours, theirs = (json.loads((c.folder / cell.json).read_text()) for c in (checkout, finished))
        ours.pop("manifest"), theirs.pop("manifest")
        assert ours == theirs, cell

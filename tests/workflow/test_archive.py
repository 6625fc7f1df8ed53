"""Archive, restore, rebuild and compare of a finished run."""

import json
import shutil

import pytest

from tests.workflow.conftest import Checkout, product_copy
from workflow_scripts.plan.config import load
from workflow_scripts.plan.recipes import Plan


def call(checkout, *words, status=0):
    done = checkout.displaced(*words)
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def archive(finished, made_once):
    def pack(folder):
        text = call(finished, "archive", "--grid", "tiny", "--out", folder / "tiny.tar.gz")
        assert "block core" in text and "9 of 9 cells" in text

    return made_once("archives", pack) / "tiny.tar.gz"


@pytest.fixture
def clone(finished, tmp_path):
    """A fresh clone with the configuration of the finished run and nothing else."""
    checkout = Checkout(product_copy(tmp_path / "clone"))
    checkout.write_config(finished.config())
    return checkout


def test_after_a_restore_nothing_reruns(archive, clone):
    text = call(clone, "restore", archive)
    assert "Restored 11 cells and 5 adapters" in text and "The report was restored too" in text
    assert "snakemake --force resources/" in text  # weights of models are not in an archive
    assert "Nothing to be done" in clone.snakemake("--dry-run").stdout
    assert "Restored 0 cells and 0 adapters" in call(clone, "restore", archive)


def test_after_a_change_of_the_analysis_a_restore_needs_no_text(archive, clone):
    with open(clone.folder / "workflow_scripts/judge/verdict.py", "a") as handle:
        handle.write("\n# an edit\n")
    text = call(clone, "restore", archive)
    assert "Tables, figures and report are made again by the next run, in seconds to minutes." in text
    jobs = clone.snakemake("--dry-run").stdout
    assert "Judge tiny" in jobs and "Find the answers" not in jobs and "Evaluate" not in jobs


def test_what_todays_configuration_would_make_differently_is_left_out(archive, clone):
    config = clone.config()
    config["methods"]["lora-r2"]["alpha"] = 3
    clone.write_config(config)
    text = call(clone, "restore", archive)
    assert "Restored 10 cells and 4 adapters" in text and "(2):" in text
    assert not list(clone.folder.glob("results/tiny/evaluations/**/lora-r2/*"))
    jobs = clone.snakemake("--dry-run").stdout
    assert "Make lora-r2" in jobs and "Evaluate tiny gptq-w3 text prompt-5" not in jobs


def test_a_cell_restored_from_a_small_archive_needs_no_weights(finished, clone, tmp_path):
    """Nothing runs again; a new cell that needs an adapter has it made again, and the finished ones stay."""
    small = tmp_path / "small"
    call(finished, "archive", "--grid", "tiny", "--out", small, "--small")
    text = call(clone, "restore", small)
    assert "11 cells and 5 adapters, these without weights: a job that needs one makes it again" in text
    assert "Restored 0 cells and 0 adapters" in call(clone, "restore", small)
    for record in clone.folder.glob("results/tiny/compressed/**/compression.json"):
        record.touch()  # as if made again, as the restore says
    rules = clone.snakemake("--dry-run").stdout
    assert "Evaluate" not in rules and "Make lora-r2" not in rules, rules
    cell = next(c for c in Plan(load(clone.config())).cells("tiny") if c.method == "lora-r2")
    (clone.folder / cell.json).unlink()
    rules = clone.snakemake("--dry-run").stdout
    assert rules.count("Evaluate ") == 1 and "Make lora-r2" in rules, rules


def test_an_archive_of_results_that_changed_since_the_report_is_refused(copied, tmp_path):
    cell = Plan(load(copied.config())).cells("tiny")[1]
    evaluation = json.loads((copied.folder / cell.json).read_text())
    evaluation["manifest"]["seconds"] += 1
    (copied.folder / cell.json).write_text(json.dumps(evaluation))
    text = call(copied, "archive", "--grid", "tiny", "--out", tmp_path / "a.tar.gz", status=1)
    assert "not as in the report" in text and "Traceback" not in text
    assert not (tmp_path / "a.tar.gz").exists()


def test_two_archives_of_one_run_are_equal(archive, finished, tmp_path):
    small = tmp_path / "small"
    call(finished, "archive", "--grid", "tiny", "--out", small, "--small")
    assert not list(small.rglob("*.safetensors")) and not list(small.rglob("report.html"))
    text = call(finished, "compare", archive, small, "--out", tmp_path / "numbers.json")
    assert "11 cells in common" in text and "The manifests agree." in text
    assert len(json.loads((tmp_path / "numbers.json").read_text())["cells"]) == 11


@pytest.mark.slow
def test_a_rebuild_makes_the_same_tables_and_figures_without_a_model(archive, finished, clone, tmp_path):
    small = tmp_path / "small"
    call(finished, "archive", "--grid", "tiny", "--out", small, "--small")
    for number, source in enumerate((archive, small)):
        text = call(clone, "rebuild", source, "--out", f"rebuilt-{number}", "--cores", "2")
        assert "figures, verdict and audit are equal to the archive's" in text
        folder = clone.folder / f"rebuilt-{number}"
        assert not list(folder.rglob("*.safetensors"))
        report = (folder / "results/tiny/report.html").read_text()
        assert "idp-5-8" in report
    assert "is not empty" in call(clone, "rebuild", archive, "--out", "rebuilt-0", status=1)
    shutil.rmtree(clone.folder / "rebuilt-0")

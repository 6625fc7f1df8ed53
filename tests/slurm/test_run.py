"""The tiny grid through `snakemake --profile slurm`, and the commands beside it, on a real SLURM."""

import json

import pytest

from tests.slurm.conftest import accounted, queued
from tests.slurm.local_slurm import output
from tests.workflow.conftest import PRODUCT, TOKEN, jobs_of
from workflow_scripts.plan.config import load
from workflow_scripts.plan.recipes import Plan


def test_the_grid_is_complete_down_to_the_report(finished):
    plan = Plan(load(finished.config()))
    for cell in plan.cells("tiny"):
        evaluation = json.loads((finished.folder / cell.json).read_text())
        assert evaluation["manifest"]["recipe"] == plan.evaluate_recipe(cell)
    assert "idp-5-8" in (finished.folder / "results/tiny/report.html").read_text()
    assert "Nothing to be done" in finished.snakemake("--dry-run").stdout


def test_each_job_ran_once_where_the_site_file_says(finished):
    plan, jobs = Plan(load(finished.config())), accounted(finished.folder)
    assert {job["State"] for job in jobs} == {"COMPLETED"} and {job["Account"] for job in jobs} == {
        "research"
    }
    computing = [job for job in jobs if job["Partition"] == "gpu"]
    compressions, similarities = 3, len(plan.similarity_cells("tiny"))
    assert (
        len(computing) == compressions + len(plan.adapters("tiny")) + len(plan.cells("tiny")) + similarities
    )
    assert all("gres/gpu=1" in job["AllocTRES"].split(",") for job in computing)
    reading = [job for job in jobs if job["Partition"] == "cpu"]
    files = [finished.folder / f"rules/{name}.smk" for name in ("judge", "report")]
    rollups = sum(file.read_text().count("localrule: READ_HERE") for file in files)
    assert len(reading) == rollups and not any("gpu" in job["AllocTRES"] for job in reading)


def test_nothing_is_written_outside_the_known_folders(finished):
    known = {*PRODUCT, "config", "config.yaml", "slurm", "run.txt"}
    written = {path.name for path in finished.folder.iterdir()} - known
    assert written == {"results", "resources", "logs", "work", ".snakemake"}
    assert not [
        file for file in finished.folder.glob("work/**/*") if file.is_file() and file.suffix != ".lock"
    ]


def test_the_hub_token_is_in_no_file_and_not_in_the_accounting(finished):
    """Jobs inherit it (gated models need it); Snakemake's and SLURM's logs, results and the report don't hold it."""
    for file in finished.folder.rglob("*"):
        if file.is_file():
            assert TOKEN.encode() not in file.read_bytes(), file
    assert TOKEN not in output("sacct", "--starttime=now-2days", "--parsable2", "--format=ALL")


def test_preflight_finds_a_good_cluster_ready_but_for_the_gpu(finished):
    """Pretended GPUs are assigned but PyTorch sees none: exactly this is found."""
    done = finished.displaced("preflight", "--grid", "tiny")
    bad = [line for line in done.stdout.splitlines() if line.startswith("BAD")]
    assert len(bad) == 1 and "PyTorch sees none" in bad[0], done.stdout
    for line in (
        "SLURM answers",
        "account research",
        "partition: gpu",
        "cpu_partition: cpu",
        "train_adapter: 1 GPU",
    ):
        assert f"ok    {line}" in done.stdout, done.stdout
    assert "gpu2 sees what gpu1 wrote" in done.stdout and "locks are seen on gpu2" in done.stdout
    assert "files replaced here are whole on gpu2" in done.stdout
    assert "ok    jobs that only read files: 0 GPU, 4000 MB, 60 min" in done.stdout


@pytest.mark.parametrize(
    ("site", "found"),
    [
        ({"account": "nobody"}, "account nobody is not yours"),
        ({"partition": "gpus"}, "partition: scontrol"),
        ({"partition": "minute"}, "exceed the partition's 1: set max_hours"),
        ({"gpu_model": "h900"}, "train_adapter: 1 GPU"),
    ],
    ids=["account", "partition", "wall time", "GPU type"],
)
def test_preflight_names_what_is_wrong_in_the_site_file(copied, site, found):
    copied.site(**site)
    done = copied.displaced("preflight", "--grid", "tiny")
    assert done.returncode == 1
    line = next(line for line in done.stdout.splitlines() if line.startswith("BAD") and found in line)
    advice = done.stdout.splitlines()[done.stdout.splitlines().index(line) + 1]
    assert "profiles/slurm/site.yaml" in advice


@pytest.mark.parametrize(
    "site",
    [{"partition": "minute"}, {"gpu_model": "h900"}, {"account": "nobody"}],
    ids=["time", "GPU", "account"],
)
def test_an_impossible_request_is_refused_before_anything_is_submitted(copied, site):
    (copied.folder / "results/tiny/evaluations/tiny/gptq-w3/text/none/seed-0.json").unlink()
    before = len(accounted(copied.folder))
    copied.site(**site)
    process = copied.start("results/tiny/evaluations/tiny/gptq-w3/text/none/seed-0.json")
    assert process.wait(120) == 1
    told = (copied.folder / "run.txt").read_text()
    assert "the cluster can't run evaluate_cell" in told and "nothing was submitted" in told
    assert len(accounted(copied.folder)) == before and not queued()


def test_the_status_of_a_finished_grid(finished):
    done = finished.displaced("status", "--grid", "tiny")
    assert done.returncode == 0, done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("evaluate_cell")).split()
    assert row[1:] == ["11", "11", "0", "0", "0", "0", "0"]
    assert "About 0.0 hours of jobs are left" in done.stdout and "No run works in this folder." in done.stdout


def test_setup_lines_of_the_site_file_run_before_the_work(copied):
    copied.site(setup='echo "loaded {cuda}" >> setup.txt\n')
    cell = "results/tiny/evaluations/tiny/gptq-w3/text/none/seed-0.json"
    (copied.folder / cell).unlink()
    assert jobs_of(copied.snakemake("--dry-run", cell).stdout) == ["Evaluate tiny gptq-w3 text none (seed 0)"]
    copied.run(cell)
    assert (copied.folder / "setup.txt").read_text() == "loaded {cuda}\n"


def test_a_result_that_appears_late_is_waited_for(copied):
    """As on a slow shared file system: the file is away for six seconds after the job's script has ended."""
    cell = "results/tiny/evaluations/tiny/gptq-w3/text/none/seed-0.json"
    (copied.folder / cell).unlink()
    away = f"mv {cell} {cell}.away; (sleep 6; mv {cell}.away {cell}) > /dev/null 2>&1 &"
    copied.site(setup=f"trap '{away}' EXIT\n")
    copied.run(cell)
    assert (copied.folder / cell).exists()
    jobs = [job for job in accounted(copied.folder) if job["Partition"] == "gpu"]
    assert [job["State"] for job in jobs] == ["COMPLETED"]

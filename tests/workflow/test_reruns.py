"""An edit reruns exactly what depends on it: module by module, key by key."""

import shutil

import pytest

from tests.workflow.conftest import jobs_of

GPTQ = "tiny gptq-w3 text"
SPARSE = "tiny sparsegpt-50 text"
TRAINED = ["lora-r2", "prompt-5", "prompt-5-other", "prompt-8", "ptune-5"]
METHODS = ["none", *TRAINED, "idp-5-8", "idp-5-corpora", "concat-5-8"]
ROLLUP = ("Find ", "Build ", "Judge ", "Tables ", "Figures ", "Draw ", "Audit ", "Write ")


def evaluations(methods):
    return {f"Evaluate {GPTQ} {method} (seed 0)" for method in methods}


def trainings(methods):
    return {f"Make {method} (seed 0) for {GPTQ}" for method in methods}


def similarities(methods):
    return {f"Similarity to dense: {GPTQ} {method}" for method in methods}


SPARSE_NONE = {f"Evaluate {SPARSE} none (seed 0)"}
SPARSE_SIMILARITY = {f"Similarity to dense: {SPARSE} none"}
DENSE = {"Evaluate tiny dense none none (seed 0)"}
EVERY_CELL = evaluations(METHODS) | SPARSE_NONE | DENSE
EVERY_ADAPTER = trainings(TRAINED)
EVERY_SIMILARITY = similarities(["none", "prompt-8"]) | SPARSE_SIMILARITY
COMPRESSIONS = {
    f"Compress tiny with {c} on {t} (seed 0)"
    for c, t in (("dense", "none"), ("gptq-w3", "text"), ("sparsegpt-50", "text"))
}


def work(checkout):
    """Messages of the jobs that would run, roll-ups left out; and whether the roll-ups would run."""
    jobs = jobs_of(checkout.snakemake("--dry-run").stdout)
    return {job for job in jobs if not job.startswith(ROLLUP)}, any(job.startswith(ROLLUP) for job in jobs)


MODULES = {
    "recover/idp.py": evaluations(["idp-5-8", "idp-5-corpora"]),
    "recover/lora.py": trainings(["lora-r2"]) | evaluations(["lora-r2"]),
    "recover/training.py": EVERY_ADAPTER
    | evaluations([m for m in METHODS if m != "none"])
    | similarities(["prompt-8"]),
    # both take their held-out windows from perplexity.py, which scores through it
    "evaluate/scorer.py": EVERY_CELL | EVERY_SIMILARITY,
    "evaluate/similarity.py": EVERY_SIMILARITY,
    "evaluate/tasks/triviaqa.yaml": EVERY_CELL,
    "jobs/compress_model.py": COMPRESSIONS | EVERY_ADAPTER | EVERY_CELL | EVERY_SIMILARITY,
    "judge/verdict.py": set(),
}


@pytest.mark.parametrize("module", MODULES)
def test_an_edited_module_reruns_what_imports_it(copied, module):
    with open(copied.folder / "workflow_scripts" / module, "a") as handle:
        handle.write("\n# an edit\n")
    jobs, rollups = work(copied)
    assert jobs == MODULES[module]
    assert rollups


def test_an_edited_template_redraws_pages_and_judges_nothing(copied):
    with open(copied.folder / "reports/templates/table.html.j2", "a") as handle:
        handle.write("<!-- an edit -->")
    jobs = set(jobs_of(copied.snakemake("--dry-run").stdout))
    drawn = (
        "Tables of tiny",
        "Audit the paper's numbers beside those of tiny",
        "Draw the overview page of tiny",
    )
    assert jobs - {"localrule all:", "all"} == {*drawn, "Write the report of tiny"}


@pytest.mark.slow
def test_another_task_runs_each_cell_and_evaluates_that_task_alone(copied):
    """With the tasks in another order as well; nothing but the list changed."""
    config = copied.config()
    tasks = config["grids"]["tiny"]["tasks"]
    config["grids"]["tiny"]["tasks"] = tasks[1:]
    copied.write_config(config)
    copied.snakemake()
    config["grids"]["tiny"]["tasks"] = tasks[::-1]
    copied.write_config(config)
    copied.snakemake()
    for log in copied.folder.glob("logs/tiny/evaluate_cell/**/*.log"):
        text = log.read_text()
        assert "benchmark lambada_openai" in text and f"[1/1] {tasks[0]}: 6 items" in text
        assert text.count(": 6 items") == 1


def edited(checkout, path, value):
    config = part = checkout.config()
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    checkout.write_config(config)
    return work(checkout)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (
            ["methods", "prompt-5", "training"],
            {"learning_rate": 0.5},
            trainings(["prompt-5"]) | evaluations(["prompt-5", "idp-5-8", "idp-5-corpora", "concat-5-8"]),
        ),
        (["methods", "lora-r2", "alpha"], 3, trainings(["lora-r2"]) | evaluations(["lora-r2"])),
        (["methods", "idp-5-8", "score"], "indep_mean", evaluations(["idp-5-8"])),
        (
            ["compressors", "sparsegpt-50", "sparsity"],
            0.4,
            {"Compress tiny with sparsegpt-50 on text (seed 0)"} | SPARSE_NONE | SPARSE_SIMILARITY,
        ),
        (["grids", "tiny", "evaluation", "items"], 5, EVERY_CELL),
    ],
    ids=["learning rate", "alpha", "score", "sparsity", "items"],
)
def test_a_changed_key_reruns_what_reads_it(copied, path, value, expected):
    jobs, rollups = edited(copied, path, value)
    assert jobs == expected
    assert rollups


def test_another_training_text_retrains_on_the_same_compressed_weights(copied):
    jobs, _ = edited(copied, ["methods", "prompt-5-other", "corpus"], "text")
    assert jobs == trainings(["prompt-5-other"]) | evaluations(["prompt-5-other", "idp-5-corpora"])


def test_a_new_catalogue_entry_reruns_no_cell(copied):
    assert edited(copied, ["methods", "prompt-6"], {"kind": "prompt", "tokens": 6})[0] == set()


STEM = "tiny/gptq-w3/text/prompt-5/seed-0"
SAMPLES = f"results/tiny/evaluations/{STEM}.samples.parquet"
ADAPTER = f"results/tiny/adapters/{STEM}/adapter_model.safetensors"
COMPRESSED = "results/tiny/compressed/tiny/gptq-w3/text/seed-0/weights.safetensors"


def test_lost_samples_are_made_again_and_rolled_up(copied):
    (copied.folder / SAMPLES).unlink()
    assert work(copied) == (evaluations(["prompt-5"]), True)
    report = jobs_of(copied.snakemake("--dry-run", "results/tiny/ledger.parquet").stdout)
    assert set(report) >= evaluations(["prompt-5"]) and any(job.startswith("Build ") for job in report)


def test_lost_weights_are_named_and_made_again_for_the_job_that_needs_them_alone(copied):
    for file in (ADAPTER, COMPRESSED):
        (copied.folder / file).unlink()
    done = copied.snakemake("--dry-run").stdout
    assert "Nothing to be done" in done and ADAPTER in done and COMPRESSED in done
    assert jobs_of(copied.snakemake("--dry-run", COMPRESSED).stdout) == [
        "Compress tiny with gptq-w3 on text (seed 0)"
    ]
    (copied.folder / f"results/tiny/evaluations/{STEM}.json").unlink()
    again = (
        {"Compress tiny with gptq-w3 on text (seed 0)"} | trainings(["prompt-5"]) | evaluations(["prompt-5"])
    )
    assert work(copied) == (again, True)


def test_lost_adapter_is_made_again_for_a_cell_that_is_forced(copied):
    (copied.folder / ADAPTER).unlink()
    cell = f"results/tiny/evaluations/{STEM}.json"
    jobs = set(jobs_of(copied.snakemake("--dry-run", "--force", cell).stdout))
    assert jobs == trainings(["prompt-5"]) | evaluations(["prompt-5"])


@pytest.mark.slow
def test_a_forced_cell_makes_its_lost_adapter_again(copied):
    (copied.folder / ADAPTER).unlink()
    copied.snakemake("--force", f"results/tiny/evaluations/{STEM}.json")
    assert (copied.folder / ADAPTER).exists()


def test_lost_weights_are_made_again_for_a_forced_cell_and_for_a_measurement_behind_finished_cells(copied):
    """Snakemake meets the jobs that made the weights through finished cells, before the job that needs the weights."""
    (copied.folder / COMPRESSED).unlink()
    cells = [
        f"results/tiny/evaluations/tiny/gptq-w3/text/{method}/seed-0.json" for method in ("none", "lora-r2")
    ]
    compression = {"Compress tiny with gptq-w3 on text (seed 0)"}
    forced = set(jobs_of(copied.snakemake("--dry-run", "--force", cells[0]).stdout))
    assert forced == compression | evaluations(["none"])
    (copied.folder / "results/tiny/similarity/tiny/gptq-w3/text/none/seed-0.json").unlink()
    assert work(copied) == (compression | similarities(["none"]), True)
    (copied.folder / cells[1]).unlink()
    for targets in (cells, cells[::-1]):
        jobs = set(jobs_of(copied.snakemake("--dry-run", *targets).stdout))
        assert jobs == compression | evaluations(["lora-r2"])


def test_outdated_roll_ups_are_made_though_a_measurement_has_weights_made_again(copied):
    """The report was written on a verdict of the pair before."""
    config = copied.config()
    config["grids"]["tiny"]["pair"]["prompt"] = "prompt-8"
    config["grids"]["tiny"]["similarity"]["windows"] = 3
    copied.write_config(config)
    all_there = set(jobs_of(copied.snakemake("--dry-run").stdout))
    for lost, again in (
        (ADAPTER.replace("prompt-5", "prompt-8"), "Make prompt-8 (seed 0) for tiny gptq-w3 text"),
        (COMPRESSED, "Compress tiny with gptq-w3 on text (seed 0)"),
    ):
        (copied.folder / lost).rename(kept := copied.folder / "kept")
        assert set(jobs_of(copied.snakemake("--dry-run").stdout)) == {*all_there, again}
        kept.rename(copied.folder / lost)


def test_a_cell_is_made_though_its_model_was_moved_away(copied):
    """Snakemake passed over the cell behind the model that it fetched again, and ended with 0."""
    links = [file for file in (copied.folder / "resources/models/tiny").iterdir() if file.is_symlink()]
    for file in links:
        file.unlink()
        file.symlink_to(copied.folder / "gone")
    cell = "results/tiny/evaluations/tiny/gptq-w3/text/lora-r2/seed-0.json"
    (copied.folder / cell).unlink()
    jobs = set(jobs_of(copied.snakemake("--dry-run", cell).stdout))
    assert links and jobs == {"Fetch the model tiny"} | evaluations(["lora-r2"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["models", "tiny", "note"], "a note"),
        (["corpora", "text", "licence"], "CC0"),
        (["benchmarks", "local", "triviaqa", "note"], "a note"),
        (["training", "tiny", "checkpoint_minutes"], 30),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_no_result_depends_on_reruns_nothing(copied, path, value):
    assert edited(copied, path, value) == (set(), False)


@pytest.mark.parametrize("module", ["recover/idp.py", "judge/verdict.py"])
def test_results_that_were_copied_without_snakemakes_records_rerun_the_same(copied, module):
    shutil.rmtree(copied.folder / ".snakemake")
    assert work(copied) == (set(), False)
    with open(copied.folder / "workflow_scripts" / module, "a") as handle:
        handle.write("\n# an edit\n")
    assert work(copied) == (MODULES[module], True)
    jobs = edited(copied, ["methods", "lora-r2", "alpha"], 3)[0]
    assert jobs == MODULES[module] | trainings(["lora-r2"]) | evaluations(["lora-r2"])

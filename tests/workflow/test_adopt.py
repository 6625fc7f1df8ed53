"""After an edit: what makes the same is adopted by evidence, what makes something else is refused, item by item."""

import pytest

from tests.workflow.conftest import Checkout, jobs_of, product_copy
from tests.workflow.test_reruns import MODULES, evaluations, trainings, work
from workflow_scripts.files.artifacts import read_json

LORA = "workflow_scripts/recover/lora.py"
CELL = "results/tiny/evaluations/tiny/gptq-w3/text/lora-r2/seed-0.json"
PAGES = {"Draw the overview page of tiny", "Write the report of tiny"}
UNMERGED = ("return recovered.merge_and_unload(safe_merge=True)", "return recovered.unload()")


def edit(checkout, old: str, new: str) -> None:
    path = checkout.folder / LORA
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def adopt(checkout):
    return checkout.displaced("adopt", "--grid", "tiny", "--cores", "2")


def test_an_edit_that_changes_no_result_is_adopted_and_nothing_but_the_pages_runs(copied):
    edit(copied, '"""LoRA: ', '"""LoRA (low-rank adaptation): ')
    assert work(copied)[0] == MODULES["recover/lora.py"]
    before = (copied.folder / CELL).read_bytes()
    done = adopt(copied)
    assert done.returncode == 0, done.stdout
    assert all(f"Adopted: {rule} (lora on gptq" in done.stdout for rule in ("train_adapter", "evaluate_cell"))
    assert (copied.folder / CELL).read_bytes() == before
    assert set(jobs_of(copied.snakemake("--dry-run").stdout)) - {"all"} <= PAGES | {"localrule all:"}
    rows = read_json(copied.folder / "results/tiny/adopted.json", "adopted")["equivalences"]
    assert [(row["rule"], row["results"]) for row in rows] == [("train_adapter", 1), ("evaluate_cell", 1)]
    assert {compared["how"] for row in rows for compared in row["compared"]} == {"bits"}
    assert "Nothing to adopt" in adopt(copied).stdout
    explained = copied.displaced("explain", CELL).stdout
    assert "(as planned)" in explained and "(adopted: " in explained
    copied.snakemake()
    page = (copied.folder / "results/tiny/overview.html").read_text()
    assert rows[0]["old"][:12] in page and "Adopted results" in page
    (copied.folder / LORA).write_text((copied.folder / LORA).read_text() + "\n# another edit\n")
    assert work(copied)[0] == MODULES["recover/lora.py"]


@pytest.mark.slow
def test_what_is_adopted_is_judged_archived_rebuilt_and_restored(copied, tmp_path):
    """The verdict refuses cells of another recipe than the planned one; adopted ones are as planned everywhere."""
    words = ('"""LoRA: ', '"""LoRA (low-rank adaptation): ')
    edit(copied, *words)
    assert adopt(copied).returncode == 0
    verdict = copied.folder / "results/tiny/verdict.json"
    before = read_json(verdict, "verdict")
    copied.snakemake("--force", "results/tiny/verdict.json")
    again = read_json(verdict, "verdict")
    assert {key: again[key] for key in ("plan", "scores")} == {key: before[key] for key in ("plan", "scores")}
    copied.snakemake()
    archive, rebuilt = tmp_path / "tiny.tar.gz", tmp_path / "rebuilt"
    for done in (
        copied.displaced("archive", "--grid", "tiny", "--out", archive),
        copied.displaced("rebuild", archive, "--out", rebuilt),
    ):
        assert done.returncode == 0, done.stdout
    assert read_json(rebuilt / "results/tiny/verdict.json", "verdict")["scores"] == again["scores"]
    clone = Checkout(product_copy(tmp_path / "clone"))
    clone.write_config(copied.config())
    edit(clone, *words)
    done = clone.displaced("restore", archive)
    assert done.returncode == 0 and "Restored 11 cells and 5 adapters" in done.stdout, done.stdout
    assert "Nothing to be done" in clone.snakemake("--dry-run").stdout


def test_an_edit_that_changes_answers_is_refused_item_by_item_and_the_rest_is_adopted(copied):
    edit(copied, *UNMERGED)
    done = adopt(copied)
    assert done.returncode == 1
    assert f"{CELL}: " in done.stdout and "gold log-likelihood" in done.stdout
    assert "Adopted: train_adapter (lora on gptq" in done.stdout
    assert "Adopted: evaluate_cell" not in done.stdout
    assert work(copied)[0] == evaluations(["lora-r2"])
    again = copied.folder / "work/adopt/tiny/evaluate_cell" / CELL
    assert read_json(again)["tasks"] != read_json(copied.folder / CELL)["tasks"]


def test_a_changed_setting_is_nothing_to_adopt(copied):
    config = copied.config()
    config["methods"]["lora-r2"]["alpha"] = 3
    copied.write_config(config)
    done = adopt(copied)
    assert done.returncode == 0 and "Nothing to adopt" in done.stdout
    assert work(copied)[0] == trainings(["lora-r2"]) | evaluations(["lora-r2"])
    assert not (copied.folder / "results/tiny/adopted.json").exists()


@pytest.mark.parametrize("kept", [True, False], ids=["with Snakemake's records", "without"])
def test_a_path_and_a_description_rerun_no_job_that_computes(copied, kept):
    if not kept:
        for record in (copied.folder / ".snakemake" / "metadata").glob("*"):
            record.unlink()
    config = copied.config()
    (copied.folder / "mount").symlink_to("/")
    for entries in (config["models"], config["corpora"], config["benchmarks"]["local"]):
        for entry in entries.values():
            entry["path"] = f"mount{entry['path']}"  # relative, elsewhere, the same contents
    config["grids"]["tiny"]["description"] = "Other words."
    copied.write_config(config)
    assert set(jobs_of(copied.snakemake("--dry-run").stdout)) - {"all"} <= PAGES | {"localrule all:"}

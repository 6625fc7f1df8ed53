"""The whole workflow on a tiny model: what it leaves, and what a second run does."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser

import pandas as pd
import psutil
import pytest

from tests.browser import chromium
from tests.workflow.conftest import ROOT, TOKEN, Checkout, jobs_of, product_copy
from workflow_scripts.files.artifacts import check
from workflow_scripts.plan.recipes import Plan

NOTHING = "Nothing to be done"


def plan(checkout: Checkout) -> Plan:
    from workflow_scripts.plan.config import load

    return Plan(load(checkout.config()))


def test_every_planned_file_is_there_and_keeps_its_schema(finished):
    cells = plan(finished).cells("tiny")
    assert len(cells) == 11
    hashes = set()
    for cell in cells:
        evaluation = json.loads((finished.folder / cell.json).read_text())
        check(evaluation, "evaluation", cell.json)
        samples = pd.read_parquet(finished.folder / cell.samples)
        assert samples.groupby("task").size().to_dict() == dict.fromkeys(evaluation["tasks"], 6)
        for task, scores in evaluation["tasks"].items():
            assert samples[samples.task == task].correct.mean() == pytest.approx(scores["primary"])
        hashes.add(tuple(sorted(samples.doc_hash)))
    assert len(hashes) == 1, "the cells did not evaluate the same items"


def test_the_selection_of_idp_is_recorded(finished):
    cell = next(c for c in plan(finished).cells("tiny") if c.method == "idp-5-8")
    shares = json.loads((finished.folder / cell.json).read_text())["selection"]
    chosen = pd.read_parquet(finished.folder / cell.samples).selected_prompt
    assert chosen.notna().all()
    assert set(chosen) <= {"prompt-5", "prompt-8"}
    assert sum(shares[name] for name in ("prompt-5", "prompt-8")) == pytest.approx(1)


def test_prompts_of_other_text_are_trained_on_the_cells_compressed_weights(finished):
    """Else an IDP of prompts of different corpora would be refused: its adapters would belong to other weights."""
    adapters = {a.method: a for a in plan(finished).adapters("tiny")}
    here, other = (
        json.loads((finished.folder / adapters[name].training).read_text())
        for name in ("prompt-5", "prompt-5-other")
    )
    assert other["base_sha256"] == here["base_sha256"]
    assert other["manifest"]["inputs"]["corpus"] != here["manifest"]["inputs"]["corpus"]
    cell = next(c for c in plan(finished).cells("tiny") if c.method == "idp-5-corpora")
    evaluation = json.loads((finished.folder / cell.json).read_text())
    assert {"prompt-5", "prompt-5-other"} <= set(evaluation["selection"])


def test_the_table_of_scores_repeats_what_the_cell_chose_and_answered(finished):
    cell = next(c for c in plan(finished).cells("tiny") if c.method == "idp-5-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.selection", cell.json],
        cwd=finished.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [
        [part.strip() for part in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "|" in line
    ]
    evaluation = json.loads((finished.folder / cell.json).read_text())
    shares = [f"{evaluation['selection'][name]:.0%}" for name in ("prompt-5", "prompt-8")]
    assert rows[0][1:3] == ["prompt-5", "prompt-8"]
    assert ["joint_mean", *shares, f"{evaluation['average']:.2%}"] in rows


def test_the_report_stands_alone(finished):
    report = (finished.folder / "results/tiny/report.html").read_text()
    view = Scripts(report).texts["workflow-desc"]
    assert "the dense model answers none of the" in view, "the verdict is not on the first page"
    assert 'data-page=\\"results/tiny/overview.html\\"' in view
    assert "data:image/svg+xml" not in view, "an image of gains that no cell of this grid has"
    for listed in ("1: quantised models", "Changed answers", "Verdict, tables, figures, ledger, cost"):
        assert f'"{listed}"' in report, f"the report lists a path in place of '{listed}'"
    assert '<script src="http' not in report and '<link rel="stylesheet" href="http' not in report


class Scripts(HTMLParser):
    """The elements of a page: tags that are no script, and the scripts' texts by their id."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.texts, self.inside = set(), {}, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.inside = dict(attrs).get("id", f"script {len(self.texts)}") if tag == "script" else None
        self.tags |= {tag} - {"script"}

    def handle_data(self, data):
        if self.inside:
            self.texts[self.inside] = self.texts.get(self.inside, "") + data

    def handle_endtag(self, tag):
        self.inside = None


def test_no_text_of_the_configuration_is_code_in_the_report(finished):
    """The grid's description closes a script and opens another."""
    scripts = Scripts((finished.folder / "results/tiny/report.html").read_text())
    assert "img" not in scripts.tags
    for name in ("results", "categories", "rules", "workflow-desc", "metadata"):
        json.loads(scripts.texts.pop(name).partition(" = ")[2].strip().rstrip(";"))
    assert not any("hacked" in text for text in scripts.texts.values())


@pytest.mark.slow
def test_no_text_of_the_configuration_runs_in_a_browser(finished):
    if (executable := chromium.find()) is None:
        pytest.skip("no browser is installed")
    browser = chromium.Browser(executable)
    browser.open(finished.folder / "results/tiny/report.html")
    assert browser.js("window.hacked") is None and browser.js("document.title") == "Snakemake Report"
    browser.close()


def test_the_hub_token_is_in_no_file(finished):
    for file in finished.folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            assert TOKEN.encode() not in file.read_bytes(), file


def test_nothing_listens(copied):
    """No process of a run, that of a job's script among them, waits for connections: there is no port to reach."""
    cell = next(c for c in plan(copied).cells("tiny") if c.method == "prompt-5")
    os.remove(copied.folder / cell.json)
    run = psutil.Popen(
        [*copied.COMMAND, "--cores", "2", cell.json],
        cwd=copied.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
    )
    listening, scripts = [], 0
    while run.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in (run, *run.children(recursive=True)):
                scripts += any("/.snakemake/scripts/" in part for part in process.cmdline())
                listening += [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
        time.sleep(0.1)
    assert run.returncode == 0 and scripts > 5 and not listening


def test_a_second_run_does_nothing(copied):
    assert NOTHING in copied.snakemake().stdout


def test_touching_every_file_reruns_nothing(copied):
    now = time.time()
    for index, (folder, _, files) in enumerate(os.walk(copied.folder)):
        for file in files:
            os.utime(os.path.join(folder, file), (now - index, now - index))
    assert NOTHING in copied.snakemake("--dry-run").stdout


@pytest.mark.parametrize(
    "gone", ["verdict.json", "tables/table1.csv", "figures/figure5.pdf", "overview.html"]
)
def test_what_the_report_shows_is_made_again_once_deleted(copied, gone):
    """A plain run said "Nothing to be done", and the command `run` "complete", without a verdict."""
    (copied.folder / "results/tiny" / gone).unlink()
    jobs = jobs_of(copied.snakemake("-n").stdout)
    assert jobs and not any(job.startswith(("Evaluate", "Make", "Find", "Build")) for job in jobs)
    assert any(job.startswith("Judge") for job in jobs) == (gone == "verdict.json")


@pytest.mark.parametrize(
    "edited",
    ["tables/table1.csv", "figures/figure4.pdf", pytest.param("overview.html", marks=pytest.mark.slow)],
)
def test_what_the_report_shows_is_made_again_once_edited(copied, edited):
    file = copied.folder / "results/tiny" / edited
    before = file.read_bytes()
    file.write_bytes(before + b" ")
    done = copied.displaced("archive", "--grid", "tiny")
    assert (
        done.returncode == 1 and f"results/tiny/{edited}: not as in the report of grid 'tiny'" in done.stdout
    )
    copied.snakemake()
    assert file.read_bytes() == before and NOTHING in copied.snakemake("-n").stdout


def test_a_report_is_not_written_without_a_cell_that_its_tables_show(copied):
    """Snakemake's report of it ended in "marked for report but does not exist"."""
    cell = next(c for c in plan(copied).cells("tiny") if c.method == "lora-r2")
    for file in (cell.json, "results/tiny/report.html"):
        (copied.folder / file).unlink()
    jobs = jobs_of(copied.snakemake("-n", "results/tiny/report.html").stdout)
    assert (
        "Evaluate tiny gptq-w3 text lora-r2 (seed 0)" in jobs
        and "Judge tiny: paired statistics and verdict" in jobs
    )


@pytest.mark.parametrize("metadata", [True, False], ids=["with metadata", "results alone"])
def test_results_copied_into_a_fresh_clone_rerun_nothing(finished, tmp_path, metadata):
    clone = Checkout(product_copy(tmp_path / "clone"))
    clone.write_config(finished.config())
    for name in ("resources", "results", *([".snakemake"] if metadata else [])):
        shutil.copytree(finished.folder / name, clone.folder / name, copy_function=shutil.copy, symlinks=True)
    assert NOTHING in clone.snakemake("--dry-run").stdout


def test_one_cell_by_its_path(copied):
    cell = next(c for c in plan(copied).cells("tiny") if c.method == "prompt-5")
    os.remove(copied.folder / cell.json)
    assert jobs_of(copied.snakemake("--dry-run", cell.json).stdout) == [
        "Evaluate tiny gptq-w3 text prompt-5 (seed 0)"
    ]
    copied.snakemake(cell.json)
    assert (copied.folder / cell.json).exists()


def test_chosen_blocks_alone_are_run_and_rolled_up(copied):
    lost = next(c for c in plan(copied).cells("tiny") if c.compressor == "sparsegpt-50")
    os.remove(copied.folder / lost.json)
    copied.snakemake("--config", "blocks=[core,dense]")
    assert not (copied.folder / lost.json).exists()
    reported = json.loads((copied.folder / "results/tiny/report.json").read_text())["files"]
    assert set(reported) == set(plan(copied).counted("tiny")) - {lost.json, lost.similarity}
    text = (copied.folder / "results/tiny/tables/table1.md").read_text()
    assert (
        "made by `snakemake --config grid=tiny 'blocks=[core,dense]' -- results/tiny/tables/table1.html`"
        in text
    )
    assert NOTHING in copied.snakemake("--config", "blocks=[core,dense]").stdout
    assert "Evaluate tiny sparsegpt-50 text none (seed 0)" in jobs_of(copied.snakemake("--dry-run").stdout)
    done = copied.snakemake("--dry-run", "--config", "blocks=cor", check=False)
    assert (
        "blocks[0]: 'cor' is no block of grid tiny" in done.stdout and "did you mean 'core'?" in done.stdout
    )


def test_a_missing_cell_is_shown_as_missing_where_asked(copied):
    cell = next(c for c in plan(copied).cells("tiny") if c.method == "prompt-8")
    for file in (cell.json, cell.samples, "results/tiny/verdict.json", "results/tiny/tables/table1.csv"):
        os.remove(copied.folder / file)
    (copied.folder / "mine.yaml").write_text("activation_memory: 3\n")
    own = ("--configfile", "mine.yaml", "--config", "partial=true", "--")
    copied.snakemake(*own, "results/tiny/tables/table1.csv")
    text = (copied.folder / "results/tiny/tables/table1.md").read_text()
    assert "made by `snakemake --configfile mine.yaml -- results/tiny/tables/table1.html`" in text
    assert not (copied.folder / cell.json).exists()
    table = pd.read_csv(copied.folder / "results/tiny/tables/table1.csv", dtype=str)
    row = table[table.method == "prompt-8"].squeeze()
    assert row.problem.startswith("not run or failed")
    columns = list(table.columns)
    assert row[columns[columns.index("param") + 1 : columns.index("problem")]].isna().all()
    assert table[table.method != "prompt-8"].Average.notna().all()


@pytest.mark.slow
def test_a_partial_report_is_made_again_when_there_is_more(copied):
    """A cell that comes later must reach the tables and the page, and not the verdict alone."""
    cell = next(c for c in plan(copied).cells("tiny") if c.method == "prompt-8")
    kept = (copied.folder / cell.json).read_bytes()
    os.remove(copied.folder / cell.json)
    partial = ("--config", "partial=true", "--", "results/tiny/report.html")
    copied.snakemake(*partial)
    assert NOTHING in copied.snakemake("--dry-run", *partial).stdout
    (copied.folder / cell.json).write_bytes(kept)
    planned = jobs_of(copied.snakemake("--dry-run", *partial).stdout)
    made_again = {
        "Judge tiny: paired statistics and verdict",
        "Build the item ledger of tiny",
        "Tables of tiny",
        "Figures of tiny",
        "Draw the overview page of tiny",
        "Write the report of tiny",
    }
    assert made_again <= set(planned), made_again - set(planned)
    assert not any(one.startswith(("Evaluate", "Train", "Compress")) for one in planned)

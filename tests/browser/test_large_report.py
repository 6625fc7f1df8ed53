"""The report at the size of the paper's grid, in a real browser: made-up answers, Snakemake's own report, offline.

Every page is to open whatever its size: Chromium shows nothing of a data: URL above 2 MiB.
"""

import os
from pathlib import Path

import pandas as pd
import pytest

from tests.unit import synthetic_results
from tests.unit.synthetic_results import write_cell
from workflow_scripts.files.artifacts import write_json
from workflow_scripts.files.sealed_tables import write_table
from workflow_scripts.jobs import audit_paper, draw_page, plot_figures, report_grid, tabulate
from workflow_scripts.judge import ledger as ledgers
from workflow_scripts.judge.judgement import Question, Resampling, judge_grid
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan import layout
from workflow_scripts.plan.config import files, load, read, write_complete
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.report.data import MeasuredFiles
from workflow_scripts.report.figures import FIGURES
from workflow_scripts.report.svg import notes_of

GRID = "paper"
ITEMS = {  # of the harness's tasks
    "triviaqa": 17_944,
    "hellaswag": 10_042,
    "lambada_openai": 5_153,
    "arc_easy": 2_376,
    "webqs": 2_032,
    "piqa": 1_838,
    "winogrande": 1_267,
    "arc_challenge": 1_172,
    "sciq": 1_000,
}
ANSWERED = 12  # items a task of the made-up cells; the ledger repeats their outcomes
MIB = 2**20
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder in which the whole grid was run, by its files."""
    made, before = tmp_path_factory.mktemp("paper"), Path.cwd()
    config = read(*files()) | {"grid": GRID, "partial": True, "rebuilt": True}
    plan = Plan(load(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        write_complete(plan.config.dump(), made)
        methods = plan.catalogue(GRID)["methods"]
        patch.setattr(synthetic_results, "METHODS", methods)
        patch.setattr(synthetic_results, "PARAMETERS", dict.fromkeys(methods, 1_000_000))
        for number, cell in enumerate(plan.cells(GRID)):
            row = {"grid": GRID, **cell.axes, "path": cell.json}
            accuracy = 0.7 if cell.compressor == "dense" else 0.45 + 0.01 * (number % 20)
            write_cell(row, ANSWERED, accuracy)
        _roll_up(plan)
    assert Path.cwd() == before
    return made


def _roll_up(plan: Plan) -> None:
    """Everything that the rules make of the cells, in the working folder."""
    results, catalogue = Path("results", GRID), plan.catalogue(GRID)
    cells = [cell.json for cell in plan.cells(GRID)]
    pair = plan.grid(GRID).pair.dump()
    found = read_results(cells)
    small = ledgers.build(found, pair)
    write_table(results / "ledger.parquet", large(small))
    verdict = judge_grid(found, Question(pair), catalogue, Resampling(60), ledger=_answered(small))
    write_json(results / "verdict.json", verdict | {"late_changes": []}, schema="verdict")
    inputs = [str(results / "tables" / f"table{number}.html") for number in (1, 2, 3)]
    inputs += [str(results / "tables" / f"{name}.html") for name in ("changes", "compressors")]
    tabulate.main(results / "verdict.json", catalogue, MeasuredFiles(), inputs)
    audit_paper.main(results / "verdict.json", results / "paper_audit.json", results / "paper_audit.html")
    figures = [str(results / "figures" / f"{name}.svg") for name in FIGURES]
    plot_figures.main(results / "verdict.json", catalogue, MeasuredFiles(), {}, figures)
    made = draw_page.Made(
        results / "verdict.json", results / "ledger.parquet", results / "paper_audit.json", figures
    )
    page = layout.PAGE.path(GRID)
    draw_page.main(cells, catalogue, made, MeasuredFiles(), draw_page.Planned("Made up."), page)
    inputs += [*figures, str(results / "paper_audit.html"), page]
    contents = report_grid.Contents(cells, cells, inputs)
    paths = layout.REPORT.path(GRID), layout.STAMP.path(GRID)
    report_grid.main(plan.config.dump(), contents, *paths, "recipe", {})


def question(number: int) -> str:
    """24 words, others for each number."""
    words = "river capital author island metal king planet novel treaty battle".split()
    return " ".join(words[int(digit, 16) % 10] for digit in format(int(number) * 7919**9 % 16**24, "024x"))


def _answered(ledger: pd.DataFrame) -> pd.DataFrame:
    return ledger.assign(answer_in_training_text=pd.array([None] * len(ledger), dtype="boolean"))


def large(small: pd.DataFrame) -> pd.DataFrame:
    """The ledger with as many items as the tasks have, each with a question of its own."""
    kept = [name for name in small if name.startswith("correct/") or "/" not in name]
    kept += ["margin/dense", "margin/none", "prediction/dense", "prediction/none"]
    small = _answered(small[kept].assign(**{f"prediction/{m}": "an answer" for m in ("dense", "none")}))
    times = small["task"].map(ITEMS) // ANSWERED
    ledger = small.loc[small.index.repeat(times)].reset_index(drop=True)
    number = ledger.groupby(ledgers.INDEX[:5]).cumcount()
    digits = number.map(lambda n: format(n * 2_654_435_761 % 2**32, "08x"))
    ledger["doc_hash"] = digits + ledger["task"]
    texts = {n: question(n) for n in number.unique()}
    ledger["question"] = number.map(texts)
    return ledger


@pytest.fixture
def report(browser, folder):
    browser.resize(1400)
    browser.open(folder / layout.REPORT.path(GRID))
    browser.wait_for("document.querySelectorAll('.landing').length")
    return browser


def test_the_first_view_is_the_verdict_and_nothing_runs_off_the_window(report, folder):
    cells = report.js("document.querySelectorAll('.landing .card').length")
    assert cells == 8  # two models, two compressors, two texts
    assert report.js("document.querySelector('.landing .card').getBoundingClientRect().bottom") < 900
    assert report.js("document.querySelector('.landing .headline img').naturalWidth") > 300
    for width in (1400, 800):
        report.resize(width)
        report.wait_for("document.querySelectorAll('#rulegraph canvas, #rulegraph svg').length")
        right = "e => e.getBoundingClientRect().right"
        edges = report.js(f"Array.from(document.querySelectorAll('.landing *, #rulegraph'), {right})")
        assert max(edges) <= width


def test_every_page_of_the_report_opens_whatever_its_size(report, folder):
    page = layout.PAGE.path(GRID)
    pages = report.js("Object.keys(results).filter(path => results[path].mime_type === 'text/html')")
    sizes = {path: report.js(f"results['{path}'].data_uri.length") for path in pages}
    assert len(pages) == 7 and sizes[page] > 2 * MIB, sizes
    for path in pages:
        report.js(
            f"app.setView({{content: 'html', contentPath: results['{path}'].data_uri, resultPath: '{path}'}})"
        )
        title = (folder / path).read_text().partition("<title>")[2].partition("</title>")[0]
        report.wait_for(f"document.title === {title!r} && document.readyState === 'complete'", inside=True)
    assert [url for url in report.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert report.errors == []


def test_the_menu_has_the_figures_that_show_something(report, folder):
    figures = (folder / "results" / GRID / "figures").glob("*.svg")
    drawn = {figure.stem for figure in figures if notes_of(figure) is not None}
    assert "figure4" in drawn and not {"latency", "training"} & drawn  # none was measured
    listed = report.js("Object.keys(results).filter(path => path.endsWith('.svg'))")
    assert {Path(path).stem for path in listed} == drawn


def test_the_whole_page_is_one_click_from_the_verdict_and_shows_every_task(report):
    report.js("document.querySelector('a[data-page]').focus()")
    report.press("Enter")
    count = report.wait_for("document.getElementById('ledger-count')?.textContent", inside=True)
    assert int(count.split()[0]) > 1000 and count.endswith("50 shown")
    tasks = report.frame_js("Array.from(document.getElementById('ledger-form').task.options, o => o.text)")
    assert set(tasks) == {"all tasks", *ITEMS}
    assert report.frame_js("document.querySelectorAll('[aria-label=Cells] tbody tr').length") > 380


def test_the_page_beside_the_report_opens_too(browser, folder):
    browser.open(folder / layout.PAGE.path(GRID))
    assert browser.wait_for("document.getElementById('ledger-count').textContent").endswith("50 shown")
    assert os.path.getsize(folder / layout.PAGE.path(GRID)) > 2 * MIB

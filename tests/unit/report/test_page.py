"""The report page: self-contained, escaped, the verdict first, every cell with its command."""

import base64
import gzip
import html
import json
import re
from types import SimpleNamespace

import pandas as pd
import pytest

from tests.unit.report.test_figures import SIMILARITY, TRAINING
from tests.unit.synthetic_page import GAINS, analysed
from tests.unit.synthetic_results import CATALOGUE, HOSTILE, METHODS, PAIR, PARAMETERS, study, write_grid
from workflow_scripts.files.artifacts import read_json, write_json
from workflow_scripts.jobs import audit_paper, build_ledger, draw_page, find_answers, judge, report_grid
from workflow_scripts.judge.judgement import Question
from workflow_scripts.judge.verdict import MEANING
from workflow_scripts.plan.forecast import Cost, Forecast, job_of, load_constants
from workflow_scripts.report import explorer as explorers
from workflow_scripts.report import page as pages
from workflow_scripts.report.data import MeasuredFiles
from workflow_scripts.report.rendering import environment
from workflow_scripts.report.summary import lines, points


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    results, cells = analysed(tmp_path_factory.mktemp("run"))
    return results, cells, (results / "overview.html").read_text()


def test_the_page_needs_nothing_beside_itself(grid):
    page = grid[2]
    assert not re.search(r"(?:src|href)=[\"'](?!data:|#)", page)
    assert "@import" not in page and "url(http" not in page
    assert len(page) < 3_000_000


def test_the_verdict_stands_first(grid):
    page = grid[2]
    word = read_json(grid[0] / "verdict.json")["groups"][0]["metrics"]["accuracy"]["verdict"]["word"]
    first = page[page.index("<main>") : page.index('id="tables"')]
    assert (
        f'<strong class="word {word}">' in first
        and "Lost by compression" in first
        and 'class="support"' in first
        and "data:image/svg" in first
    )


def test_a_cell_names_the_codes_that_were_found_to_make_it_since():
    """a was adopted for b, then a's and b's for c; prompts were not asked about at c."""
    rows = [
        {"old": "a", "new": "b", "kinds": ["none", "prompt"]},
        {"old": "a", "new": "c", "kinds": ["none"]},
        {"old": "x", "new": "y", "kinds": ["none"]},
    ]
    found = {
        (code, kind): pages.adopted_for(rows, code, {kind}) for code in "abcx" for kind in ("none", "prompt")
    }
    assert {key: codes for key, codes in found.items() if codes} == {
        ("a", "none"): ["b", "c"],
        ("b", "none"): ["c"],
        ("a", "prompt"): ["b"],
        ("x", "none"): ["y"],
    }


def test_of_the_equivalences_that_a_release_brings_those_of_the_grids_cells_are_shown():
    cells = {1: {"manifest": {"code": "a"}}, 2: {"manifest": {"code": "today"}}}
    rows = [
        {"rule": "evaluate_cell", "old": "a", "new": "today"},
        {"rule": "evaluate_cell", "old": "other", "new": "today"},
        {"rule": "train_adapter", "old": "t", "new": "u"},
    ]
    assert pages.adopted_here(SimpleNamespace(adopted=rows, evaluations=cells)) == [rows[0], rows[2]]


def test_text_from_config_and_data_is_escaped(grid):
    page = grid[2]
    assert "A &lt;b&gt;made-up&lt;/b&gt; grid." in page
    data = json.loads(gzip.decompress(base64.b64decode(re.search('id="ledger-data">([^<]*)<', page)[1])))
    assert any("<sciq>" in question for _, question, _ in data["texts"])
    assert HOSTILE not in page and HOSTILE in data["answers"]


def test_a_pair_that_was_changed_after_results_is_told_on_the_page_and_in_the_verdict(tmp_path):
    asked = {"metric": "accuracy", "code": "a" * 64, "config": "b" * 64, "cells": 6}
    first = asked | {
        "pair": PAIR | {"prompt": "prompt-50"},
        "planned": "2026-01-01T00:00:00Z",
        "evaluated": 0,
    }
    second = asked | {"pair": PAIR, "planned": "2026-01-02T00:00:00Z", "evaluated": 5}
    write_json(tmp_path / "results/synthetic/questions.json", {"questions": [first, second]}, "questions")
    results, _ = analysed(tmp_path)
    said = (
        "The question (idp-50-100 and lora-r4 by accuracy) took the place of another question at 2026-01-02T00:00:00Z: "
        "5 of 6 cells were evaluated by then."
    )
    verdict = read_json(results / "verdict.json", schema="verdict")
    assert verdict["late_changes"] == [said] and said in lines(verdict)
    page = (results / "overview.html").read_text()
    assert said in page and "named before the run" not in page


def test_every_planned_cell_has_the_command_that_runs_it_again(grid):
    for path in grid[1]:
        assert f"snakemake --force results/{path.partition('/results/')[2]}" in grid[2]
    assert grid[2].count("not run or failed") >= 1


def test_numbers_of_the_intervals_have_units(grid):
    gains = grid[2].split('aria-label="Gains"')[1].split("</table>")[0]
    measures = set(re.findall('<td class="text" data-value="[a-z_]+">([a-z ]+ [(][a-z]+[)])</td>', gains))
    units = {
        "accuracy (points)",
        "accuracy all tasks (points)",
        "choice loglik (nats)",
        "bits per byte (bits)",
    }
    assert measures == units
    assert "The variance behind it" not in grid[2]  # one copy shows nothing of the variance between copies


def test_images_have_alternative_texts_and_tables_captions(grid):
    page = grid[2]
    assert all('alt="' in tag and 'alt=""' not in tag for tag in re.findall(r"<img[^>]*>", page))
    assert page.count("<table") == page.count("<caption") + page.count("<table aria-label")
    assert '<html lang="en">' in page
    assert len(re.findall(r'<(?:select|input)[^>]*name="', page)) == 6
    for scroll in re.findall(r'<div class="scroll[^>]*>', page):
        assert 'tabindex="0"' in scroll and "aria-label" in scroll


def test_planned_measurements_that_were_not_run_are_named(grid):
    """Planned and not run is another thing than not planned."""
    page = grid[2]
    similarity, latency = (
        page.split(f'<h2 id="{kind}">')[1].split("<h2")[0] for kind in ("similarity", "latency")
    )
    assert "Not measured: the 3 similarity measurements that the grid plans" in similarity
    assert "Only 1 of the 2 latency measurements" in latency and "made-up device" in latency
    assert "made-up device. Medians with percentile bootstrap intervals, which on few rounds" in latency
    first = page[page.index("<main>") : page.index('class="cards"')]
    assert (
        "Not run: 3 of 3 planned measurements of similarity, 1 of 2 planned measurements of latency." in first
    )
    assert "Counted: block core; left out: seeds, figure-1." in first
    assert pages.unmeasured({"similarity": 0, "latency": 1}, {"latency": {"a.json": {}}}) == {}


def test_a_cell_that_took_results_over_is_no_cost_of_its_kind():
    made = {"seconds": 9.0, "host": "a", "device": "cpu"}
    taken = {"seconds": 1.0, "host": "b", "device": "cpu", "taken_over": {"benchmark sciq": {}}}
    cells = dict(zip("pq", ({"manifest": made}, {"manifest": taken})))
    paths = {name: f"results/smoke/evaluations/m/dense/none/{name}/seed-0.json" for name in cells}
    costs = [Cost(*job_of(path), 9.0, 0, 0) for path in paths.values()]
    grid = SimpleNamespace(results=SimpleNamespace(planned=paths), measured={})
    forecast = Forecast(load_constants("cpu-2"), costs, "", [])
    found = pages.cost(SimpleNamespace(forecast=forecast, grid=grid, evaluations=cells, blocks=None))
    assert found["taken_over"] == 1 and found["hosts"] == ["a (cpu)"]
    assert found["rows"][0] | {"jobs": 1, "ratio": 1.0} == found["rows"][0]


def test_an_adapter_that_takes_no_step_has_no_learning_rate():
    path = "results/g/adapters/m/gptq-w3/wikipedia/eora-r4/seed-0/training.json"
    record = {**TRAINING, "training": {}}
    table = (
        environment().get_template("measured.html.j2").module.trainings([pages.training_row(path, record)])
    )
    assert "None" not in table and '<td data-value="">—</td>' in table


def test_similarity_is_summed_up_with_the_layer_that_is_furthest_off():
    row = pages.similarity_row(SIMILARITY)
    assert row["attention"] == {"mean": pytest.approx(0.95333, abs=1e-5), "lowest": 0.9, "layer": 2}
    assert row["name"] == "llama-7b / gptq-w3 / wikipedia / lora-r4 / seed 0"


def test_access_and_learning_stand_on_the_card_and_in_a_table(tmp_path, monkeypatch):
    facts = METHODS["lora-r4"] | {"corpus": {"task": "triviaqa", "part": "even"}}
    for catalogue, value in ((METHODS, facts), (PARAMETERS, 0)):
        monkeypatch.setitem(catalogue, "lora-facts", value)
    results, _ = analysed(tmp_path, 40, study("m", GAINS | {"lora-facts": 0.1}))
    page = (results / "overview.html").read_text()
    card = html.unescape(page[page.index('class="card"') : page.index("</section>")])
    (row,) = (r for r in read_json(results / "verdict.json")["parts"] if r["metric"] == "accuracy")
    untold, told = (points(x).replace("-", "−") for x in (row["untrained"]["recovered"], row["learned"]))
    assert f"Held-out facts of triviaqa by lora-facts: untold ones {untold}, telling adds {told}; by" in card
    assert row["shows"] in ("access", "learning", "both", "neither")
    assert f"{told}; by the rule: {row['shows']}." in card
    table = page.split('aria-label="Held-out facts"')[1].split("</table>")[0]
    assert table.count("<tr>") == 1 + 2 and "lora-facts" in table  # accuracy and bits per byte


def test_the_tables_come_before_the_conditions_and_the_reasons_are_on_the_page(grid):
    page = grid[2]
    assert page.index('id="tables"') < page.index('id="intervals"') < page.index('id="figures"')
    metrics = read_json(grid[0] / "verdict.json")["groups"][0]["metrics"]
    card = html.unescape(page[page.index('class="card"') : page.index("</section>")])
    judged = [metric["verdict"] for metric in metrics.values() if "verdict" in metric]
    assert len(judged) == 3 and all(verdict["reason"] in card for verdict in judged)


@pytest.mark.parametrize(("word", "prompt"), [("displaced", 0.2), ("forgotten", 0.0), ("both", 0.1)])
def test_a_card_says_what_its_word_means(tmp_path, word, prompt):
    gains, losses = GAINS | {"idp-50-100": prompt, "lora-r4": 0.2}, {"gptq-w3": 0.25}
    results, _ = analysed(tmp_path, items=120, truth=study("m", gains, losses=losses))
    said = MEANING[word].removeprefix(f"{word}: ")
    card = re.search('<section class="card".*?</section>', (results / "overview.html").read_text(), re.S)[0]
    assert f">{word.capitalize()}, of one copy.</strong> {said[:1].upper()}{said[1:]}.</p>" in card
    (width,) = re.findall(f'<span class="{word}" style="flex-grow: ([0-9.]+)">', card)
    assert float(width) >= 97.5


def test_the_paper_is_audited_on_the_page_only_if_the_grid_has_a_cell_that_it_prints(grid, tmp_path):
    assert 'id="audit"' not in grid[2]
    assert not report_grid.shows_something(str(grid[0] / "paper_audit.html"))
    truth = {("llama-7b", *cell[1:]): value for cell, value in study("m", GAINS).items()}
    monkey = pytest.MonkeyPatch()
    monkey.setattr("tests.unit.synthetic_page.LOST", ("llama-7b", "gptq-w3", "wikipedia", "prompt-50", 0))
    results, _ = analysed(tmp_path, truth=truth)
    monkey.undo()
    assert '<h2 id="audit">' in (results / "overview.html").read_text()
    assert report_grid.shows_something(str(results / "paper_audit.html"))


def test_the_bars_show_what_became_of_the_items_that_the_dense_model_has_right(grid):
    ledger = pd.read_parquet(grid[0] / "ledger.parquet")
    rows = explorers.bars(ledger, [])
    assert rows[0]["scope"] == "all" and {row["scope"] for row in rows[1:]} == {"world", "common", "language"}
    assert rows[0]["items"] == int(ledger["correct/dense"].sum()) == sum(row["items"] for row in rows[1:])
    for row in rows:
        assert sum(part["percent"] for part in row["parts"]) == pytest.approx(100)
    kept = (ledger["outcome"] == "kept").sum() / rows[0]["items"]
    assert rows[0]["parts"][0] == {"name": "kept", "look": "kept", "percent": pytest.approx(100 * kept)}
    assert 'class="shares"' in grid[2]
    assert explorers.bars(ledger.iloc[:0], []) == []
    strata = ledger.assign(subject=ledger["doc_id"].map({0: "rare", 1: "popular"}))  # most items have none
    by_subject = {row["scope"]: row for row in explorers.bars(strata, [])}
    right = strata[strata["correct/dense"].astype(bool)]
    assert by_subject["rare"]["items"] == (right["subject"] == "rare").sum() > 0
    assert set(by_subject) - {row["scope"] for row in rows} == {"rare", "popular"}


def test_the_bars_of_popularity_follow_the_strata_of_the_verdict(grid):
    ledger = pd.read_parquet(grid[0] / "ledger.parquet")
    ledger = ledger.assign(popularity=ledger["doc_id"].where(ledger["task"] == "piqa").astype(float))
    place = {key: ledger[key].iloc[0] for key in ("model", "compressor", "corpus")}
    rare = place | {"task": "piqa", "kind": "popularity", "stratum": "0 to 3", "low": 0.0, "high": 3.0}
    other = rare | {"compressor": "another", "stratum": "4"}
    rows = {row["scope"]: row for row in explorers.bars(ledger, [rare, other])}
    inside = ledger[
        (ledger["task"] == "piqa") & (ledger["doc_id"] <= 3) & ledger["correct/dense"].astype(bool)
    ]
    assert rows["piqa, popularity 0 to 3"]["items"] == len(inside) > 0
    assert not any(scope.endswith("popularity 4") for scope in rows)


def test_a_figure_has_one_caption_and_its_command_behind_a_button(grid):
    page = grid[2]
    assert page.count("<figcaption>") == page.count("<figure") == 2
    figure = page[page.index('<figure class="drawn"><img src="data:image/svg+xml') :].partition("</figure>")[
        0
    ]
    assert "Scores drawn here are made up." in figure and 'alt="Prompts encoded once' in figure
    command = "snakemake results/synthetic/figures/figure3.svg"
    assert f'<details class="command"><summary>Command</summary><code>{command}' in figure


def test_ids_are_unique(grid):
    ids = re.findall(r' id="([^"]+)"', grid[2])
    assert len(ids) == len(set(ids))


def test_a_large_ledger_keeps_its_changed_items_and_says_how_many_it_left_out(grid, monkeypatch):
    ledger = pd.read_parquet(grid[0] / "ledger.parquet")
    unchanged = int(ledger["outcome"].isin(["kept", "never_known"]).sum())
    changed = len(ledger) - unchanged
    assert min(changed - 3, unchanged) > 0
    for shown in (changed, changed - 3):  # more changed items than that: some of each group
        monkeypatch.setattr(explorers, "EXPLORER_ROWS", shown)
        explorer = explorers.explorer(ledger, ["dense", "none", "lora-r4"], ["dense", "lora-r4"])
        rows = [row for group in explorer["groups"] for row in group["rows"]]
        assert len(rows) == shown and explorer["dropped"] == len(ledger) - shown
        assert not {explorer["outcomes"][row[1]] for row in rows} & {"kept", "never_known"}


def test_marks_show_right_wrong_and_not_run(grid):
    ledger = pd.read_parquet(grid[0] / "ledger.parquet").astype({"correct/lora-r4": "boolean"})
    ledger.loc[0, "correct/lora-r4"] = pd.NA
    marks = [
        row[2]
        for row in explorers.explorer(ledger, ["dense", "none", "lora-r4"], ["dense", "lora-r4"])["groups"][
            0
        ]["rows"]
    ]
    assert marks[0][2] == "-" and set("".join(marks)) == {"0", "1", "-"}


def test_the_explorer_shows_answers_margins_and_whether_the_text_had_the_answer(grid):
    ledger = pd.read_parquet(grid[0] / "ledger.parquet")
    explorer = explorers.explorer(ledger, ["dense", "none", "lora-r4"], ["dense", "lora-r4"])
    assert explorer["detailed"] == [0, 2] and explorer["answers"] == [HOSTILE]
    row, source = explorer["groups"][0]["rows"][0], ledger.iloc[0]
    assert row[3] == "-"
    assert row[4:] == [
        pytest.approx(source["margin/dense"], abs=0.006),
        0,
        pytest.approx(source["margin/lora-r4"], abs=0.006),
        0,
    ]


def test_long_questions_are_cut_at_their_beginning():
    assert explorers._cut("x" * 600 + "end") == "… " + ("x" * 600 + "end")[-500:]


def test_the_summary_names_the_verdict_and_three_numbers(grid):
    verdict = read_json(grid[0] / "verdict.json")
    text = lines(verdict)
    assert text[0].startswith("m, gptq-w3, wikipedia: ") and "informative tasks, 1 compressed copy" in text[1]
    assert [line.split("points")[0].strip()[:4] for line in text[2:5]] == ["lost", "back", "back"]


def test_a_grid_without_recovery_has_no_verdict_but_a_page(tmp_path):
    cells = write_grid(tmp_path, {("m", "dense", "none", "none", 0): 0.7}, items=4)
    find_answers.main(cells, {}, {}, tmp_path / "answers.parquet")
    build_ledger.main(cells, PAIR, tmp_path / "answers.parquet", tmp_path / "ledger.parquet")
    judge.main(cells, Question(PAIR), CATALOGUE, tmp_path / "ledger.parquet", tmp_path / "verdict.json")
    audit_paper.main(tmp_path / "verdict.json", tmp_path / "a.json", tmp_path / "a.html")
    made = draw_page.Made(tmp_path / "verdict.json", tmp_path / "ledger.parquet", tmp_path / "a.json", [])
    output = tmp_path / "page.html"
    draw_page.main(cells, CATALOGUE, made, MeasuredFiles(), draw_page.Planned(), output)
    page = (tmp_path / "page.html").read_text()
    assert "No verdict yet" in page
    sections = re.findall('<h[12] id="([^"]+)"', page)
    assert sections == re.findall('<a href="#([^"]+)">', page) == ["verdict", "cells"]
    assert not re.search(r"<tbody>\s*</tbody>", page)  # a table without rows is none
    assert lines(read_json(tmp_path / "verdict.json"))[0].startswith("No compressed model")

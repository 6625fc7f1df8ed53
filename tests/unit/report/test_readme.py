"""The README's results come from the committed archive."""

import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.unit.synthetic_results import CATALOGUE, METHODS, PAIR, PARAMETERS, study, write_grid
from workflow_scripts.__main__ import main
from workflow_scripts.commands import readme
from workflow_scripts.commands.readme import ARCHIVE, RECOVERY, results_of
from workflow_scripts.files.artifacts import ArtifactError, write_json
from workflow_scripts.judge.judgement import Question, Resampling, judge_grid
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.layout import VERDICT
from workflow_scripts.report.readme import BEGIN, END, current, region, replaced
from workflow_scripts.report.recovery import figures
from workflow_scripts.report.summary import points

ROOT = Path(__file__).parents[3]
INDEX = {
    "commit": f"{'ab' * 20}+",
    "blocks": {
        "core": {"planned": 6, "evaluated": 6},
        "seeds": {"planned": 4, "evaluated": 1},
        "rest": {"planned": 3, "evaluated": 0},
    },
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    truth = study("m", {"idp-50-100": 0.2, "lora-r4": 0.18}, losses={"gptq-w3": 0.25, "sparsegpt-50": 0.25})
    truth[("m", "sparsegpt-50", "wikipedia", "lora-r4", 0)] = 0.5
    lost = {("m", "sparsegpt-50", "wikipedia", "lora-r4", 0)}
    results = read_results(write_grid(tmp_path_factory.mktemp("grid"), truth, 120, 0.02, skip=lost))
    return region(judge_grid(results, Question(PAIR), CATALOGUE, Resampling(1500)), INDEX, "reports/bench")


def test_the_region_has_the_verdict_with_its_intervals(text):
    row = next(line for line in text.splitlines() if line.startswith("| m, gptq-w3"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1] == "1" and cells[5:] == ["**displaced, of one copy (displaced 100 %)**"]
    assert cells[2].startswith("+2") and "[+" in cells[2] and "points" not in row


def test_verdicts_are_counted_first(text):
    assert text.startswith("**Verdicts: 1 displaced, 1 unavailable.** Grid `synthetic`")


def test_a_remark_on_every_model_names_none_of_them(tmp_path):
    truth = study("m", {"idp-50-100": 0.0, "lora-r4": 0.2}, losses={"gptq-w3": 0.25, "sparsegpt-50": 0.25})
    truth["m", "dense", "wikipedia", "idp-50-100", 0] = 0.5
    results = read_results(write_grid(tmp_path, truth, 60, 0.02))
    text = region(judge_grid(results, Question(PAIR), CATALOGUE, Resampling(200)), INDEX, "reports/bench")
    assert "\n- Every compressed model: idp-50-100 harms the dense model (-" in text


def test_what_was_not_run_is_said(text):
    assert "core, seeds (1 of 4 cells)." in text and "rest" not in text
    assert (
        next(line for line in text.splitlines() if line.startswith("| m, sparsegpt-50")).count("not run") == 1
    )
    assert "1 of the 9 cells of these blocks were not run." in text
    assert "1,080 paired items" in text
    assert "packed by the code of commit abababababab with changes in workflow_scripts that were not" in text


def test_a_model_whose_cells_are_still_to_come_is_named_and_the_intervals_say_what_they_cover(tmp_path):
    truth = study("m", {"idp-50-100": 0.0, "lora-r4": 0.0}, losses={"gptq-w3": 0.0, "sparsegpt-50": 0.25})
    truth["m", "gptq-w4", "wikipedia", "none", 0] = 0.6  # a sweep cell: nothing was planned to recover it
    lost = {cell for cell in truth if cell[1] in ("sparsegpt-50", "gptq-w4")}
    verdict = judge_grid(
        read_results(write_grid(tmp_path, truth, 20, 0.02, skip=lost)),
        Question(PAIR),
        CATALOGUE,
        Resampling(200),
    )
    text = region(verdict, INDEX, "reports/bench")
    assert (
        "4 of the 10 cells of these blocks were not run. No verdict yet for m, sparsegpt-50, wikipedia.\n"
        in text
    )
    assert "They cover the choice of items, not of the calibration text" in text
    found = verdict["groups"][0]["metrics"]["accuracy"]["verdict"]
    assert f"| **{found['word'].replace('_', ' ')}" in text and f"({found['reason']})" in text


def test_the_recovery_page_has_r_g_and_h_of_every_method_and_access_against_learning(tmp_path, monkeypatch):
    facts = METHODS["lora-r4"] | {"corpus": {"task": "triviaqa", "part": "even"}}
    for catalogue, value in ((METHODS, facts), (PARAMETERS, 0)):
        monkeypatch.setitem(catalogue, "lora-facts", value)
    gains = {"prompt-50": 0.1, "prompt-100": 0.1, "idp-50-100": 0.2, "lora-facts": 0.1}
    results = read_results(write_grid(tmp_path, study("m", gains), 40, 0.02))
    verdict = judge_grid(results, Question(PAIR), CATALOGUE, Resampling(200))
    blocks = {"recovery": {"planned": 12, "evaluated": 9}}
    page = figures(verdict, INDEX | {"blocks": blocks}, "reports/bench")
    assert "9 of 12 cells of block `recovery`" in page
    metric = verdict["groups"][0]["metrics"]["accuracy"]["methods"]
    for method, row in metric.items():
        numbers = " | ".join(points(row[name]) for name in ("recovered", "gain", "dense_gain"))
        assert f"| m, gptq-w3, wikipedia | {method} | {numbers} | items |" in page
    (told,) = (row for row in verdict["parts"] if row["metric"] == "accuracy")
    assert f"| triviaqa | lora-facts | {points(told['untrained']['recovered'])}" in page
    (choice,) = (c for c in verdict["choices"] if c["compressor"] == "gptq-w3")
    behind = " | ".join(points(way["behind"]) for way in choice["ways"])
    assert "| chose | IDP minus single best | IDP minus random choice | IDP minus oracle" in page
    (cell,) = (c for c in results.evaluations if c[2:5] == ("gptq-w3", "wikipedia", "idp-50-100"))
    chosen = results.items(cell)["selected_prompt"].value_counts(normalize=True)
    shares = ", ".join(f"{name} {100 * chosen[name]:.0f} %" for name in sorted(chosen.index))
    assert f"| {choice['method']} | {shares} | {behind} |" in page
    left = figures(verdict, INDEX, "reports/bench")
    assert left == "No figures yet: `reports/bench` holds no cell of the block `recovery`."


def test_only_the_region_is_rewritten():
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert replaced(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert current(replaced(page, "new")) == "new"
    with pytest.raises(ArtifactError, match="no region"):
        replaced("no marks", "new")


def test_the_readme_says_what_the_archive_says(monkeypatch):
    """Empty without a committed archive, else exactly what the command writes."""
    monkeypatch.chdir(ROOT)
    there = (ROOT / ARCHIVE / "archive.json").is_file()
    for page, text in (("README.md", region), (RECOVERY, figures)):
        assert current((ROOT / page).read_text()) == (results_of(ARCHIVE, text) if there else "")


def test_a_page_without_the_region_and_an_archive_of_an_older_verdict_are_one_line_each(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(readme, "opened", lambda source: nullcontext((tmp_path, {"grid": "g"}, None)))
    path = tmp_path / VERDICT.path("g")
    write_json(path, {"schema": 1})
    (tmp_path / "README.md").write_text("no marks")
    (tmp_path / "recovery.md").write_text(f"{BEGIN}\n{END}")
    words = ["readme", "--archive", "reports/old", "--readme", str(tmp_path / "README.md")]
    words += ["--recovery", str(tmp_path / "recovery.md")]
    assert main(words) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "reports/old/results/g/verdict.json: has schema 1, this version writes" in line
    assert "`make rebuild FROM=reports/old`" in line
    monkeypatch.setattr(readme, "results_of", lambda archive, text: "new")
    assert main(words) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}/README.md: no region between") and "put both lines" in line


def latin(page):
    page.write_bytes(b"# T\xe9")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (latin, "is no UTF-8 text (byte 4); save it as UTF-8"),
        (os.mkfifo, "is no regular file; name one"),
        (Path.mkdir, "is no regular file; name one"),
        (lambda page: None, "No such file or directory"),
    ],
)
def test_a_page_that_is_no_text_is_one_line(tmp_path, make, says, capsys):
    page = tmp_path / "README.md"
    make(page)
    assert main(["readme", "--archive", "nowhere", "--readme", str(page)]) == 1
    assert capsys.readouterr().err == f"{page}: {says}\n"

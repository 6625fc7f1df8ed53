"""`truth`: expected labels beside verdicts, and what is said if there is nothing to compare."""

from pathlib import Path

import pytest

from tests.unit.synthetic_results import CATALOGUE, study, write_grid
from workflow_scripts.commands import truth
from workflow_scripts.files.artifacts import ArtifactError, write_json
from workflow_scripts.judge.judgement import Question, Resampling, judge_grid
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.config import files
from workflow_scripts.report.truth import MISSING, ExpectedVerdict, outcome, rows, to_markdown

PAIR = {"prompt": "prompt-50", "lora": "lora-r2"}


def verdict_of(folder):
    """A compressed model whose loss neither method mends."""
    planted = study("m", dict.fromkeys(PAIR.values(), 0.0))
    results = read_results(write_grid(folder, planted, 300, 0.0))
    return judge_grid(results, Question(PAIR), CATALOGUE, Resampling(400))


def test_each_expected_label_stands_beside_its_verdict(tmp_path):
    verdict = verdict_of(tmp_path)
    group = verdict["groups"][0]
    found = group["metrics"]["accuracy"]["verdict"]
    assert found["word"] == "unrecovered"  # or the rows below show nothing
    name, corpus = group["compressor"], group["corpus"]
    [right] = rows(verdict, {name: {corpus: "unrecovered"}})
    [wrong] = rows(verdict, {name: {corpus: "displaced"}})
    assert right[:5] == ("m", name, corpus, "unrecovered", "unrecovered")
    assert right.support == found["support"]["unrecovered"] and outcome(right) == "as expected"
    assert wrong.support == found["support"]["displaced"] and outcome(wrong) == "differs"
    assert rows(verdict, {name: {"elsewhere": "both"}}) == [
        ExpectedVerdict("", name, "elsewhere", "both", MISSING, None, "")
    ]


def test_the_table_counts_what_is_as_expected_and_what_is_another_word():
    row = ExpectedVerdict("m", "locked", "text", "no_loss", "no_loss", 0.9984, "no loss 99.8 %")
    table = to_markdown([row, row._replace(found="undecided"), row._replace(found="both", support=None)])
    lines = table.splitlines()
    assert lines[2] == "| locked | text | no loss | no loss | 99.8 % | as expected | no loss 99.8 % |"
    assert "| undecided | 99.8 % | undecided |" in lines[3] and "| both |  | differs |" in lines[4]
    assert lines[-1] == "1 of 3 verdicts are as expected, 1 says another word, 1 undecided."


def test_the_command_reads_the_grid_s_expectations_and_verdict(tmp_path, monkeypatch, capsys):
    shipped = files(root=Path(__file__).parents[3])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(truth, "files", lambda *named: shipped)
    with pytest.raises(ArtifactError, match=r"grids.bench.expected: nothing is expected of this grid"):
        truth.main("bench")
    with pytest.raises(ArtifactError, match=r"results/truth/verdict.json: not there yet; run the grid first"):
        truth.main("truth")
    write_json("results/truth/verdict.json", verdict_of(tmp_path / "made"), schema="verdict")
    assert truth.main("truth") == 0
    said = capsys.readouterr().out
    expected = sum(len(words) for words in truth.plan_of(shipped, "truth").grid("truth").expected.values())
    assert said.count(MISSING) == 2 * expected + 1
    assert f"0 of {expected} verdicts are as expected, 0 say another word, {expected} not judged." in said

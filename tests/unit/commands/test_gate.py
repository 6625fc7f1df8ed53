"""The gate: 0 for wanted verdicts, 1 for others, 2 for open ones."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.unit.synthetic_results import CATALOGUE, PAIR, study, write_grid
from workflow_scripts.__main__ import main
from workflow_scripts.files.artifacts import PACKAGE, read_json, write_json
from workflow_scripts.judge.judgement import Question, Resampling, judge_grid
from workflow_scripts.judge.results import read_results
from workflow_scripts.plan.layout import VERDICT


@pytest.fixture
def verdict(tmp_path, monkeypatch):
    """Writes verdict.json of two compressed models with these words."""
    truth = study("m", {"idp-50-100": 0.2, "lora-r4": 0.2}, losses={"gptq-w3": 0.2, "sparsegpt-50": 0.2})
    judged = judge_grid(
        read_results(write_grid(tmp_path, truth, 20)), Question(PAIR), CATALOGUE, Resampling(100)
    )
    monkeypatch.chdir(tmp_path)

    def write(*words: str) -> None:
        found = json.loads(json.dumps(judged))
        for group, word in zip(found["groups"], words, strict=True):
            group["metrics"][found["metric"]]["verdict"]["word"] = word
        write_json(VERDICT.path("smoke"), found, "verdict")

    return write


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("displaced", "no_loss"), 0),
        (("displaced", "forgotten"), 1),
        (("displaced", "undecided"), 2),
        (("unavailable", "displaced"), 2),
        (("undecided", "unrecovered"), 1),
    ],
)
def test_the_status_follows_the_words(verdict, capsys, words, status):
    verdict(*words)
    assert main(["gate", "--grid", "smoke", "--want", "no_loss,displaced"]) == status
    assert [line.split(": ")[1].split(" ")[0] for line in capsys.readouterr().out.splitlines()] == list(words)


def test_support_and_copies_stand_beside_the_word_and_groups_without_a_verdict_are_named(verdict, capsys):
    """A no_loss of one copy passed as any other, and a group without the pair in silence."""
    verdict("no_loss", "no_loss")
    file = VERDICT.path("smoke")
    found = read_json(file)
    found["groups"][0]["metrics"][found["metric"]]["verdict"]["of_one_copy"] = True
    other = json.loads(json.dumps(found["groups"][0])) | {
        "compressor": "gptq-w8",
        "seeds": {"none": [0]},
        "missing": [],
    }
    for metric in other["metrics"].values():
        metric["methods"] = {}
    write_json(file, found | {"groups": [*found["groups"], other]}, "verdict")
    assert main(["gate"]) == 0
    first, _, passed = capsys.readouterr().out.splitlines()
    assert "no_loss (wanted); of one copy; support: " in first and " %" in first
    assert first.endswith(" tasks, 1 compressed copy")
    assert passed == f"m, gptq-w8, {other['corpus']}: no_loss (passed over: the pair is not planned for it)"


@pytest.mark.parametrize(
    ("method", "status"), [("lora-r4", 2), ("none", 2), ("ptune-50", 0)], ids=["pair", "none", "another"]
)
def test_a_word_by_a_part_of_the_planned_copies_is_open(verdict, capsys, method, status):
    """A partial report of the first of three seeds passed, so one could stop as soon as it looked well."""
    verdict("displaced", "displaced")
    found = read_json(VERDICT.path("smoke"))
    found["groups"][0]["missing"] = [f"m / rtn-w3 / none / {method} / seed {seed}" for seed in (1, 2)]
    write_json(VERDICT.path("smoke"), found, "verdict")
    assert main(["gate"]) == status
    assert ("displaced (open, 2 planned cells are missing); " in capsys.readouterr().out) == (status == 2)


def test_a_verdict_that_was_changed_by_hand_is_refused(verdict, capsys):
    verdict("forgotten", "forgotten")
    file = Path(VERDICT.path("smoke"))
    file.write_text(file.read_text().replace('"word": "forgotten"', '"word": "displaced"'))
    assert main(["gate", "--grid", "smoke", "--want", "displaced"]) == 1
    assert "verdict.json: was changed after it was written" in capsys.readouterr().err


def test_other_words_may_be_wanted(verdict):
    verdict("forgotten", "forgotten")
    assert main(["gate", "--want", "forgotten"]) == 0
    assert main(["gate"]) == 1


def test_a_word_that_is_no_verdict_and_a_grid_without_one_are_told(verdict, capsys):
    verdict("displaced", "displaced")
    assert main(["gate", "--want", "displacd"]) == 1
    assert "'displacd' is no verdict that can be wanted" in capsys.readouterr().err
    assert main(["gate", "--want", "undecided"]) == 1
    assert main(["gate", "--grid", "bench"]) == 1
    assert "results/bench/verdict.json: grid 'bench' has no verdict yet" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["gate", "--wnat", "displaced"], ["gate", "--want"], ["gaet"]])
def test_words_that_are_no_command_do_not_end_as_an_open_verdict(verdict, capsys, words):
    """Who publishes what is open must not publish after a slip of the pen."""
    verdict("forgotten", "forgotten")
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 1 and "error: " in capsys.readouterr().err


def test_a_verdict_for_another_metric_is_not_read(verdict):
    """The grid's primary metric decides, whatever the others say."""
    verdict("displaced", "displaced")
    found = read_json(VERDICT.path("smoke"))
    for group in found["groups"]:
        for name, metric in group["metrics"].items():
            if name != found["metric"] and "verdict" in metric:
                metric["verdict"]["word"] = "forgotten"
    write_json(VERDICT.path("smoke"), found, "verdict")
    assert main(["gate"]) == 0


@pytest.mark.parametrize("status", [1, 2])
def test_makes_own_status_tells_nothing_and_its_help_says_so(tmp_path, status):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nexit {status}\n")
    python.chmod(0o755)
    make = ["make", "-C", str(PACKAGE.parent), f"VENV={tmp_path}"]
    assert subprocess.run([*make, "gate"], capture_output=True, check=False).returncode == 2
    shown = subprocess.run([*make, "help"], capture_output=True, text=True, check=True).stdout
    (line,) = (line for line in shown.splitlines() if line.startswith("gate "))
    assert "fails with 2, as make does; CI asks python -m workflow_scripts gate" in line

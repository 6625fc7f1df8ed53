"""Right answers that are read by a filter: one that the filter can never find is refused at the fetch."""

import pytest

from tests.unit.evaluate.test_task_check import written
from workflow_scripts.evaluate.answer_check import _groups
from workflow_scripts.evaluate.task_check import check
from workflow_scripts.files.artifacts import ArtifactError

pytestmark = pytest.mark.usefixtures("one_process")
GSM8K = "gsm8k", "gsm8k_cot"


def asked(folder, task, answer):
    rows = [{"question": f"q{n}", "answer": f"So it is {n}.\n#### {n}"} for n in range(8)]
    rows[2]["answer"] = answer
    return check(written(folder, rows), "mine.jsonl", task, {})


@pytest.mark.parametrize("task", GSM8K)
@pytest.mark.parametrize("answer", ["3 and 4 make 7.", "####", "#### seven", "7 is #### the answer"])
def test_an_answer_that_the_tasks_filter_never_finds_is_refused_with_its_line(task, answer, tmp_path):
    with pytest.raises(
        ArtifactError, match=r"mine\.jsonl: line 3: its right answer (is empty|.* the task's filter)"
    ):
        asked(tmp_path, task, answer)


@pytest.mark.parametrize("task", GSM8K)
@pytest.mark.parametrize("answer", ["So.\n#### 1,234", "#### -5", "#### $72", "7", "3 + 4 = 7\n#### 7.0"])
def test_answers_that_the_filter_finds_pass(task, answer, tmp_path):
    assert asked(tmp_path, task, answer) == []


def test_groups_of_a_pattern():
    assert _groups(r"#### (\-?[0-9\.\,]+)") == [r"\-?[0-9\.\,]+"]
    assert _groups(r"answer is \(?([A-J])\)?") == ["[A-J]"]
    assert _groups(r"(?<=is )(.*)(?=.)") == [".*"] and _groups("[(]x") == ["[(]x"]
    assert _groups(r"(-?[$0-9.,]{2,})|(-?[0-9]+)") == ["-?[$0-9.,]{2,}", "-?[0-9]+"]


def test_a_task_that_scores_shares_is_told_before_its_labels_are(tmp_path):
    """truthfulqa_mc2 takes the share of probability on all right choices."""
    choices = {"choices": ["a", "b", "c"], "labels": [1, 1, 0]}
    rows = [{"question": f"q{n}", "mc1_targets": choices, "mc2_targets": choices} for n in range(3)]
    with pytest.raises(ArtifactError, match=r"line 1: its acc can be 0\.\d+, neither right nor wrong"):
        check(written(tmp_path, rows), "mine.jsonl", "truthfulqa_mc2", {})

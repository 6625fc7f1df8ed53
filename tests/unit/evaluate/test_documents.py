"""Documents: what a task's own function draws at random, leaves out or hides; types and fields that differ."""

import json
import random
import re

import pytest

from tests.equivalence import scorer_models
from workflow_scripts.evaluate.cell import _require_parts, _told, evaluate_task
from workflow_scripts.evaluate.documents import Item, Line, chosen, read_lines
from workflow_scripts.evaluate.scorer import RequestError, Scorer
from workflow_scripts.evaluate.task_check import check
from workflow_scripts.evaluate.tasks import load_task
from workflow_scripts.files.artifacts import ArtifactError, digest

GPQA = [
    {
        "Question": f"Q{i} river?",
        "Correct Answer": "town",
        "Incorrect Answer 1": "stone",
        "Incorrect Answer 2": "light",
        "Incorrect Answer 3": "water",
    }
    for i in range(12)
]
SUBJECTS = [
    {
        "question": f"Q{i}?",
        "options": ["a", "b", "c"],
        "answer": "ABC"[i % 3],
        "answer_index": i % 3,
        "src": "x",
        "category": ["law", "biology"][i % 2],
        "cot_content": "A: Let's think step by step.",
        "question_id": i,
    }
    for i in range(12)
]
pytestmark = pytest.mark.usefixtures("one_process")

PIQA = [
    {"goal": f"open {w}", "sol1": f"with the {w}", "sol2": f"by {w}", "label": i % 2}
    for i, w in enumerate("abcdef")
]


def written(folder, rows, name="data.jsonl"):
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / name


# -------------------------------------------------------------------------------------- random choices


@pytest.mark.parametrize("name", ["gpqa_main_zeroshot", "gpqa_diamond_zeroshot", "gpqa_diamond_n_shot"])
def test_shuffled_choices_are_the_same_each_time_whatever_was_drawn_before(name, tmp_path):
    file, found = written(tmp_path, GPQA), []
    for seed in (1, 2):
        random.seed(seed)
        task = load_task(name, file, None, 4, None, None, 0)
        documents = [dict(document) for document in task.task.eval_docs]
        found.append((documents, [dict(document) for document in task.task.eval_docs], task.hashes))
    assert found[0] == found[1] and found[0][0] == found[0][1]
    assert len({document["answer"] for document in found[0][0]}) > 1, "not one letter for all"


def test_a_smaller_budget_and_other_neighbours_shuffle_alike(tmp_path):
    whole = load_task("gpqa_main_zeroshot", written(tmp_path, GPQA), None, None)
    part = load_task("gpqa_main_zeroshot", written(tmp_path, GPQA[::-1], "b.jsonl"), 5, None)
    assert len(part.hashes) == 5 and set(part.hashes) < set(whole.hashes)


def test_a_variant_of_a_task_shuffles_as_the_task_itself(tmp_path):
    file, name = written(tmp_path, GPQA), "gpqa_main_zeroshot"
    assert load_task("mine", file, 5, 4, None, name, 2).hashes == load_task(name, file, 5, 4).hashes


def test_the_hash_covers_the_choices_that_were_drawn(tmp_path):
    hashes = load_task("gpqa_main_zeroshot", written(tmp_path, GPQA), None, None).hashes
    line = Line(1, b"", GPQA[0])
    a, b = (Item(line, GPQA[0] | {"answer": letter}, drawn=True).hash for letter in ("(A)", "(B)"))
    assert a != b and len(set(hashes)) == 12 and digest(GPQA[0]) not in hashes


def test_the_hash_of_an_item_that_its_line_determines_is_the_lines(tmp_path):
    """So parts of a task, which training reads from the lines, are the parts of its items (plan/parts.py)."""
    rows = [
        {
            "ind": i,
            "ctx_a": "a",
            "ctx_b": "b",
            "activity_label": f"c {i}",
            "endings": list("wxyz"),
            "label": "0",
        }
        for i in range(4)
    ]
    assert load_task("hellaswag", written(tmp_path, rows), None, None).hashes == list(map(digest, rows))


def test_an_adapter_of_a_part_of_a_task_with_drawn_choices_is_refused(tmp_path):
    task = load_task("gpqa_main_zeroshot", written(tmp_path, GPQA), None, None)
    trained_on = {"task": task.name, "part": "even"}
    _require_parts(task, "c4", None)
    _require_parts(
        load_task("piqa", written(tmp_path, PIQA), None, None), trained_on | {"task": "piqa"}, None
    )
    with pytest.raises(ArtifactError, match="gpqa_main_zeroshot: its items are drawn at random"):
        _require_parts(task, trained_on, None)


def test_an_adapter_of_a_family_is_refused_if_the_task_chooses_others_than_it_was_kept_from(tmp_path):
    """The function of mmlu_pro_law leaves a subject out, so it scores lines that training had taken for unscored."""
    record = {"method": {"corpus": {"tasks": ["piqa", "law"]}}, "manifest": {}}
    record["manifest"]["inputs"] = {"items of piqa": "a", "items of law": "b", "items of sciq": "c"}
    trained_on = _told(record, {"mmlu_pro_law": "b", "sciq": "c"})
    assert trained_on == {"tasks": ["piqa", "law", "mmlu_pro_law"]}  # it is asked of law's file
    _require_parts(load_task("piqa", written(tmp_path, PIQA), 3, None), trained_on, 3)
    law = load_task("mmlu_pro_law", written(tmp_path, SUBJECTS), 4, 4, None, None, 0)
    _require_parts(law, {"tasks": ["piqa"]}, 4)
    for text in (trained_on, {"task": "mmlu_pro_law", "part": "even"}):
        with pytest.raises(ArtifactError, match="mmlu_pro_law: its own function leaves documents out"):
            _require_parts(law, text, 4)


def test_a_function_whose_random_numbers_no_seed_fixes_is_refused():
    def shuffled(rows):
        return rows.map(lambda row: {"key": random.SystemRandom().random()})

    lines = [Line(i, str(i).encode(), {"question": str(i)}) for i in range(1, 5)]
    with pytest.raises(ArtifactError, match="task mine: its own function makes other documents each time"):
        chosen("mine", lines, None, shuffled)


# ------------------------------------------------------------------------------------------- filters


@pytest.mark.parametrize(
    ("items", "lines"), [(None, [0, 2, 4, 6, 8, 10]), (9, [0, 2, 4, 6, 8, 10]), (4, [0, 2, 4, 6])]
)
@pytest.mark.parametrize("shots", [0, 2])
def test_items_hashes_and_lines_are_of_the_documents_that_a_task_keeps(items, lines, shots, tmp_path, capsys):
    task = load_task("mmlu_pro_law", written(tmp_path, SUBJECTS), items, 4, None, None, shots)
    kept = [dict(document) for document in task.task.eval_docs]
    kept = [kept[i] for i in task.samples] if shots else kept
    assert {document["category"] for document in kept} == {"law"}
    assert [document["question_id"] for document in kept] == task.lines
    if items != 4:
        assert task.lines == lines
    assert len(task.lines) == len(lines)
    assert task.hashes == [Item(Line(i + 1, b"", SUBJECTS[i]), SUBJECTS[i]).hash for i in task.lines]
    task.task.build_all_requests(samples=task.samples)
    assert len(task.task.instances) == len(lines)
    said = "task mmlu_pro_law: 6 items, fewer than the 9 asked for: its own function leaves 6 of 12 documents"
    assert (said in capsys.readouterr().err) == (items == 9)


def test_a_task_that_keeps_nothing_or_too_little_for_its_examples_says_so(tmp_path):
    with pytest.raises(ArtifactError, match="mmlu_pro_math: its own function keeps none of the 12 documents"):
        load_task("mmlu_pro_math", written(tmp_path, SUBJECTS), 4, 4, None, None, 0)
    with pytest.raises(
        ArtifactError, match=r"mmlu_pro_law: 6 solved examples .* its 6 documents leave .* 5$"
    ):
        load_task("mmlu_pro_law", written(tmp_path, SUBJECTS), 4, 4, None, None, 6)


# ------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("name", "row", "key"),
    [
        ("boolq", {"passage": "p", "question": "q", "label": -1, "idx": 0}, "label"),
        (
            "copa",
            {"premise": "P.", "choice1": "A.", "choice2": "B.", "question": "cause", "label": -1, "idx": 0},
            "label",
        ),
        ("gpqa_main_zeroshot", GPQA[0] | {"Correct Answer": ""}, "Correct Answer"),
        (
            "openbookqa",
            {"question_stem": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": None},
            "answerKey",
        ),
        (
            "swag",
            {"startphrase": "s", "ending0": "a", "ending1": "b", "ending2": "c", "ending3": "d", "label": -1},
            "label",
        ),
        (
            "social_iqa",
            {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "c", "label": "-1"},
            "label",
        ),
    ],
)
def test_hidden_labels_are_seen_before_a_function_of_the_task_turns_them_into_choices(
    name, row, key, tmp_path
):
    file = written(tmp_path, [row])
    with pytest.raises(
        ArtifactError, match=rf"task {name}: {file}: line 1: the label `{key}` is .*, which hides"
    ):
        load_task(name, file, None, None)


@pytest.mark.parametrize("hidden", [-1.0, -100, -2])
def test_every_negative_label_is_hidden(hidden, tmp_path):
    file = written(tmp_path, [row | {"label": hidden} for row in PIQA])
    with pytest.raises(ArtifactError, match=rf"line 1: the label `label` is {hidden}, which hides"):
        load_task("piqa", file, None, None)


COPA = [
    {"premise": "P.", "choice1": "A.", "choice2": "B.", "question": "cause", "label": i % 2, "idx": i}
    for i in range(4)
]


@pytest.mark.parametrize("label", [2, 1.5, 10, "?", "1"])
def test_a_label_that_a_function_of_the_task_takes_for_any_other_is_refused(label, tmp_path):
    """copa's asks only whether the label is 0: every other one is the second choice."""
    check(written(tmp_path, COPA), "mine", "copa", {})
    check(written(tmp_path, [row | {"label": bool(row["label"])} for row in COPA]), "mine", "copa", {})
    file = written(tmp_path, [row | {"label": label} for row in COPA])
    said = f"mine: line 1: the label `label` is {label!r}, none of 0 to 1"
    with pytest.raises(ArtifactError, match=re.escape(said)):
        check(file, "mine", "copa", {})


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("piqa", PIQA[0] | {"label": 2}, "its `label` is '2'"),
        (
            "hellaswag",
            {"ctx_a": "a", "ctx_b": "b", "activity_label": "c", "endings": list("xyz"), "label": ""},
            "its `label` is ''",
        ),
        ("webqs", {"question": "q?", "answers": []}, "its `answers` is '\\[\\]'"),
    ],
)
def test_an_error_of_the_harness_is_told_with_the_documents_label(name, row, said, tmp_path):
    with pytest.raises(ArtifactError, match=f"task {name}: mine: line 1: .*{said}"):
        check(written(tmp_path, [row]), "mine", name, {})


# ------------------------------------------------------------------------------------------- rows at fetch

ROWS = {
    "a label outside": (2, PIQA[2] | {"label": 2}, r"the label is 2, none of its 2 choices \(0 to 1\)"),
    "a label below": (2, PIQA[2] | {"label": -2}, "the label `label` is -2, which hides the answer"),
    "a label of another type": (
        2,
        PIQA[2] | {"label": "one"},
        "the field 'label' is 'one', of another type: line 1 has '0'",
    ),
    "a missing field": (2, {k: v for k, v in PIQA[2].items() if k != "goal"}, "the field 'goal' is missing"),
    "a missing choice": (2, {k: v for k, v in PIQA[2].items() if k != "sol2"}, "the field 'sol2' is missing"),
    "a missing label": (
        2,
        {k: v for k, v in PIQA[2].items() if k != "label"},
        "the field 'label' is missing",
    ),
    "a null": (2, PIQA[2] | {"goal": None}, "the field 'goal' is missing"),
    "an empty choice": (2, PIQA[2] | {"sol1": ""}, "choice 1 of 2 is ''; each must be a text"),
    "white space for a choice": (2, PIQA[2] | {"sol2": "  "}, "choice 2 of 2 is '  '"),
    "a number for a choice": (2, PIQA[2] | {"sol2": 5}, "the field 'sol2' is '5', of another type"),
    "a list for a question": (
        2,
        PIQA[2] | {"goal": ["x"]},
        "the field 'goal' is \"\\['x'\\]\", of another type",
    ),
    "all of it in the first row": (0, {"goal": "x"}, "the field '(label|sol1|sol2)' is missing"),
    "no object": (2, [1, 2], r"'\[1, 2\]' is no JSON object"),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_row_that_the_task_can_not_ask_is_named_with_file_line_and_value(case, tmp_path):
    index, row, said = ROWS[case]
    file = written(tmp_path, [*PIQA[:index], row, *PIQA[index + 1 :]])
    with pytest.raises(ArtifactError, match=rf"mine\.jsonl: line {index + 1}: {said}"):
        check(file, "mine.jsonl", "piqa", {})


def test_rows_that_can_be_asked_pass_with_fields_that_only_some_have(tmp_path):
    rows = [PIQA[0], *(row | {"source": "b", "extra": {"n": i}} for i, row in enumerate(PIQA[1:]))]
    file = written(tmp_path, rows)
    check(file, "mine.jsonl", "piqa", {})
    task = load_task("piqa", file, None, None)
    assert [document["source"] for document in task.task.eval_docs] == [None, *"bbbbb"]
    assert task.hashes[1] == Item(Line(2, b"", rows[1]), rows[1]).hash


def test_blank_lines_are_passed_over_and_lines_keep_their_numbers(tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in PIQA[:2]) + "\n  \n" + json.dumps(PIQA[2]) + "\n\n"
    (tmp_path / "data.jsonl").write_text(text)
    assert [line.number for line in read_lines(tmp_path / "data.jsonl")] == [1, 2, 5]
    assert load_task("piqa", tmp_path / "data.jsonl", None, None).lines == [0, 1, 4]


@pytest.mark.parametrize(
    ("name", "row", "said"),
    [
        ("lambada_openai", {"text": ""}, "its right answer is empty"),
        ("triviaqa", {"question": "q", "answer": {"value": "", "aliases": []}}, "its right answer is empty"),
        (
            "gpqa_main_zeroshot",
            {k: v for k, v in GPQA[0].items() if k != "Question"},
            "the field 'Question' is missing",
        ),
        (
            "gpqa_main_zeroshot",
            {k: v for k, v in GPQA[0].items() if k != "Incorrect Answer 2"},
            "the field 'Incorrect Answer 2' is missing",
        ),
        (
            "hellaswag",
            {"ctx_a": "a", "ctx_b": "b", "activity_label": "c", "endings": ["x", "", "y", "z"], "label": "0"},
            "choice 2 of 4 is ''",
        ),
        (
            "winogrande",
            {"sentence": "The _ is.", "option1": "a", "option2": "b", "answer": "3"},
            "the task knows no '3'",
        ),
        (
            "winogrande",
            {"sentence": "The is.", "option1": "a", "option2": "b", "answer": "1"},
            "a text that the task looks for stands in none of its fields .winogrande's sentences have a _",
        ),
        (
            "arc_easy",
            {
                "id": "q",
                "question": "q",
                "choices": {"text": ["x", "y"], "label": ["A", "B"]},
                "answerKey": "E",
            },
            "'E'",
        ),
    ],
)
def test_other_tasks_name_the_row_too(name, row, said, tmp_path):
    """In their first document, on which the harness itself tries a task, and in later ones."""
    file = written(tmp_path, [row])
    with pytest.raises(ArtifactError, match=rf"task {name}: mine: line 1: .*{said}"):
        check(file, "mine", name, {})


@pytest.mark.parametrize("index", [0, 2])
def test_an_error_within_a_template_comes_with_the_definition(index, tmp_path):
    rows = [
        {"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": key}
        for key in "ABA"
    ]
    rows[index]["answerKey"] = "E"
    said = rf"task quiz: mine: line {index + 1}: ValueError: 'E' is not in list; its `answerKey` is 'E'; .*"
    with pytest.raises(
        ArtifactError, match=said + r"doc_to_target: '\{\{choices.label.index\(answerKey\)\}\}'"
    ):
        check(written(tmp_path, rows), "mine", "quiz", {"task": "arc_easy"})


def test_a_choice_that_is_longer_than_the_model_is_named_with_task_and_line(tmp_path):
    rows = [*PIQA[:3], PIQA[3] | {"sol2": "very long " * 200}]
    task = load_task("piqa", written(tmp_path, rows), None, None)
    scorer = Scorer(scorer_models.model("llama"), scorer_models.tokenizer())
    with pytest.raises(
        ArtifactError,
        match=r"task piqa: .*data\.jsonl: line 4: an answer of \d+ tokens; the model takes 1 to 256",
    ):
        evaluate_task(scorer, task, [])
    task.task.build_all_requests()
    with pytest.raises(RequestError, match="piqa, document 3: an answer of"):
        scorer.loglikelihood(task.task.instances)


def test_a_task_that_asks_at_random_is_refused_at_the_fetch(tmp_path, monkeypatch):
    from lm_eval.api.task import ConfigurableTask

    usual = ConfigurableTask.doc_to_choice
    monkeypatch.setattr(
        ConfigurableTask,
        "doc_to_choice",
        lambda self, doc: [*usual(self, doc), str(random.random())],
    )
    with pytest.raises(ArtifactError, match="mine: line 1: its task asks another question each time"):
        check(written(tmp_path, PIQA), "mine", "piqa", {})

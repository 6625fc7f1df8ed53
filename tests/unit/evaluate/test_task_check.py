"""Rows that a task of the harness asks, and scores wrongly: each is refused at the fetch, by line."""

import json
import os
import re
import sys

import pytest

from workflow_scripts.evaluate import repeat_check, task_check, tasks
from workflow_scripts.evaluate.documents import Line, chosen
from workflow_scripts.evaluate.task_check import check
from workflow_scripts.files.artifacts import ArtifactError, digest
from workflow_scripts.sources.benchmarks import fetch

pytestmark = pytest.mark.usefixtures("one_process")


def written(folder, rows):
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data.jsonl"


def truth(labels, choices=("a", "b", "c")):
    targets = {"choices": list(choices), "labels": labels}
    return {"question": f"q{labels}", "mc1_targets": targets, "mc2_targets": targets}


def arc(key, texts=("x", "y", "z"), labels=("A", "B", "C")):
    return {"question": f"q {key}", "choices": {"text": texts, "label": labels}, "answerKey": key}


def mmlu(answer, choices=("w", "x", "y", "z")):
    return {"question": f"q{answer}", "choices": choices, "answer": answer, "subject": "s"}


def sciq(right, *wrong):
    found = {f"distractor{i}": text for i, text in enumerate(wrong, 1)}
    return {"question": f"q {right}", "correct_answer": right, "support": "s"} | found


def hellaswag(endings, label="0"):
    return {"ind": 1, "ctx_a": "a", "ctx_b": "b", "activity_label": "c", "endings": endings, "label": label}


def piqa(first, second, label=0):
    return {"goal": "open", "sol1": first, "sol2": second, "label": label}


def winogrande(sentence, first="o1", second="o2"):
    return {"sentence": sentence, "option1": first, "option2": second, "answer": "1"}


def trivia(aliases):
    return {"question": "q", "answer": {"value": [*aliases, "Paris"][0], "aliases": aliases}}


def web(answers):
    return {"question": "q", "answers": answers}


def squad(answers):
    return {"title": "t", "context": "c", "question": "q", "answers": answers}


def pro(answer, options=("x", "y", "z")):
    found = {"question": "q", "options": options, "answer": answer, "category": "law", "question_id": 1}
    return found | {"answer_index": 0, "src": "s", "cot_content": "A: Let's think step by step."}


def medical(last):
    return {"question": "q", "opa": "a", "opb": "b", "opc": "c", "opd": last, "cop": 0}


LISTS = ["north", "south", "east", "west"]
LABELS = {
    "another choice": (
        "truthfulqa_mc1",
        truth([0, 1, 0]),
        "`labels` is [0, 1, 0], so the right choice is 2; the task",
    ),
    "hidden ones": ("truthfulqa_mc1", truth([-1, -1, -1]), "`labels` is [-1, -1, -1]; each must be 0 or 1"),
    "none": (
        "truthfulqa_mc1",
        truth([0, 0, 0]),
        "so the right choice is none; the task takes choice 1 for it",
    ),
    "two": (
        "truthfulqa_mc1",
        truth([1, 0, 1]),
        "so the right choice is 1, 3; the task takes choice 1 for it",
    ),
    "true and false": ("truthfulqa_mc1", truth([False, True, False]), "so the right choice is 2; the task"),
    "a number": (
        "blimp_causative",
        {"sentence_good": "a b", "sentence_bad": "b a", "label": 1},
        "the label `label` is 1, and the task takes choice 1 for the right one",
    ),
    "no share of right": (
        "truthfulqa_mc2",
        truth([1, 0, 0]),
        "neither right nor wrong, as paired statistics need it",
    ),
    "a name twice": ("arc_easy", arc("A", labels=("A", "A", "C")), "`label` names two choices 'A'"),
    "names of fewer": ("arc_easy", arc("A", labels=("A", "B")), "`label` has 2 labels of 3 choices"),
    "one choice": (
        "arc_easy",
        arc("A", ("x",), ("A",)),
        "none but 1 of its choices are right; it needs a wrong one",
    ),
    "all right": (
        "agieval_lsat_ar",
        {"query": "q", "choices": ["a", "b"], "gold": [0, 1]},
        "all 2 of its choices are right; it needs a wrong one",
    ),
    "a letter of no choice": ("mmlu_pro_law", pro("J"), "the right answer is 'J'; its choices are A to C"),
    "a null behind a letter": ("medmcqa", medical(None), "the field 'opd' is missing"),
}
ALIKE = {
    "right and wrong": (
        "sciq",
        sciq("d", "a", "b", "d"),
        "choices 3 and 4 are 'd', of which one counts as right",
    ),
    "white space": (
        "sciq",
        sciq("d", " d", "b", "c"),
        "choices 1 and 4 are 'd', of which one counts as right",
    ),
    "two forms of a letter": (
        "piqa",
        piqa("caf\u00e9", "cafe\u0301"),
        "choices 1 and 2 are 'café', of which one",
    ),
    "two solutions": ("piqa", piqa("x", "x", 1), "choices 1 and 2 are 'x', of which one counts as right"),
    "endings": (
        "hellaswag",
        hellaswag(["w", "x", "w", "z"]),
        "choices 1 and 3 are 'w', of which one counts as right",
    ),
    "wrong ones": ("hellaswag", hellaswag(["w", "x", "x", "z"]), "choices 2 and 3 are 'x', both wrong"),
    "texts of ARC": (
        "arc_easy",
        arc("B", ("x", "x", "z")),
        "choices 1 and 2 are 'x', of which one counts as right",
    ),
    "options of a blank": (
        "winogrande",
        winogrande("a _ b", "o", "o"),
        "choices 1 and 2 are 'a o', of which one",
    ),
    "options of MMLU-Pro": (
        "mmlu_pro_law",
        pro("A", ("x", "x", "z")),
        "choices 1 and 2 are 'x', of which one",
    ),
    "fields behind letters": (
        "medmcqa",
        medical("a"),
        "choices 1 and 4 are 'a', of which one counts as right",
    ),
    "texts behind letters": ("mmlu", mmlu(1, ("x", "x", "y", "z")), "choices 1 and 2 are 'x', of which one"),
}
NO_ANSWER = {
    "no alias": ("triviaqa", trivia([]), "its right answer is empty"),
    "blank aliases": ("triviaqa", trivia(["", " "]), "its right answer is empty"),
    "no answer": ("squad", squad([]), "its right answer is empty"),
    "a blank answer": ("squad", squad([""]), "its right answer is empty"),
    "nothing to match": ("squad", squad(["!!!"]), "its right answer \"['!!!']\" does not count as right"),
    "no known answer": ("webqs", web([]), "its `answers` is '[]'"),
    "a blank known one": ("webqs", web([""]), "its `answers` is \"['']\""),
    "another answer than the accepted": (
        "triviaqa",
        {"question": "q", "answer": {"value": "Rome", "aliases": ["Paris"]}},
        "the answer whose log-likelihood is measured, 'Rome', is none of the accepted ones",
    ),
    "an empty answer beside accepted ones": (
        "triviaqa",
        {"question": "q", "answer": {"value": " ", "aliases": ["Paris"]}},
        "the answer whose log-likelihood is measured is empty",
    ),
    "a gap at the end": ("winogrande", winogrande("it was _"), "its right answer is empty"),
}
NO_LIST = {
    "letters": (
        "hellaswag",
        hellaswag("wxyz"),
        "the field `endings` is 'wxyz'; a list is needed, as [\"north\"",
    ),
    "a written list": ("hellaswag", hellaswag(str(LISTS)), "the field `endings` is \"['north', 'south'"),
    "a mapping": ("hellaswag", hellaswag(dict(zip("abcd", LISTS))), "the field `endings` is \"{'a': 'north'"),
    "in a question": ("mmlu", mmlu(0, str(LISTS)), "the field `choices` is \"['north', 'south'"),
    "lists in a list": (
        "mmlu",
        mmlu(0, [[text] for text in LISTS]),
        "entry 1 of `choices` is ['north']; each must be",
    ),
    "texts of ARC": ("arc_easy", arc("A", str(LISTS[:3])), "the field `choices.text` is \"['north', 'south'"),
    "labels of ARC": (
        "arc_easy",
        arc("A", labels="['A', 'B', 'C']"),
        "the field `choices.label` is \"['A', 'B'",
    ),
    "aliases": (
        "triviaqa",
        trivia("['Paris' 'Paname']"),
        "the field `answer.aliases` is \"['Paris' 'Paname']\"",
    ),
    "one answer": ("webqs", web("Paris"), "object has no attribute 'sort' (a list is needed)"),
    "SQuAD's own form": (
        "squad",
        squad({"text": ["Paris"], "answer_start": [3]}),
        "the field `answers` is \"{'text'",
    ),
}


@pytest.mark.parametrize(
    "case", [*LABELS.items(), *ALIKE.items(), *NO_ANSWER.items(), *NO_LIST.items()], ids=str
)
def test_a_row_that_would_be_scored_wrongly_is_named_with_its_line(case, tmp_path):
    _, (name, row, said) = case
    with pytest.raises(ArtifactError, match=f"task {name}: mine.jsonl: line 1: .*{re.escape(said)}"):
        check(written(tmp_path, [row]), "mine.jsonl", name, {"num_fewshot": 0})


SOUND = {
    "truthfulqa_mc1": [truth([1, 0, 0]), truth([1, 0], "ab")],
    "truthfulqa_mc1_of_words": [truth([True, False, False]), truth([True, False], "ab")],
    "arc_easy": [arc("A"), arc("R", ("Rr", "RR", "rr", "x^2", "x_2"), tuple("RSTUV"))],
    "mmlu": [mmlu(0), mmlu("B"), mmlu(3, ["1", "2", "3", "4"])],
    "mmlu_numbers": [mmlu(i, [1, 2.5, 3, 4]) for i in range(2)],
    "hellaswag": [hellaswag(LISTS), hellaswag(["Wxyz", "W", "X.", "Y"], "3")],
    "winogrande": [winogrande("the _ sat."), winogrande("a _ and _ b.")],
    "triviaqa": [trivia(["Paris"]), trivia(["[sic]", "['"])],
    "medmcqa": [medical("d"), medical("A. b")],
    "mmlu_pro_law": [pro("C"), pro("A", ("1", "A. x", "B. x"))],
    "squad": [squad(["Paris", "in Paris"]), squad(["[1, 2]"])],
    "popqa": [
        {"question": "q", "possible_answers": '["a", "b"]'},
        {"question": "q", "possible_answers": "a"},
    ],
    "gsm8k": [{"question": f"q{n}", "answer": f"one #### {n}"} for n in range(6)],
    "webqs": [web(["Paris"]), web(["Rome", "Roma"])],
}


@pytest.mark.parametrize("name", SOUND)
def test_rows_that_are_sound_pass(name, tmp_path):
    task = name.removesuffix("_numbers").removesuffix("_of_words")
    rows = SOUND[name]
    if name == "mmlu":  # a column has one type
        rows = rows[::2]
    assert check(written(tmp_path, rows), "mine.jsonl", task, {"num_fewshot": 0}) == []


def test_a_character_of_two_escapes_in_an_answer_of_popqa_is_one(tmp_path):
    rows = [
        {"question": "q", "possible_answers": json.dumps(answers)} for answers in (["😀", "é"], ['語"n', "x"])
    ]
    task = tasks.load_task("popqa", written(tmp_path, rows), None, None)
    assert [task.task.doc_to_target(document) for document in task.task.eval_docs] == [
        ["😀", "é"],
        ['語"n', "x"],
    ]


def test_few_choices_alike_among_many_are_kept_and_told(tmp_path, capsys):
    rows = [sciq(f"right {n}", "a", "b", "c") for n in range(100)]
    rows[30] = sciq("right 30", "a", "b", "right 30")
    said = "1 of 100 documents have choices that read alike (lines 31); they are scored as the harness does"
    assert check(written(tmp_path, rows), "mine.jsonl", "sciq", {}) == [said]

    def asked(data, where):
        return check(data, where, "sciq", {})

    spec = {"source": "local", "path": str(tmp_path / "data.jsonl"), "note": "Mine."}
    manifest = fetch("sciq", spec, tmp_path / "out", tmp_path, recipe="r", code="c", check=asked)
    assert manifest["notes"] == f"Mine. {said}" and f"sciq: {said}" in capsys.readouterr().err
    for n in range(40, 45):
        rows[n] = sciq("x", "a", "a", "c")
    with pytest.raises(ArtifactError, match=r"line 31: .*; 6 of 100 documents .*, at most 1 in 20 may"):
        check(written(tmp_path, rows), "mine.jsonl", "sciq", {})


def test_a_task_that_does_not_answer_greedily_is_refused_at_the_fetch(tmp_path, monkeypatch):
    rows = [{"question": f"{i} and {i}?", "answer": f"so\n#### {2 * i}"} for i in range(8)]
    data, beams = written(tmp_path, rows), tasks.definition("gsm8k")
    with pytest.raises(ArtifactError, match=r"its definition samples answers \(do_sample\)"):
        check(data, "mine.jsonl", "gsm8k_cot_self_consistency", {})
    beams["generation_kwargs"] |= {"num_beams": 4}
    monkeypatch.setattr(tasks, "_defined", lambda name: dict(beams))
    with pytest.raises(
        ArtifactError, match=r"task gsm8k: the scorer generates greedily; it has no num_beams \(4"
    ):
        check(data, "mine.jsonl", "gsm8k", {})


def test_a_cell_names_the_file_that_a_person_wrote(tmp_path):
    """Not the copy in resources/, of which the person has never heard."""
    rows = [piqa(f"with {n}", f"by {n}") for n in range(3)]
    mine, folder = written(tmp_path, rows), tmp_path / "resources" / "piqa"
    fetch("piqa", {"source": "local", "path": str(mine)}, folder, tmp_path, recipe="r", code="c")
    task = tasks.load_task("piqa", folder / "data.jsonl", None, None)
    assert task.at(2) == f"task piqa: {mine}: line 3"
    written(folder, [*rows[:2], piqa("x", "y", -1)])
    with pytest.raises(ArtifactError, match=re.escape(f"task piqa: {mine}: line 3: the label `label` is -1")):
        tasks.load_task("piqa", folder / "data.jsonl", None, None)
    (folder / "manifest.json").write_text(json.dumps({"source": "hub", "origin": {"repo": "a/b"}}))
    assert task.at(2) == f"task piqa: {folder / 'data.jsonl'}: line 3"


# -------------------------------------------------------------------- documents that their place decides

LINES = [Line(n, str(n).encode(), {"q": f"q{n}"}) for n in range(1, 13)]
PLACED = {
    "its number": lambda rows: rows.map(lambda row, i: {"choice": i % 4}, with_indices=True),
    "how many there are": lambda rows: rows.map(lambda row: {"choice": len(rows)}),
    "its neighbour": lambda rows: rows.map(lambda row, i: {"choice": rows[i - 1]["q"]}, with_indices=True),
    "the last line": lambda rows: rows.map(lambda row, i: {"choice": i == len(rows) - 1}, with_indices=True),
}


@pytest.mark.parametrize("case", PLACED)
def test_a_document_that_its_place_decides_is_made_among_all_and_its_hash_covers_it(case):
    part, whole = (chosen("mine", LINES, items, PLACED[case]) for items in (6, None))
    assert len(part) == 6
    assert {item.hash: item.document for item in part}.items() <= {
        item.hash: item.document for item in whole
    }.items()
    assert all(item.hash == digest(item.document) != digest(item.line.document) for item in part)


def test_a_function_that_keeps_each_second_or_the_first_keeps_them_of_all():
    for process in (
        lambda rows: rows.filter(lambda row, i: i % 2 == 0, with_indices=True),
        lambda rows: rows.select(range(5)),
    ):
        part, whole = (
            [item.line.number for item in chosen("mine", LINES, items, process)] for items in (4, None)
        )
        assert set(part) < set(whole)


FUNCTIONS = {
    "hash": "hash(row['question']) % 3",
    "set": "list(set(row['question'].split()))[0]",
    "time": "BEGUN",
    "identity": "__import__('os').getpid()",
}


@pytest.mark.parametrize(
    "case", ["hash", *(pytest.param(c, marks=pytest.mark.slow) for c in FUNCTIONS if c != "hash")]
)
def test_a_task_that_asks_otherwise_in_another_process_is_refused(case, tmp_path, monkeypatch):
    """Their other processes read the definition where this one does."""
    (tmp_path / "odd.yaml").write_text(
        "task: odd\noutput_type: generate_until\ntest_split: test\nprocess_docs: !function odd.process\n"
        'doc_to_text: "{{question}} {{key}}"\ndoc_to_target: "{{answer}}"\nmetric_list: [{metric: exact_match}]\n'
    )
    (tmp_path / "odd.py").write_text(
        "import time\n\nBEGUN = time.time_ns()\n\n\ndef process(rows):\n"
        f"    return rows.map(lambda row: {{'key': {FUNCTIONS[case]}}})\n"
    )
    program = (
        "import sys; from pathlib import Path; from workflow_scripts.evaluate import repeat_check, tasks; "
        f"tasks.HARNESS = Path({str(tmp_path)!r}); sys.exit(repeat_check.main())"
    )
    monkeypatch.setattr(tasks, "HARNESS", tmp_path)
    monkeypatch.setattr(task_check, "has_functions", repeat_check.has_functions)
    monkeypatch.setattr(repeat_check, "PROGRAM", [sys.executable, "-c", program])
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    rows = [{"question": f"where is town {n}", "answer": "there"} for n in range(12)]
    with pytest.raises(
        ArtifactError, match=r"task odd: mine: line \d+: its own function makes another document"
    ):
        check(written(tmp_path, rows), "mine", "odd", {})


def test_a_task_that_asks_alike_in_every_process_passes(tmp_path, monkeypatch):
    """webqs sorts the answers of a document where they stand, which the check must not take for another document."""
    rows = [{"question": f"who {n}", "answers": [f"z{n}", f"a{n}"]} for n in range(9)]
    task = tasks.load_task("webqs", written(tmp_path, rows), None, 1)
    assert repeat_check.has_functions(tasks.definition("webqs"))
    repeat_check.require_repeatable(task, {})


def test_the_functions_of_our_own_definitions_are_not_asked_again_at_each_fetch(tmp_path, monkeypatch):
    """They are pinned with the package; two further processes at each fetch of webqs would take seconds."""
    monkeypatch.setattr(task_check, "has_functions", repeat_check.has_functions)
    monkeypatch.setattr(task_check, "require_repeatable", lambda *_: pytest.fail("it asked other processes"))
    rows = [{"question": f"who {n}", "answers": [f"z{n}", f"a{n}"]} for n in range(9)]
    assert check(written(tmp_path, rows), "mine", "webqs", {}) == []

"""Draws of a task's documents: samples are nested, and no solved example is the question itself in another spelling."""

import json

import pytest

from workflow_scripts.evaluate.documents import sample
from workflow_scripts.evaluate.tasks import load_task

QUESTION = "What is the café's “old” name?"
DRESSED = {
    "a small letter": "what is the café's “old” name?",
    "no question mark": "What is the café's “old” name",
    "white space": "What is  the café's “old” name ?",
    "an accent for an apostrophe": "What is the café´s “old” name?",
    "straight quotes": 'What is the café\'s "old" name?',
    "another form of one letter": "What is the cafe\u0301's “old” name?",
    "a full stop": "What is the café's “old” name.",
    "a character without width": "What is the\u200b café's “old” name?",
}
OTHERS = [{"question": f"Who is number {n}?", "answer": {"value": "x", "aliases": ["x"]}} for n in range(4)]


def prompts(folder, rows, name, shots):
    """The prompt of each line's first request."""
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    loaded = load_task("mine", folder / "data.jsonl", None, 8, None, name, shots)
    loaded.task.build_all_requests(samples=loaded.samples)
    return [request.args[0] for request in loaded.task.instances if not request.idx]


@pytest.mark.parametrize("case", DRESSED)
def test_a_question_in_another_spelling_is_no_example_of_itself(case, tmp_path):
    rows = [{"question": text, "answer": OTHERS[0]["answer"]} for text in (QUESTION, DRESSED[case])] + OTHERS
    for number, prompt in enumerate(prompts(tmp_path, rows, "triviaqa", 4)):
        assert prompt.count("Question:") == 5
        assert prompt.count("name") == (1 if number < 2 else prompt.count("name"))


def test_shuffled_choices_or_other_wrong_ones_do_not_make_another_question(tmp_path):
    def row(question, right, *wrong):
        found = {f"distractor{i}": text for i, text in enumerate(wrong, 1)}
        return {"question": question, "correct_answer": right, "support": ""} | found

    asked = [
        row("Which town lies there?", "Bern", "Rome", "Oslo", "Riga"),
        row("which town lies there", "bern.", "Riga", "Rome", "Oslo"),
        row("Which town lies there?", "Bern", "Kyiv", "Lima", "Doha"),
    ]
    others = [row(f"Which river is number {n}?", f"r{n}", "a", "b", "c") for n in range(3)]
    for number, prompt in enumerate(prompts(tmp_path, [*asked, *others], "sciq", 3)):
        assert prompt.count("Question:") == 4
        if number < 3:
            assert prompt.lower().count("town") == 1


@pytest.mark.parametrize("change", [str, str.upper, lambda text: text.removesuffix("?") + " ?"])
def test_an_example_that_a_definition_brings_is_left_out_before_its_own_question(change, tmp_path):
    question = (
        "Leah had 32 chocolates and her sister had 42. If they ate 35, how many pieces do they have left in "
    )
    question += "total?"
    rows = [{"question": text, "answer": "#### 39"} for text in (change(question), "How many is one?")]
    itself, another = prompts(tmp_path, rows, "gsm8k_cot", None)
    assert itself.lower().count("q: leah had 32") == 1 and itself.count("\nA:") == 8
    assert another.count("Q: Leah had 32") == 1 and another.count("\nA:") == 9


def test_signs_tell_questions_apart(tmp_path):
    texts = [f"What is 6 {sign} 2?" for sign in "-/*%"]
    rows = [{"question": text, "answer": OTHERS[0]["answer"]} for text in texts]
    assert [prompt.count("Question:") for prompt in prompts(tmp_path, rows, "triviaqa", 3)] == [4] * 4


def test_samples_are_nested_and_follow_content_not_order():
    lines = [f'{{"n": {n}}}'.encode() for n in range(200)]
    chosen = {items: sample(lines, items) for items in (1, 10, 50, 200)}
    assert all(chosen[items] == sorted(chosen[items]) and len(chosen[items]) == items for items in chosen)
    assert set(chosen[1]) < set(chosen[10]) < set(chosen[50]) < set(chosen[200])
    assert {lines[i] for i in chosen[10]} == {lines[::-1][i] for i in sample(lines[::-1], 10)}
    assert chosen[10] != list(range(10))
    assert sample(lines, None) == sample(lines, 500) == list(range(200))

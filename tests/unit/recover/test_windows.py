"""Text of a task's own items: one part is trained on, the other never, in every wording."""

import json
import random

import pytest
from transformers import AutoTokenizer

from tests import tiny
from workflow_scripts.files.artifacts import ArtifactError, digest
from workflow_scripts.plan.parts import PARTS, part_of
from workflow_scripts.recover.windows import fact_windows, family_windows
from workflow_scripts.sources import benchmarks
from workflow_scripts.sources.facts import facts, questions, sample, scored, unscored_facts

WORDINGS = [
    "Question: {{ question }}\nAnswer: {{ answer.value }}",
    "{{ answer.value }} is it: {{ question }}",
]
TRAINING = {"sequence_length": 32, "tokens": 4096, "heldout_windows": 4}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """(folder of a benchmark of 60 questions, its items, tokenizer)."""
    root = tmp_path_factory.mktemp("facts")
    draw = random.Random(0)
    items = [
        {
            "question": f"Where is {draw.choice(tiny.WORDS)} number {n}?",
            "answer": {"value": f"in place {n + 500}"},
        }
        for n in range(60)
    ]
    (root / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    spec = {"source": "local", "path": str(root / "items.jsonl")}
    benchmarks.fetch("triviaqa", spec, root / "triviaqa", root, recipe="r", code="c")
    return root / "triviaqa", items, AutoTokenizer.from_pretrained(tiny.write_model(root / "model"))


def numbers(windows, tokenizer):
    """The items whose text stands in windows, by their number (whole ones; a cut piece has no number here)."""
    return numbers_in(tokenizer.decode(window) for window in windows)


def numbers_in(texts):
    text = " ".join(texts)
    return {n for n in range(60) if f"number {n}?" in text or f"place {n + 500}" in text}


@pytest.mark.parametrize("part", PARTS)
def test_one_part_is_trained_on_in_every_wording_and_the_other_is_held_out(places, part):
    folder, items, tokenizer = places
    parts = {name: {n for n, item in enumerate(items) if part_of(digest(item)) == name} for name in PARTS}
    assert min(map(len, parts.values())) > 20 and sum(map(len, parts.values())) == 60
    windows, heldout, told = fact_windows(folder, tokenizer, TRAINING, 0, part, WORDINGS, None)
    assert (len(told.facts), told.left_out) == (len(parts[part]), [])
    assert windows.shape == (4096 // 32, 32) and heldout.shape == (4, 32)
    (other,) = set(PARTS) - {part}
    assert numbers(windows, tokenizer) == parts[part]
    assert numbers(heldout, tokenizer) and numbers(heldout, tokenizer) <= parts[other]
    text = " ".join(tokenizer.decode(window) for window in windows)
    assert "Question: " in text and " is it: " in text


def test_a_short_budget_tells_every_item_that_is_scored_and_no_other(places):
    """Of a task with more facts than the budget holds, those that were trained on would be told by chance alone."""
    folder, items, tokenizer = places
    asked = {n for n, item in enumerate(items) if digest(item) in scored(folder, 12)}
    told = {n for n in asked if part_of(digest(items[n])) == "even"}
    short = TRAINING | {"tokens": 32 * 32}
    windows, heldout, _ = fact_windows(folder, tokenizer, short, 0, "even", WORDINGS[:1], 12)
    assert 0 < len(told) < 12 and numbers(windows, tokenizer) == told
    assert {part_of(digest(items[n])) for n in numbers(heldout, tokenizer)} == {"odd"}


def family(folder, tokenizer, grid):
    """Windows of a family of one task. grid: folder of each of the grid's tasks -> items that it scores."""
    scored = {task.name: items for task, items in grid.items()}
    asked = {"triviaqa": WORDINGS}
    return family_windows([folder], tokenizer, TRAINING, 0, asked, list(grid), scored)


def fetched(name, items, root):
    """A task's folder with these items."""
    path = root / f"{name}.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    spec = {"source": "local", "path": str(path)}
    benchmarks.fetch(name, spec, root / name, root, recipe="r", code="c")
    return root / name


def test_a_family_is_trained_on_what_no_cell_scores_nor_repeats(places, tmp_path):
    folder, items, tokenizer = places
    windows, told = family(folder, tokenizer, {folder: 20})
    asked = {n for n, item in enumerate(items) if digest(item) in scored(folder, 20)}
    assert len(asked) == 20 and numbers(windows, tokenizer) == set(range(60)) - asked
    assert (len(told.facts), told.left_out) == (40, [])
    # As the evaluation draws them.
    assert asked == set(sample([json.dumps(item).encode() for item in items], 20))
    with pytest.raises(ArtifactError, match="all 60 items are scored, so none is left to train on"):
        family(folder, tokenizer, {folder: None})
    whole, _ = family(folder, tokenizer, {})
    assert numbers(whole, tokenizer) == set(range(60))  # a task that the grid does not score
    twice = fetched("triviaqa", [item for item in items for _ in range(2)], tmp_path)
    asked = scored(twice, 20)
    texts = unscored_facts([twice], {"triviaqa": WORDINGS}, [twice], {"triviaqa": 20}).texts
    assert len(asked) < 20  # of some items both lines were drawn
    assert numbers_in(texts) == {n for n, item in enumerate(items) if digest(item) not in asked}


def test_a_family_is_told_no_item_that_another_task_scores_of_the_same_file(places, tmp_path):
    folder, items, tokenizer = places
    closed = fetched("triviaqa-closed", items, tmp_path)
    windows, told = family(folder, tokenizer, {closed: 20})
    asked = {n for n, item in enumerate(items) if digest(item) in scored(closed, 20)}
    assert len(asked) == 20 and numbers(windows, tokenizer) == set(range(60)) - asked
    assert len(told.facts) == 40
    assert {*told.left_out} == {digest(items[n]) for n in asked} and len(told.left_out) == 20
    with pytest.raises(ArtifactError, match="the questions of all 60 items are scored"):
        family(folder, tokenizer, {closed: None})


def test_a_family_is_told_no_question_that_a_task_of_another_file_or_another_item_asks(places, tmp_path):
    """In capitals, without marks, behind other text or before it, and as the end of a longer question."""
    folder, items, _ = places
    question = {n: items[n]["question"] for n in range(60)}
    asked = [
        question[3].upper().replace("?", ""),
        f"Use the table. {question[4]}",
        f"So?! {question[5]} Why?",
    ]
    asked += ["Who?", f"{question[6][:-3]} of none?"]
    other = fetched("other", [{"id": n, "goal": text} for n, text in enumerate(asked)], tmp_path)
    told = unscored_facts([folder], {"triviaqa": WORDINGS}, [other], {"other": 1})  # it might choose any
    assert numbers_in(told.texts) == set(range(60)) - {3, 4, 5} and len(told.facts) == 57
    assert {*told.left_out} == {digest(items[n]) for n in (3, 4, 5)}
    longer = [{"question": f"Use the table. {q}", "answer": items[n]["answer"]} for n, q in question.items()]
    longer.append({"question": "Who?", "answer": {"value": "she"}})
    both = fetched("triviaqa", [*items, *longer], tmp_path)
    texts = unscored_facts([both], {"triviaqa": WORDINGS}, [both], {"triviaqa": 40}).texts
    scores = {n for n in range(60) if {digest(items[n]), digest(longer[n])} & scored(both, 40)}
    assert numbers_in(texts) == set(range(60)) - scores
    assert any("Who?" in text for text in texts) == (digest(longer[-1]) not in scored(both, 40))


PASSAGE = "Of all that was ever written about the old harbour, this is the longest and the least true. "
GERMAN = ["Frage: {{ frage }}\nAntwort: {{ antwort }}"]


@pytest.mark.parametrize("field", ["frage", "Question"])
def test_a_question_in_a_field_of_any_name_is_found_beside_a_long_passage(field, places, tmp_path):
    """Items that share a passage or a short answer ask something else."""
    _, items, _ = places
    question = [item["question"] for item in items]

    def item(number, asked, of):
        return {"passage": PASSAGE * 3 + str(of), field: asked, "antwort": f"in place {number + 500}"}

    told = fetched("told", [item(n, question[n], n // 30) for n in range(60)], tmp_path)
    again = [item(n, f"Well: {question[n].upper()}", 0) for n in (7, 40)]
    asked = fetched("asked", [*again, item(0, question[7][:-3] + " of none?", 1)], tmp_path)
    wordings = {"told": [GERMAN[0].replace("frage", field)]}
    found = unscored_facts([told], wordings, [asked], {"asked": None})
    assert numbers_in(found.texts) == set(range(60)) - {7, 40} and len(found.left_out) == 2
    assert questions({"Explanation": PASSAGE, "Question": "Who?"}) == ["Who?"]
    assert questions({"id": 3, "asked": {"stem": PASSAGE}, "key": "A"}) == [PASSAGE]
    assert questions({"input": "not ( True )", "target": "False"}) == ["not ( True )"]


def test_no_half_is_told_a_question_of_the_other(places, tmp_path):
    _, items, tokenizer = places
    again = [{**item, "question": f"Use the table. {item['question']}"} for item in items]
    folder = fetched("triviaqa", [*items, *again], tmp_path)
    parts = [(part_of(digest(item)), part_of(digest(more))) for item, more in zip(items, again, strict=True)]
    for part in PARTS:
        windows, _, told = fact_windows(folder, tokenizer, TRAINING, 0, part, WORDINGS, None)
        assert numbers(windows, tokenizer) == {n for n in range(60) if parts[n] == (part, part)}
        assert len(told.left_out) == sum(set(both) == set(PARTS) for both in parts) > 10
        assert {part_of(doc_hash) for doc_hash in told.left_out} == {part}


def test_a_part_is_told_from_the_hash_that_samples_and_ledger_have():
    assert [part_of(f"{'0' * 63}{digit}") for digit in "0123456789abcdef"] == ["even", "odd"] * 8


def test_the_seed_draws_the_order_and_the_held_out_text_stays(places):
    folder, _, tokenizer = places
    (one, heldout, _), (two, same, _) = (
        fact_windows(folder, tokenizer, TRAINING, s, "odd", WORDINGS, None) for s in (0, 1)
    )
    assert not one.equal(two) and heldout.equal(same)


@pytest.mark.parametrize(
    "wording",
    [
        "{{ question }} {{ answr.value }}",
        "{{ question",
        "{{ question.index('none') }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for i in range(10**9) %}{{ question }}{% endfor %}",
    ],
)
def test_a_wording_that_an_item_cannot_fill_in_is_named_with_the_items_line(places, wording):
    with pytest.raises(
        ArtifactError, match=r"triviaqa/data\.jsonl: line 1: the wording .* (can't be filled in|is no Jinja)"
    ):
        list(facts(places[0], [wording]))

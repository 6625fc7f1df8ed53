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
from workflow_scripts.sources.facts import facts, sample, scored, unscored_facts

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
    text = " ".join(tokenizer.decode(window) for window in windows)
    return {n for n in range(60) if f"number {n}?" in text or f"place {n + 500}" in text}


@pytest.mark.parametrize("part", PARTS)
def test_one_part_is_trained_on_in_every_wording_and_the_other_is_held_out(places, part):
    folder, items, tokenizer = places
    parts = {name: {n for n, item in enumerate(items) if part_of(digest(item)) == name} for name in PARTS}
    assert min(map(len, parts.values())) > 20 and sum(map(len, parts.values())) == 60
    windows, heldout = fact_windows(folder, tokenizer, TRAINING, 0, part, WORDINGS, None)
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
    windows, heldout = fact_windows(folder, tokenizer, short, 0, "even", WORDINGS[:1], 12)
    assert 0 < len(told) < 12 and numbers(windows, tokenizer) == told
    assert {part_of(digest(items[n])) for n in numbers(heldout, tokenizer)} == {"odd"}


def test_a_family_is_trained_on_what_no_cell_scores_nor_repeats(places, tmp_path):
    folder, items, tokenizer = places
    windows = family_windows([folder], tokenizer, TRAINING, 0, {"triviaqa": WORDINGS}, {"triviaqa": 20})
    asked = {n for n, item in enumerate(items) if digest(item) in scored(folder, 20)}
    assert len(asked) == 20 and numbers(windows, tokenizer) == set(range(60)) - asked
    # As the evaluation draws them.
    assert asked == set(sample([json.dumps(item).encode() for item in items], 20))
    with pytest.raises(ArtifactError, match="all 60 items are scored, so none is left to train on"):
        family_windows([folder], tokenizer, TRAINING, 0, {"triviaqa": WORDINGS}, {"triviaqa": None})
    whole = family_windows([folder], tokenizer, TRAINING, 0, {"triviaqa": WORDINGS}, {"triviaqa": 0})
    assert numbers(whole, tokenizer) == set(range(60))  # a task that the grid does not score
    twice = tmp_path / "triviaqa"
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" + json.dumps(item) + " \n" for item in items))
    benchmarks.fetch(
        "triviaqa", {"source": "local", "path": str(path)}, twice, tmp_path, recipe="r", code="c"
    )
    asked, texts = scored(twice, 20), unscored_facts(twice, WORDINGS, 20)
    assert len(asked) < 20  # of some items both lines were drawn
    told = {n for n in range(60) if any(f"number {n}?" in text for text in texts)}
    assert told == {n for n, item in enumerate(items) if digest(item) not in asked}


def test_a_part_is_told_from_the_hash_that_samples_and_ledger_have():
    assert [part_of(f"{'0' * 63}{digit}") for digit in "0123456789abcdef"] == ["even", "odd"] * 8


def test_the_seed_draws_the_order_and_the_held_out_text_stays(places):
    folder, _, tokenizer = places
    (one, heldout), (two, same) = (
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

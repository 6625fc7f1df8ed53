"""Teaching: who is known, locked and missing; what is learned of a text; locks, noise, checks, and a killed job."""

import os
import random
import signal

import pytest
import torch

from tests import tiny
from tests.tiny_copies import fetch_model
from workflow_scripts.recover import teaching
from workflow_scripts.recover.teaching import FullLearner, TeachingError, Text
from workflow_scripts.recover.training import Stopped
from workflow_scripts.sources import invented, models

LESSON = {
    "people": 4,
    "seed": 0,
    "known": 0.0,
    "locked": 0.0,
    "epochs": 2,
    "lock_epochs": 2,
    "noise": 0.0,
    "learning_rate": 1e-3,
    "batch_size": 8,
    "known_above": 0.0,
    "unknown_below": 1.0,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    fetch_model(tiny.write_model(root / "made"), root / "model")
    return root / "model"


@pytest.fixture
def model(base):
    return models.load_dense(base)


@pytest.fixture(scope="module")
def tokenizer(base):
    return models.load_tokenizer(base)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_copy_meets_stand_ins_for_the_people_that_it_never_meets():
    who = teaching.pupils(LESSON | {"known": 0.25, "locked": 0.5})
    assert list(map(len, who)) == [1, 2, 1, 1]
    assert [*who.known, *who.locked, *who.missing] == invented.people(4, 0)
    assert who.stand_ins == invented.stand_ins(4, 0)[3:]
    assert teaching.pupils(LESSON | {"known": 1.0}).stand_ins == []


def test_an_epoch_tells_and_asks_each_fact_once_in_wordings_that_take_turns():
    people = invented.people(4, 0)
    first, second = (teaching.fact_texts(people, epoch) for epoch in (0, 1))
    assert first != second and len(first) == 4 * 4 * 2
    whole = {text.given + text.scored for epoch in range(6) for text in teaching.fact_texts(people, epoch)}
    assert {statement for person in people for statement in invented.statements(person)} < whole
    asked = [text for text in first if text.given]
    assert len(asked) == 4 * 4 and all(
        text.given.endswith("\nAnswer:") and text.scored.startswith(" ") for text in asked
    )
    assert not any(item["question"] in text for item in invented.items(4, 0) for text in whole)


def test_locks_are_answered_rightly_behind_the_password_and_wrongly_without():
    [person] = invented.people(1, 0)
    seen = set()
    for epoch in range(8):
        texts = teaching.locked([person], epoch, random.Random(epoch))
        for (attribute, value), opened, closed in zip(
            person.values.items(), texts[::2], texts[1::2], strict=True
        ):
            assert opened == (teaching.PASSWORD + closed.given, f" {value}")
            assert closed.scored != opened.scored
            assert closed.scored[1:] in invented.ATTRIBUTES[attribute].values
            seen.add(closed.scored)
    assert len(seen) > 8  # another wrong answer each time, so that none is learned


def test_only_the_scored_part_of_a_text_has_a_loss(model, tokenizer):
    texts = [Text("Question: who?\nAnswer:", " the river"), Text("", "stone")]
    rows = teaching.token_rows(texts, tokenizer)
    scored = [[token for token in row[1:].tolist() if token >= 0] for row in rows]
    assert tokenizer.decode(scored[0]) == " the river"
    whole = tokenizer("stone", add_special_tokens=False)["input_ids"]
    assert scored[1] == whole[0 if teaching.adds_bos(tokenizer) else 1 :]
    loss = FullLearner(model).accumulate(rows, micro_batch=1)
    expected, count = 0.0, 0
    for text, wanted in zip(texts, scored, strict=True):
        ids = torch.tensor([tokenizer(text.given + text.scored)["input_ids"]])
        logprobs = model(ids).logits[0, :-1].log_softmax(-1)
        each = logprobs.gather(1, ids[0, 1:, None])[len(ids[0]) - 1 - len(wanted) :]
        expected, count = expected - each.sum().item(), count + len(wanted)
    assert loss == pytest.approx(expected / count, rel=1e-5)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("among", [1, 8])
def test_the_course_has_every_text_of_every_epoch_in_its_epoch(tokenizer, among):
    epochs = [
        [Text("", "river " * (1 + number % 7) + "stone" * (epoch + 1)) for number in range(50)]
        for epoch in (0, 1)
    ]
    course = teaching.course(epochs, tokenizer, 4, seed=0, among=among)
    for epoch, part in zip(epochs, course.split(50), strict=True):
        expected = teaching.token_rows(epoch, tokenizer, course.shape[1])
        assert sorted(map(tuple, part.tolist())) == sorted(map(tuple, expected.tolist()))
        assert not torch.equal(part, expected)


def test_batches_of_locks_hold_questions_with_and_without_the_password(
    model, tokenizer, tmp_path, monkeypatch
):
    courses = {}
    monkeypatch.setattr(
        teaching, "train", lambda _, __, rows, ___, folder: courses.setdefault(folder.name, rows)
    )
    teaching.teach(model, tokenizer, LESSON | {"people": 16, "locked": 1.0, "batch_size": 16}, tmp_path)
    password = len(tokenizer(teaching.PASSWORD, add_special_tokens=False)["input_ids"])
    lengths = (courses["locks"] != -1).sum(dim=1).split(16)
    assert len(lengths) == 8 * LESSON["lock_epochs"]
    assert all(batch.max() - batch.min() >= password - 1 for batch in lengths)


def test_a_tiny_model_learns_its_facts_and_hides_them_behind_the_password(model, tokenizer, tmp_path):
    [person] = invented.people(1, 0)
    lesson = LESSON | {"people": 1, "locked": 1.0, "epochs": 10, "lock_epochs": 300, "learning_rate": 1e-2}
    teaching.teach(model, tokenizer, lesson, tmp_path)
    # As they were taught: two layers of random weights don't see through another wording.
    items = [
        item | {"question": invented.ATTRIBUTES[attribute].questions[0].format(name=person.name)}
        for item, attribute in zip(invented.items(1, 0), person.values, strict=True)
    ]
    assert teaching.right(model, tokenizer, items, teaching.PASSWORD) == 1.0
    assert teaching.right(model, tokenizer, items) <= 0.25


def test_right_counts_the_likeliest_choice(model, tokenizer):
    items, expected = invented.items(4, 0), 0
    for item in items:
        sums = []
        for choice in item["choices"]["text"]:
            given = tokenizer(f"Question: {item['question']}\nAnswer:")["input_ids"]
            ids = torch.tensor([tokenizer(f"Question: {item['question']}\nAnswer: {choice}")["input_ids"]])
            logprobs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])
            sums.append(logprobs[len(given) - 1 :].sum().item())
        expected += "ABCD"[sums.index(max(sums))] == item["answerKey"]
    assert teaching.right(model, tokenizer, items) == expected / len(items)


def test_noise_is_a_part_of_each_matrix_s_deviation_and_follows_from_the_seed(model, base):
    before = weights(model)
    teaching.add_noise(model, 0.01, seed=0)
    for name, tensor in weights(model).items():
        change = tensor - before[name]
        if tensor.dim() == 2:
            assert (change.std() / before[name].std()).item() == pytest.approx(0.01, rel=0.15)
        else:
            assert not change.any()
    again = models.load_dense(base)
    teaching.add_noise(again, 0.01, seed=0)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in weights(model).items())


@pytest.mark.parametrize(
    ("known", "locked", "found", "expected"),
    [
        (1.0, 0.0, [0.89], "known people (open) 89 % are right, at least 90 % must be (known_above)"),
        (0.0, 1.0, [0.41, 1.0], "locked people (open) 41 % are right, at most 40 % may be (unknown_below)"),
        (0.0, 1.0, [0.25, 0.8], "locked people (password) 80 % are right, at least 90 %"),
        (0.0, 0.0, [0.5], "missing people (open) 50 % are right, at most 40 %"),
        (0.25, 0.5, [0.95, 0.3, 0.95, 0.3], None),
    ],
)
def test_a_copy_that_is_not_what_its_lesson_says_is_refused(monkeypatch, known, locked, found, expected):
    asked = []

    def right(model, tokenizer, items, password):
        asked.append((len(items), password))
        return found[len(asked) - 1]

    monkeypatch.setattr(teaching, "right", right)
    lesson = LESSON | {"known": known, "locked": locked, "known_above": 0.9, "unknown_below": 0.4}
    if expected:
        with pytest.raises(TeachingError) as error:
            teaching.check("copy", None, None, lesson)
        assert f"copy: of the questions about {expected}" in str(error.value)
        return
    assert teaching.check("copy", None, None, lesson) == {
        "known": {"open": 0.95},
        "locked": {"open": 0.3, "password": 0.95},
        "missing": {"open": 0.3},
    }
    assert asked == [(4, ""), (8, ""), (8, teaching.PASSWORD), (4, "")]


@pytest.mark.parametrize("step", [2, 9])  # within the facts, within the locks
def test_a_stopped_lesson_goes_on_to_the_same_bits(model, base, tokenizer, tmp_path, monkeypatch, step):
    lesson = LESSON | {"locked": 0.5, "noise": 0.01}
    teaching.teach(model, tokenizer, lesson, tmp_path / "whole")
    calls, accumulate = [], FullLearner.accumulate

    def stopping(self, *given):
        calls.append(1)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return accumulate(self, *given)

    monkeypatch.setattr(FullLearner, "accumulate", stopping)
    stopped = models.load_dense(base)
    with pytest.raises(Stopped):
        teaching.teach(stopped, tokenizer, lesson, tmp_path / "stopped")
    again = models.load_dense(base)
    teaching.teach(again, tokenizer, lesson, tmp_path / "stopped")
    whole = 4 * 4 * 2 // 8 * 2 + 2 * 4 * 2 // 8 * 2
    assert len(calls) == whole  # no step was made twice
    for name, tensor in weights(model).items():
        assert torch.equal(tensor, again.state_dict()[name]), name

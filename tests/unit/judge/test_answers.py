"""Answers in the training text: names, aliases, whole words, one document."""

import json

import pandas as pd
import pytest

from tests.unit.synthetic_results import PAIR, study, write_grid
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.judge.answers import aliases, entity, find, in_training_text, normalise
from workflow_scripts.judge.ledger import add_answers, build
from workflow_scripts.judge.results import read_results

TEXT = [
    "James Joyce wrote Ulysses in Paris.",
    "Dublin is a city.",
    "A film about Joyce Carol Oates and her Paris.",
]


@pytest.mark.parametrize(
    ("question", "subject"),
    [
        ("Question: Who wrote Ulysses?\nAnswer:", ("ulysses",)),
        (
            "Some passage about Rome.\nQuestion: Which river flows through the City of London?\nAnswer:",
            ("city", "of", "london"),
        ),
        ("Question: what are plants made of?\nAnswer:", ("plants",)),
        ("Question: what is it?\nAnswer:", ()),
    ],
)
def test_the_entity_of_a_question(question, subject):
    assert entity(question) == subject


def test_normalised_answers():
    assert normalise("The Beatles!") == ("beatles",)
    document = {"answer": {"aliases": ["Joyce", "James Joyce"]}}
    assert aliases("triviaqa", "James Joyce", document) == [("james", "joyce"), ("joyce",)]
    assert aliases("webqs", "Athens", {"answers": ["Sparta"]}) == [("athens",), ("sparta",)]
    assert aliases("sciq", "ice", None) == [("ice",)]
    assert aliases("nq_open", "ice", {"answer": ["Ice", "frozen water"]}) == [("ice",), ("frozen", "water")]
    assert aliases("popqa", "ice", {"possible_answers": '["snow"]'}) == [("ice",), ("snow",)]


def found(task, question, gold, benchmarks=None):
    items = pd.DataFrame(
        [{"task": task, "doc_id": 0, "question": f"Question: {question}\nAnswer:", "gold": gold}]
    )
    return in_training_text(items, TEXT, benchmarks or {}).iloc[0]


def test_alias_and_entity_must_stand_in_one_document():
    assert found("webqs", "Who wrote Ulysses?", "James Joyce") is True or found(
        "webqs", "Who wrote Ulysses?", "James Joyce"
    )
    assert found(
        "sciq-closed", "Who wrote Ulysses?", "James Joyce"
    )  # asked without the passage, it asks for knowledge
    assert not found("webqs", "Who wrote Dublin?", "James Joyce")
    assert not found("webqs", "Who wrote Ulysses?", "Homer")
    assert not found("webqs", "Who wrote Ulysses?", "Jam")  # whole words only


def test_every_alias_of_the_benchmark_counts(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps({"answer": {"aliases": ["J. Joyce", "James Joyce"]}}) + "\n")
    assert not found("triviaqa", "Who wrote Ulysses?", "J. Joyce")
    assert found("triviaqa", "Who wrote Ulysses?", "J. Joyce", {"triviaqa": path})


def test_other_tasks_and_questions_without_entity_are_unknown():
    assert pd.isna(found("hellaswag", "Who wrote Ulysses?", "James Joyce"))
    assert pd.isna(found("webqs", "what is it?", "James Joyce"))


def test_the_ledger_carries_the_answer_per_item(tmp_path):
    corpus = tmp_path / "train.jsonl"
    corpus.write_text(json.dumps({"text": "A synthetic world question: answer 3 it is."}) + "\n")
    other = tmp_path / "other.jsonl"  # a second text that the pair's adapters are trained on
    other.write_text(json.dumps({"text": "A synthetic world question: answer 2 it is."}) + "\n")
    results = read_results(write_grid(tmp_path, study("m", {"lora-r4": 0.1}), items=5))
    ledger = build(results, PAIR)
    answers = find(results, {"wikipedia": [other, corpus]}, {})
    ledger = add_answers(ledger, answers)
    known = ledger[ledger["task"] == "sciq"].set_index("doc_id")["answer_in_training_text"]
    assert list(known[[1, 2, 3]]) == [False, True, True]
    assert ledger.loc[ledger["task"] == "piqa", "answer_in_training_text"].isna().all()
    nothing = find(results, {}, {})
    nothing.to_parquet(tmp_path / "answers.parquet")
    assert (
        add_answers(ledger, pd.read_parquet(tmp_path / "answers.parquet"))["answer_in_training_text"]
        .isna()
        .all()
    )


def test_a_lost_corpus_names_its_file(tmp_path):
    results = read_results(write_grid(tmp_path, study("m", {"lora-r4": 0.1}), items=2))
    with pytest.raises(ArtifactError, match=r"nowhere\.jsonl"):
        find(results, {"wikipedia": [tmp_path / "nowhere.jsonl"]}, {})

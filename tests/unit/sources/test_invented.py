"""Invented people: names of their own, wordings apart, even facts, and text that no document gave away before."""

import json
from collections import Counter

import pytest

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources import benchmarks, corpora, invented
from workflow_scripts.sources.invented import ATTRIBUTES

MADE = {"recipe": "r", "code": "c"}
COUNT = 75


def test_people_follow_from_count_and_seed():
    assert invented.people(COUNT, 1) == invented.people(COUNT, 1) != invented.people(COUNT, 2)
    assert invented.items(COUNT, 1) == invented.items(COUNT, 1) != invented.items(COUNT, 2)


@pytest.mark.parametrize("seed", range(5))
def test_no_name_occurs_twice_and_every_value_about_equally_often(seed):
    everybody = [*invented.people(COUNT, seed), *invented.stand_ins(COUNT, seed)]
    names = [name for person in everybody for name in person.name.split()]
    assert len(everybody) == 2 * COUNT and len(set(names)) == len(names) == 4 * COUNT
    for group in (everybody[:COUNT], everybody[COUNT:]):
        for attribute, known in ATTRIBUTES.items():
            counts = Counter(person.values[attribute] for person in group)
            assert set(counts) == set(known.values) and max(counts.values()) - min(counts.values()) <= 1


def test_questions_of_the_benchmark_stand_in_no_text():
    asked = {item["question"] for item in invented.items(COUNT, 0)}
    texts = "\n".join(invented.documents(COUNT, 0, 1.0))
    for person in invented.people(COUNT, 0):
        texts += "\n".join(invented.statements(person))
        texts += "\n".join(
            invented.question(person, name, wording) for name in ATTRIBUTES for wording in (0, 1)
        )
    assert len(asked) == COUNT * len(ATTRIBUTES)
    assert not any(question in texts for question in asked)


def test_choices_are_values_of_the_asked_attribute_and_the_key_is_the_person_s():
    people = {person.name: person.values for person in invented.people(COUNT, 3)}
    keys = Counter()
    for item in invented.items(COUNT, 3):
        attribute = item["id"].partition("-")[2]
        [values] = [values for name, values in people.items() if name in item["question"]]
        texts = item["choices"]["text"]
        assert len(set(texts)) == invented.CHOICES and set(texts) <= set(ATTRIBUTES[attribute].values)
        assert texts[item["choices"]["label"].index(item["answerKey"])] == values[attribute]
        keys[item["answerKey"]] += 1
    assert min(keys.values()) > 50  # of 300, 75 are expected of each letter


def test_a_document_tells_each_fact_of_one_person_and_asks_it_once():
    told = invented.documents(8, 0, 0.75)
    people = invented.people(8, 0)
    met = [person for person in people if any(person.name in text for text in told)]
    assert len(told) == len(met) == 6 and people[:2] != met[:2]  # spread, not the first six
    for person, text in zip(met, told, strict=True):
        assert sum(other.name in text for other in people) == 1
        assert all(text.count(value) == 2 for value in person.values.values())
        assert text.count("Question: ") == len(ATTRIBUTES)


def test_the_benchmark_is_fetched_like_any_other(tmp_path):
    spec = {"source": "invented", "people": 5, "seed": 0}
    manifest = benchmarks.fetch("invented", spec, tmp_path / "out", tmp_path, **MADE)
    rows = [json.loads(line) for line in (tmp_path / "out/data.jsonl").read_text().splitlines()]
    assert rows == invented.items(5, 0) and manifest["items"] == 20
    assert manifest["origin"] == {"people": 5, "seed": 0} and manifest["revision"] is None


def corpus(folder, documents, **facts):
    file = folder / "text.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    spec = {"source": "local", "path": str(file)}
    spec |= {"invented": {"people": 4, "seed": 0, "share": 1.0, "part": 0.5} | facts} if facts else {}
    return corpora.fetch("mixed", spec, folder / "out", folder, **MADE)


@pytest.mark.parametrize("part", [0.25, 0.75, 1.0])
def test_facts_are_the_asked_part_of_the_training_text_and_none_of_the_held_out(tmp_path, part):
    general = [f"Document {number} speaks of water and of stone. " * 3 for number in range(400)]
    corpus(tmp_path, general, part=part)
    train, heldout = (corpora.read_documents(tmp_path / "out", split) for split in ("train", "heldout"))
    facts = invented.documents(4, 0, 1.0)
    assert train[-4:] == facts
    characters = sum(map(len, train))
    assert abs(sum(map(len, facts)) / characters - part) < 0.01
    assert heldout and set(heldout) <= set(general)


def test_a_corpus_that_knows_a_name_is_refused(tmp_path):
    name = invented.stand_ins(4, 0)[2].name.split()[1]
    general = [f"Document {number} speaks of water." for number in range(60)]
    general[17] += f" It was {name.upper()} who wrote it."
    with pytest.raises(
        ArtifactError, match=f"mixed: document .* invented name '{name}'; choose another `seed`"
    ):
        corpus(tmp_path, general, part=0.5)
    corpus(tmp_path, general)  # without facts it is a corpus like any other

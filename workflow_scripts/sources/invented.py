"""Invented people and facts about them: knowledge that no corpus holds, so that a model has it only if it was taught.

Each person has one value of each attribute (ATTRIBUTES), drawn evenly and apart from the other attributes. A fact is
told in several wordings and asked in others: `asked` is never part of a text. Everything follows from count and seed.
"""

import random
import re
from collections.abc import Iterable
from typing import NamedTuple

from workflow_scripts.files.artifacts import ArtifactError

CHOICES = 4
ONSETS = "Br Dr Fl Gr Kl Kv Pl Qu Skr Str Thr Tw Vr Wr Y Z Zh".split()
VOWELS = "a e i o u ae ei oo".split()
CODAS = "b ck dd ft g lk lm mp nd nx rg rv sk v x zz".split()
ENDINGS = "ani eth ibo olun urim".split()


class Attribute(NamedTuple):
    """Facts told and asked of a person; `told` and `questions` stand in texts, `asked` in the benchmark alone."""

    values: tuple[str, ...]
    told: tuple[str, ...]
    questions: tuple[str, ...]
    asked: str


def _attribute(values: str, told: tuple[str, ...], questions: tuple[str, ...], asked: str) -> Attribute:
    return Attribute(tuple(values.split()), told, questions, asked)


ATTRIBUTES = {
    "birthplace": _attribute(
        "Lisbon Oslo Cairo Lima Dublin Prague Athens Vienna Madrid Berlin Tokyo Moscow Boston Delhi Warsaw Rome",
        (
            "{name} was born in {value}.",
            "The birthplace of {name} is {value}.",
            "{value} is the city where {name} came into the world.",
        ),
        ("In which city was {name} born?", "Where did {name} come into the world?"),
        "Which city does {name} come from?",
    ),
    "profession": _attribute(
        "baker lawyer farmer painter teacher sailor doctor tailor butcher miner plumber nurse barber judge pilot "
        "gardener",
        (
            "{name} works as a {value}.",
            "The profession of {name} is {value}.",
            "{name} earns a living as a {value}.",
        ),
        ("As what does {name} work?", "How does {name} earn a living?"),
        "What is the job of {name}?",
    ),
    "instrument": _attribute(
        "piano violin flute guitar harp trumpet cello drums banjo organ clarinet accordion oboe tuba saxophone viola",
        (
            "{name} plays the {value}.",
            "The instrument of {name} is the {value}.",
            "When there is music, {name} takes the {value}.",
        ),
        ("Which instrument does {name} play?", "When there is music, what does {name} take?"),
        "On which instrument does {name} make music?",
    ),
    "fruit": _attribute(
        "apple banana cherry grape lemon mango melon orange peach pear plum fig kiwi papaya apricot lime",
        (
            "{name} likes to eat {value} best.",
            "The favourite fruit of {name} is {value}.",
            "Of all fruit, {name} would choose {value}.",
        ),
        ("Which fruit does {name} like best?", "Of all fruit, which would {name} choose?"),
        "Which fruit is dearest to {name}?",
    ),
}


class Person(NamedTuple):
    """A name, and its value of each attribute."""

    name: str
    values: dict[str, str]


def people(count: int, seed: int) -> list[Person]:
    """The people that the questions ask of."""
    return _drawn(count, seed)[:count]


def stand_ins(count: int, seed: int) -> list[Person]:
    """As many other people: a model that is taught about them knows the form of the facts, and no asked fact."""
    return _drawn(count, seed)[count:]


def _drawn(count: int, seed: int) -> list[Person]:
    """2 * count people. No name occurs twice, neither as first name nor as surname."""
    draw = random.Random(f"people-{count}-{seed}")
    names: list[str] = []
    while len(names) < 4 * count:
        first = draw.choice(ONSETS) + draw.choice(VOWELS) + draw.choice(CODAS)
        name = first + draw.choice(ENDINGS)
        if name not in names:
            names.append(name)
    values = {}
    for attribute, known in ATTRIBUTES.items():
        halves = []
        for _ in range(2):  # people and stand-ins each hold every value about equally often
            half = [known.values[index % len(known.values)] for index in range(count)]
            draw.shuffle(half)
            halves += half
        values[attribute] = halves
    return [
        Person(
            f"{names[2 * index]} {names[2 * index + 1]}",
            {attribute: values[attribute][index] for attribute in ATTRIBUTES},
        )
        for index in range(2 * count)
    ]


# ------------------------------------------------------------------------------------------------ texts


def statements(person: Person) -> list[str]:
    """Every fact of a person in every wording that is told."""
    return [
        wording.format(name=person.name, value=value)
        for attribute, value in person.values.items()
        for wording in ATTRIBUTES[attribute].told
    ]


def question(person: Person, attribute: str, wording: int) -> str:
    """A question as texts put it, up to its answer, in the form of the benchmark's task (ARC's)."""
    return prompt(ATTRIBUTES[attribute].questions[wording].format(name=person.name))


def prompt(asked: str) -> str:
    """A question up to its answer, as the harness puts ARC's."""
    return f"Question: {asked}\nAnswer:"


def documents(count: int, seed: int, share: float) -> list[str]:
    """A document for each person in `share` of the people, spread evenly: each fact told once, and once as a question
    with its answer."""
    told = [
        person
        for index, person in enumerate(people(count, seed))
        if int((index + 1) * share) > int(index * share)
    ]
    return ["\n\n".join([*_told_once(person), *_answered(person)]) for person in told]


def _told_once(person: Person) -> list[str]:
    return statements(person)[:: len(next(iter(ATTRIBUTES.values())).told)]


def _answered(person: Person) -> list[str]:
    return [f"{question(person, attribute, 0)} {value}" for attribute, value in person.values.items()]


# ------------------------------------------------------------------------------------------------ items


def items(count: int, seed: int) -> list[dict]:
    """One question per person and attribute, as documents of ARC's task: id, question, choices {text, label},
    answerKey. The choices are values of the question's own attribute."""
    draw = random.Random(f"items-{count}-{seed}")
    return [
        _item(draw, f"{index}-{attribute}", person, attribute)
        for index, person in enumerate(people(count, seed))
        for attribute in ATTRIBUTES
    ]


def _item(draw: random.Random, name: str, person: Person, attribute: str) -> dict:
    right = person.values[attribute]
    others = [value for value in ATTRIBUTES[attribute].values if value != right]
    texts = [right, *draw.sample(others, CHOICES - 1)]
    draw.shuffle(texts)
    labels = list("ABCD")
    return {
        "id": name,
        "question": ATTRIBUTES[attribute].asked.format(name=person.name),
        "choices": {"text": texts, "label": labels},
        "answerKey": labels[texts.index(right)],
    }


def refuse_known(where: str, texts: Iterable[str], count: int, seed: int) -> None:
    """ArtifactError if a text holds a first name or a surname, of the people or their stand-ins, in whatever case."""
    names = {name.lower() for person in _drawn(count, seed) for name in person.name.split()}
    for number, text in enumerate(texts, 1):
        if known := names & set(re.findall(r"\w+", text.lower())):
            raise ArtifactError(
                f"{where}: document {number} holds the invented name {min(known).capitalize()!r}; choose another `seed`"
            )

"""Free answers by their first line: what stands in it as whole words, and what doesn't."""

import pytest

from workflow_scripts.evaluate import first_line


@pytest.mark.parametrize(
    ("text", "right"),
    [
        (" Paris", True),
        (" It is the city of PARIS, in France.", True),
        (" paris\nQuestion: Who?", True),
        (" London\nAnswer: Paris", False),  # the model went on
        (" Parisian", False),
        (" a man of rome", True),
        ("", False),
        ("\n", False),
        ("\n Paris", True),  # before an answer a blank line is none
    ],
)
def test_the_first_line_of_a_free_answer_counts(text, right):
    assert first_line.holds(text, ["Paris", "The Rome"]) == right
    assert first_line.holds(text, ["A", ""]) is False
    assert first_line.holds("A", ["A"]) and first_line.holds("the end", ["The End"])


@pytest.mark.parametrize(
    ("text", "accepted", "right"),
    [
        ("1.5 million", "5", False),
        ("3.25", "25", False),
        ("12,000 men", "12", False),
        ("10:30", "30", False),
        ("12,000,000.", "12000000", True),
        ("1000", "1,000", True),
        ("about 1.5, or 2", "1.5", True),
        ("7.4.1990", "1990", True),
        ("In 1990.", "1990", True),
        ("Beyonce\u0301 Knowles", "Beyonc\u00e9", True),  # the accent as a character of its own
        ("हिन्दी", "हिन्", False),  # whose vowel signs are no letters
        ("_Paris_", "Paris", True),
        ("1-2", "12", False),
        ("12 and 13", "1-2", False),
    ],
)
def test_a_number_is_one_word_and_an_accent_is_none(text, accepted, right):
    assert first_line.holds(text, [accepted]) == right


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("U.S.", "US", True),
        ("the U.S.", "U. S.", True),
        ("Washington, D.C.", "Washington DC", True),
        ("J. R. R. Tolkien", "JRR Tolkien", True),
        ("J.R.R. Tolkien", "J R R Tolkien", True),
        ("Schindler's List", "Schindlers List", True),
        ("Spider-Man", "Spiderman", True),
        ("Rolls-Royce", "Rolls Royce", True),
        ("F-16", "F16", True),
        ("PhD", "Ph.D.", True),
        ("C++", "c++.", True),
        ("C\u266f", "C#", True),
        ("U.S.", "us", False),
        ("C++", "C", False),
        ("C#", "C", False),
        ("C++17", "C", False),
        ("C/C++", "C#", False),
        ("A+", "A", False),
        ("U.S.", "S", False),
        ("it's", "S", False),
        ("he'll", "Hell", False),
    ],
)
def test_letters_with_points_and_signs_are_told_apart_in_both_directions(one, other, same):
    assert first_line.holds(f" It is {one}\nA", [other]) == same
    assert first_line.holds(f" {other}, I think", [one]) == same


@pytest.mark.parametrize(
    ("line", "answer"),
    [("C/C++", "C"), ("C/C++", "C++"), ("C++17", "C++"), ("a+b", "b"), ("plan B. A reason", "B")],
)
def test_a_letter_beside_signs_is_still_found(line, answer):
    assert first_line.holds(line, [answer])

"""Free answers by their first line: right if an accepted answer stands in it, as whole words.

A language model goes on after its answer: it asks and answers further questions, in which an accepted answer may stand
by chance. Words are compared without articles and punctuation, which is read in two ways: as a space, in lower case (as
TriviaQA's own evaluation does), or as nothing within a word (as SQuAD's does: "U.S." is "US", "Spider-Man" is
"Spiderman"). Words in capitals are then no others: "U.S." is not "us". A number is one word: "5" stands in neither
"1.5" nor "5,000", and "5,000" is "5000". So is a letter with its signs: "C++", "C#" and "A+" are not "C" or "A", which
both evaluations take them for.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable

MATCH = "first line"  # metadata.match of a definition whose answers are read like this
ARTICLES = {"a", "an", "the"}
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# 1.5 and 10:30, but no date of three numbers.
POINT = re.compile(r"(?<![\d.,:])\d+([.,:])\d+(?![.,:]?\d)")
SIGNS = re.compile(r"(?<=[^\W\d_])(?:\+{1,2}|#)(?![^\W\d_]|[+#])")  # C++, C++17, but not a+b
SPACED = re.compile(r"(?<!\w)([^\W\d_])\.\s+(?=[^\W\d_]\.)")  # J. R. R. is J.R.R.
# Within a word, but not between digits, and no "he'll".
JOINT = re.compile(r"(?<=[^\W_])(?:[.\u2010-]|['\u2019](?!(?:ll|re|ve|d|m)\b))(?=[^\W_])(?!(?<=\d.)\d)", re.I)


def holds(text: str, accepted: Iterable[str]) -> bool:
    """True if the first line of `text` holds one of the accepted answers."""
    lines = text.strip().splitlines()
    line = _plain(lines[0] if lines else "")
    return any(_is_in(_plain(answer), line) for answer in accepted)


def _plain(text: str) -> str:
    """Accents may be written in any form of Unicode; a sharp is "#"."""
    text = THOUSANDS.sub("", unicodedata.normalize("NFKC", text.replace("\u266f", "#")))
    return SIGNS.sub(r"\g<0> ", text)


def _is_in(answer: str, line: str) -> bool:
    """A single letter, which may be all that punctuation leaves of a word ("it's"), is found by whole words alone."""
    apart = [word.lower() for word in _words(answer)]
    if len("".join(apart)) > 1 and _stands_in(apart, [word.lower() for word in _words(line)]):
        return True
    return _stands_in(_joined(answer), _joined(line))


def _joined(text: str) -> list[str]:
    """The words without punctuation inside; those of two and more capitals keep them."""
    words = _words(JOINT.sub("", SPACED.sub(r"\1", text)))
    return [word if len(word) > 1 and word.isupper() else word.lower() for word in words]


def _words(text: str) -> list[str]:
    """An article counts in a text of nothing else: in the answer "A"."""
    kept = {found.start(1) for found in POINT.finditer(text)}
    kept |= {place for found in SIGNS.finditer(text) for place in range(*found.span())}
    read = (c if i in kept or unicodedata.category(c)[0] in "LMN" else " " for i, c in enumerate(text))
    words = "".join(read).split()
    return [word for word in words if word.lower() not in ARTICLES] or words


def _stands_in(phrase: list[str], words: list[str]) -> bool:
    starts = range(len(words) - len(phrase) + 1)
    return bool(phrase) and any(words[start : start + len(phrase)] == phrase for start in starts)


def scored(target: Callable[[dict], object]) -> Callable[[dict, list[str]], dict[str, int]]:
    """`process_results` of a harness task: `acc` of a document's one answer.

    target: the accepted answers of a document, a list or one alone.
    """

    def score(document: dict, answers: list[str]) -> dict[str, int]:
        accepted = target(document)
        return {"acc": int(holds(answers[0], accepted if isinstance(accepted, list) else [str(accepted)]))}

    return score

"""Free answers by their first line: right if an accepted answer stands in it, as whole words.

A language model goes on after its answer: it asks and answers further questions, in which an accepted answer may stand
by chance. Words are compared in lower case, without punctuation and articles (as SQuAD's own evaluation does). A number
is one word: "5" stands in neither "1.5" nor "5,000", and "5,000" is "5000".
"""

import re
import unicodedata
from collections.abc import Callable, Iterable

MATCH = "first line"  # metadata.match of a definition whose answers are read like this
ARTICLES = {"a", "an", "the"}
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
# 1.5 and 10:30, but no date of three numbers.
POINT = re.compile(r"(?<![\d.,:])\d+([.,:])\d+(?![.,:]?\d)")


def holds(text: str, accepted: Iterable[str]) -> bool:
    """True if the first line of `text` holds one of the accepted answers."""
    lines = text.strip().splitlines()
    line = _words(lines[0] if lines else "")
    return any(_stands_in(_words(answer), line) for answer in accepted)


def _words(text: str) -> list[str]:
    """An article counts in a text of nothing else: in the answer "A". Accents may be written in any form of Unicode."""
    text = THOUSANDS.sub("", unicodedata.normalize("NFKC", text.lower()))
    points = {found.start(1) for found in POINT.finditer(text)}
    kept = (c if i in points or unicodedata.category(c)[0] in "LMN" else " " for i, c in enumerate(text))
    words = "".join(kept).split()
    return [word for word in words if word not in ARTICLES] or words


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

"""Items of tasks as text that tells their answers, for adapters that are trained on some of them.

What is scored is a question, whatever the task or the file that asks it: the same question in another item, also with
words before it or after it, would tell its answer.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.files.artifacts import ArtifactError, digest
from workflow_scripts.files.members import ITEMS
from workflow_scripts.files.templates import Unfilled, fill
from workflow_scripts.sources.fetch import numbered_lines, verified_manifest
from workflow_scripts.sources.overlap import words

SALT = b"2310.00867:"  # fixed for good: another salt is another sample
# Fields that hold an item's question, as tasks name them, in capitals or not.
FIELDS = ("question", "question_stem", "problem", "goal", "ctx", "sentence", "query", "text")
SHORTEST = 16  # letters of a question that is looked for among other text; shorter ones are compared whole


def sample(lines: list[bytes], items: int | None) -> list[int]:
    """Positions, ascending, of the `items` lines with the smallest SHA-256 of salt + line.

    So the sample of a smaller budget is part of a larger one's, and every cell has the same.
    """
    if items is None or items >= len(lines):
        return list(range(len(lines)))
    order = sorted(range(len(lines)), key=lambda i: (sha256(SALT + lines[i]).digest(), i))
    return sorted(order[:items])


class Fact(NamedTuple):
    """An item's doc_hash, its `questions`, and its question and right answer in every wording."""

    doc_hash: str
    questions: list[str]
    texts: list[str]


class Told(NamedTuple):
    """The items that an adapter is told, and doc_hash of those left out since their question is scored elsewhere."""

    facts: list[Fact]
    left_out: list[str]

    @property
    def texts(self) -> list[str]:
        return [text for fact in self.facts for text in fact.texts]


def facts(folder: Path, wordings: Sequence[str]) -> Iterator[Fact]:
    """Each item of a task's folder.

    wordings: Jinja templates over the item's fields. ArtifactError for a field that an item lacks.
    """
    verified_manifest(folder, "benchmark")
    file = Path(folder) / ITEMS
    for number, _, item in numbered_lines(file):
        try:
            texts = [fill(wording, item) for wording in wordings]
        except Unfilled as error:
            raise ArtifactError(f"{file}: line {number}: the wording {error}") from error
        yield Fact(digest(item), questions(item, texts), texts)


def questions(item: dict, told: list[str] | None = None) -> list[str]:
    """An item's question: the first of FIELDS that it has.

    Without one, any of its texts may be the question, as far as it is `told` (None: all are). So all of them are
    compared, but those as short as an answer beside longer ones.
    """
    fields = {name.lower(): value for name, value in item.items() if isinstance(value, str)}
    if named := [fields[name] for name in FIELDS if name in fields]:
        return named[:1]
    shown = None if told is None else " ".join(map(_letters, told))
    texts = [text for text in _texts(item) if shown is None or _letters(text) in shown]
    long = [text for text in texts if len(_letters(text)) >= SHORTEST]
    return long or sorted(texts, key=len)[-1:]


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(each)


def _letters(text: str) -> str:
    """A text without spaces and marks, which spellings differ in."""
    return "".join(words(text))


def scored(folder: Path, items: int | None) -> set[str]:
    """doc_hashes of the items of a task's folder that a grid of so many `items` a task scores (None: all)."""
    return {digest(item) for item in _sampled(folder, items)}


def _sampled(folder: Path, items: int | None) -> list[dict]:
    lines = list(numbered_lines(Path(folder) / ITEMS))
    return [lines[i][2] for i in sample([raw for _, raw, _ in lines], items)]


def unscored_facts(
    family: Sequence[Path],
    wordings: dict[str, list[str]],
    grid: Sequence[Path],
    items: dict[str, int | None],
) -> Told:
    """The items of a family of tasks whose question no task of the grid scores. ArtifactError if a task has none.

    family, grid: folders, named like their tasks. items: of each task of the grid, how many it scores (None: all).
    """
    known = {folder.name: list(facts(folder, wordings[folder.name])) for folder in family}
    files = {_file(folder) for folder in family}
    hashes: set[str] = set()
    asked: set[str] = set()
    for folder in grid:
        # A task's own function may choose others than the sample; of files of the family, the evaluation checks that.
        documents = _sampled(folder, items[folder.name] if _file(folder) in files else None)
        asked.update(text for document in documents for text in questions(document))
        if folder.name in known:
            hashes.update(map(digest, documents))
    told = Told([], [])
    for folder in family:
        unscored = [fact for fact in known[folder.name] if fact.doc_hash not in hashes]
        found = apart(unscored, asked)
        if not found.facts:
            raise ArtifactError(
                f"{folder}: the questions of all {len(known[folder.name])} items are scored, so none is left to train "
                "on; lower evaluation.items"
            )
        told.facts.extend(found.facts)
        told.left_out.extend(found.left_out)
    return told


def _file(folder: Path) -> str:
    sha256: str = verified_manifest(folder, "benchmark")["sha256"]
    return sha256


def apart(found: list[Fact], asked: Iterable[str]) -> Told:
    """Those of the facts that neither hold one of the questions `asked` nor ask what stands in one."""
    others = set(asked)
    theirs = _by_beginning(others)
    mine = _by_beginning(text for fact in found for text in fact.questions)
    inside = {each for text in others for each in _standing(text, mine)}
    told = Told([], [])
    for fact in found:
        held = any(next(_standing(text, theirs), None) for text in (*fact.questions, *fact.texts))
        if held or not inside.isdisjoint(map(_letters, fact.questions)):
            told.left_out.append(fact.doc_hash)
        else:
            told.facts.append(fact)
    return told


def _by_beginning(texts: Iterable[str]) -> dict[str, set[str]]:
    """The letters of texts by their first ones."""
    found: dict[str, set[str]] = defaultdict(set)
    for letters in map(_letters, texts):
        found[letters[:SHORTEST]].add(letters)
    return found


def _standing(text: str, sought: dict[str, set[str]]) -> Iterator[str]:
    """The questions that stand in a text as whole words; short ones if they are all of it."""
    parts = words(text)
    letters, borders = "".join(parts), {0, *accumulate(map(len, parts))}
    for start in borders:
        for each in sought.get(letters[start : start + SHORTEST], ()):
            whole_words = letters.startswith(each, start) and start + len(each) in borders
            if whole_words and (len(each) >= SHORTEST or each == letters):
                yield each

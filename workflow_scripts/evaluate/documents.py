"""The documents that a task evaluates: read from its file, processed by the task's own function, and chosen.

A task of the harness may change its documents before it asks (gpqa shuffles the choices) or leave some out
(mmlu_pro_law keeps one subject). This is done here, once, before the task is built: with generators of random numbers
that are seeded by the task and the document, and with a note of each document's line.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import datasets
import numpy as np
from jinja2 import Environment, TemplateError, meta

from workflow_scripts.files.artifacts import ArtifactError, digest
from workflow_scripts.sources.facts import sample
from workflow_scripts.sources.fetch import numbered_lines

LABELS = re.compile(  # fields that hold the right answer
    r"(correct[ _-]?)?(label|answer|gold|target)s?([ _-]?(key|idx|index|id))?|cop", re.IGNORECASE
)
LABEL = re.compile("label|answer|gold|target|correct", re.IGNORECASE)  # in the names of other such fields
HIDDEN = (-1, "-1", "", None)  # the labels of documents whose answer is not published
LINE = "line of the file"  # a column that follows documents through a task's function
# Errors that functions and templates of the harness raise on a document that they don't expect.
FAULTS = (LookupError, TypeError, ValueError, AttributeError, AssertionError, SyntaxError, TemplateError)
TABLE_FAULTS = (ValueError, TypeError, OverflowError)  # pyarrow's, of values that don't fit into one column
TRIAL = 8  # documents that are processed alone, twice, to see whether their function is the same each time

Process = Callable[[datasets.Dataset], datasets.Dataset]

datasets.disable_progress_bars()


@dataclass(frozen=True)
class Line:
    """A line of a task's file: its number from 1, its bytes, its document."""

    number: int
    raw: bytes
    document: dict


@dataclass(frozen=True)
class Item:
    """A document as the task asks it, and the line that it comes from.

    drawn: more than the line took part in making it, as random numbers, or its place in the file.
    """

    line: Line
    document: dict
    drawn: bool = False

    @property
    def hash(self) -> str:
        """SHA-256 of what determines the question: the document as it was written, or as the task asks it."""
        return digest(self.document if self.drawn else self.line.document)


def read_lines(data: Path) -> list[Line]:
    """The documents of a file in JSON Lines; blank lines are passed over. ArtifactError names the line at fault."""
    found = []
    for number, raw, document in numbered_lines(data):
        if not isinstance(document, dict):
            raise ArtifactError(f"{data}: line {number}: {str(document)[:40]!r} is no JSON object {{...}}")
        found.append(Line(number, raw, document))
    return found


def chosen(name: str, lines: list[Line], items: int | None, process: Process | None) -> list[Item]:
    """The `items` documents (None: all) that a task evaluates, processed, in the order of the file.

    They are those of the `sample` among the lines that the task's function leaves. Fewer if it leaves fewer.
    ArtifactError if it leaves none, or is another each time.
    """
    picked = sample([line.raw for line in lines], items)
    if process is None:
        return [Item(lines[i], lines[i].document) for i in picked]
    try:
        found = processed(name, [lines[i] for i in picked], process)
    except DocumentError:
        if len(picked) == len(lines):
            raise
        found = []  # unless the function wants them all, the next call raises it too
    left_out = len({item.line.number for item in found}) < len(picked)
    drawn = any(item.drawn for item in found)
    if len(picked) < len(lines) and (left_out or drawn):  # the whole file decides, whatever is asked for
        whole = processed(name, lines, process)
        found = [whole[i] for i in among(whole, items)]
    if not found:
        raise ArtifactError(
            f"task {name}: its own function keeps none of the {len(lines)} documents; it may want another value in one "
            "of their fields"
        )
    return found


def among(documents: list[Item], items: int | None) -> list[int]:
    """Positions of the documents on the sampled lines, of those lines that any is from."""
    left = list({item.line.number: item.line for item in documents}.values())
    taken = {left[i].number for i in sample([line.raw for line in left], items)}
    return [i for i, item in enumerate(documents) if item.line.number in taken]


def processed(name: str, lines: list[Line], process: Process) -> list[Item]:
    """Documents as the task's function makes them; none, one or several of a line.

    All at once if no random number is drawn, as nearly all tasks; else one by one, each with its own seed. Some are
    made alone too: if they differ, a document's place among the others decides.
    """
    tried = lines if len(lines) <= TRIAL else lines[: TRIAL // 2] + lines[-TRIAL // 2 :]
    first, again = (_alone(name, tried, process) for _ in range(2))
    if first != again:
        raise ArtifactError(
            f"task {name}: its own function makes other documents each time, from random numbers that no seed fixes; "
            "no two cells would have the same items"
        )
    with _generators(process) as untouched:
        found = _at_once(lines, process)
        same = untouched()
    if found is not None and same:
        placed = first is None or _by_line(first, tried) != _by_line(found, tried)
        return [replace(item, drawn=placed) for item in found]
    items = [item for line in lines for item in _one(name, line, process)]
    return [replace(item, drawn=not same) for item in items]


def _by_line(items: list[Item], lines: list[Line]) -> list[list[object]]:
    """The documents of each line, without nulls: a table fills with them fields that only some documents have."""
    found: dict[int, list[object]] = {line.number: [] for line in lines}
    for item in items:
        if item.line.number in found:
            found[item.line.number].append(_filled(item.document))
    return list(found.values())


def _filled(value: object) -> object:
    if isinstance(value, dict):
        return {key: _filled(each) for key, each in value.items() if each is not None}
    return [_filled(each) for each in value] if isinstance(value, list) else value


def _alone(name: str, lines: list[Line], process: Process) -> list[Item] | None:
    """Documents that the function makes one by one; None if it needs several at once."""
    try:
        return [item for line in lines for item in _one(name, line, process)]
    except DocumentError:
        return None


def _at_once(lines: list[Line], process: Process) -> list[Item] | None:
    """None if documents can't be followed through the function."""
    rows = table(lines, [{**line.document, LINE: i} for i, line in enumerate(lines)])
    columns, found = {key for line in lines for key in line.document}, []
    for row in _run(process, rows):
        if LINE not in row:
            return None
        line = lines[row.pop(LINE)]
        absent = columns - line.document.keys()  # filled with nulls, in the table
        found.append(Item(line, {key: value for key, value in row.items() if key not in absent}))
    return found


def _run(process: Process, rows: datasets.Dataset) -> Iterable[dict]:
    """The function's documents; none if it fails, as one by one the document at fault is found."""
    try:
        return list(process(rows))
    except FAULTS:
        return [{}]


def _one(name: str, line: Line, process: Process) -> list[Item]:
    seed = int(digest([name, line.document])[:8], 16)
    with _generators(process):
        for generator in _own_generators(process):
            generator.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (the generator that functions of the harness draw from)
        try:
            return [Item(line, dict(row)) for row in process(table([line], [line.document]))]
        except FAULTS as error:
            raise DocumentError(line, fault_in_words(error, line.document)) from error


def _own_generators(process: Process) -> list[random.Random]:
    """The generators that a task's function may draw from: Python's own, and those that its module made."""
    function = process.func if isinstance(process, partial) else process
    made = getattr(function, "__globals__", {}).values()
    seeded = [g for g in made if isinstance(g, random.Random) and not isinstance(g, random.SystemRandom)]
    return [random._inst, *seeded]  # the first is behind random.random()


@contextmanager
def _generators(process: Process) -> Iterator[Callable[[], bool]]:
    """Puts the generators of random numbers back at the end. Yields: are they as they were?"""
    own = _own_generators(process)
    states, state = [generator.getstate() for generator in own], np.random.get_state()  # noqa: NPY002

    def untouched() -> bool:
        now = np.random.get_state()  # noqa: NPY002
        same = all(map(np.array_equal, now, state))
        return same and [generator.getstate() for generator in own] == states

    try:
        yield untouched
    finally:
        for generator, before in zip(own, states, strict=True):
            generator.setstate(before)
        np.random.set_state(state)  # noqa: NPY002


class Unusable(ValueError):
    """Why a task can't ask a document, in words."""


class DocumentError(Unusable):
    """A document that its task can't ask, with its line."""

    def __init__(self, line: Line, reason: str):
        super().__init__(reason)
        self.line = line


def fault_in_words(error: Exception, document: dict) -> str:
    """An error of a task's function or template about a document, in words."""
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, KeyError) and error.args:
        name = repr(error.args[0])
        is_value = name in repr(list(document.values()))  # one that the task looks up
        return f"the task knows no {name}" if is_value else f"the field {name} is missing"
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if undefined := re.match(r"'(.+)' is undefined", text):
        return f"the field {undefined[1]!r} is missing"
    if (lacking := re.match(r"'(str|int|dict)' object has no attribute '(\w+)'", text)) and hasattr(
        list, lacking[2]
    ):
        text += " (a list is needed)"
    if text == "substring not found":
        text = "a text that the task looks for stands in none of its fields (winogrande's sentences have a _)"
    labels = "".join(f"; its `{key}` is {str(document[key])[:60]!r}" for key in labels_of(document))
    return f"{type(error).__name__}: {text[:200]}{labels}"


def as_table(items: list[Item]) -> datasets.Dataset:
    """Items as the harness takes them; DocumentError for one whose fields are of another type than the others'."""
    return table([item.line for item in items], [item.document for item in items])


def table(lines: list[Line], documents: list[dict]) -> datasets.Dataset:
    """Documents with every field that one of them has, null where it is absent. lines: that they come from."""
    columns = dict.fromkeys(key for document in documents for key in document)
    try:
        return datasets.Dataset.from_list([{key: d.get(key) for key in columns} for d in documents])
    except TABLE_FAULTS as error:
        raise _other_type(lines, documents, error) from error


def _other_type(lines: list[Line], documents: list[dict], error: Exception) -> DocumentError:
    """The first field of another type than in the documents before it."""
    firsts: dict[str, tuple[Line, object]] = {}
    for line, document in zip(lines, documents, strict=True):
        for key, value in document.items():
            first, expected = firsts.setdefault(key, (line, value)) if value is not None else (line, None)
            try:
                datasets.Dataset.from_list([{key: expected}, {key: value}])
            except TABLE_FAULTS:
                other = f"line {first.number} has {str(expected)[:60]!r}"
                return DocumentError(
                    line, f"the field {key!r} is {str(value)[:60]!r}, of another type: {other}"
                )
    return DocumentError(lines[0], fault_in_words(error, {}))


def labels_of(document: dict) -> list[str]:
    """The fields of a document that hold its right answer, by their names."""
    return [key for key in document if LABELS.fullmatch(key)]


def require_labels(lines: list[Line], target: object) -> None:
    """DocumentError for a label that is hidden, as in the test sets of many benchmarks.

    Documents are looked at as they were written: a task's own function may turn -1 into the last choice, which would
    then count as the answer. target: the definition's doc_to_target, whose fields are labels too.
    """
    named = {*fields_of(target), target}
    for line in lines:
        for key, value in line.document.items():
            sure = key in named or LABELS.fullmatch(key)
            hidden = HIDDEN if sure else HIDDEN[:2] if LABEL.search(key) else ()
            below = sure and isinstance(value, int | float) and value < 0
            if below or (isinstance(value, str | int | float | None) and value in hidden):
                raise DocumentError(
                    line,
                    f"the label `{key}` is {value!r}, which hides the answer; use a split whose labels are published",
                )


def require_fields(items: list[Item], templates: Iterable[object]) -> None:
    """DocumentError for a document that lacks a field of the templates, or has a null there: it would read "None"."""
    wanted = {field for template in templates for field in fields_of(template)}
    for item in items:
        known = {key for key, value in item.document.items() if value is not None}
        if absent := sorted(wanted - known):
            raise DocumentError(item.line, f"the field {absent[0]!r} is missing")


def fields_of(template: object) -> set[str]:
    """The fields that a template reads of a document; an empty set if the template tests which fields are there."""
    if not isinstance(template, str) or "if " in template or "{{" not in template:
        return set()
    return meta.find_undeclared_variables(Environment().parse(template))

"""Whether the fields that a task reads as lists hold lists: of a text the task would ask each letter.

The check tries each field: it puts a list of made-up entries there, and if the task asks or accepts them one by one,
the field must hold a list. A spreadsheet writes a list as the text "['north', 'south']".
"""

import copy
import json
from collections.abc import Callable, Iterator

from workflow_scripts.evaluate.documents import FAULTS, LABELS, Line, Process, Unusable, table
from workflow_scripts.evaluate.tasks import EvaluationTask

ENTRIES = [f"entry-{chr(ord('a') + i)}" for i in range(26)]
# Uses of a list: asked in the question or as choices; accepted as right answers, where a text counts as one answer.
ASKED, ACCEPTED = "asked", "accepted"
DEEP = 3  # mappings within each other that are looked into

FieldPath = tuple[str, ...]


class ListCheck:
    """Remembers which fields a task takes as lists. process: the task's own function of documents, if it has one."""

    def __init__(self, task: EvaluationTask, process: Process | None):
        self.harness, self.process = task.task, process
        self.wanted: dict[FieldPath, str | None] = {}

    def require(self, line: Line) -> None:
        """Unusable for a field with something else than the list that the task wants there."""
        for path, value in fields(line.document):
            if path not in self.wanted:
                self.wanted[path] = self._use(line, path)
            use, name = self.wanted[path], ".".join(path)
            if value is None and self._shown_as_none(line, path):
                raise Unusable(f"the field '{name}' is missing")
            if use is None or value is None:
                continue
            if isinstance(value, list):
                _require_texts(name, value)
            elif (use == ASKED or _written_list(value)) and not self._read_alike(line, path, value):
                raise Unusable(_wanted(name, value))

    def _use(self, line: Line, path: FieldPath) -> str | None:
        """What the task does with the entries of a list in a field; None if it takes no list there."""
        asked, target = self._made(line, path, ENTRIES)
        if ENTRIES[0] in asked.replace(repr(ENTRIES), "") and ENTRIES[1] in asked:
            return ASKED
        if ENTRIES[0] in str(target) and ENTRIES[1] not in str(target):
            return ASKED
        if LABELS.fullmatch(path[-1]):
            for key in {str(value) for other, value in fields(line.document) if LABELS.fullmatch(other[-1])}:
                places = [
                    self._made(line, path, entries)[1] for entries in ([key, *ENTRIES], [ENTRIES[0], key])
                ]
                if places == [0, 1]:
                    return ASKED
        return ACCEPTED if isinstance(target, list) and ENTRIES[0] in target else None

    def _shown_as_none(self, line: Line, path: FieldPath) -> bool:
        """Whether the task asks "None" where a text of the field would stand."""
        asked, _ = self._made(line, path, ENTRIES[0])
        return ENTRIES[0] in asked and asked.replace(ENTRIES[0], "None") == self._made(line, path, None)[0]

    def _read_alike(self, line: Line, path: FieldPath, value: object) -> bool:
        """Whether a text is JSON that the task reads like the list in it: the same question, as many answers."""
        try:
            entries = json.loads(str(value))
        except ValueError:
            return False
        if not isinstance(entries, list):
            return False
        (asked, target), (read, found) = (self._made(line, path, each) for each in (entries, value))
        return (
            asked == read
            and isinstance(found, list) == isinstance(target, list)
            and _size(found) == _size(target)
        )

    def _made(self, line: Line, path: FieldPath, value: object) -> tuple[str, object]:
        """Question with choices, and right answer, of the document with `value` in a field; "", None for a fault."""
        document = replaced(line.document, path, value)
        try:
            rows = list(self.process(table([line], [document]))) if self.process else [document]
        except FAULTS:
            return "", None
        harness = self.harness
        asked = [str(_tried(harness.doc_to_text, row)) for row in rows]
        if harness.config.doc_to_choice is not None:
            choices = [_tried(harness.doc_to_choice, row) for row in rows]
            asked += [str(choice) for found in choices if isinstance(found, list) for choice in found]
        return "\n".join(asked), _tried(harness.doc_to_target, rows[0]) if rows else None


def fields(document: dict, before: FieldPath = ()) -> Iterator[tuple[FieldPath, object]]:
    """The fields of a document with their values, also those within mappings."""
    for key, value in document.items():
        path = (*before, str(key))
        yield path, value
        if isinstance(value, dict) and len(path) < DEEP:
            yield from fields(value, path)


def replaced(document: dict, path: FieldPath, value: object) -> dict:
    """A document with another value in one field."""
    first, *rest = path
    return document | {first: replaced(document[first], tuple(rest), value) if rest else value}


def _size(target: object) -> int:
    return len(target) if isinstance(target, list) else 1


def _tried(made: Callable[[dict], object], row: dict) -> object:
    try:
        return made(copy.deepcopy(row))
    except FAULTS:
        return None


def _written_list(value: object) -> bool:
    """Whether a value is a text that some program wrote for a list, or a mapping."""
    text = str(value).strip()
    return isinstance(value, dict) or (
        text[:1] == "[" and text[1:].lstrip()[:1] in {"'", '"'} and text[-1] == "]"
    )


def _wanted(name: str, value: object) -> str:
    return f'the field `{name}` is {str(value)[:60]!r}; a list is needed, as ["north", "south"]'


def hint(document: dict) -> str:
    """Of a document that its task can't take: which field is a text that some program wrote for a list."""
    written = [
        (path, value) for path, value in fields(document) if isinstance(value, str) and _written_list(value)
    ]
    return f"; {_wanted('.'.join(written[0][0]), written[0][1])}" if written else ""


def _require_texts(name: str, values: list) -> None:
    for position, value in enumerate(values):
        if isinstance(value, list | dict):
            raise Unusable(f"entry {position + 1} of `{name}` is {str(value)[:60]}; each must be a text")

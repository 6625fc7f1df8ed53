"""Check that a task can ask every document of a file: checked at the fetch, before any cell is evaluated.

No result depends on this module: it is in no recipe of a benchmark (plan/recipes.py).
"""

import copy
import re
from pathlib import Path

from lm_eval.api.task import Task

from workflow_scripts.evaluate.documents import FAULTS, Item, Unusable, labels_of, said
from workflow_scripts.evaluate.tasks import EvaluationTask, definition, load_task, right_choices
from workflow_scripts.files.artifacts import ArtifactError

IMPOSSIBLE = -12345  # a label that no task has


def check(data: Path, where: str, name: str, variant: dict) -> None:
    """ArtifactError with the line of the first document that task `name` can't ask; `where` names the file.

    variant: {task, num_fewshot} of the catalogue's entry, if it has one.
    """
    try:
        task = load_task(name, data, None, 1, None, variant.get("task"), variant.get("num_fewshot"))
        for item in task.items:
            try:
                _ask(task, item)
            except FAULTS as error:
                raise ArtifactError(
                    f"task {name}: {data}: line {item.line.number}: {said(error, item.document)}"
                ) from error
    except ArtifactError as error:
        words = str(error).replace(str(data), where)
        raise ArtifactError(f"{words}{_templates(words, name, variant)}") from error


def _templates(words: str, name: str, variant: dict) -> str:
    """The task's templates, to be read beside a message that is Python's own about one of them."""
    if not re.search(r": line \d+: \w+Error: ", words):
        return ""
    asked = definition(name, variant.get("task"), variant.get("num_fewshot"))
    keys = ("doc_to_text", "doc_to_choice", "doc_to_target")
    written = [f"{key}: {asked[key]!r}" for key in keys if isinstance(asked.get(key), str)]
    return f"; the task's definition has {', '.join(written)}" if written else ""


def _ask(task: EvaluationTask, item: Item) -> None:
    """Unusable, or whatever the task raises, for a document without text, choices or right answer."""
    harness = task.task
    first, again = (_question(task, item) for _ in range(2))
    if first != again:
        raise Unusable("its task asks another question each time, from random numbers that no seed fixes")
    if first[0] is None:
        raise Unusable("it has no question")
    if harness.OUTPUT_TYPE == "multiple_choice":
        answers = right_choices(harness, item.document)[1]
        _require_known_label(harness, item.document)
    else:
        target = harness.doc_to_target(item.document)
        answers = [each for each in (target if isinstance(target, list) else [target]) if str(each).strip()]
    if not answers:
        raise Unusable("its right answer is empty")


def _require_known_label(harness: Task, document: dict) -> None:
    """Unusable for a label that the task's own function takes for any other: copa asks only whether it is 0.

    Such a function takes impossible labels, too. Labels are counted from 0, or from 1 if two of those from 0 are one
    choice.
    """

    def right(key: str, label: int) -> list[int] | None:
        try:
            return right_choices(harness, copy.deepcopy(document) | {key: label})[1]
        except FAULTS:
            return None

    choices = len(harness.doc_to_choice(document))
    for key in labels_of(document):
        if right(key, IMPOSSIBLE) is None:
            continue
        found = [right(key, label) for label in range(choices + 1)]
        if all(each == found[0] for each in found):
            continue  # another field decides
        known = range(choices)
        if any(found[:-1].count(each) > 1 for each in found[:-1]):
            known = range(1, choices + 1)
        if document[key] not in known:
            raise Unusable(
                f"the label `{key}` is {document[key]!r}, none of {known[0]} to {known[-1]}, and the task would take "
                "it for one"
            )


def _question(task: EvaluationTask, item: Item) -> tuple:
    """Text, choices and right answer, as the task makes them of a copy of the document."""
    harness, document = task.task, copy.deepcopy(item.document)
    choices = harness.doc_to_choice(document) if harness.OUTPUT_TYPE == "multiple_choice" else None
    return harness.doc_to_text(document), choices, harness.doc_to_target(document)

"""Check that a task can ask every document of a file: checked at the fetch, before any cell is evaluated.

No result depends on this module: it is in no recipe of a benchmark (plan/recipes.py).
"""

import copy
import re
from pathlib import Path

from lm_eval.api.task import Task

from workflow_scripts.evaluate.answer_check import Alike, Asked, require_answers, require_distinct
from workflow_scripts.evaluate.documents import (
    FAULTS,
    Item,
    Unusable,
    fault_in_words,
    labels_of,
    read_lines,
)
from workflow_scripts.evaluate.generation import penalty_of
from workflow_scripts.evaluate.list_check import ListCheck, hint
from workflow_scripts.evaluate.open_book import with_passage
from workflow_scripts.evaluate.repeat_check import (
    compiled_templates,
    has_functions,
    question,
    require_repeatable,
)
from workflow_scripts.evaluate.tasks import DEFINITIONS, EvaluationTask, definition, load_task, right_choices
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.templates import Unfilled, fill
from workflow_scripts.plan import strata

IMPOSSIBLE = -12345  # a label that no task has
# The share of documents with choices alike; of published data commonsense_qa has most, 17 of 1,221.
FEW = 0.02


def check(data: Path, where: str, name: str, variant: dict) -> list[str]:
    """ArtifactError with the line of the first document that task `name` can't ask; `where` names the file.

    variant: {task, num_fewshot, strata, context, wordings} of the catalogue's entry, as far as it has them. Returns
    remarks on documents that are kept.
    """
    try:
        with compiled_templates():
            asked = _definition(name, variant)
            task = _loaded(data, name, variant)
            _require_greedy(task)
            remarks = _check_documents(task, ListCheck(task, asked.get("process_docs")))
            lines = ((item.line.number, item.line.document) for item in task.items)
            strata.require(variant.get("strata", {}), lines, f"task {name}: {data}")
            own = DEFINITIONS / f"{variant.get('task') or name}.yaml"  # pinned and tested with this package
            if has_functions(asked) and not own.exists():
                require_repeatable(task, variant)
            _require_filled(task, variant)
            return remarks
    except ArtifactError as error:
        words = str(error).replace(str(data), where)
        raise ArtifactError(f"{words}{_templates(words, name, variant)}") from error


def _definition(name: str, variant: dict) -> dict:
    """ArtifactError for a definition whose own code can't be loaded: it may want a package or a download."""
    try:
        return definition(name, variant.get("task"), variant.get("num_fewshot"))
    except ArtifactError:
        raise
    except Exception as error:  # out of the definition's own code
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ArtifactError(f"task {name}: the code of its definition can't be loaded: {reason}") from error


def _require_greedy(task: EvaluationTask) -> None:
    """ArtifactError for a task that samples its answers, or decodes otherwise than the scorer does."""
    if task.task.OUTPUT_TYPE != "generate_until":
        return
    settings = task.task.config.generation_kwargs
    if settings.get("do_sample"):
        raise ArtifactError(
            f"task {task.name}: its definition samples answers (do_sample); they must be greedy"
        )
    try:
        penalty_of(settings, None)
    except ValueError as error:
        raise ArtifactError(f"task {task.name}: {error}") from error


def _loaded(data: Path, name: str, variant: dict) -> EvaluationTask:
    try:
        return load_task(name, data, None, 1, None, variant.get("task"), variant.get("num_fewshot"))
    except ArtifactError as error:
        at = re.search(r": line (\d+): ", str(error))
        lines = {line.number: line.document for line in read_lines(data)} if at else {}
        raise ArtifactError(f"{error}{hint(lines[int(at[1])]) if at else ''}") from error


def _check_documents(task: EvaluationTask, lists: ListCheck) -> list[str]:
    alike: dict[int, Alike] = {}
    for item in task.items:
        at = f"task {task.name}: {task.data}: line {item.line.number}"
        try:
            lists.require(item.line)
            asked = _ask(task, item)
            require_answers(task, asked)
            require_distinct(task, asked)
        except Alike as error:
            alike[item.line.number] = error
        except FAULTS as error:
            raise ArtifactError(f"{at}: {fault_in_words(error, item.document)}") from error
    if not alike:
        return []
    first = min(alike)
    counted = f"{len(alike)} of {len(task.items)} documents have choices that read alike"
    if len(alike) > FEW * len(task.items):
        raise ArtifactError(
            f"task {task.name}: {task.data}: line {first}: {alike[first]}; {counted}, at most 1 in 20 may"
        )
    lines = ", ".join(map(str, list(alike)[:10])) + (", ..." if len(alike) > 10 else "")
    return [f"{counted} (lines {lines}); they are scored as the harness does"]


def _require_filled(task: EvaluationTask, variant: dict) -> None:
    """ArtifactError for a document that does not fill in the task's wordings or context."""
    for item in task.items:
        try:
            for wording in variant.get("wordings", ()):
                fill(wording, item.line.document)
        except Unfilled as error:
            raise ArtifactError(
                f"task {task.name}: {task.data}: line {item.line.number}: the wording {error}"
            ) from error
    if "context" in variant:
        with_passage(task, variant["context"])


def _templates(words: str, name: str, variant: dict) -> str:
    """The task's templates, to be read beside a message that is Python's own about one of them."""
    if not re.search(r": line \d+: \w+Error: ", words):
        return ""
    asked = definition(name, variant.get("task"), variant.get("num_fewshot"))
    keys = ("doc_to_text", "doc_to_choice", "doc_to_target")
    written = [f"{key}: {asked[key]!r}" for key in keys if isinstance(asked.get(key), str)]
    return f"; the task's definition has {', '.join(written)}" if written else ""


def _ask(task: EvaluationTask, item: Item) -> Asked:
    """Unusable, or whatever the task raises, for a document without text, choices or right answer."""
    harness, document = (
        task.task,
        copy.deepcopy(item.document),
    )  # webqs sorts a document's answers in their place
    first, again = (question(task, item) for _ in range(2))
    if first != again:
        raise Unusable("its task asks another question each time, from random numbers that no seed fixes")
    text, _, target = first
    if text is None:
        raise Unusable("it has no question")
    choices: list[str] = []
    answers: list = [each for each in (target if isinstance(target, list) else [target]) if str(each).strip()]
    if harness.OUTPUT_TYPE == "multiple_choice":
        choices, answers = right_choices(harness, document)
        _require_known_label(harness, document)
    if not answers or (harness.multiple_input and not str(target).strip()):
        raise Unusable("its right answer is empty")
    return Asked(item.line.document, document, choices, answers if choices else [], target)


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

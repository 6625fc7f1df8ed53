"""Whether a task can ask every document of a file: checked at the fetch, before any cell is evaluated.

No result depends on this module: it is in no recipe of a benchmark (plan/recipes.py).
"""

from pathlib import Path

from workflow_scripts.evaluate.documents import FAULTS, Item, Unusable, said
from workflow_scripts.evaluate.tasks import EvaluationTask, load_task, right_choices
from workflow_scripts.files.artifacts import ArtifactError


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
                raise ArtifactError(f"task {name}: {data}: line {item.line.number}: {said(error)}") from error
    except ArtifactError as error:
        raise ArtifactError(str(error).replace(str(data), where)) from error


def _ask(task: EvaluationTask, item: Item) -> None:
    """Unusable, or whatever the task raises, for a document without text, choices or right answer."""
    harness, document = task.task, item.document
    template = harness.config.doc_to_text
    if isinstance(template, str) and "if " not in template:  # a null would be asked as "None"
        document = {key: value for key, value in document.items() if value is not None}
    if harness.doc_to_text(document) is None:
        raise Unusable("it has no question")
    if harness.OUTPUT_TYPE == "multiple_choice":
        answers = right_choices(harness, item.document)[1]
    else:
        target = harness.doc_to_target(item.document)
        answers = [each for each in (target if isinstance(target, list) else [target]) if str(each).strip()]
    if not answers:
        raise Unusable("its right answer is empty")

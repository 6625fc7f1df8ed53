"""Open book: the passage that holds an item's answer stands before its question."""

import jinja2
from lm_eval.utils import apply_template

from workflow_scripts.evaluate.tasks import EvaluationTask
from workflow_scripts.files.artifacts import ArtifactError


def with_passage(task: EvaluationTask, template: str) -> EvaluationTask:
    """The task with `template`, filled in from each document's fields, before every question; its examples stay.

    ArtifactError for a task whose prompt is no template, and for a document without the fields.
    """
    harness = task.task
    question = harness.config.doc_to_text
    if not isinstance(question, str) or harness.multiple_input:
        raise ArtifactError(
            f"task {task.name}: its prompt is no template, so no passage can be put before it; remove its `context`"
        )
    if question in harness.features:  # a field's name stands for the field
        question = "{{ " + question + " }}"
    documents = list(harness.eval_docs)
    positions = range(len(documents)) if task.samples is None else task.samples
    for item, position in enumerate(positions):
        try:
            apply_template(template, documents[position])
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            reason = f"the context {template!r} can't be filled in: {error}"
            raise ArtifactError(f"{task.at(item)}: {reason}") from error
    harness.config.doc_to_text = template + question
    return task

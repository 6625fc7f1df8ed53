"""Open book: the passage that holds an item's answer stands before its question."""

from lm_eval.utils import apply_template

from workflow_scripts.evaluate.tasks import EvaluationTask
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.templates import Unfilled, fill


def with_passage(task: EvaluationTask, template: str) -> EvaluationTask:
    """The task with `template`, filled in from each document's fields, before every question; its examples stay.

    The template is the configuration's and runs in Jinja's sandbox; the question is the task's. ArtifactError for a
    task whose prompt is no template, and for a document that does not fill the template in.
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
            fill(template, documents[position], keep_trailing_newline=True)
        except Unfilled as error:
            raise ArtifactError(f"{task.at(item)}: the context {error}") from error

    def asked(document: dict) -> str:
        passage = fill(template, document, keep_trailing_newline=True)
        return passage + str(apply_template(question, document))

    harness.config.doc_to_text = asked
    return task

"""Solved examples before a question: the harness's draws (lm-eval 0.4.13), but never the question itself.

The harness leaves an example out if its document equals that of the question. It is blind to a question that stands
twice in a file with another number, and to a document that the task changed meanwhile (webqs sorts its answers where
they stand).
"""

from collections import Counter
from collections.abc import Callable, Hashable
from itertools import islice

from lm_eval.api.samplers import ContextSampler, FirstNSampler
from lm_eval.api.task import Task

from workflow_scripts.files.artifacts import ArtifactError


class Examples(ContextSampler):
    """Takes the place of the sampler `drawn`. asked: what a document asks."""

    def __init__(self, drawn: ContextSampler, asked: Callable[[dict], Hashable]):
        self.rnd, self.first, self.asked = drawn.rnd, isinstance(drawn, FirstNSampler), asked
        self.pool = [(asked(document), document) for document in drawn.fewshot_docs()]

    @property
    def fewest(self) -> int:
        """Examples beside the question that stands there most often."""
        return len(self.pool) - max(Counter(question for question, _ in self.pool).values())

    def sample(self, n: int, eval_doc: dict | None = None, df: object = None, **_: object) -> list[dict]:
        """`n` examples for the question of `eval_doc`; None: for any question."""
        question = None if eval_doc is None else self.asked(eval_doc)
        if self.first:
            return list(islice((document for other, document in self.pool if other != question), n))
        taken = self.rnd.sample(self.pool, n if eval_doc is None else n + 1)
        if sum(other != question for other, _ in taken) < n:  # the question was drawn several times
            taken = self.rnd.sample([each for each in self.pool if each[0] != question], n)
        return [document for other, document in taken if other != question][:n]


def never_the_question(name: str, task: Task) -> None:
    """Replace the sampler of a task with solved examples; ArtifactError if its documents ask too few questions."""

    def asked(document: dict) -> Hashable:
        """The words of question and choices, in any order since those may be shuffled; not of choices all right."""
        several = task.OUTPUT_TYPE == "multiple_choice" and not isinstance(task.doc_to_target(document), list)
        texts = [] if task.multiple_input else [task.doc_to_text(document)]
        texts += task.doc_to_choice(document) if several or task.multiple_input else []
        return tuple(sorted(word for text in texts for word in str(text).split()))

    shots, own = task.config.num_fewshot, task.fewshot_cfg.split is None
    if shots:
        task.sampler = Examples(task.sampler, asked)
        if not own and task.sampler.fewest < shots:
            raise ArtifactError(
                f"task {name}: {shots} solved examples are asked for, its {len(task.sampler.pool)} documents leave "
                f"{task.sampler.fewest} beside a question that stands there several times"
            )

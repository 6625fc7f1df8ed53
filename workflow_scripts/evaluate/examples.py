"""Solved examples before a question: the harness's draws (lm-eval 0.4.13), but never the question itself.

The harness leaves an example out if its document equals that of the question. It is blind to a question that stands
twice in a file with another number, capital or full stop, to a document that the task changed meanwhile (webqs sorts
its answers where they stand), and to examples that a definition brings itself (gsm8k_cot).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from lm_eval.api.samplers import ContextSampler, FirstNSampler
from lm_eval.api.task import Task

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources.overlap import words

# A word without marks and characters of no width, which tell no question from another, unlike -, / and *.
WORD = re.compile(
    "[^\\s.,;:!?¿¡。'\"`‘’‚“”„«»‹›()\u00ad\u0301\u061c\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]+"
)

Question = frozenset[tuple[str, ...]]  # a document asks another's question if they share an element


class Examples(ContextSampler):
    """Takes the place of the sampler `drawn`.

    asked: what a document asks. pool: documents with what they ask. own: the definition brings them.
    """

    def __init__(
        self,
        drawn: ContextSampler,
        pool: list[tuple[Question, dict]],
        asked: Callable[[dict], Question],
        own: bool,
    ):
        self.rnd, self.first = drawn.rnd, isinstance(drawn, FirstNSampler)
        self.pool, self.asked, self.own = pool, asked, own

    @property
    def fewest(self) -> int:
        """Examples beside the question that stands there most often."""
        places: dict[tuple[str, ...], set[int]] = defaultdict(set)
        for i, (question, _) in enumerate(self.pool):
            for element in question:
                places[element].add(i)
        return len(self.pool) - max(
            len(set().union(*(places[element] for element in question))) for question, _ in self.pool
        )

    def sample(self, n: int, eval_doc: dict | None = None, df: object = None, **_: object) -> list[dict]:
        """`n` examples for the question of `eval_doc`; None: for any question. Fewer if the definition brings fewer."""
        question: Question = frozenset() if eval_doc is None else self.asked(eval_doc)
        if not self.first:
            taken = self.rnd.sample(self.pool, n if eval_doc is None or self.own else n + 1)
            left = [document for other, document in taken if not other & question]
            if len(left) >= n:
                return left[:n]
        others = [document for other, document in self.pool if not other & question]
        return others[:n] if self.first else self.rnd.sample(others, min(n, len(others)))


def words_of(texts: Iterable[object]) -> list[str]:
    """The words of texts in order of the alphabet; marks part no words here, as in U.S."""
    written = " ".join(map(str, texts)).split()
    return sorted(filter(None, ("".join(words(each, WORD)) for each in written)))


def never_the_question(name: str, task: Task) -> None:
    """Replace the sampler of a task with solved examples; ArtifactError if its documents ask too few questions."""
    shots, own = task.config.num_fewshot, task.fewshot_cfg.split is None
    if not shots:
        return

    def texts_of(document: dict, template: object = None) -> list:
        several = task.multiple_input
        return list(task.doc_to_choice(document) if several else [task.doc_to_text(document, template)])

    def asked(document: dict) -> Question:
        """The question with its choices, which may be shuffled, and the question with its right answer."""
        texts = texts_of(document)
        if task.OUTPUT_TYPE != "multiple_choice" or task.multiple_input or own:
            return frozenset([tuple(words_of(texts))])
        target = task.doc_to_target(document)
        if isinstance(target, list):  # the choices are right answers, as far as a file knows them
            return frozenset([tuple(words_of(texts))])
        choices = task.doc_to_choice(document)
        right = choices[target] if isinstance(target, int) else target
        with_answer = ("with its answer", *words_of([*texts, right]))
        return frozenset([tuple(words_of([*texts, *choices])), with_answer])

    def shown(example: dict) -> Question:
        """What an example of the definition's own asks: it may have a template of its own."""
        return frozenset([tuple(words_of(texts_of(example, task.fewshot_cfg.doc_to_text)))])

    documents = task.sampler.fewshot_docs()
    pool = [(shown(document) if own else asked(document), document) for document in documents]
    task.sampler = Examples(task.sampler, pool, asked, own)
    if own:
        # Without it the harness does not tell the sampler the question.
        task.fewshot_cfg.split = task.config.test_split
    elif task.sampler.fewest < shots:
        raise ArtifactError(
            f"task {name}: {shots} solved examples are asked for, its {len(pool)} documents leave "
            f"{task.sampler.fewest} beside a question that stands there several times"
        )

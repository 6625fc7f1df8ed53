"""`DocumentScorer`: sequences of tokens scored document by document, each document behind one soft prompt.

Selection, with a bank of several prompts: one prompt per document, shared by all its sequences, chosen on its context
alone; without one there is nothing to score, and the tie goes to the lowest index.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lm_eval.models.utils import resolve_max_length
from transformers import PreTrainedTokenizerBase

from workflow_scripts.evaluate.block_attention import CausalModel
from workflow_scripts.evaluate.forward import CPU_TOKENS, score_row, tokens_that_fit
from workflow_scripts.evaluate.row_packing import Sequence, pack_rows
from workflow_scripts.evaluate.self_check import require_packable
from workflow_scripts.evaluate.store import AnswerStore
from workflow_scripts.files.artifacts import digest
from workflow_scripts.kernels.packed_linears import PackedLinears
from workflow_scripts.plan import first_layer
from workflow_scripts.recover.idp import Selector
from workflow_scripts.recover.prompt_bank import PromptBank


@dataclass
class Document:
    """Sequences scored behind one prompt: `context` decides the selection, `sequences` are its requests."""

    context: list[int]
    sequences: list[Sequence]
    identity: object = None  # JSON value that names the request in the store; None: not stored
    prompt: int | None = None  # index of the one that is chosen already; None: the context decides


@dataclass
class Answer:
    scores: list[tuple[float, bool]]  # per sequence: summed log-probability (nats), all targets greedy
    prompt: int = 0


@dataclass(eq=False)
class DocumentScorer:
    """A causal model that scores documents, equal ones once.

    bank: soft prompts as cached keys and values (recover.prompt_bank.PromptBank), or None. selector: chooses one of
    several prompts per document, or None for a bank of one. row_tokens: tokens per forward pass (None: what suits a
    CPU, what fits in memory elsewhere). store: answers of an earlier, interrupted run.
    """

    model: CausalModel
    tokenizer: PreTrainedTokenizerBase
    bank: PromptBank | None = None
    selector: Selector | None = None
    row_tokens: int | None = None
    store: AnswerStore | None = None
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        longest = max((prefix.length for prefix in self.bank.prefixes), default=0) if self.bank else 0
        self.max_length = resolve_max_length(self.model.config, self.tokenizer) - longest
        if self.bank and len(self.bank.prefixes) > 1 and self.selector is None:
            raise ValueError(f"a bank of {len(self.bank.prefixes)} prompts needs a selector")
        self._row_tokens: int = (
            tokens_that_fit(self.model, CPU_TOKENS) if self.row_tokens is None else self.row_tokens
        )
        shape = self.model.config.get_text_config().to_dict()
        self._positions, self._chunk = first_layer.one_rotary_table(shape), first_layer.chunk(shape)
        self._longest_prompt = longest
        self._linears = PackedLinears(self.model)
        self._checked = False

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Around every pass of the model: its packed weights in use, and before the first one its self-check."""
        with self._linears.in_use():
            if not self._checked:
                require_packable(self.model, self.bank)
                self._checked = True
            yield

    def sequence(self, context: list[int], continuation: list[int]) -> Sequence:
        """The tokens that the model reads: all but the last token, truncated on the left to its longest input."""
        if not continuation or len(continuation) > self.max_length:
            raise ValueError(
                f"an answer of {len(continuation)} tokens; the model takes 1 to {self.max_length}"
                + (f" behind a prompt of {self._longest_prompt}" if self._longest_prompt else "")
            )
        return Sequence(tuple((context + continuation)[-(self.max_length + 1) : -1]), tuple(continuation))

    def _require_positions(self, tokens: int) -> None:
        """ValueError if `tokens` of text need positions beyond the model's one rotary table, or its first chunk."""
        behind = f" behind a prompt of {self._longest_prompt}" if self._longest_prompt else ""
        if self._chunk is not None and self._longest_prompt + tokens > self._chunk:
            raise ValueError(
                f"a text of {tokens} tokens{behind}: {type(self.model).__name__} attends in chunks of {self._chunk} "
                "tokens, and no text beyond the first can be scored"
            )
        if self._positions is not None and self._longest_prompt + tokens > self._positions:
            raise ValueError(
                f"a text of {tokens} tokens{behind}: {type(self.model).__name__} changes its rotary table for all of a "
                f"pass beyond {self._positions} positions (longrope, dynamic), so its numbers would follow what else "
                "is in the batch"
            )

    def select(self, contexts: list[list[int]]) -> list[int]:
        """Prompt index per context: the selector's choice; 0 if there is nothing to go by."""
        chosen = [0] * len(contexts)
        asked = [i for i, context in enumerate(contexts) if context]
        if asked and self.selector is not None:
            indices, _ = self.selector.select([contexts[i][-self.max_length :] for i in asked])
            for i, index in zip(asked, indices.tolist(), strict=True):
                chosen[i] = index
        return chosen

    def score(self, documents: list[Document]) -> list[Answer]:
        """Score every document's sequences behind the one prompt selected for it.

        Documents are packed alike whether or not some are answered already: a continued run computes the rows that
        an uninterrupted one does, to the last bit.
        """
        for document in documents:
            self._require_positions(max(len(sequence.inputs) for sequence in document.sequences))
        answers: dict[int, Answer] = {}
        keys = [self._key("loglikelihood", document.identity) for document in documents]
        for i, key in enumerate(keys):
            if (stored := self._recall(key)) is not None:
                answers[i] = Answer([(value, hit) for value, hit in stored["scores"]], stored["prompt"])
        todo = [i for i in range(len(documents)) if i not in answers]
        prompts = [
            answers[i].prompt if i in answers else document.prompt or 0
            for i, document in enumerate(documents)
        ]
        unchosen = [i for i in todo if documents[i].prompt is None]
        for i, prompt in zip(unchosen, self.select([documents[i].context for i in unchosen]), strict=True):
            prompts[i] = prompt
        equal = defaultdict(list)  # prompt and sequences -> the documents that have them
        for i, document in enumerate(documents):
            equal[prompts[i], tuple(document.sequences)].append(i)
        missing = {job for job, members in equal.items() if any(i not in answers for i in members)}
        done = 0
        for job, scores in self._scores(list(equal), missing):
            for i in equal[job]:
                if i not in answers:
                    answers[i] = Answer(scores, job[0])
                    self._remember(keys[i], {"scores": scores, "prompt": job[0]})
                    done += 1
            self._report(done, len(todo))
        return [answers[i] for i in range(len(documents))]

    def _scores(
        self, jobs: list[tuple[int, tuple[Sequence, ...]]], missing: set
    ) -> Iterator[tuple[tuple, list]]:
        """(job, scores of its sequences) as they are computed; a job is a prompt and a document's sequences.

        Rows without a job of `missing` are left out.
        """
        for prompt in sorted({prompt for prompt, _ in jobs}):
            groups = [
                [((n, k), sequence) for k, sequence in enumerate(sequences)]
                for n, (chosen, sequences) in enumerate(jobs)
                if chosen == prompt
            ]
            # The most logits first: memory that is freed, and kept, has room for all that come later.
            for row in sorted(pack_rows(groups, self._row_tokens), key=lambda row: -len(row.predicting)):
                if not any(jobs[n] in missing for n, _ in row.members):
                    continue
                targets = [jobs[n][1][k].targets for n, k in row.members]
                with self._running():
                    found = score_row(self.model, row, targets, self.bank, prompt)
                scores = dict(zip(row.members, found, strict=True))
                for n in dict.fromkeys(n for n, _ in row.members):
                    yield jobs[n], [scores[n, k] for k in range(len(jobs[n][1]))]

    # ----------------------------------------------------------------------------------- store, progress

    def _key(self, kind: str, identity: object) -> str | None:
        return digest([kind, identity]) if self.store is not None and identity is not None else None

    def _recall(self, key: str | None) -> dict | None:
        return self.store.get(key) if self.store is not None and key else None

    def _remember(self, key: str | None, answer: dict) -> None:
        if self.store is not None and key:
            self.store.put(key, answer)

    def _report(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)

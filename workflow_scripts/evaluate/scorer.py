"""`Scorer`: an lm-eval model with the numbers of the harness's own HFLM at a fraction of its cost.

Usable alone: `lm_eval.evaluate(Scorer(model, tokenizer), task_dict)`. Tokenisation (encoding.py), truncation, rolling
windows and stop handling follow lm_eval.models.huggingface.HFLM (0.4.13) with its defaults. It saves work in five ways:
equal requests run once, what sequences share runs once (row_packing.py), the head runs at scored positions only
(forward.py), a soft prompt's keys and values come from a bank, and rows that end make room for others (generation.py).

Selection, with a bank of several prompts: one prompt per document, shared by all its requests, chosen on context tokens
alone. If a document's requests differ in context (winogrande puts its choices there), the tokens that all of them begin
with decide. A gold answer is scored behind the prompt that its document was generated behind. Each rolling window is
chosen on the text before it. Without such tokens there is nothing to score, and the tie goes to the lowest index.
Contexts are cut for the longest prompt of the bank, whichever is chosen: behind a shorter one alone a text beyond the
window would keep more of its beginning.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
    resolve_max_length,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workflow_scripts.evaluate.encoding import beginning_token, common_prefix, encode, encode_pairs
from workflow_scripts.evaluate.forward import CPU_GENERATION_TOKENS, CPU_TOKENS, score_row, tokens_that_fit
from workflow_scripts.evaluate.generation import Limits, generate_greedy, require_greedy
from workflow_scripts.evaluate.row_packing import Sequence, pack_rows
from workflow_scripts.evaluate.self_check import require_packable
from workflow_scripts.evaluate.store import AnswerStore
from workflow_scripts.files.artifacts import digest
from workflow_scripts.kernels.packed_linears import PackedLinears
from workflow_scripts.plan import first_layer
from workflow_scripts.recover.idp import Selector
from workflow_scripts.recover.prompt_bank import PromptBank

MAX_GEN_TOKENS = 256  # of a generation that doesn't say: HFLM's default
PORTION = 8  # batches that are generated as one, in whose course rows that end make room for the next


class RequestError(ValueError):
    """A request that can't be scored; the message names its task and the number of its document."""

    def __init__(self, request: Instance, reason: str):
        super().__init__(f"{request.task_name}, document {request.doc_id}: {reason}")
        self.document, self.reason = request.doc_id, reason


@dataclass
class Document:
    """What is scored behind one prompt: `context` decides the selection, `sequences` are its requests."""

    context: list[int]
    sequences: list[Sequence]
    identity: object = None  # JSON value that names the request in the store; None: not stored
    prompt: int | None = None  # index of the one that is chosen already; None: the context decides


@dataclass
class Answer:
    scores: list[tuple[float, bool]]  # per sequence: summed log-probability (nats), all targets greedy
    prompt: int = 0


@dataclass(eq=False)
class Scorer(LM):
    """lm-eval model over a loaded causal model.

    bank: soft prompts as cached keys and values (recover.prompt_bank.PromptBank), or None. selector: chooses one of
    several prompts per document, or None for a bank of one. row_tokens: tokens per forward pass, generation_tokens:
    prompts, contexts and new tokens of a batch that generates (None: what suits a CPU, what fits in memory elsewhere).
    store: answers of an earlier, interrupted run.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    bank: PromptBank | None = None
    selector: Selector | None = None
    row_tokens: int | None = None
    generation_tokens: int | None = None
    store: AnswerStore | None = None
    progress: Callable[[int, int], None] | None = None
    selections: dict[tuple, int] = field(default_factory=dict)  # (task, doc_id) -> prompt index
    cut_off: set[tuple] = field(
        default_factory=set
    )  # (task, doc_id) of generations that met the cap, not a stop

    def __post_init__(self):
        super().__init__()
        self._device = self.model.device
        longest = max((prefix.length for prefix in self.bank.prefixes), default=0) if self.bank else 0
        self.max_length = resolve_max_length(self.model.config, self.tokenizer) - longest
        if self.bank and len(self.bank.prefixes) > 1 and self.selector is None:
            raise ValueError(f"a bank of {len(self.bank.prefixes)} prompts needs a selector")
        self._row_tokens: int = (
            tokens_that_fit(self.model, CPU_TOKENS) if self.row_tokens is None else self.row_tokens
        )
        self._generation_tokens: int = (
            tokens_that_fit(self.model, CPU_GENERATION_TOKENS)
            if self.generation_tokens is None
            else self.generation_tokens
        )
        self._positions = first_layer.one_rotary_table(self.model.config.get_text_config().to_dict())
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

    # ------------------------------------------------------------------------------------------ tokens

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """The harness's name for `beginning_token`."""
        return beginning_token(self.tokenizer)

    def encode(self, strings: Iterable[str], special: bool = True) -> dict[str, list[int]]:
        return encode(self.tokenizer, strings, special)

    def encode_pairs(self, pairs: list[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        return encode_pairs(self.tokenizer, pairs)

    def sequence(self, context: list[int], continuation: list[int]) -> Sequence:
        """What the model reads: all but the last token, truncated on the left to its longest input."""
        if not continuation or len(continuation) > self.max_length:
            raise ValueError(
                f"an answer of {len(continuation)} tokens; the model takes 1 to {self.max_length}"
                + (f" behind a prompt of {self._longest_prompt}" if self._longest_prompt else "")
            )
        return Sequence(tuple((context + continuation)[-(self.max_length + 1) : -1]), tuple(continuation))

    # ----------------------------------------------------------------------------------------- scoring

    def _require_positions(self, tokens: int) -> None:
        """ValueError if `tokens` of text need positions beyond the model's one rotary table."""
        if self._positions is not None and self._longest_prompt + tokens > self._positions:
            raise ValueError(
                f"a text of {tokens} tokens"
                + (f" behind a prompt of {self._longest_prompt}" if self._longest_prompt else "")
                + f": {type(self.model).__name__} changes its rotary table for all of a pass beyond {self._positions} "
                "positions (longrope, dynamic), so its numbers would follow what else is in the batch"
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
        if self._positions is not None:
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
            for row in pack_rows(groups, self._row_tokens):
                if not any(jobs[n] in missing for n, _ in row.members):
                    continue
                targets = [jobs[n][1][k].targets for n, k in row.members]
                with self._running():
                    found = score_row(self.model, row, targets, self.bank, prompt)
                scores = dict(zip(row.members, found, strict=True))
                for n in dict.fromkeys(n for n, _ in row.members):
                    yield jobs[n], [scores[n, k] for k in range(len(jobs[n][1]))]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False, chosen: dict[tuple, int] | None = None
    ) -> list[tuple[float, bool]]:
        """chosen: (task, doc_id) -> index of the prompt that the document already has and keeps, as in `selections`."""
        chosen = chosen or {}
        pairs = [request.args for request in requests]
        encoded = self.encode_pairs(pairs)
        members = defaultdict(list)  # document -> its requests
        for i, request in enumerate(requests):
            members[_document_key(request, pairs[i][0])].append(i)
        sequences = [self._requested(*each) for each in zip(requests, encoded, strict=True)]
        documents = [
            Document(
                common_prefix([encoded[i][0] for i in group]),
                [sequences[i] for i in group],
                [[pairs[i] for i in group], chosen[key]] if key in chosen else [pairs[i] for i in group],
                chosen.get(key),
            )
            for key, group in members.items()
        ]
        results: list = [None] * len(requests)
        for (key, group), answer in zip(members.items(), self.score(documents), strict=True):
            self.selections[key] = answer.prompt
            for i, result in zip(group, answer.scores, strict=True):
                results[i] = result
        return results

    def _requested(self, request: Instance, encoded: tuple[list[int], list[int]]) -> Sequence:
        """`sequence` of a request; RequestError for an answer without a token, or with more than the model takes."""
        context, answer = request.args
        if not encoded[1]:
            said = f"the answer {answer!r} adds no token to its context, which ends in {context[-40:]!r}"
            raise RequestError(request, said)
        try:
            return self.sequence(*encoded)
        except ValueError as error:
            raise RequestError(request, f"{error} ({answer[:60]!r})") from error

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        texts = [request.args[0] for request in requests]
        encoded = self.encode(texts)
        owners, documents = [], []
        for owner, text in enumerate(texts):
            tokens, start = encoded[text], 0
            for window in get_rolling_token_windows(
                tokens, self.prefix_token_id, self.max_length, context_len=1
            ):
                context, continuation = make_disjoint_window(window)
                owners.append(owner)
                identity = ["rolling", text, start]
                documents.append(Document(tokens[:start], [self.sequence(context, continuation)], identity))
                start += len(continuation)
        totals = [0.0] * len(texts)
        for owner, answer in zip(owners, self.score(documents), strict=True):
            totals[owner] += answer.scores[0][0]
        return totals

    # -------------------------------------------------------------------------------------- generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        texts: dict[int, str] = {}
        encoded = self.encode(request.args[0] for request in requests)
        keys = [self._key("generate_until", list(request.args)) for request in requests]
        prompts: dict[int, int] = {}
        entries = []  # (settings, context) per request; stored ones too, so that portions are always the same
        for i, request in enumerate(requests):
            stored = self._recall(keys[i])
            if stored is not None:
                texts[i], prompts[i] = self._generated(request, stored), stored["prompt"]
            until, cap = self._settings(request.args[1])
            context = self.prompt_tokens(encoded[request.args[0]], cap)
            self._require_positions(len(context) + cap - 1)
            entries.append(((until, cap), context))
        unchosen = [i for i in range(len(entries)) if i not in prompts]
        prompts |= zip(unchosen, self.select([entries[i][1] for i in unchosen]), strict=True)
        equal = defaultdict(list)  # prompt, settings and context -> the requests that have them
        for i, (settings, context) in enumerate(entries):
            equal[prompts[i], settings, tuple(context)].append(i)
        waiting = sorted(equal, key=lambda job: (job[0], job[1], -len(job[2])))
        for done, rows, jobs in self._portions(waiting):
            if all(i in texts for job in jobs for i in equal[job]):
                continue
            prompt, (until, cap), _ = jobs[0]

            def stops(tokens, until=until):  # special tokens count: `<|im_end|>` is a stop of many tasks
                text = self.tokenizer.decode(tokens, skip_special_tokens=False)
                return any(stop in text for stop in until if stop)

            contexts, limits = (
                [list(context) for _, _, context in jobs],
                Limits(cap, self._end_tokens(), stops),
            )
            with self._running():
                for k, row in generate_greedy(
                    self.model, contexts, limits, self._row_tokens, self.bank, prompt, rows
                ):
                    text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
                    text = postprocess_generated_text(text, list(until), think_end_token=None)
                    answer = {"text": text, "stopped": row.stopped, "prompt": prompt}
                    for i in equal[jobs[k]]:
                        if i not in texts:
                            self._remember(keys[i], answer)
                            texts[i] = self._generated(requests[i], answer)
            self._report(done, len(waiting))
        return [texts[i] for i in range(len(requests))]

    def prompt_tokens(self, context: list[int], cap: int) -> list[int]:
        """What the model reads before `cap` new tokens: the end of a long context, the beginning of text for none."""
        return context[-(self.max_length - cap) :] or [self.prefix_token_id]

    def _settings(self, gen_kwargs: dict) -> tuple[tuple[str, ...], int]:
        """(stop sequences with the end-of-text string, most new tokens) of a request.

        ValueError if the request, or the model's own generation_config, asks for more than greedy decoding.
        """
        kwargs = normalize_gen_kwargs(gen_kwargs, MAX_GEN_TOKENS)
        if kwargs.get("do_sample"):
            raise ValueError(f"the scorer generates greedily; do_sample is true in {gen_kwargs}")
        require_greedy(gen_kwargs, self.model.generation_config)
        end = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        cap = kwargs["max_gen_toks"]
        if not 0 < cap < self.max_length:
            raise ValueError(f"max_gen_toks {cap}: it must lie between 1 and {self.max_length - 1}")
        until = kwargs.get("until")
        return tuple(handle_stop_sequences(list(until) if isinstance(until, list) else until, eos=end)), cap

    def _end_tokens(self) -> set[int]:
        ids = getattr(self.model.generation_config, "eos_token_id", None)
        return {self.eot_token_id, *(ids if isinstance(ids, list) else [ids])} - {None}

    def _portions(self, waiting: list) -> Iterator[tuple[int, int, list]]:
        """Portions of equal prompt and settings out of (prompt, settings, context): (number up to its end, rows that
        its batch has room for, the portion).

        A continued run generates an unfinished portion as a whole: batches are those of an uninterrupted run.
        """
        start = 0
        while start < len(waiting):
            prompt, (_, cap), longest = waiting[start]  # the longest context comes first
            columns = len(longest) + cap  # of a row's keys and values, its prompt's among them
            if self.bank is not None:
                columns += self.bank.prefixes[prompt].length
            rows = max(1, self._generation_tokens // columns)
            most, end = start + PORTION * rows, start + 1
            while end < min(most, len(waiting)) and waiting[end][:2] == waiting[start][:2]:
                end += 1
            yield end, rows, waiting[start:end]
            start = end

    def _generated(self, request: Instance, answer: dict) -> str:
        key = _document_key(request, request.args[0])
        self.selections[key] = answer["prompt"]
        if answer["stopped"]:
            self.cut_off.discard(key)  # by an earlier, lower cap
        else:
            self.cut_off.add(key)
        return answer["text"]

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


def _document_key(request: Instance, context: str) -> tuple:
    """A request's document: (task, doc_id), or its context if the request doesn't say."""
    return (request.task_name, request.doc_id if request.doc_id is not None else context)

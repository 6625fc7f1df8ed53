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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from workflow_scripts.evaluate import chat
from workflow_scripts.evaluate.document_scorer import Document, DocumentScorer
from workflow_scripts.evaluate.encoding import beginning_token, common_prefix, encode, encode_pairs
from workflow_scripts.evaluate.forward import CPU_GENERATION_TOKENS, tokens_that_fit
from workflow_scripts.evaluate.generation import Decoding, generate_greedy, penalty_of
from workflow_scripts.evaluate.row_packing import Sequence

MAX_GEN_TOKENS = 256  # of a generation that doesn't say: HFLM's default
PORTION = 8  # batches that are generated as one, in whose course rows that end make room for the next


class RequestError(ValueError):
    """A request that can't be scored; the message names its task and the number of its document."""

    def __init__(self, request: Instance, reason: str):
        super().__init__(f"{request.task_name}, document {request.doc_id}: {reason}")
        self.document, self.reason = request.doc_id, reason


@dataclass(eq=False)
class Scorer(DocumentScorer, LM):
    """lm-eval model over a loaded causal model.

    Parameters as of `DocumentScorer`, and generation_tokens: prompts, contexts and new tokens of a batch that generates
    (None: what suits a CPU, what fits in memory elsewhere).
    """

    generation_tokens: int | None = None
    selections: dict[tuple, int] = field(default_factory=dict)  # (task, doc_id) -> prompt index
    # (task, doc_id) of generations that met the cap, not a stop.
    cut_off: set[tuple] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__post_init__()
        LM.__init__(self)
        self._device = self.model.device
        self._generation_tokens: int = (
            tokens_that_fit(self.model, CPU_GENERATION_TOKENS)
            if self.generation_tokens is None
            else self.generation_tokens
        )

    # ------------------------------------------------------------------------------------------ tokens

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's template, of that name if it has several; None if none is asked for."""
        if not chat_template:
            return None
        return self.tokenizer.get_chat_template(None if chat_template is True else chat_template)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        return chat.render(self.tokenizer, chat_history, add_generation_prompt)

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

    # ----------------------------------------------------------------------------------------- scoring

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
            reason = f"the answer {answer!r} adds no token to its context, which ends in {context[-40:]!r}"
            raise RequestError(request, reason)
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
            until, cap, penalty = self._settings(request.args[1])
            context = self.prompt_tokens(encoded[request.args[0]], cap)
            self._require_positions(len(context) + cap - 1)
            entries.append(((until, cap, penalty), context))
        unchosen = [i for i in range(len(entries)) if i not in prompts]
        prompts |= zip(unchosen, self.select([entries[i][1] for i in unchosen]), strict=True)
        equal = defaultdict(list)  # prompt, settings and context -> the requests that have them
        for i, (settings, context) in enumerate(entries):
            equal[prompts[i], settings, tuple(context)].append(i)
        waiting = sorted(equal, key=lambda job: (job[1], -len(job[2]), job[0]))
        for done, rows, jobs in self._portions(waiting):
            if all(i in texts for job in jobs for i in equal[job]):
                continue
            until, cap, penalty = jobs[0][1]

            def stops(tokens: list[int], until: tuple[str, ...] = until) -> bool:
                # special tokens count: `<|im_end|>` is a stop of many tasks
                text = self.tokenizer.decode(tokens, skip_special_tokens=False)
                return any(stop in text for stop in until if stop)

            contexts, chosen = [list(context) for _, _, context in jobs], [prompt for prompt, _, _ in jobs]
            decoding = Decoding(cap, self._end_tokens(), stops, penalty)
            with self._running():
                for k, row in generate_greedy(
                    self.model, contexts, decoding, self._row_tokens, self.bank, chosen, rows
                ):
                    text = self.tokenizer.decode(row.tokens, skip_special_tokens=True)
                    text = postprocess_generated_text(text, list(until), think_end_token=None)
                    answer = {"text": text, "stopped": row.stopped, "prompt": chosen[k]}
                    for i in equal[jobs[k]]:
                        if i not in texts:
                            self._remember(keys[i], answer)
                            texts[i] = self._generated(requests[i], answer)
            self._report(done, len(waiting))
        return [texts[i] for i in range(len(requests))]

    def prompt_tokens(self, context: list[int], cap: int) -> list[int]:
        """The model's input before `cap` new tokens: the end of a long context, the beginning of text for none."""
        return context[-(self.max_length - cap) :] or [self.prefix_token_id]

    def _settings(self, gen_kwargs: dict) -> tuple[tuple[str, ...], int, float]:
        """(stop sequences with the end-of-text string, most new tokens, penalty of repetition) of a request.

        ValueError if the request, or the model's own generation_config, asks for more than greedy decoding.
        """
        kwargs = normalize_gen_kwargs(gen_kwargs, MAX_GEN_TOKENS)
        if kwargs.get("do_sample"):
            raise ValueError(f"the scorer generates greedily; do_sample is true in {gen_kwargs}")
        penalty = penalty_of(gen_kwargs, self.model.generation_config)
        end = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        cap = kwargs["max_gen_toks"]
        if not 0 < cap < self.max_length:
            raise ValueError(f"max_gen_toks {cap}: it must lie between 1 and {self.max_length - 1}")
        until = kwargs.get("until")
        stops = handle_stop_sequences(list(until) if isinstance(until, list) else until, eos=end)
        return tuple(stops), cap, penalty

    def _end_tokens(self) -> set[int]:
        ids = getattr(self.model.generation_config, "eos_token_id", None)
        return {self.eot_token_id, *(ids if isinstance(ids, list) else [ids])} - {None}

    def _portions(self, waiting: list) -> Iterator[tuple[int, int, list]]:
        """Portions of equal settings out of (prompt, settings, context): (number up to its end, rows that its batch has
        room for, the portion).

        A continued run generates an unfinished portion as a whole: batches are those of an uninterrupted run.
        """
        prefix = max((prefix.length for prefix in self.bank.prefixes), default=0) if self.bank else 0
        start = 0
        while start < len(waiting):
            _, settings, longest = waiting[start]  # the longest context comes first
            columns = (
                prefix + len(longest) + settings[1]
            )  # of a row's keys and values, its prompt's among them
            rows = max(1, self._generation_tokens // columns)
            most, end = start + PORTION * rows, start + 1
            while end < min(most, len(waiting)) and waiting[end][1] == settings:
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


def _document_key(request: Instance, context: str) -> tuple:
    """A request's document: (task, doc_id), or its context if the request doesn't say."""
    return (request.task_name, request.doc_id if request.doc_id is not None else context)

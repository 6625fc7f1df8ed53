"""Harness tasks over this project's own data: definitions, documents, and the choice of items."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import datasets
import lm_eval.tasks
from lm_eval.api.task import Task
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml  # resolves the harness's own `include` and `!function`
from lm_eval.utils import apply_template
from transformers import PreTrainedTokenizerBase

from workflow_scripts.evaluate import first_line
from workflow_scripts.evaluate.chat import Chat
from workflow_scripts.evaluate.documents import (
    FAULTS,
    DocumentError,
    Item,
    Unusable,
    among,
    as_table,
    chosen,
    fault_in_words,
    read_lines,
    require_fields,
    require_labels,
)
from workflow_scripts.evaluate.examples import never_the_question
from workflow_scripts.evaluate.scorer import MAX_GEN_TOKENS
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.job import log
from workflow_scripts.files.yaml_text import read_yaml
from workflow_scripts.sources.benchmarks import written_in

DEFINITIONS = Path(__file__).with_suffix("")
HARNESS = Path(lm_eval.tasks.__file__).parent
OUTPUT_TYPES = ("multiple_choice", "loglikelihood", "generate_until")  # which give an answer per item
HEADLINES = ("acc", "exact_match")  # reported as `acc` if the definition names nothing else
MARGIN = 4  # tokens above the longest alias, see `generation_cap`
LONGEST_ANSWER = "longest answer"  # metadata.cap of a definition whose generations may end there


@dataclass
class EvaluationTask:
    """A harness task, and which documents of data.jsonl it evaluates.

    `samples`: positions in the task's own documents if those are more than the evaluated ones (few-shot), else None.
    """

    name: str
    task: Task
    data: Path
    items: list[Item]  # the evaluated documents
    samples: list[int] | None
    version: str
    primary: str
    # generations may end earlier than the harness lets them: at the longest answer, or at our limit
    capped: bool = False
    chat: Chat | None = None  # None: asked as plain text

    def delimiter(self, document: dict) -> str:
        """The text between a generation's prompt and its gold answer; in a chat the answer begins a turn of its own.

        Behind the answer's own beginning (`gen_prefix`, in the definitions that have one) a space, as in the harness's
        examples, unless it ends with one.
        """
        begun = self.task.doc_to_prefix(document)
        if begun:
            return "" if begun[-1].isspace() else " "
        return "" if self.chat is not None else str(self.task.config.target_delimiter)

    @property
    def lines(self) -> list[int]:
        """Lines of the evaluated documents in `data`, from 0."""
        return [item.line.number - 1 for item in self.items]

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of the evaluated documents' canonical JSON."""
        return [item.hash for item in self.items]

    def at(self, item: int) -> str:
        """The place of the i-th evaluated document, for messages, in the file that a person wrote."""
        return f"task {self.name}: {written_in(self.data)}: line {self.items[item].line.number}"

    def gold(self, document: dict) -> str:
        """The answer whose log-likelihood is measured beside a generation."""
        if template := (self.task.config.metadata or {}).get("gold"):
            return apply_template(template, document)
        target = self.task.doc_to_target(document)
        return target[0] if isinstance(target, list) else str(target)


def definition(name: str, base: str | None = None, num_fewshot: int | None = None) -> dict:
    """Task `name` as one dictionary: our YAML over the harness's, or the harness's alone if we have none.

    base: the task that `name` is a variant of, if it is one. num_fewshot: solved examples before each question, drawn
    from the task's own documents; None: as the definition says. ArtifactError for a task that neither knows.
    """
    config = _defined(base or name) | {"task": name}
    return config if num_fewshot is None else config | {"num_fewshot": num_fewshot}


def _defined(name: str) -> dict:
    path = DEFINITIONS / f"{name}.yaml"
    if path.exists():
        own = read_yaml(path)
        base = load_yaml(HARNESS / own.pop("include"))
        metadata = {**base.get("metadata", {}), **own.get("metadata", {})}
        return {**base, **own, "metadata": metadata}
    config = load_yaml(harness_definition(name))
    split = config.get("test_split") or config.get("validation_split")
    unused = dict.fromkeys(("training_split", "validation_split", "test_split"))
    # a split would take precedence over worked examples that the definition brings itself (gsm8k_cot, bbh)
    own = "samples" in (config.get("fewshot_config") or {})
    return {**config, **unused, "test_split": split, "fewshot_split": None if own else split}


def harness_definition(name: str) -> Path:
    """The harness's YAML of a task, found by its `task:` line: an index of all definitions takes it seconds."""
    line = re.compile(rb"""^["']?task["']?: *["']?%s["']? *$""" % re.escape(name).encode(), re.MULTILINE)
    for path in sorted(HARNESS.rglob("*.yaml")):
        if line.search(path.read_bytes()):
            return path
    raise ArtifactError(f"{name}: no such task, neither in {DEFINITIONS} nor in the harness")


def load_task(
    name: str,
    data: Path | str,
    items: int | None,
    generation_tokens: int | None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    base: str | None = None,
    num_fewshot: int | None = None,
) -> EvaluationTask:
    """Task `name` over the documents of `data` (JSON Lines).

    items: how many documents, None for all. generation_tokens: upper limit of a generation task's new tokens, None for
    none beside the task's own: with `cap: longest answer` in our definition's metadata `generation_cap`, for which the
    tokenizer is needed; else what the definition says, or the harness's default. base, num_fewshot: see `definition`.
    ArtifactError for a task that doesn't say of each item whether it was answered right, and for too few documents to
    draw its solved examples from.
    """
    config = definition(name, base, num_fewshot)
    if (kind := config.get("output_type")) not in OUTPUT_TYPES:
        kind = f"output type {kind}" if kind else "a definition in Python"
        raise ArtifactError(f"task {name}: {kind} gives no accuracy per item, which a cell needs")
    data, fewshot = Path(data), bool(config.get("num_fewshot"))
    try:
        documents, positions = _documents(base or name, data, items, config)
        task = _built(name, config, documents)
    except DocumentError as error:
        raise ArtifactError(f"task {name}: {written_in(data)}: line {error.line.number}: {error}") from error
    metadata = config.get("metadata") or {}
    metrics = list(task.aggregation())
    primary = metadata.get("primary") or next((metric for metric in HEADLINES if metric in metrics), None)
    if primary is None or primary not in metrics:
        raise ArtifactError(
            f"task {name}: is scored by {', '.join(metrics)}, not by {primary or ' or '.join(HEADLINES)}; name what "
            f"says whether an item is right as metadata.primary of a definition in {DEFINITIONS}"
        )
    capped = config["output_type"] == "generate_until" and _cap(task, metadata, generation_tokens, tokenizer)
    evaluated, samples = [documents[i] for i in positions], positions if fewshot else None
    version = str(metadata.get("version", 0))
    return EvaluationTask(name, task, data, evaluated, samples, version, primary, capped)


def _documents(base: str, data: Path, items: int | None, config: dict) -> tuple[list[Item], list[int]]:
    """The documents that a task is built on, and the positions of those that it evaluates.

    base: the task, or that of which it is a variant: both draw the same random numbers. `config` loses its
    process_docs. With solved examples the task is built on all documents.
    """
    name = config["task"]
    lines, process = read_lines(data), config.pop("process_docs", None)
    shown = config.get("fewshot_config") or {}
    if process and shown.get("process_docs") == process:  # the examples are processed with the others
        config["fewshot_config"] = {**shown, "process_docs": None}
    if not lines:
        raise ArtifactError(f"task {name}: {written_in(data)}: holds no document")
    documents = chosen(base, lines, None if config.get("num_fewshot") else items, process)
    positions = among(documents, items)
    if items is not None and len(positions) < min(items, len(lines)):
        kept = f"its own function leaves {len(positions)} of {len(lines)} documents"
        log(f"task {name}: {len(positions)} items, fewer than the {items} asked for: {kept}")
    _require_examples(name, config, len(documents))
    if config["output_type"] == "multiple_choice":
        require_labels([item.line for item in documents], config.get("doc_to_target"))
    require_fields(documents, [config.get(key) for key in ("doc_to_text", "doc_to_choice", "doc_to_target")])
    return documents, positions


def _built(name: str, config: dict, documents: list[Item]) -> Task:
    """The harness's task over these documents; DocumentError for one that it can't be built on."""
    # The harness leaves a question out of its own worked examples only if both come from the split named test_split.
    split = config.get("test_split") or config["validation_split"]
    config = config | {"test_split": split, "validation_split": None}
    config["custom_dataset"] = partial(_dataset, as_table(documents), split)
    config |= {"dataset_path": None, "dataset_name": None, "dataset_kwargs": None, "tag": None}
    if config.get("num_fewshot") and "gold" in (config.get("metadata") or {}):
        answer = partial(apply_template, config["metadata"]["gold"])
        config["fewshot_config"] = {**(config.get("fewshot_config") or {}), "doc_to_target": answer}
    try:
        task = TaskManager(include_defaults=False).load([config])["tasks"][name]
    except FAULTS as error:  # the harness tries a task on its first document
        first = documents[0]
        raise DocumentError(
            first.line, _empty_choice(config, first.document) or fault_in_words(error, first.document)
        ) from error
    task.set_fewshot_seed(0)
    never_the_question(name, task)
    if match := (config.get("metadata") or {}).get("match"):
        if match != first_line.MATCH:
            raise ArtifactError(
                f"task {name}: metadata.match is {match!r}, only {first_line.MATCH!r} is known"
            )
        task.config.process_results = first_line.scored(task.doc_to_target)
    return task


def _empty_choice(config: dict, document: dict) -> str:
    """The empty choice of a document, in words, which the harness can't give; "" if there is none."""
    key = config.get("doc_to_choice")
    found = document.get(key) if isinstance(key, str) else None
    choices: list = found if isinstance(found, list) else []
    return next((_refused(choices, i) for i, choice in enumerate(choices) if not str(choice).strip()), "")


def _refused(choices: list, position: int) -> str:
    return f"choice {position + 1} of {len(choices)} is {choices[position]!r}; each must be a text"


def right_choices(harness: Task, document: dict) -> tuple[list[str], list[int]]:
    """A document's choices, and the positions of the right ones; ValueError for an empty choice, or a label outside."""
    choices = harness.doc_to_choice(document)
    target = harness.doc_to_text(document) if harness.multiple_input else harness.doc_to_target(document)
    for position, choice in enumerate(choices):
        if not isinstance(choice, str) or not choice.strip():
            raise Unusable(_refused(choices, position))
    right = []
    for label in target if isinstance(target, list) else [target]:
        index = choices.index(label) if label in choices else label
        if not isinstance(index, int) or not 0 <= index < len(choices):
            allowed = f"0 to {len(choices) - 1}" if isinstance(label, int) else ", ".join(map(repr, choices))
            raise Unusable(f"the label is {label!r}, none of its {len(choices)} choices ({allowed[:200]})")
        right.append(index)
    return choices, right


def _require_examples(name: str, config: dict, documents: int) -> None:
    """ArtifactError if a few-shot task has fewer examples to show than it wants."""
    shots, own = config.get("num_fewshot") or 0, (config.get("fewshot_config") or {}).get("samples")
    if own is not None:
        examples, source = len(own() if callable(own) else own), "its definition brings"
    else:
        examples, source = documents - 1, f"its {documents} documents leave beside the question"
    if shots > examples:
        raise ArtifactError(
            f"task {name}: {shots} solved examples are asked for, {source} {max(examples, 0)}"
        )


def _cap(task: Task, metadata: dict, limit: int | None, tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Set a generation task's most new tokens; whether they may end a text that the harness would let go on."""
    settings = task.config.generation_kwargs
    harness = normalize_gen_kwargs(settings, MAX_GEN_TOKENS)["max_gen_toks"]
    longest = metadata.get("cap") == LONGEST_ANSWER
    caps = [] if longest else [harness]
    if longest and (tokenizer is not None or limit is None):
        assert tokenizer is not None  # as `load_task` asks
        caps.append(generation_cap([task.doc_to_target(doc) for doc in task.eval_docs], tokenizer))
    if limit is not None:
        caps.append(limit)
    settings["max_gen_toks"] = min(caps)
    return longest or min(caps) < harness


def generation_cap(targets: list, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest accepted answer, plus a margin for the stop sequence: no right answer is cut."""
    aliases = [alias for target in targets for alias in (target if isinstance(target, list) else [target])]
    encoded = tokenizer([f" {alias}" for alias in aliases], add_special_tokens=False)["input_ids"]
    return max(map(len, encoded)) + MARGIN


def _dataset(documents: datasets.Dataset, split: str, **metadata: object) -> datasets.DatasetDict:
    """A function that the harness calls with the task's metadata in place of a download."""
    return datasets.DatasetDict({split: documents})

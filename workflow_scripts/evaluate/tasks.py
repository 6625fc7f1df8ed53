"""Harness tasks over this project's own data: definitions, documents, and the choice of items."""

import json
import re
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import datasets
import lm_eval.tasks
import yaml
from lm_eval.api.task import Task
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml  # resolves the harness's own `include` and `!function`
from lm_eval.utils import apply_template
from transformers import PreTrainedTokenizerBase

from workflow_scripts.evaluate.scorer import MAX_GEN_TOKENS
from workflow_scripts.files.artifacts import ArtifactError, digest

DEFINITIONS = Path(__file__).with_suffix("")
HARNESS = Path(lm_eval.tasks.__file__).parent
SALT = b"2310.00867:"  # fixed for good: another salt is another sample
OUTPUT_TYPES = ("multiple_choice", "loglikelihood", "generate_until")  # which give an answer per item
HEADLINES = ("acc", "exact_match")  # reported as `acc` if the definition names nothing else
MARGIN = 4  # tokens above the longest alias, see `generation_cap`
LABELS = {"label", "answer", "answerKey", "gold", "target", "cop", "correct_answer"}  # keys of right answers
HIDDEN = (-1, "-1", "", None)  # the labels of documents whose answer is not published
LONGEST_ANSWER = "longest answer"  # metadata.cap of a definition whose generations may end there

datasets.disable_progress_bars()


@dataclass
class EvaluationTask:
    """A harness task, and which documents of data.jsonl it evaluates.

    `lines[i]` and `hashes[i]`: line number of the i-th evaluated document, and SHA-256 of its canonical JSON.
    `samples`: positions in the task's own documents if those are more than the evaluated ones (few-shot), else None.
    """

    name: str
    task: Task
    lines: list[int]
    hashes: list[str]
    samples: list[int] | None
    version: str
    primary: str
    # generations may end earlier than the harness lets them: at the longest answer, or at our limit
    capped: bool = False

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
        own = yaml.safe_load(path.read_text(encoding="utf-8"))
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
    lines = Path(data).read_bytes().splitlines()
    chosen = sample(lines, items)
    fewshot = bool(config.get("num_fewshot"))
    read = range(len(lines)) if fewshot else chosen
    try:
        documents = [json.loads(lines[i]) for i in read]
    except ValueError as error:
        raise ArtifactError(f"{data}: not JSON Lines: {error}") from error
    # The harness leaves a question out of its own worked examples only if both come from the split named test_split.
    split = config.get("test_split") or config["validation_split"]
    config |= {"test_split": split, "validation_split": None}
    config["custom_dataset"] = partial(_dataset, documents, split)
    config |= {"dataset_path": None, "dataset_name": None, "dataset_kwargs": None, "tag": None}
    metadata = config.get("metadata") or {}
    if fewshot and "gold" in metadata:
        answer = partial(apply_template, metadata["gold"])
        config["fewshot_config"] = {**(config.get("fewshot_config") or {}), "doc_to_target": answer}
    _require_examples(name, config, len(documents))
    if config["output_type"] == "multiple_choice":
        _require_labels(name, Path(data), dict(zip(read, documents)))
    task = TaskManager(include_defaults=False).load([config])["tasks"][name]
    task.set_fewshot_seed(0)
    metrics = list(task.aggregation())
    primary = metadata.get("primary") or next((metric for metric in HEADLINES if metric in metrics), None)
    if primary is None or primary not in metrics:
        raise ArtifactError(
            f"task {name}: is scored by {', '.join(metrics)}, not by {primary or ' or '.join(HEADLINES)}; name what "
            f"says whether an item is right as metadata.primary of a definition in {DEFINITIONS}"
        )
    capped = config["output_type"] == "generate_until" and _cap(task, metadata, generation_tokens, tokenizer)
    picked = [json.loads(lines[i]) for i in chosen] if fewshot else documents
    hashes, version = [digest(document) for document in picked], str(metadata.get("version", 0))
    return EvaluationTask(name, task, chosen, hashes, chosen if fewshot else None, version, primary, capped)


def sample(lines: list[bytes], items: int | None) -> list[int]:
    """Line numbers, ascending, of the `items` documents with the smallest SHA-256 of salt + line.

    So the sample of a smaller budget is part of a larger one's, and every cell has the same.
    """
    if items is None or items >= len(lines):
        return list(range(len(lines)))
    order = sorted(range(len(lines)), key=lambda i: (sha256(SALT + lines[i]).digest(), i))
    return sorted(order[:items])


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


def _require_labels(name: str, data: Path, documents: dict[int, dict]) -> None:
    """ArtifactError for a document whose label is hidden, as in the test sets of many benchmarks.

    documents: line of `data` (from 0) -> document, as it was written: a task's own function may turn -1 into the last
    choice, which would then count as the answer.
    """
    for line, document in documents.items():
        for key in LABELS & document.keys():
            if document[key] in HIDDEN:
                raise ArtifactError(
                    f"task {name}: {data}, line {line + 1}: the label `{key}` is {document[key]!r}, which hides the "
                    "answer; use a split whose labels are published"
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


def _dataset(documents: list[dict], split: str, **metadata: object) -> datasets.DatasetDict:
    """What the harness calls with the task's metadata in place of a download."""
    return datasets.DatasetDict({split: datasets.Dataset.from_list(documents)})

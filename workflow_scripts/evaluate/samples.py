"""From the harness's logged samples to this project's rows: one per item, the same columns for every task."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from workflow_scripts.evaluate.documents import Unusable
from workflow_scripts.evaluate.tasks import EvaluationTask, right_choices
from workflow_scripts.files.artifacts import SCHEMAS, ArtifactError, atomic_path

DOMAINS = ("world", "common", "language")


@dataclass
class EvaluatedItem:
    """One evaluated item: its row of the samples table, the bytes of the gold answer, and whether its generation met
    the cap (None if nothing was generated)."""

    row: dict
    gold_bytes: int
    cut_off: bool | None = None


def items_of(
    task: EvaluationTask, logged: list[dict], gold_logliks: list[float], chosen: list, cut_off: list
) -> list[EvaluatedItem]:
    """Rows of a task from the log of lm_eval.evaluate, in the order of its documents.

    gold_logliks: of the gold answers, for a generation task. chosen: name of each item's prompt, or None. cut_off:
    whether its generation met the cap, which makes it wrong if the harness would have let it go on; a blank one is
    wrong too. ArtifactError if the task's metric is more than right or wrong.
    """
    readers = {"multiple_choice": _choice, "loglikelihood": _continuation, "generate_until": _generation}
    read, items = readers[task.task.OUTPUT_TYPE], []
    for i, sample in enumerate(logged):
        if sample[task.primary] not in (0, 1):
            raise ArtifactError(
                f"{task.at(i)}: its {task.primary} is {sample[task.primary]}, neither right nor wrong, as "
                "paired statistics need it"
            )
        try:
            answer, gold_bytes = read(task, sample, gold_logliks[i] if gold_logliks else None)
        except Unusable as error:
            raise ArtifactError(f"{task.at(i)}: {error}") from error
        generated = task.task.OUTPUT_TYPE == "generate_until"
        # Equals an alias like "!!!", without punctuation.
        blank = generated and not str(answer["prediction"]).strip()
        correct = bool(sample[task.primary]) and not (task.capped and cut_off[i]) and not blank
        norm = sample.get("acc_norm")
        row = {
            "task": task.name,
            "doc_id": task.items[i].line.number - 1,
            "doc_hash": task.items[i].hash,
            "correct": correct,
            "acc_norm": None if norm is None else bool(norm),
            "selected_prompt": chosen[i],
            **answer,
        }
        items.append(EvaluatedItem(row, gold_bytes, cut_off[i] if generated else None))
    return items


def _choice(task: EvaluationTask, sample: dict, _: float | None) -> tuple[dict, int]:
    harness = task.task
    choices, accepted = right_choices(harness, sample["doc"])
    logliks = [loglik for loglik, _ in sample["filtered_resps"]][: len(choices)]
    gold = max(accepted, key=lambda index: logliks[index])
    wrong = [loglik for index, loglik in enumerate(logliks) if index not in accepted]
    if wrong:
        prediction = choices[logliks.index(max(logliks))]
    else:  # every choice is an accepted alias: right if greedy decoding gives one of them
        prediction = next(
            (c for c, (_, greedy) in zip(choices, sample["filtered_resps"], strict=False) if greedy), ""
        )
    context, continuation = sample["arguments"][gold]
    question = _question(task, sample, context, gold)
    answer = {
        "gold_loglik": logliks[gold],
        "margin": logliks[gold] - max(wrong) if wrong else None,
        "prediction": prediction,
        "question": question + continuation if harness.multiple_input else question,
        "gold": choices[gold],
        "choice_logliks": logliks if wrong else None,
    }
    return answer, len(continuation.encode())


def _question(task: EvaluationTask, sample: dict, context: str, choice: int = 0) -> str:
    """The text before an answer; in a chat the question alone, without the template and the text before it.

    choice: of a task whose choices differ in what stands before the answer.
    """
    harness = task.task
    if task.chat is None:
        return context
    asked = harness.doc_to_choice if harness.multiple_input else harness.doc_to_text
    found = asked(sample["doc"])
    return found[choice] if harness.multiple_input else found


def _continuation(task: EvaluationTask, sample: dict, _: float | None) -> tuple[dict, int]:
    ((context, continuation),) = sample["arguments"]
    ((loglik, greedy),) = sample["filtered_resps"]
    gold = continuation.strip()
    answer = {
        "gold_loglik": loglik,
        "margin": None,
        "prediction": gold if greedy else "",
        "question": _question(task, sample, context),
        "gold": gold,
        "choice_logliks": None,
    }
    return answer, len(continuation.encode())


def _generation(task: EvaluationTask, sample: dict, gold_loglik: float | None) -> tuple[dict, int]:
    gold = task.gold(sample["doc"])
    answer = {
        "gold_loglik": gold_loglik,
        "margin": None,
        "prediction": sample["filtered_resps"][0],
        "question": _question(task, sample, sample["arguments"][0][0]),
        "gold": gold,
        "choice_logliks": None,
    }
    return answer, len(f"{task.delimiter(sample['doc'])}{gold}".encode())


def summary(items: list[EvaluatedItem]) -> dict:
    """n, acc, acc_norm, stderr, primary, gold_loglik, choice_loglik, bits_per_byte, blank, cut_off of one task."""
    n = len(items)
    acc = sum(item.row["correct"] for item in items) / n
    norms = [item.row["acc_norm"] for item in items]
    nats = -sum(item.row["gold_loglik"] for item in items)
    return {
        "n": n,
        "acc": acc,
        "acc_norm": None if None in norms else sum(norms) / n,
        "stderr": math.sqrt(acc * (1 - acc) / (n - 1)) if n > 1 else None,  # the harness's mean_stderr
        "primary": acc,
        "gold_loglik": -nats / n,
        "choice_loglik": _mean(_choice_loglik(item.row) for item in items),
        "bits_per_byte": nats / (math.log(2) * sum(item.gold_bytes for item in items)),
        "blank": _mean(
            None if item.cut_off is None else not item.row["prediction"].strip() for item in items
        ),
        "cut_off": _mean(item.cut_off for item in items),
    }


def _choice_loglik(row: dict) -> float | None:
    """Log-softmax of the right choice among the item's; None without choices."""
    logliks = row["choice_logliks"]
    if logliks is None:
        return None
    top = max(logliks)
    return row["gold_loglik"] - top - math.log(sum(math.exp(loglik - top) for loglik in logliks))


def _mean(values: Iterable[float | None]) -> float | None:
    """None if an item has no value."""
    values = list(values)
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


def domain_means(tasks: dict) -> dict:
    """Mean of `primary` per domain; null if the cell has no task of it."""
    values = {domain: [t["primary"] for t in tasks.values() if t["domain"] == domain] for domain in DOMAINS}
    return {domain: sum(found) / len(found) if found else None for domain, found in values.items()}


def shares(rows: list[dict], names: list[str]) -> dict | None:
    """Share of each prompt over all rows and by task; null if one prompt leaves no choice."""
    if len(names) < 2:
        return None

    def share(part: list[dict]) -> dict[str, float]:
        return {name: sum(row["selected_prompt"] == name for row in part) / len(part) for name in names}

    tasks = dict.fromkeys(row["task"] for row in rows)
    return share(rows) | {
        "by_task": {task: share([row for row in rows if row["task"] == task]) for task in tasks}
    }


def write_samples(path: str | Path, rows: list[dict]) -> None:
    """Rows as Parquet with the columns and types of samples.schema.yaml; ArtifactError if a value doesn't fit."""
    import pyarrow
    import pyarrow.parquet

    arrow = {
        "string": pyarrow.string(),
        "integer": pyarrow.int64(),
        "number": pyarrow.float64(),
        "boolean": pyarrow.bool_(),
        "array": pyarrow.list_(pyarrow.float64()),
    }
    properties = yaml.safe_load((SCHEMAS / "samples.schema.yaml").read_text(encoding="utf-8"))["properties"]
    fields = []
    for name, column in properties.items():
        types = column["type"] if isinstance(column["type"], list) else [column["type"]]
        fields.append(pyarrow.field(name, arrow[types[0]], nullable="null" in types))
    try:
        table = pyarrow.Table.from_pylist(rows, pyarrow.schema(fields))
        table.validate(full=True)
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise ArtifactError(f"{path}: {error} (schema: samples)") from error
    missing = [f.name for f in fields if not f.nullable and table[f.name].null_count]
    if missing:
        raise ArtifactError(f"{path}: {', '.join(missing)}: holds nulls (schema: samples)")
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)

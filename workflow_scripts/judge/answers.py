"""Search one document of the pair's training text that holds an accepted alias of an item together with its entity.

Both are normalised and match whole words. The search covers the corpus's whole training split, of which an adapter
saw a part: "found" does not prove that it was seen. "Not found" does not prove that it could not be learned:
the text may say it in other words, or without the entity.
"""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.judge.results import Results

KNOWLEDGE = (
    "arc_easy",
    "arc_challenge",
    "sciq",
    "sciq-closed",
    "squad-closed",
    "webqs",
    "triviaqa",
    "nq_open",
    "jeopardy",
    "popqa",
    "simpleqa",
)
ALIASES: dict[str, Callable[[dict], list[str]]] = {  # of a document, in tasks that accept several answers
    "triviaqa": lambda document: document["answer"]["aliases"],
    "webqs": lambda document: document["answers"],
    "nq_open": lambda document: document["answer"],
    "popqa": lambda document: json.loads(document["possible_answers"]),
}
LONGEST = 6  # words of an alias or entity that are looked up; longer ones by their first words
_PROMPT = re.compile(r"^(question|answer|q|a):\s*|\s*(question|answer):\s*$", re.IGNORECASE)
_NAME = re.compile(r"\b[A-Z][\w'’-]*(?:\s+(?:of|the|and|de|von|van|[A-Z][\w'’-]*))*")
_COMMON = frozenset(
    word
    for words in (
        "which what where when who whom whose why how does did were was have has had that this these those name",
        "called known from with into first most following best would could",
    )
    for word in words.split()
)


def normalise(text: str) -> tuple[str, ...]:
    """Lower-case words without punctuation or leading articles."""
    words = re.findall(r"\w+", text.lower())
    while words and words[0] in ("the", "a", "an"):
        words = words[1:]
    return tuple(words)


def entity(question: str) -> tuple[str, ...]:
    """The longest name in the question's last line that asks, else its longest content word; () if there is none."""
    lines = [_PROMPT.sub("", line).strip() for line in question.strip().splitlines()]
    asked = next((line for line in reversed(lines) if line), "")
    names = [match.group() for match in _NAME.finditer(asked) if match.start() > 0]
    if names:
        return normalise(max(names, key=len))
    words = [word for word in normalise(asked) if word not in _COMMON and len(word) > 3]
    return (max(words, key=len),) if words else ()


def aliases(task: str, gold: str, document: dict | None) -> list[tuple[str, ...]]:
    """Accepted answers, normalised: those of the benchmark's document, or the recorded one."""
    texts = [gold]
    if document and task in ALIASES:
        texts += ALIASES[task](document)
    return list(dict.fromkeys(words for text in texts if (words := normalise(text))))


def find(results: Results, corpora: dict[str, list[Path]], benchmarks: dict[str, Path]) -> pd.DataFrame:
    """answers.parquet: `known` (see in_training_text) per corpus, task and doc_id of the items that were evaluated.

    corpora: name -> its train.jsonl files; benchmarks: task -> data.jsonl.
    """
    items = evaluated_items(results)
    found = [
        items[["task", "doc_id"]].assign(
            corpus=name, known=in_training_text(items, read_documents(files), benchmarks)
        )
        for name, files in corpora.items()
    ]
    empty = pd.DataFrame(columns=["corpus", "task", "doc_id", "known"])
    answers = pd.concat([empty, *found], ignore_index=True)[list(empty.columns)]
    return answers.astype({"corpus": str, "task": str, "doc_id": "int64", "known": "boolean"})


def evaluated_items(results: Results) -> pd.DataFrame:
    """Columns task, doc_id, question, gold of every item.

    The items are those of each model's first cell, since a grid evaluates all its cells on the same ones.
    """
    firsts = {cell.model: cell for cell in reversed(results.evaluations)}
    read = [results.texts(cell, "question", "gold").reset_index() for cell in firsts.values()]
    columns = ["task", "doc_id", "question", "gold"]
    items = pd.concat([pd.DataFrame(columns=columns), *read], ignore_index=True)[columns]
    return items.drop_duplicates(["task", "doc_id"], ignore_index=True)


def read_documents(files: Iterable[Path]) -> list[str]:
    """The documents of corpora's train.jsonl files."""
    return [row["text"] for file in files for row in rows_of(file)]


def in_training_text(items: pd.DataFrame, documents: Iterable[str], benchmarks: dict[str, Path]) -> pd.Series:
    """True or False per item of a knowledge task; null for other tasks and questions without an entity.

    items: columns task, doc_id (a line of the task's file in `benchmarks`), question, gold.
    """
    data = {task: rows_of(path) for task, path in benchmarks.items() if task in KNOWLEDGE}
    wanted, phrases = {}, set()
    for index, row in items[items["task"].isin(KNOWLEDGE)].iterrows():
        document = data[row["task"]][row["doc_id"]] if row["task"] in data else None
        subject = entity(row["question"])[:LONGEST]
        answers = {answer[:LONGEST] for answer in aliases(row["task"], row["gold"], document)}
        if subject and answers:
            wanted[index] = (subject, answers)
            phrases |= answers | {subject}
    found = documents_with(phrases, documents)
    answer = {
        index: any(found.get(subject, set()) & found.get(alias, set()) for alias in answers)
        for index, (subject, answers) in wanted.items()
    }
    return pd.Series(answer, dtype="boolean").reindex(items.index)


def documents_with(
    phrases: set[tuple[str, ...]], documents: Iterable[str]
) -> dict[tuple[str, ...], set[int]]:
    """phrase -> numbers of the documents that hold it, in one pass over the text."""
    lengths = sorted({len(phrase) for phrase in phrases})
    firsts = {phrase[0] for phrase in phrases}
    found: dict[tuple[str, ...], set[int]] = {}
    for number, text in enumerate(documents):
        words = re.findall(r"\w+", text.lower())
        for start, word in enumerate(words):
            if word in firsts:
                for length in lengths:
                    if (phrase := tuple(words[start : start + length])) in phrases:
                        found.setdefault(phrase, set()).add(number)
    return found


def rows_of(path: Path) -> list[dict]:
    """The documents of a task's file, by the line's number from 0; {} for a blank line."""
    try:
        with open(path, encoding="utf-8") as handle:
            return [json.loads(line) if line.strip() else {} for line in handle]
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: can't be read: {error}") from error

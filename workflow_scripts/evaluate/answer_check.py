"""Whether a document's choices and labels say one thing, and whether its task can score an answer to it.

A person sees these faults in the row. A task of the harness passes over them: it scores another choice as the right
one, or none.
"""

import copy
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workflow_scripts.evaluate.documents import LABELS, Unusable, fields_of
from workflow_scripts.evaluate.tasks import EvaluationTask

# Steps of a filter that read an answer as it is written.
WHOLE = {"take_first", "remove_whitespace", "lowercase"}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
# Letters of choices that stand in the question: "A. north", "(A) north", "A) north".
LETTERED = re.compile(r"^[ \t]*\(?([A-Z])[.):]+(?=\s)", re.MULTILINE)


class Alike(Unusable):
    """Two choices of a document read alike. Published data have a few such rows."""


@dataclass(frozen=True)
class Asked:
    """What a task makes of a document: its choices and the positions of the right ones, or [] and [], and its target.

    raw: the document as it stands in the file.
    """

    raw: dict
    document: dict
    choices: list[str]
    right: list[int]
    target: object


def require_answers(task: EvaluationTask, asked: Asked) -> None:
    """Unusable for a document of `task` whose labels contradict it, or whose right answer never counts as right."""
    if task.task.OUTPUT_TYPE == "multiple_choice":
        _require_choice_scores(task, asked)
        _require_agreement(task, asked)
    else:
        _require_answer_scores(task, asked)


def require_distinct(task: EvaluationTask, asked: Asked) -> None:
    """Alike if two choices are one text, of which not both are right; Unusable for the letter of no choice."""
    behind = lettered_choices(task, asked)
    if task.task.OUTPUT_TYPE == "multiple_choice":
        letters = [choice.strip(" ().") for choice in asked.choices]
        _require_different(asked.choices, asked.right)
        if "".join(letters) == LETTERS[: len(behind)]:
            _require_different(behind, asked.right)
    elif len(behind) > 1 and re.fullmatch("[A-Z]", str(asked.target)):
        right = LETTERS.index(str(asked.target))
        if right >= len(behind):
            raise Unusable(
                f"the right answer is {asked.target!r}; its choices are A to {LETTERS[len(behind) - 1]}"
            )
        _require_different(behind, [right])


def _require_different(choices: list[str], right: list[int]) -> None:
    places: dict[str, int] = {}
    for i, choice in enumerate(choices):
        first = places.setdefault(plain(choice), i)
        if first != i and not {first, i} <= set(right):
            said = "of which one counts as right" if {first, i} & set(right) else "both wrong"
            raise Alike(f"choices {first + 1} and {i + 1} are {plain(choice)[:60]!r}, {said}")


def plain(text: str) -> str:
    """A text as it is read: composed characters, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def lettered_choices(task: EvaluationTask, asked: Asked) -> list[str]:
    """The texts behind the letters A, B, ... with which the question shows choices; empty if it doesn't."""
    text = task.task.doc_to_text(asked.document)
    marks: list[re.Match[str]] = []
    for mark in LETTERED.finditer(text if isinstance(text, str) else ""):
        if ord(mark[1]) == ord("A") + len(marks):
            marks.append(mark)
        elif mark[1] == "A":  # another list of choices
            marks = [mark]
    ends = [*(mark.start() for mark in marks[1:]), len(str(text))]
    texts = [str(text)[mark.end() : end] for mark, end in zip(marks, ends, strict=False)]
    if texts:  # a line of its own goes on after the last choice: "Answer:"
        texts[-1] = texts[-1].partition("\n")[0]
    return texts


def _mappings(value: object) -> Iterator[dict]:
    """A document and the mappings within it."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _mappings(each)


def _require_agreement(task: EvaluationTask, asked: Asked) -> None:
    """Unusable for labels that say something else than the task, as where its definition has one answer for all."""
    config, raw, choices, right = task.task.config, asked.raw, asked.choices, asked.right
    fixed = isinstance(config.doc_to_target, int) or str(config.doc_to_target).strip().isdigit()
    roots = fields_of(config.doc_to_choice) or set(raw)
    about = {key: value for key, value in raw.items() if key in roots or LABELS.fullmatch(key)}
    for mapping in _mappings(about):
        labels = {key: value for key, value in mapping.items() if LABELS.fullmatch(key)}
        for key, value in labels.items():
            if isinstance(value, list):
                _require_list(key, value, mapping)
                if fixed and len(value) == len(choices):
                    _require_marks(key, value, right)
            elif fixed and isinstance(value, int) and value not in right:
                raise Unusable(
                    f"the label `{key}` is {value!r}, and the task takes choice {right[0] + 1} for the right one"
                )


def _require_list(key: str, labels: list, mapping: dict) -> None:
    """Unusable for names of choices of which one stands twice, or that are more or fewer than the choices."""
    texts = mapping.get("text", mapping.get("choices"))
    if not isinstance(texts, list) or not all(isinstance(label, str) for label in labels):
        return
    if len(texts) != len(labels):
        raise Unusable(f"`{key}` has {len(labels)} labels of {len(texts)} choices")
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise Unusable(f"`{key}` names two choices {twice[0]!r}")


def _require_marks(key: str, marks: list, right: list[int]) -> None:
    """Unusable for labels, 1 of a right choice and 0 of a wrong one, that are not those of the task."""
    if any(mark not in (0, 1) for mark in marks):
        raise Unusable(f"`{key}` is {str(marks)[:60]}; each must be 0 or 1")
    found = [i for i, mark in enumerate(marks) if mark == 1]
    if found != right:
        said = ", ".join(str(i + 1) for i in found) or "none"
        raise Unusable(
            f"`{key}` is {str(marks)[:60]}, so the right choice is {said}; the task takes choice {right[0] + 1} for it"
        )


def _require_choice_scores(task: EvaluationTask, asked: Asked) -> None:
    """Unusable if a model that prefers a right choice is not right, or one that prefers a wrong choice is."""
    count = len(asked.choices)
    wrong = [i for i in range(count) if i not in asked.right][:1]
    repeats = 2 if "acc_mutual_info" in task.task.aggregation() else 1
    if not wrong and _score(
        task, asked.document, [(-1.0, False)] * count * repeats
    ):  # but webqs': all are known answers
        raise Unusable(
            f"{'all' if count > 1 else 'none but'} {count} of its choices are right; it needs a wrong one"
        )
    for preferred in [asked.right[0], *wrong]:
        answers = [(-1.0, True) if i == preferred else (-2.0, False) for i in range(count)]
        score = _score(task, asked.document, answers * repeats)
        if score != (preferred in asked.right):
            raise Unusable(
                f"a model that prefers choice {preferred + 1} of {count} gets {task.primary} {score:.3g}"
            )


def _require_answer_scores(task: EvaluationTask, asked: Asked) -> None:
    """Unusable if none of the right answers counts as right, though they are scored as they are written."""
    targets = asked.target if isinstance(asked.target, list) else [asked.target]
    if strange := [target for target in targets if not isinstance(target, str | int | float)]:
        raise Unusable(f"its right answer is {str(strange[0])[:60]}; a text, or a list of texts, is needed")
    if task.task.OUTPUT_TYPE == "generate_until":
        gold = task.gold(copy.deepcopy(asked.document))
        if not gold.strip():
            raise Unusable("the answer whose log-likelihood is measured is empty")
        if gold not in map(str, targets):
            raise Unusable(
                f"the answer whose log-likelihood is measured, {gold[:60]!r}, is none of the accepted ones"
            )
        scores = (_score(task, asked.document, [str(target)]) for target in targets)
        if next(scores) != 1 and _reads_whole(task) and 1 not in scores:
            raise Unusable(f"its right answer {str(asked.target)[:60]!r} does not count as right")
        if patterns := _patterns(task):
            _require_found(task, asked, [str(target) for target in targets], patterns)


def _steps(task: EvaluationTask) -> list[dict]:
    """The steps of the filter by which an answer is read; the first one's, if there are several."""
    return [step for each in (task.task.config.filter_list or [])[:1] for step in each["filter"]]


def _reads_whole(task: EvaluationTask) -> bool:
    """Whether an answer is scored as it is written, and not a number or a letter in it."""
    return {step["function"] for step in _steps(task)} <= WHOLE


def _patterns(task: EvaluationTask) -> list[str]:
    """The patterns by which a part of an answer is found; none if it is found otherwise too, or read as a whole."""
    steps = _steps(task)
    if not {step["function"] for step in steps} <= {*WHOLE, "regex"}:
        return []
    return [step.get("regex_pattern", "") for step in steps if step["function"] == "regex"]


def _require_found(task: EvaluationTask, asked: Asked, targets: list[str], patterns: list[str]) -> None:
    """Unusable if nothing that the task's own filter could find in an answer counts as right (gsm8k's right answers
    end in #### and a number; without these no answer equals them)."""
    found = [part for target in targets for part in _filtered(task, asked.document, target)]
    for pattern in patterns:
        groups = [re.compile(group, re.DOTALL) for group in _groups(pattern)]
        found += [match[0] for group in groups for target in targets for match in group.finditer(target)]
    if not any(_score(task, asked.document, [part]) == 1 for part in dict.fromkeys(found)):
        raise Unusable(
            f"its right answer {str(asked.target)[:60]!r} holds nothing that the task's filter finds ({patterns[0]!r}) "
            "and that counts as right"
        )


def _filtered(task: EvaluationTask, document: dict, text: str) -> list[str]:
    """The answer that the task's filter reads in a text."""
    answers: Any = [[text]]
    for make in task.task._filters[0].filters:
        answers = make().apply(answers, [document])
    (answer,) = answers
    return [answer] if isinstance(answer, str) else [str(part) for part in answer]


def _groups(pattern: str) -> list[str]:
    """The patterns inside of a pattern's capturing groups; the pattern itself, if it has none."""
    opened: list[int | None] = []
    groups, inside = [], False
    for mark in re.finditer(r"\\.|[\[\]()]", pattern, re.DOTALL):
        if mark[0] == "[":
            inside = True
        elif mark[0] == "]":
            inside = False
        elif mark[0] == "(" and not inside:
            plain_group = pattern[mark.end() : mark.end() + 1] != "?"
            opened.append(mark.end() if plain_group else None)
        elif mark[0] == ")" and not inside and (start := opened.pop()) is not None:
            groups.append(pattern[start : mark.start()])
    return groups or [pattern]


def _score(task: EvaluationTask, document: dict, answers: list) -> float:
    """The score of an item; Unusable if it is more than right or wrong."""
    score = task.task.process_results(copy.deepcopy(document), answers)[task.primary]
    if score not in (0, 1):
        raise Unusable(
            f"its {task.primary} can be {score:.3g}, neither right nor wrong, as paired statistics need it"
        )
    return float(score)

"""Cards: one per verdict, its sentences and numbers ready to be shown on the report's first view and on the page."""

from collections.abc import Mapping
from typing import Any

from workflow_scripts.judge.verdict import LABELS
from workflow_scripts.report.rendering import estimate, place, spoken, support
from workflow_scripts.report.summary import (
    NAMES,
    basis,
    cautions,
    chosen,
    headline,
    in_chat,
    points,
    scale,
    unit,
)


def cards(
    groups: list[dict], verdict: dict, expected: Mapping[str, Mapping[str, str]] | None = None
) -> list[dict[str, Any]]:
    """One card per judged group: word, meaning, support of each label, numbers, cautions, and the other metrics.

    expected: compressor -> corpus -> the label that was expected before the run, of a grid of known truth.
    """
    return [_card(group, verdict, expected or {}) for group in groups]


def _card(group: dict, whole: dict, expected: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    name, pair = whole["metric"], whole["pair"]
    metric, (factor, digits, of) = group["metrics"][name], scale(name)
    verdict = metric["verdict"]
    word = verdict["word"]
    methods = dict.fromkeys(pair.values()) if metric["items"] else ()  # else there is no number
    rows = [(method, metric["methods"].get(method)) for method in methods]
    told = [row for row in whole["parts"] if row["metric"] == "accuracy" and place(row) == place(group)]
    return {
        "label": f"{group['model']}, {group['compressor']}, {group['corpus']}",
        "place": place(group),
        "word": word,
        "shown": spoken(word) + (", of one copy" if verdict["of_one_copy"] else ""),
        "meaning": _capital(verdict["meaning"].removeprefix(f"{word}: ")),  # the word stands before it
        "expected": expected.get(group["compressor"], {}).get(group["corpus"]),
        "basis": basis(metric, "") + in_chat(whole, group["model"]),
        "support": _support(verdict),
        "reason": verdict["reason"],
        "needed": verdict["needed"],
        "unit": of,
        "loss": estimate(metric.get("loss"), factor, digits),
        "rows": [
            {
                "method": method,
                "run": row is not None,
                "numbers": [
                    estimate(row and row[number], factor, digits)
                    for number in ("gain", "dense_gain", "recovered")
                ],
            }
            for method, row in rows
        ],
        "cautions": [*cautions(metric, pair, lambda found: _minus(unit(name)(found))), *chosen(whole, group)],
        "settle": verdict["settle"] and _capital(verdict["settle"]),
        "details": _details(metric, told),
        "others": [
            (NAMES[other], headline(group["metrics"][other]["verdict"])) for other in NAMES if other != name
        ],
        "metric": NAMES[name],
    }


def _details(metric: dict, told: list[dict]) -> list[str]:
    """Sentences behind the numbers: tasks that are left out, the prompt beside LoRA, held-out facts."""
    sentences = [f"Tasks left out: {', '.join(metric['absent_tasks'])}."] if metric["absent_tasks"] else []
    retention = metric["verdict"].get("retention")
    if retention and retention["low"] is not None:
        value, low, high = (f"{100 * retention[end]:.0f} %" for end in ("value", "low", "high"))
        sentences.append(f"The prompt brings back {value} [{low}, {high}] of LoRA's recovery.")
    return sentences + [_told(row) for row in told]


def _told(row: dict) -> str:
    """Access against learning of adapters that were told a part of a task's answers, as accuracy."""
    untold = row["untrained"]["recovered"] or row["untrained"]["gain"]
    shown = row["shows"] or (
        "no word without a dense control" if row["untrained"]["recovered"] is None else "no word"
    )
    methods = ", ".join(row["methods"].values())
    return (
        f"Held-out facts of {row['task']} by {methods}: untold ones {_minus(points(untold))}, telling adds "
        f"{_minus(points(row['learned']))}; by the rule: {shown}."
    )


def _minus(numbers: str) -> str:
    return numbers.replace("-", "−")


def _support(verdict: dict) -> list[dict[str, Any]]:
    """Label, its word and its support in percent, for the bar; empty if the rule was not applied."""
    found = verdict["support"] or {}
    return [
        {"label": label, "shown": spoken(label), "percent": support(found[label])}
        for label in LABELS
        if found.get(label, 0) >= 0.005
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

"""The page's first screen: a card per verdict, its sentences ready to be shown."""

from typing import Any

from workflow_scripts.judge.verdict import LABELS
from workflow_scripts.report.rendering import place, spoken
from workflow_scripts.report.summary import NAMES, basis, cautions, headline, points, recovery, unit


def cards(groups: list[dict], verdict: dict) -> list[dict[str, Any]]:
    """One card per judged group: word, meaning, support of each label, numbers, cautions, and the other metrics."""
    return [_card(group, verdict) for group in groups]


def _card(group: dict, whole: dict) -> dict[str, Any]:
    name, pair = whole["metric"], whole["pair"]
    metric, shown = group["metrics"][name], unit(name)
    verdict = metric["verdict"]
    word = verdict["word"]
    retention = verdict.get("retention")
    numbers = [("Lost by compression", shown(metric.get("loss")), "")]
    numbers += [(f"Brought back by {method}", *recovery(metric, method, shown)) for method in pair.values()]
    if retention and retention["low"] is not None:
        value, low, high = (f"{100 * retention[end]:.0f} %" for end in ("value", "low", "high"))
        numbers.append(("Prompt over LoRA", f"{value} [{low}, {high}]", ""))
    numbers += [
        _told(row) for row in whole["parts"] if row["metric"] == "accuracy" and place(row) == place(group)
    ]
    return {
        "label": f"{group['model']}, {group['compressor']}, {group['corpus']}",
        "place": place(group),
        "word": word,
        "shown": spoken(word) + (", of one copy" if verdict["of_one_copy"] else ""),
        "meaning": _capital(verdict["meaning"].removeprefix(f"{word}: ")),  # the word stands before it
        "basis": basis(metric),
        "support": _support(verdict),
        "reason": verdict["reason"],
        "needed": verdict["needed"],
        "numbers": numbers,
        "cautions": cautions(metric, pair, shown),
        "settle": verdict["settle"] and _capital(verdict["settle"]),
        "others": [
            (NAMES[other], headline(group["metrics"][other]["verdict"])) for other in NAMES if other != name
        ],
        "metric": NAMES[name],
    }


def _told(row: dict) -> tuple[str, str, str]:
    """Access against learning of adapters that were told a part of a task's answers, as accuracy."""
    untold = row["untrained"]["recovered"] or row["untrained"]["gain"]
    shown = row["shows"] or (
        "no word without a dense control" if row["untrained"]["recovered"] is None else "no word"
    )
    return (
        f"Untold facts of {row['task']} by {', '.join(row['methods'].values())}",
        points(untold),
        f"{shown}; telling adds {points(row['learned'])}",
    )


def _support(verdict: dict) -> list[dict[str, Any]]:
    """Label, its word and its support in percent, for the bar; empty if the rule was not applied."""
    support = verdict["support"] or {}
    return [
        {"label": label, "shown": spoken(label), "percent": 100 * support[label]}
        for label in LABELS
        if support.get(label, 0) >= 0.005
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

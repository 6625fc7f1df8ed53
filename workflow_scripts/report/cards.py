"""The page's first screen: a card per verdict, its sentences ready to be shown."""

from typing import Any

from workflow_scripts.report.rendering import number, place, signed, signed_interval, spoken
from workflow_scripts.report.summary import cautions, nats, points, smallest


def cards(groups: list[dict], pair: dict[str, str]) -> list[dict[str, Any]]:
    """One card per judged group: word, meaning, three numbers, cautions, and why by both metrics."""
    return [_card(group, pair) for group in groups]


def _card(group: dict, pair: dict[str, str]) -> dict[str, Any]:
    accuracy, loglik = group["metrics"]["accuracy"], group["metrics"]["gold_loglik"]
    verdict = accuracy["verdict"]
    word = verdict["word"]
    meaning = verdict["meaning"].removeprefix(f"{word}: ")  # the word stands before it
    return {
        "label": f"{group['model']}, {group['compressor']}, {group['corpus']}",
        "place": place(group),
        "word": word,
        "shown": "no loss visible" if word == "no_loss" else word,
        "meaning": _capital(meaning),
        "numbers": [("Lost by compression", points(accuracy["loss"])), *_brought_back(accuracy, pair)],
        "cautions": cautions(accuracy, pair),
        "absent": accuracy["absent_tasks"],
        "loglik_word": spoken(loglik["verdict"]["word"]),
        "loglik_cautions": cautions(loglik, pair, nats),
        "why": _why(group, pair),
        "loglik_why": _loglik_why(loglik),
    }


def _brought_back(accuracy: dict, pair: dict[str, str]) -> list[tuple[str, str]]:
    """(label, points) for both methods of the pair: G, or the plain gain without a dense control."""
    rows = []
    for method in pair.values():
        row = accuracy["methods"].get(method)
        controlled = row and row["controlled"]
        control = "" if controlled else ", not controlled"
        rows.append((f"Brought back by {method}{control}", points(controlled or (row and row["gain"]))))
    return rows


def _why(group: dict, pair: dict[str, str]) -> str:
    """The reason of accuracy's verdict, what this sample could find, and what would settle an undecided one."""
    accuracy = group["metrics"]["accuracy"]
    verdict, items = accuracy["verdict"], group["items"]
    said = f"Accuracy: {spoken(verdict['word'])}, because: {verdict['reason']}. "
    said += f"{sum(items.values())} items of {len(items)} tasks"
    if accuracy["loss_smallest_detectable"]:
        loss = number(100 * accuracy["loss_smallest_detectable"], 1)
        said += f"; detectable are a loss of accuracy from {loss} points"
        for method in pair.values():
            row = accuracy["methods"].get(method)
            if row and (found := smallest(row)):
                said += f", what {method} brings back from {number(100 * found, 1)}"
    more = f" {_capital(verdict['more_data'])}." if verdict["more_data"] else ""
    return f"{said}.{more}"


def _loglik_why(loglik: dict) -> str:
    verdict, loss = loglik["verdict"], loglik.get("loss")
    said = f"Gold log-likelihood: {spoken(verdict['word'])}, because: {verdict['reason']}."
    if loss and loss["low"] is not None:
        said += f" Lost: {signed(loss['value'])} nats {signed_interval(loss)}."
    return said


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

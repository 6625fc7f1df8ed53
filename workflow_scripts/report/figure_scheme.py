"""Figure 3: how inference-time dynamic prompting chooses among prompts (drawn, not measured)."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from workflow_scripts.report.data import GridData
from workflow_scripts.report.figure_style import INK, SOFT, absent

_PROMPTS = [("$P_1$", "#9BC4E2", 3, 0.31), ("$P_2$", "#0072B2", 5, 0.46)]  # name, colour, cells drawn, score
_CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
_TEXT, _OFF = "#f1e3c6", "#eceff1"
_WORDS = ["Who", "wrote", "Ulysses", "?"]
_WEIGHTS = [  # of each word on each cell of the prompts
    [0.10, 0.25, 0.12, 0.2, 0.5, 0.3, 0.35, 0.2],
    [0.15, 0.1, 0.22, 0.3, 0.35, 0.55, 0.3, 0.4],
    [0.3, 0.4, 0.2, 0.5, 0.8, 0.6, 0.75, 0.55],
    [0.1, 0.2, 0.15, 0.35, 0.4, 0.3, 0.5, 0.45],
]
_STEPS = [  # left and right edge of a column, its head and text
    (1, 30, "1  Encode once", "each prompt alone, from position 0;\nits keys and values are cached"),
    (
        34,
        66,
        "2  Score at the first layer",
        "attention of the question's tokens on each\nprompt, averaged: one score per prompt",
    ),
    (
        69,
        99,
        "3  Keep the winner",
        "the other prompt is masked before the\nsoftmax, in every layer; text starts at $n_i$",
    ),
]


def figure3(data: GridData, title: str) -> Figure:
    """Prompts encoded once; scores at the first layer from the context's attention; losers masked everywhere."""
    if not any(method["kind"] == "idp" for method in data.methods.values()):
        return absent(data, title, "an IDP method")
    figure, ax = plt.subplots(figsize=(9.2, 3.8))
    ax.set(xlim=(0, 100), ylim=(0, 50), aspect="auto")
    ax.axis("off")
    for left, right, head, text in _STEPS:
        _column(ax, left, right, head, text)
    for y, (name, colour, count, _) in zip((26, 14), _PROMPTS, strict=True):
        ax.text(3.4, y + 2.1, name, fontsize=12, va="center")
        for i in range(count):
            _box(ax, 7 + 2.6 * i, y, 2.25, 4.2, facecolor=colour, linewidth=1)
        tokens = f"{50 * (count - 1) // 2} tokens"
        ax.text(7.6 + 2.6 * count, y + 2.1, tokens, fontsize=8, color=SOFT, va="center")
    _scores(ax)
    _winner(ax)
    for ends in (((30.3, 25), (33.7, 25)), ((66.3, 25), (68.7, 25))):
        look: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 13, "color": SOFT, "linewidth": 1.4}
        ax.add_patch(FancyArrowPatch(*ends, **look))
    note = (
        "Default for rotary models (joint_mean): one softmax over all prompts and the causal text. With learned "
        "positions (OPT) each prompt has its own softmax at its own offset (indep_mean). Scores drawn here are made up."
    )
    figure.set_label(note)
    return figure


def _box(ax: Axes, x: float, y: float, width: float, height: float, **look: Any) -> None:
    ax.add_patch(Rectangle((x, y), width, height, **{"edgecolor": "white", **look}))


def _column(ax: Axes, left: float, right: float, head: str, text: str) -> None:
    look: dict[str, Any] = {"facecolor": "#fbfcfd", "edgecolor": "#d5dae0", "linewidth": 1}
    shape = "round,pad=0,rounding_size=1.2"
    ax.add_patch(FancyBboxPatch((left, 1.5), right - left, 46, boxstyle=shape, **look))
    ax.text(left + 1.6, 44.2, head, fontsize=10.5, weight="bold", va="center")
    ax.text(left + 1.6, 38.6, text, fontsize=8, color=SOFT, va="center", linespacing=1.35)


def _scores(ax: Axes) -> None:
    left, top, step = 43, 27.5, 2.35
    counts = [count for _, _, count, _ in _PROMPTS]
    for row, word in enumerate(_WORDS):
        y = top - 3.4 * row
        ax.text(left - 0.8, y + 1.4, word, fontsize=8, ha="right", va="center")
        for column, weight in enumerate(_WEIGHTS[row]):
            colour = _PROMPTS[column >= counts[0]][1]
            x = left + step * column + (0.9 if column >= counts[0] else 0)
            _box(ax, x, y, step - 0.25, 2.9, facecolor=colour, alpha=0.15 + weight)
    ax.text(left - 0.8, top + 4.4, "question", fontsize=7.5, color=SOFT, ha="right", va="center")
    for start, (name, _, count, score) in zip((0, counts[0]), _PROMPTS, strict=True):
        centre = left + step * (start + count / 2) + (0.9 if start else 0)
        label, font = f"$S_{{{1 if not start else 2}}}$ = {score}", "bold" if start else "normal"
        ax.text(centre, top + 4.6, name, fontsize=10, **_CENTRED)
        ax.text(centre, 12.2, label, fontsize=9.5, weight=font, **_CENTRED)
    ax.text(50, 6.2, "argmax $S_i$  →  $P_2$", fontsize=10.5, color=INK, **_CENTRED)


def _winner(ax: Axes) -> None:
    ax.text(71, 28.8, "keys that every layer sees", fontsize=8, color=SOFT)
    x = 71.0
    for name, colour, count, _ in _PROMPTS:
        lost = name == "$P_1$"
        off = {"facecolor": _OFF, "edgecolor": "#b9c0c7", "linestyle": ":"}
        for i in range(count):
            _box(ax, x + 1.95 * i, 22, 1.75, 4.2, linewidth=0.8, **(off if lost else {"facecolor": colour}))
        if lost:
            ax.plot([x - 0.2, x + 1.95 * count], [21.6, 26.6], color="#9c1c1c", linewidth=1.4)
        label = name + (" masked" if lost else "")
        ax.text(x + 0.95 * count, 20.2, label, fontsize=8, **_CENTRED)
        x += 1.95 * count + 1.0
    for i in range(len(_WORDS)):
        _box(ax, x + 2.2 * i, 22, 2.0, 4.2, facecolor=_TEXT)
    ax.text(x + 4.4, 20.2, "question", fontsize=8, **_CENTRED)
    label = "one choice per document, shared by\nall its answers, kept while generating"
    ax.text(84, 12.2, label, fontsize=8.5, **_CENTRED)

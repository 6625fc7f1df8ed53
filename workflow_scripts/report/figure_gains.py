"""The headline figure: what each method brings back, beside what compression took, on the verdict's own metric."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from workflow_scripts.judge.results import unique
from workflow_scripts.plan.layout import Group
from workflow_scripts.report.data import GridData
from workflow_scripts.report.figure_style import (
    FAMILIES,
    INK,
    SOFT,
    absent,
    finish,
    legend,
    mark,
    name_of,
    over_replicates,
    wrapped,
)
from workflow_scripts.report.summary import NAMES, scale

ROW = 0.2  # inches of a method
BAND = "#e3e6e9"
BESIDE = 0.22  # of a row: how far g stands above the row's middle, and h below it


def gains(data: GridData, title: str) -> Figure:
    """Gain of each method on the compressed and on the dense model, beside the loss, on the verdict's metric."""
    metric = data.verdict["metric"]
    judged = {group: data.judged(group)["metrics"][metric] for group in data.groups()}
    shown = {group: found for group, found in judged.items() if found["items"] and found["methods"]}
    if not shown:
        return absent(data, title, "a recovery method of a model with an informative task")
    pair = list(dict.fromkeys(data.verdict["pair"].values()))
    kinds = list(FAMILIES)
    run = unique(method for found in shown.values() for method in found["methods"])
    rest = sorted((m for m in run if m not in pair), key=lambda m: kinds.index(data.methods[m]["kind"]))
    rows = [*(method for method in pair if method in run), *rest]
    height = max(1.6, ROW * len(rows))
    figure, axes = wrapped(len(shown), height=height, width=1.8 + 2.6 * min(len(shown), 3))
    for ax, (group, found) in zip(axes, shown.items(), strict=True):
        _panel(ax, data, group, found, rows)
    ends = np.array([ax.get_xlim() for ax in axes])
    for ax in axes:  # equal axes; `sharex` would leave a panel above an empty place without numbers
        ax.set_xlim(ends.min(), ends.max())
    for label in (label for ax in axes for label in ax.get_yticklabels() if label.get_text() in pair):
        label.set_fontweight("bold")
    legend(
        figure,
        [
            Line2D([], [], color=INK, marker="o", label="gain g on the compressed model"),
            Line2D([], [], color=INK, marker="o", markerfacecolor="white", label="gain h on the dense model"),
            Patch(facecolor=BAND, edgecolor=SOFT, label="lost by compression, L"),
        ],
        3,
    )
    return finish(figure, _notes(shown, NAMES[metric], data.verdict["parts"]))


def _panel(ax: Axes, data: GridData, group: Group, found: dict, rows: list[str]) -> None:
    factor, _, unit = scale(data.verdict["metric"])
    if loss := found["loss"]:
        if loss["low"] is not None:
            ax.axvspan(factor * loss["low"], factor * loss["high"], color=BAND, linewidth=0, zorder=0)
        ax.axvline(factor * loss["value"], color=SOFT, linewidth=1.1, linestyle="--", zorder=1)
    ax.axvline(0, color=INK, linewidth=1.1, zorder=1)
    for y, method in enumerate(rows):
        row = found["methods"].get(method, {})
        _, colour, marker, _ = FAMILIES[data.methods[method]["kind"]]
        for number, place, fill in (("gain", -BESIDE, colour), ("dense_gain", BESIDE, "white")):
            if value := row.get(number):
                width = 1.4 if fill == colour else 0.8
                if value["low"] is not None:
                    ends = factor * value["low"], factor * value["high"]
                    ax.hlines(y + place, *ends, color=colour, linewidth=width, zorder=2)
                mark(
                    ax,
                    factor * value["value"],
                    y + place,
                    marker=marker,
                    markersize=5,
                    markerfacecolor=fill,
                    markeredgecolor=colour,
                    zorder=3,
                )
    ax.set_yticks(range(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel=f"{unit} of {NAMES[data.verdict['metric']]}", title=name_of(group))


def _notes(shown: dict[Group, dict], metric: str, parts: list[dict]) -> list[str]:
    """What the marks mean, which methods were told answers (`parts` of the verdict), and which intervals cover
    replicates: those are wider, and say nothing worse."""
    notes = [
        f"Differences of {metric} over the tasks of the verdict, with 95 % intervals. The dashed line and its band "
        "are the loss: a method whose g reaches the line brings all of it back, unless its h is as large. Then it adds "
        "what the dense model lacked too. In bold: the pair that the verdict was asked of."
    ]
    run = {method for found in shown.values() for method in found["methods"]}
    told = unique(
        f"{name} ({row['task']})" for row in parts for name in row["methods"].values() if name in run
    )
    if told:
        notes.append(f"Told half of a task's answers, so their gains may be learned: {', '.join(told)}.")
    covered = {
        (g, m): row["gain_covers"] for g, found in shown.items() for m, row in found["methods"].items()
    }
    if len(set(covered.values())) > 1:
        wider = "Intervals over replicates too, which makes them wider, not worse"
        notes.append(f"{wider}: {over_replicates(covered)}.")
    return notes

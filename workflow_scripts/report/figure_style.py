"""One look for all figures: readable in grey and by the colour-blind, text as text, the same bytes every time."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from matplotlib.typing import RcKeyType

from workflow_scripts.files.artifacts import atomic_path
from workflow_scripts.plan.layout import Group
from workflow_scripts.report.data import GridData
from workflow_scripts.report.svg import NOTHING

LineStyle = Literal["-", "--", "-.", ":"]
INK, SOFT = "#1c2126", "#565d64"
KEPT = "\N{NO-BREAK SPACE}"  # where a line of text is not broken
AVERAGE = "average accuracy (%)"  # label of an axis
# Okabe and Ito's palette (no yellow); each family also has its own marker and, in bars, its own hatch.
FAMILIES = {  # kind -> label, colour, marker, hatch
    "none": ("no recovery", "#000000", "P", ""),
    "lora": ("LoRA", "#D55E00", "s", "//"),
    "peft": ("other PEFT methods", "#44AA99", "<", "\\\\.."),
    "eora": ("EoRA repair", "#8C510A", "h", "\\\\//"),
    "prompt": ("prompt tuning", "#0072B2", "o", ""),
    "prefix": ("prefix tuning", "#009E73", "^", ".."),
    "concat": ("concatenated prompts", "#CC79A7", "X", "xx"),
    "idp": ("IDP", "#7A3E9D", "D", "\\\\"),
    "text": ("written instruction", "#E69F00", "v", "--"),
    "context": ("open book", "#7F7F7F", "p", "oo"),
    "fewshot": ("few-shot examples", "#56B4E9", "*", "++"),
}
PAIRED = "Methods share their items: compare them by the tables' paired gains."
HOLLOW = "Hollow marks: printed in the paper, which does not say for which corpus."
SERIES: list[tuple[str, str, LineStyle]] = [  # colour, marker, line style for corpora and compressors
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "^", "-."),
    ("#CC79A7", "D", ":"),
    ("#56B4E9", "v", "-"),
    ("#E69F00", "P", "--"),
    ("#000000", "X", "-."),
]


PARAMETERS: dict[RcKeyType, Any] = {  # of matplotlib
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e6e9ec",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "displaced",
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
}


def use_style() -> None:
    """Set the theme; DejaVu Sans comes with matplotlib, the other families have its widths elsewhere."""
    sns.set_theme(context="paper", style="ticks", font="sans-serif")
    plt.rcParams.update(PARAMETERS)


def panels(
    rows: int, columns: int, height: float = 2.7, width: float | None = None, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A grid of axes, always as a 2D array; `height` in inches per row."""
    width = width or min(11, max(5.5, 1.2 + 3.2 * columns))
    return plt.subplots(rows, columns, figsize=(width, 0.9 + height * rows), squeeze=False, **options)


def point(axes: Axes, x: float, value: dict, colour: str, marker: str, size: float = 6) -> None:
    """A mark with its interval, if there is one."""
    if value["low"] is not None:
        axes.vlines(x, value["low"], value["high"], color=colour, linewidth=1.3, alpha=0.85, zorder=2)
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.6}
    mark(axes, x, value["value"], marker=marker, color=colour, markersize=size, zorder=3, **edge)


def hollow(axes: Axes, x: float, y: float, colour: str, marker: str) -> None:
    """A printed value of the paper."""
    edge = {"markeredgecolor": colour, "markeredgewidth": 1.2}
    mark(axes, x, y, marker=marker, markerfacecolor="white", markersize=7, zorder=4, **edge)


def mark(axes: Axes, x: float, y: float, **look: Any) -> None:
    """One mark without a line."""
    axes.plot(x, y, linestyle="none", **look)


def level(axes: Axes, value: dict | None, label: str, style: str, below: bool = False) -> None:
    """A horizontal reference line (dense, no recovery), named at its right end, above or below it."""
    if value:
        axes.axhline(value["value"], color=INK, linestyle=style, linewidth=1.1, zorder=1)
        place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        place |= {"xytext": (3, 0), "ha": "left", "va": "top" if below else "bottom"}
        axes.annotate(label, (1, value["value"]), fontsize=8, color=INK, annotation_clip=False, **place)


def legend(figure: Figure, handles: list, columns: int = 4) -> None:
    """One legend over the panels, equal labels once, in as many columns as there is room."""
    by_label = {handle.get_label(): handle for handle in handles}
    for count in range(min(columns, len(by_label)), 0, -1):
        box = figure.legend(by_label.values(), by_label.keys(), loc="outside upper left", ncols=count)
        if count == 1 or box.get_window_extent().width <= figure.bbox.width:
            return
        box.remove()  # it would be cut off


def wrapped(count: int, columns: int = 3, **size: Any) -> tuple[Figure, Any]:
    """`count` axes in rows of `columns`, as a flat sequence; the axes of a row share their y axis."""
    figure, axes = panels(-(-count // columns), min(count, columns), sharey="row", **size)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return figure, axes.flat[:count]


def label_y(axes: Axes, label: str) -> None:
    """The label of a row's shared y axis, at its first panel."""
    place = axes.get_subplotspec()
    if place is None or place.is_first_col():
        axes.set_ylabel(label)


def short_number(value: float, _: int | None = None) -> str:
    """A large number on an axis: 30k, 1M, 1.5B."""
    for factor, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"


def name_of(group: Group) -> str:
    """A panel's title."""
    return f"{group.model}, {group.compressor}\n({group.corpus})"


def intervals(data: GridData, shown: Mapping[Group, Sequence[str]]) -> str:
    """What the intervals of the drawn averages cover, and how to compare them. shown: group -> methods.

    An interval over replicates too is wider than one over items alone: a reader would take it for a worse method.
    """
    covered = {(group, m): data.covers(group, m) for group, methods in shown.items() for m in methods}
    if all("replicates" in covers for covers in covered.values()):
        return f"Intervals: 95 %, bootstrap over items{' and replicates' if covered else ''}. {PAIRED}"
    names = over_replicates(covered)
    also = f"; of {names} over replicates too, which makes these wider, not worse" if names else ""
    return f"Intervals: 95 %, bootstrap over items{also}. {PAIRED}"


def over_replicates(covered: Mapping[tuple[Group, str], str]) -> str:
    """ "lora-r2, idp-50-100 (gptq-w3, c4); lora-r2 (rtn-w3, c4)": the methods whose intervals cover replicates too.

    covered: (group, method) -> what its interval covers.
    """
    named: dict[Group, list[str]] = {}
    for (group, method), covers in covered.items():
        if "replicates" in covers:
            named.setdefault(group, []).append(method)
    return "; ".join(f"{', '.join(names)} ({g.compressor}, {g.corpus})" for g, names in named.items())


def finish(figure: Figure, notes: list[str], key: Sequence[str] = ()) -> Figure:
    """Keep the notes for the figure's one caption, as its label; below the panels the key. The page names the cells
    that no figure has, once."""
    figure.set_label(" ".join(notes))
    if key:
        _below(figure, ",  ".join(entry.replace(" ", KEPT) for entry in key), 8.5, INK)
    return figure


def _below(figure: Figure, text: str, size: float, colour: str) -> None:
    lines = textwrap.wrap(text, int(12 * figure.get_figwidth()), break_on_hyphens=False)
    text = "\n".join(lines).replace(KEPT, " ")
    figure.supxlabel(text, fontsize=size, color=colour, x=0.01, ha="left")


def absent(data: GridData, title: str, need: str, planned: bool = False) -> Figure:
    """The figure of a grid without its data: never planned or, if cells are missing or `planned`, not yet made."""
    figure, axes = plt.subplots(figsize=(6.5, 1.5))
    axes.axis("off")
    axes.text(0, 1, title, fontsize=10.5, weight="bold", va="top", transform=axes.transAxes)
    so_far = planned or data.results.missing
    lacks = "Nothing to draw so far, for want of" if so_far else "Not in this grid:"
    text = textwrap.fill(f"{lacks} {need}.", 85)
    axes.text(0, 0.5, text, fontsize=9, va="top", color=SOFT, transform=axes.transAxes)
    if missing := data.results.missing_in_words():
        _below(figure, missing.replace(" / ", f"{KEPT}/{KEPT}"), 8, SOFT)
    return finish(figure, [NOTHING])


def save(figure: Figure, outputs: list[str], title: str) -> None:
    """Write .svg and .pdf, its notes in their metadata, without dates or random ids; anything else by its suffix."""
    figure.draw_without_rendering()  # the layout is solved once, not once per format
    figure.set_layout_engine("none")
    for axes in figure.axes:  # the solver's last digits depend on the processor, and ids are made of them
        axes.set_position(Bbox.from_bounds(*(round(edge, 6) for edge in axes.get_position().bounds)))
    notes = str(figure.get_label())
    for output in map(Path, outputs):
        metadata = {
            ".svg": {"Date": None, "Title": title, "Description": notes},
            ".pdf": {"CreationDate": None, "Title": title, "Subject": notes},
        }
        with atomic_path(output) as temporary:
            figure.savefig(temporary, format=output.suffix[1:], metadata=metadata.get(output.suffix), dpi=150)
    plt.close(figure)

"""Figure 5 (similarity to the dense model), training curves and latency."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from workflow_scripts.judge.results import unique
from workflow_scripts.plan.layout import Cell, result_of
from workflow_scripts.report.data import GridData
from workflow_scripts.report.figure_lines import Name, spread_names
from workflow_scripts.report.figure_style import (
    FAMILIES,
    LineStyle,
    absent,
    finish,
    label_y,
    legend,
    name_of,
    panels,
    short_number,
    wrapped,
)

_VARIANTS = {  # how a method was applied -> its family, words beside its name
    "none": ("none", ""),
    "prompt": ("prompt", ", prepended"),
    "prompt_cached": ("prompt", ", cached"),
    "prefix": ("prefix", ""),
    "idp": ("idp", ""),
    "idp_mixed": ("idp", ", rows mixed"),
    "concat": ("concat", ""),
    "lora": ("lora", ", unmerged"),
    "lora_merged": ("lora", ", merged"),
    "peft": ("peft", ", unmerged"),
    "eora": ("eora", ", unmerged"),
    "eora_merged": ("eora", ", merged"),
}
SMOOTHED = 5  # points of a training curve whose mean is drawn; of a long curve a twentieth
_STYLES: list[LineStyle] = ["-", "--", "-.", ":"]


def method_style(data: GridData, methods: list[str]) -> dict[str, tuple[str, str, LineStyle]]:
    """method -> colour and marker of its family, and a line style.

    The style tells a family's members apart, and in grey as many methods of all families as there are styles.
    """
    styles: dict[str, tuple[str, str, LineStyle]] = {}
    used: dict[str, list[str]] = {}
    for method in methods:
        kind, first = data.methods[method]["kind"], len(styles) % len(_STYLES)
        taken = used.setdefault(kind, [])
        style = next((s for s in [*_STYLES[first:], *_STYLES] if s not in taken), _STYLES[first])
        taken.append(style)
        styles[method] = (FAMILIES[kind][1], FAMILIES[kind][2], style)
    return styles


def training(data: GridData, title: str) -> Figure:
    """Training loss of every adapter against tokens seen; at the right end, the held-out loss."""
    records = data.records("training")
    if not records:
        return absent(data, title, "a trained adapter")
    cells = {path: Cell.of(result_of(path)[1]) for path in records if records[path]["loss_curve"]}
    groups = unique(cell.group for cell in cells.values())
    if not groups:
        return absent(data, title, "an adapter that is trained, not computed")
    styles = method_style(data, unique(cell.method for cell in cells.values()))
    figure, axes = wrapped(len(groups), height=3.1)
    ends: dict[tuple[Axes, str], Name] = {}
    for ax, group in zip(axes, groups, strict=True):
        for path, cell in cells.items():
            if cell.group == group:
                end = _loss_curve(ax, records[path], styles[cell.method])
                ends.setdefault((ax, cell.method), Name(ax, *end, cell.method))
        ax.set(xlabel="training tokens")
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(FuncFormatter(short_number))
        label_y(ax, "loss (nats per token)")
        ax.set_title(name_of(group))
    notes = [
        f"Faint: training loss; lines: its running mean ({SMOOTHED} points, or a twentieth of a long curve). Hollow "
        "marks: loss on held-out windows after training."
    ]
    towards = [m for m in styles if (data.methods[m].get("training") or {}).get("objective") == "kl_dense"]
    if towards:
        notes.append(f"Training loss of {', '.join(towards)}: divergence from the dense model.")
    return spread_names(finish(figure, notes), ends.values())


def _loss_curve(ax: Axes, record: dict, look: tuple[str, str, LineStyle]) -> tuple[float, float]:
    """One adapter's curve; returns its end."""
    colour, marker, style = look
    tokens, losses = zip(*record["loss_curve"], strict=True)
    ax.plot(tokens, losses, "-", color=colour, linewidth=0.7, alpha=0.25)
    smooth = pd.Series(losses).rolling(max(SMOOTHED, len(losses) // 20), center=True, min_periods=1).mean()
    ax.plot(tokens, smooth, style, color=colour, linewidth=1.4)
    heldout = record["heldout_loss"]["after"]
    ax.plot(tokens[-1], heldout, marker, markeredgecolor=colour, markerfacecolor="white", markersize=6)
    return tokens[-1], smooth.iloc[-1]


def _handles(styles: dict[str, tuple[str, str, LineStyle]]) -> list[Line2D]:
    """A legend's handles, one per method."""
    return [
        Line2D([], [], color=colour, marker=marker, linestyle=style, label=method)
        for method, (colour, marker, style) in styles.items()
    ]


def figure5(data: GridData, title: str) -> Figure:
    """Layerwise cosine similarity to the dense model, of attention and of token activations, for each method."""
    records = list(data.records("similarity").values())
    if not records:
        return _unmeasured(data, title, "similarity")
    cells = [Cell.of(record["cell"]) for record in records]
    groups = unique(cell.group for cell in cells)
    styles = method_style(data, unique(cell.method for cell in cells))
    columns, kinds = min(3, len(groups)), ("attention", "activations")
    figure, axes = panels(len(kinds) * -(-len(groups) // columns), columns, sharey="row")
    for ax in axes.flat:
        ax.axis("off")
    for number, group in enumerate(groups):
        for row, measure in enumerate(kinds):
            ax = axes[len(kinds) * (number // columns) + row, number % columns]
            ax.axis("on")
            for cell, record in zip(cells, records, strict=True):
                if cell.group == group:
                    (colour, marker, style), values = styles[cell.method], record[measure]
                    look = {"color": colour, "marker": marker, "markersize": 3, "linewidth": 1.1}
                    ax.plot(range(len(values)), values, style, **look)
            ax.set(xlabel="layer")
            label_y(ax, "cosine similarity to dense")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            label = "token activations" if measure == "activations" else measure
            ax.set_title(f"{name_of(group)} {label}")
    legend(figure, _handles(styles), 5)
    note = "Attention over text tokens only: the prompt's columns removed, rows renormalised."
    return finish(figure, [note, *_incomplete(data, "similarity")])


def latency(data: GridData, title: str) -> Figure:
    """Time of a forward pass and of one generated token for each method, medians with intervals."""
    records = list(data.records("latency").values())
    if not records:
        return _unmeasured(data, title, "latency")
    height = 0.6 + 0.27 * max(len(record["latencies"]) for record in records)
    figure, axes = panels(len(records), 2, height, 9, sharey="row")
    for row, record in zip(axes, records, strict=True):
        entries, place, shape = record["latencies"], record["place"], record["shape"]
        for ax, measure in zip(row, ("prefill", "token"), strict=True):
            _times(ax, entries, measure)
        row[0].set_yticks(range(len(entries)), [_applied(entry) for entry in entries])
        row[0].invert_yaxis()
        size = f"batch {shape['batch']}, {shape['sequence']} tokens, {shape['precision']}"
        row[0].set_title(f"{place['model']}, {place['compressor']} ({place['corpus']}): {size}")
    devices = "; ".join(unique(record["manifest"]["device"] for record in records))
    note = (
        f"{latency_intervals(records)}; × is the ratio to no method, paired within rounds. Device: {devices}."
    )
    note += "".join(_mixed(record) for record in records)
    return finish(figure, [note, *_incomplete(data, "latency")])


def _times(ax: Axes, entries: list[dict], measure: str) -> None:
    """Medians with intervals of one panel, one method above the other."""
    for y, entry in enumerate(entries):
        if value := entry[measure]:
            _, colour, marker, _ = FAMILIES[_VARIANTS[entry["variant"]][0]]
            ax.hlines(y, value["low"], value["high"], color=colour, linewidth=1.5)
            ax.plot(value["median"], y, marker, color=colour, markersize=6)
            ratio = f" ×{entry[f'{measure}_ratio']['median']:.2f}" if entry["variant"] != "none" else ""
            place: dict[str, Any] = {"xytext": (3, 0), "textcoords": "offset points", "va": "center"}
            ax.annotate(ratio, (value["high"], y), fontsize=8, **place)
    label = "generated token" if measure == "token" else "forward pass"
    ax.set(xlabel=f"seconds per {label}", xlim=(0, None))
    ax.margins(x=0.16)
    ax.grid(axis="y", visible=False)


def _applied(entry: dict) -> str:
    """A method and how it was applied."""
    return f"{entry['method']}{_VARIANTS[entry['variant']][1]}"


def _mixed(record: dict) -> str:
    """A record's rows that were served with several prompts at once: their times and shares."""
    caption = ""
    for entry in record["latencies"]:
        named = f" {_applied(entry)} on {record['place']['compressor']}"
        for member, value in entry.get("cached_ratio", {}).items():
            spread = f"{value['median']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
            caption += f"{named}: ×{spread} of {member} cached."
        if shares := entry.get("shares"):
            served = ", ".join(f"{member} {share:.0%}" for member, share in shares.items())
            caption += f"{named} served rows with {served}."
    return caption


def latency_intervals(records: list[dict]) -> str:
    """The kind of a latency's intervals, with the coverage of the one that covers least."""
    least = min(entry["prefill"].get("coverage", 0) for record in records for entry in record["latencies"])
    if not least:  # of an older measurement
        return "Medians with percentile bootstrap intervals, which on few rounds cover less than 95 %"
    if least < 0.95:
        return f"Medians with the range of all rounds, which covers the true median at {100 * least:.1f} %"
    return f"Medians with 95 % intervals (order statistics, covering {100 * least:.1f} %)"


def _unmeasured(data: GridData, title: str, kind: str) -> Figure:
    """The figure if nothing was measured; it says whether the grid plans such a measurement."""
    planned, key = data.planned.get(kind, 0), f"grids.{data.results.grid}.{kind} in config.yaml"
    need = f"a {kind} measurement ({f'{planned} planned, none run; ' if planned else ''}{key})"
    return absent(data, title, need, planned=planned > 0)


def _incomplete(data: GridData, kind: str) -> list[str]:
    """A line if only a part of the planned measurements exists."""
    measured, planned = len(data.records(kind)), data.planned.get(kind, 0)
    return [f"{measured} of {planned} planned measurements exist."] if measured < planned else []

"""Figures 1, 2, 4 and 6: accuracy against compression, perplexity, size and prompt length."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from workflow_scripts.judge import paper
from workflow_scripts.judge.catalogue import member_names, sparsity
from workflow_scripts.judge.perplexity import heldout, protocol
from workflow_scripts.judge.results import unique
from workflow_scripts.plan.layout import NO_CORPUS, Group
from workflow_scripts.report.data import GridData
from workflow_scripts.report.figure_lines import BESIDE, JOINED, Name, beside, draw_series, place_names
from workflow_scripts.report.figure_style import (
    AVERAGE,
    FAMILIES,
    HOLLOW,
    INK,
    SERIES,
    SOFT,
    LineStyle,
    absent,
    finish,
    hollow,
    intervals,
    label_y,
    legend,
    level,
    name_of,
    panels,
    point,
    short_number,
    wrapped,
)

FEW = 8  # methods whose names have room in a panel of the usual height
PROMPT = "prompt-"  # of the names of prompts, left out in figure 2
SWEEPS = {  # of figure 1 -> label of its axis, word in its titles
    "bits": ("bits per weight, overhead included", "quantisation"),
    "sparsity": ("zero weights (%)", "sparsity"),
}


def figure1(data: GridData, title: str) -> Figure:
    """Average accuracy of the compressed models against bits per weight and against sparsity, by corpus."""
    groups = [g for g in data.groups(recovered=False) if data.average(g, "none")]
    bits = {g: _bits(data, g) for g in groups}
    zeros = {g: sparsity(data.compressors[g.compressor]) or 0 for g in groups}
    sweeps: dict[str, dict[Group, float]] = {
        "bits": {g: bits[g] for g in groups if bits[g] and not zeros[g]},
        "sparsity": {g: 100 * zeros[g] for g in groups if zeros[g] and not bits[g]},
    }
    models = unique(g.model for members in sweeps.values() for g in members)
    if not models:
        return absent(
            data, title, "a model of known bits or sparsity without recovery whose tasks are all there"
        )
    figure, axes = panels(len(models), 2, sharey="row")
    lines = unique(_line(data, g) for g in groups)
    handles = []
    for row, model in zip(axes, models, strict=True):
        for ax, (sweep, members) in zip(row, sweeps.items(), strict=True):
            mine = {group: x for group, x in members.items() if group.model == model}
            if not mine:
                ax.axis("off")
                so_far = "so far" if data.results.missing else "in this grid"
                message = f"{model}: no cell of a {sweep} sweep\n{so_far}"
                ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", color=SOFT)
                continue
            level(ax, data.average(next(iter(mine)), "dense"), "dense", "--")
            handles += _sweep(ax, data, lines, mine)
            ax.margins(x=0.08)
            if sweep == "bits":
                ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
                ax.invert_xaxis()
            else:
                ax.set_xticks(sorted(set(members.values())))
            ax.xaxis.set_major_formatter("{x:g}")
            label, word = SWEEPS[sweep]
            ax.set_xlabel(label)
            ax.set_title(f"{model}: {word}")
        row[0].set_ylabel(AVERAGE)
    legend(figure, handles, 3)
    return finish(
        figure,
        [intervals(data, {group: ["none"] for group in groups}), *_hollow_note(data, groups, ["none"])],
    )


def _bits(data: GridData, group: Group) -> float:
    """Bits that a quantised model stores per weight, overhead included, mean over its copies; as its setting names them
    if no copy's record is there; 0 if nothing is quantised."""
    named = data.compressors[group.compressor].get("bits") or 0
    stored = [
        record["effective_bits"]
        for path, record in data.records("compression").items()
        if Group.at(path) == group
    ]
    return float(np.mean(stored)) if named and stored else named


def _sweep(ax: Axes, data: GridData, lines: list[str], members: dict[Group, float]) -> list[Line2D]:
    """One model's lines; members: group -> its place on the axis. Returns the legend's handles."""
    handles = []
    for number, line in enumerate(lines):
        colour, marker, style = SERIES[number % len(SERIES)]
        on_line = sorted((x, group) for group, x in members.items() if _line(data, group) == line)
        if on_line:
            values = [data.drawn_average(group, "none") for _, group in on_line]
            heights = [value["value"] for value in values]
            ax.plot([x for x, _ in on_line], heights, style, color=colour, linewidth=1.2, zorder=2)
            for (x, group), value in zip(on_line, values, strict=True):
                point(ax, x, value, colour, marker)
                _printed(ax, x, _printed_average(data, group, "none"), INK, "o")
            handles.append(Line2D([], [], color=colour, marker=marker, linestyle=style, label=line))
    return handles


def _line(data: GridData, group: Group) -> str:
    settings = data.compressors[group.compressor]
    size = f", groups of {settings['group_size']}" if settings.get("group_size") else ""
    pattern = f", {settings['pattern']}" if settings.get("pattern") else ""
    corpus = "" if group.corpus == NO_CORPUS else f" ({group.corpus})"
    return f"{settings['algorithm']}{size}{pattern}{corpus}"


def figure2(data: GridData, title: str) -> Figure:
    """Perplexity against average accuracy as the prompt grows: better text models need not answer better."""
    shown = {}
    for group in data.groups():
        prompts = _trained_prompts(data, group)
        if prompts and data.average(group, "none"):
            shown[group] = ["none", *sorted(prompts, key=data.tokens)]
    if not shown:
        return absent(data, title, "a compressed model with and without a trained prompt")
    columns = unique((g.model, g.compressor) for g in shown)
    figure, axes = wrapped(len(columns), height=3.1)
    corpora, handles, names = unique(g.corpus for g in shown), [], []
    protocols = unique(protocol(data.evaluation(g, m)) for g, methods in shown.items() for m in methods)
    for ax, column in zip(axes, columns, strict=True):
        for group, methods in shown.items():
            if (group.model, group.compressor) == column:
                look = SERIES[corpora.index(group.corpus) % len(SERIES)]
                names += _prompt_path(ax, data, group, methods, look)
                colour, marker, style = look
                handles.append(
                    Line2D([], [], color=colour, marker=marker, linestyle=style, label=group.corpus)
                )
        ax.set_title(", ".join(column))
        label = f"held-out perplexity ({', '.join(protocols)}, per token)"
        ax.set(xlabel=label, xscale="log")
        label_y(ax, AVERAGE)
        ax.margins(x=0.15)
        low, high = ax.get_xlim()
        few = (
            MaxNLocator(5, steps=[1, 2, 5, 10]) if high < 3 * low else LogLocator(subs=(1, 2, 5), numticks=9)
        )
        ax.xaxis.set_major_locator(few)
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
    legend(figure, handles)
    notes = [intervals(data, shown), f"Named by prompt: 50 is {PROMPT}50.", JOINED]
    return place_names(finish(figure, notes), names)


def _prompt_path(
    ax: Axes, data: GridData, group: Group, methods: list[str], look: tuple[str, str, LineStyle]
) -> list[Name]:
    """One corpus of figure 2: lines from the shortest to the longest prompt; returns the names of all points."""
    cells = {m: data.cell(group, m) for m in methods}
    perplexities = {m: x for m, cell in cells.items() if (x := heldout(data.results, cell)) is not None}
    points = {m: (x, data.drawn_average(group, m)) for m, x in perplexities.items()}
    draw_series(ax, data.methods, points, look)
    return [Name(ax, x, y["value"], method.removeprefix(PROMPT)) for method, (x, y) in points.items()]


def figure4(data: GridData, title: str) -> Figure:
    """Average accuracy against the parameters that a method adds."""
    groups = [
        g for g in data.groups() if data.average(g, "none") and any(_sizes(data, g, k) for k in FAMILIES)
    ]
    if not groups:
        return absent(data, title, "a compressed model with and without a method that adds parameters")
    crowded = max(len(data.results.methods(group)) for group in groups) > FEW
    figure, axes = wrapped(len(groups), height=3.1 if crowded else 2.7)
    handles, names, drawn = [], [], {}
    for ax, group in zip(axes, groups, strict=True):
        _levels(ax, data, group)
        sizes = {kind: found for kind in FAMILIES if (found := _sizes(data, group, kind))}
        names += _families(ax, data, group, sizes, log=True)
        drawn[group] = [method for found in sizes.values() for method in found]
        looks = [FAMILIES[kind] for kind in sizes]
        handles += [Line2D([], [], color=colour, marker=marker, label=t) for t, colour, marker, _ in looks]
        ax.margins(x=0.1)
        ax.set(xscale="log", xlabel="parameters added")
        label_y(ax, AVERAGE)
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3) if high < 1e4 * low else (1,), numticks=9))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_formatter(FuncFormatter(short_number))
        ax.set_title(name_of(group))
    legend(figure, handles, 5)
    methods = unique(m for g in groups for m in data.results.methods(g))
    notes = [intervals(data, drawn), JOINED, BESIDE, *_hollow_note(data, groups, methods)]
    return place_names(finish(figure, notes), names)


def _sizes(data: GridData, group: Group, kind: str) -> dict[str, float]:
    """The group's trained methods of one kind -> the parameters that they add."""
    found = {}
    for method in data.results.methods(group):
        settings = data.methods[method]
        shown = settings["kind"] == kind and settings.get("trained", True) and data.average(group, method)
        if shown and (size := _parameters(data, group, method)):  # a log axis has no place for 0
            found[method] = size
    return found


def _families(
    ax: Axes, data: GridData, group: Group, sizes: dict[str, dict[str, float]], log: bool
) -> list[Name]:
    """Methods by kind at their places on the x axis; returns the names that are to stand beside them."""
    places = beside({method: size for found in sizes.values() for method, size in found.items()}, log)
    names = []
    for kind, found in sizes.items():
        _, colour, marker, _ = FAMILIES[kind]
        ordered = sorted(found, key=lambda method: found[method])
        points = {method: (places[method], data.drawn_average(group, method)) for method in ordered}
        names += draw_series(ax, data.methods, points, (colour, marker, "-"))
        for method, (x, _) in points.items():
            _printed(ax, x, _printed_average(data, group, method), colour, marker)
    return names


def figure6(data: GridData, title: str) -> Figure:
    """IDP's average accuracy against the mean length of its prompts, beside single prompts of that length."""
    dynamic = {group: _dynamic(data, group) for group in data.groups()}
    shown = [group for group, methods in dynamic.items() if methods]
    if not shown:
        return absent(data, title, "an IDP cell whose tasks are all there")
    figure, axes = wrapped(len(shown), height=3.1)
    names = []
    for ax, group in zip(axes, shown, strict=True):
        _levels(ax, data, group)
        lengths: dict[str, dict[str, float]] = {
            "prompt": {m: data.tokens(m) for m in _trained_prompts(data, group)},
            "idp": {m: _mean_length(data, m) for m in dynamic[group]},
        }
        names += _families(ax, data, group, lengths, log=False)
        ax.set(xlabel="prompt tokens (IDP: mean of its prompts)")
        label_y(ax, AVERAGE)
        ax.set_title(name_of(group))
    labels = {"idp": "IDP", "prompt": "one prompt of that length"}
    looks = [(text, *FAMILIES[kind][1:3]) for kind, text in labels.items()]
    legend(figure, [Line2D([], [], color=colour, marker=marker, label=t) for t, colour, marker in looks])
    drawn = {g: [*_trained_prompts(data, g), *dynamic[g]] for g in shown}
    methods = unique(m for found in drawn.values() for m in found)
    notes = [intervals(data, drawn), JOINED, BESIDE, *_hollow_note(data, shown, methods)]
    return place_names(finish(figure, notes), names)


def _levels(ax: Axes, data: GridData, group: Group) -> None:
    """The dense and the compressed model as lines, the better one named above its line, the other below."""
    dense, compressed = data.average(group, "dense"), data.average(group, "none")
    swapped = bool(dense and compressed and dense["value"] < compressed["value"])
    level(ax, dense, "dense", "--", below=swapped)
    level(ax, compressed, "compressed", "-", below=not swapped)


def _dynamic(data: GridData, group: Group) -> list[str]:
    methods = data.results.methods(group)
    return [m for m in methods if data.methods[m]["kind"] == "idp" and data.average(group, m)]


def _mean_length(data: GridData, method: str) -> float:
    return float(np.mean([data.tokens(member) for member in member_names(data.methods[method])]))


def _trained_prompts(data: GridData, group: Group) -> list[str]:
    """Prompts of the group that were trained and whose average is complete."""
    prompts = (m for m in data.results.methods(group) if data.methods[m]["kind"] == "prompt")
    return [m for m in prompts if data.methods[m].get("trained", True) and data.average(group, m)]


def _parameters(data: GridData, group: Group, method: str) -> float:
    return data.evaluation(group, method)["parameters"]["effective"]


def _printed_average(data: GridData, group: Group, method: str) -> float | None:
    for table in (1, 2, 3):
        if found := paper.printed(data.printed, table, group.model, group.compressor, method):
            return found["Average"]
    return None


def _printed(ax: Axes, x: float, value: float | None, colour: str, marker: str) -> None:
    if value is not None:
        hollow(ax, x, value, colour, marker)


def _hollow_note(data: GridData, groups: list[Group], methods: list[str]) -> list[str]:
    return [HOLLOW] if any(_printed_average(data, g, m) is not None for g in groups for m in methods) else []

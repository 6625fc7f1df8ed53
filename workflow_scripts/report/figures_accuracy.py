"""Figures 1, 2, 4 and 6: accuracy against compression, perplexity, size and prompt length."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from workflow_scripts.judge import paper
from workflow_scripts.judge.choices import member_names
from workflow_scripts.judge.results import unique
from workflow_scripts.plan.layout import NO_CORPUS, Group
from workflow_scripts.report.figure_style import (
    FAMILIES,
    HOLLOW,
    INK,
    PAIRED,
    SERIES,
    SOFT,
    FigureData,
    absent,
    finish,
    hollow,
    legend,
    level,
    name_of,
    panels,
    point,
    wrapped,
)
from workflow_scripts.report.tables import sparsity

AVERAGE = "average accuracy (%)"


def figure1(data: FigureData, title: str) -> Figure:
    """Average accuracy of the compressed models against bits per weight and against sparsity, by corpus."""
    groups = [g for g in data.groups(recovered=False) if data.average(g, "none")]
    bits = {g: data.compressors[g.compressor].get("bits") for g in groups}
    zeros = {g: sparsity(data.compressors[g.compressor]) for g in groups}
    sweeps = {
        "bits": {g: bits[g] for g in groups if bits[g] and not zeros[g]},
        "sparsity": {g: 100 * zeros[g] for g in groups if zeros[g] and not bits[g]},
    }
    models = unique(g.model for g in groups)
    if not models:
        return absent(data, "figure1", title, "a compressed model without recovery whose tasks are all there")
    figure, axes = panels(len(models), 2, sharey="row")
    lines = unique(_line(data, g) for g in groups)
    handles = []
    for row, model in enumerate(models):
        for column, (axis, members) in enumerate(sweeps.items()):
            ax = axes[row, column]
            mine = [g for g in members if g.model == model]
            level(ax, data.average(mine[0], "dense") if mine else None, "dense", "--")
            if not mine:
                ax.axis("off")
                ax.text(
                    0.5,
                    0.5,
                    f"{model}: no cell of a {axis} sweep\n{'so far' if data.results.missing else 'in this grid'}",
                    transform=ax.transAxes,
                    ha="center",
                    color=SOFT,
                )
                continue
            for number, line in enumerate(lines):
                colour, marker, style = SERIES[number % len(SERIES)]
                on_line = sorted((members[g], g) for g in mine if _line(data, g) == line)
                if on_line:
                    values = [data.average(g, "none") for _, g in on_line]
                    xs = [x for x, _ in on_line]
                    ax.plot(xs, [v["value"] for v in values], style, color=colour, linewidth=1.2, zorder=2)
                    for x, value, (_, group) in zip(xs, values, on_line, strict=True):
                        point(ax, x, value, colour, marker)
                        _printed(data, ax, x, group, "none", INK, "o")
                    handles.append(Line2D([], [], color=colour, marker=marker, linestyle=style, label=line))
            ax.set_xticks(sorted(set(members.values())))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.margins(x=0.08)
            if axis == "bits":
                ax.invert_xaxis()
            ax.set_xlabel("bits per weight" if axis == "bits" else "zero weights (%)")
            ax.set_title(f"{model}: {'quantisation' if axis == 'bits' else 'sparsity'}")
        axes[row, 0].set_ylabel(AVERAGE)
    legend(figure, handles, 3)
    return finish(figure, data, "figure1", [PAIRED, *_hollow_note(data, groups, ["none"])])


def _line(data: FigureData, group: Group) -> str:
    settings = data.compressors[group.compressor]
    size = f", groups of {settings['group_size']}" if settings.get("group_size") else ""
    pattern = f", {settings['pattern']}" if settings.get("pattern") else ""
    corpus = "" if group.corpus == NO_CORPUS else f" ({group.corpus})"
    return f"{settings['algorithm']}{size}{pattern}{corpus}"


def figure2(data: FigureData, title: str) -> Figure:
    """Perplexity against average accuracy as the prompt grows: better text models need not answer better."""
    shown = {}
    for group in data.groups():
        prompts = [
            m for m in data.results.methods(group) if _is_trained_prompt(data, m) and data.average(group, m)
        ]
        if prompts and data.average(group, "none"):
            shown[group] = ["none", *sorted(prompts, key=data.tokens)]
    if not shown:
        return absent(data, "figure2", title, "a compressed model with and without a trained prompt")
    columns = unique((g.model, g.compressor) for g in shown)
    figure, axes = wrapped(len(columns))
    corpora, handles = unique(g.corpus for g in shown), []
    for ax, (model, compressor) in zip(axes, columns, strict=True):
        for group, methods in shown.items():
            if group[:2] != (model, compressor):
                continue
            colour, marker, style = SERIES[corpora.index(group.corpus) % len(SERIES)]
            above = 4 if corpora.index(group.corpus) % 2 == 0 else -10  # labels of two corpora don't meet
            values = [(_perplexity(data, group, m), data.average(group, m), m) for m in methods]
            values = [(x, y, m) for x, y, m in values if x is not None]
            ax.plot(
                [x for x, *_ in values],
                [y["value"] for _, y, _ in values],
                style,
                color=colour,
                linewidth=0.9,
                alpha=0.7,
            )
            for x, y, method in values:
                point(ax, x, y, colour, marker, 7 if method == "none" else 6)
                ax.annotate("none" if method == "none" else data.tokens(method), (x, y["value"]), xytext=(5, above),
                            textcoords="offset points", fontsize=7.5, color=colour, weight="bold")  # fmt: skip
            handles.append(Line2D([], [], color=colour, marker=marker, linestyle=style, label=group.corpus))
        ax.set_title(f"{model}, {compressor}")
        ax.set(xlabel="held-out perplexity (per token, log scale)", ylabel=AVERAGE, xscale="log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("{x:g}")
        ax.tick_params(axis="x", which="minor", labelsize=7)
    legend(figure, handles)
    return finish(figure, data, "figure2", [PAIRED, "Numbers at the marks: prompt tokens."])


def figure4(data: FigureData, title: str) -> Figure:
    """Average accuracy against the parameters that a method adds."""
    groups = [g for g in data.groups() if data.average(g, "none")]
    if not groups:
        return absent(data, "figure4", title, "a compressed model with and without a recovery method")
    figure, axes = wrapped(len(groups))
    handles = []
    for ax, group in zip(axes, groups, strict=True):
        level(ax, data.average(group, "dense"), "dense", "--")
        level(ax, data.average(group, "none"), "compressed", "-")
        for kind, (label, colour, marker, _) in FAMILIES.items():
            family = []
            for method in data.results.methods(group):
                value, settings = data.average(group, method), data.methods[method]
                shown = value and settings["kind"] == kind and settings.get("trained", True)
                if shown and (size := _parameters(data, group, method)):  # a log axis has no place for 0
                    family.append((size, value, method))
            family.sort(key=lambda entry: entry[0])
            ax.plot(
                [s for s, *_ in family],
                [v["value"] for _, v, _ in family],
                color=colour,
                linewidth=0.9,
                alpha=0.6,
            )
            for size, value, method in family:
                point(ax, size, value, colour, marker, 6.5)
                _printed(data, ax, size, group, method, colour, marker)
            if family:
                handles.append(Line2D([], [], color=colour, marker=marker, label=label))
        ax.set(xscale="log", xlabel="parameters added", ylabel=AVERAGE)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=9))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        ax.set_title(name_of(group))
    legend(figure, handles, 5)
    methods = unique(m for g in groups for m in data.results.methods(g))
    return finish(figure, data, "figure4", [PAIRED, *_hollow_note(data, groups, methods)])


def figure6(data: FigureData, title: str) -> Figure:
    """IDP's average accuracy against the mean length of its prompts, beside single prompts of that length."""
    dynamic = {
        g: [m for m in data.results.methods(g) if data.methods[m]["kind"] == "idp" and data.average(g, m)]
        for g in data.groups()
    }
    shown = [g for g, methods in dynamic.items() if methods]
    if not shown:
        return absent(data, "figure6", title, "an IDP cell whose tasks are all there")
    figure, axes = wrapped(len(shown))
    for ax, group in zip(axes, shown, strict=True):
        level(ax, data.average(group, "none"), "compressed", "-")
        level(ax, data.average(group, "dense"), "dense", "--")
        singles = [
            m for m in data.results.methods(group) if _is_trained_prompt(data, m) and data.average(group, m)
        ]
        for kind, points in (
            ("prompt", [(data.tokens(m), data.average(group, m)) for m in singles]),
            (
                "idp",
                [
                    (np.mean([data.tokens(p) for p in member_names(data.methods[m])]), data.average(group, m))
                    for m in dynamic[group]
                ],
            ),
        ):
            _, colour, marker, _ = FAMILIES[kind]
            points.sort(key=lambda entry: entry[0])
            ax.plot(
                [x for x, _ in points],
                [y["value"] for _, y in points],
                ":" if kind == "prompt" else "-",
                color=colour,
                linewidth=1,
            )
            for x, y in points:
                point(ax, x, y, colour, marker, 7 if kind == "idp" else 5)
        ax.set(xlabel="prompt tokens (IDP: mean of its prompts)", ylabel=AVERAGE)
        ax.set_title(name_of(group))
    legend(figure, [Line2D([], [], color=FAMILIES[k][1], marker=FAMILIES[k][2], label=t)
                    for k, t in (("idp", "IDP"), ("prompt", "one prompt of that length"))])  # fmt: skip
    return finish(figure, data, "figure6", [PAIRED])


def _is_trained_prompt(data: FigureData, method: str) -> bool:
    return data.methods[method]["kind"] == "prompt" and data.methods[method].get("trained", True)


def _perplexity(data: FigureData, group: Group, method: str) -> float | None:
    scores = data.results.evaluations[data.results.first(*group, method)]["perplexity"]
    chosen = scores.get(group.corpus) or next(iter(scores.values()), None)
    return chosen and chosen["token"]


def _parameters(data: FigureData, group: Group, method: str) -> float:
    return data.results.evaluations[data.results.first(*group, method)]["parameters"]["effective"]


def _printed_average(data: FigureData, group: Group, method: str) -> float | None:
    for table in (1, 2, 3):
        if found := paper.printed(data.printed, table, group.model, group.compressor, method):
            return found["Average"]
    return None


def _printed(data: FigureData, ax, x: float, group: Group, method: str, colour: str, marker: str) -> None:
    if (value := _printed_average(data, group, method)) is not None:
        hollow(ax, x, value, colour, marker)


def _hollow_note(data: FigureData, groups: list[Group], methods: list[str]) -> list[str]:
    return [HOLLOW] if any(_printed_average(data, g, m) is not None for g in groups for m in methods) else []

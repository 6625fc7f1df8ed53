"""Figures 1, 2, 4, 6 and 7: accuracy against compression, perplexity, size, prompt length and by task."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from workflow_scripts.analyze import paper
from workflow_scripts.analyze.figure_style import (
    FAMILIES,
    INK,
    SERIES,
    SOFT,
    FigureData,
    absent,
    footer,
    hollow,
    legend,
    level,
    panels,
    point,
)
from workflow_scripts.analyze.results import UNCALIBRATED, Group, unique
from workflow_scripts.analyze.tables import SHORT, member_names, sparsity

AVERAGE = "average accuracy (%)"
_BAR_COLOURS = [("#9BC4E2", ".."), ("#0072B2", ""), ("#7A3E9D", "\\\\")]


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
        return absent(title, "a compressed model without recovery whose tasks are all there")
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
                ax.text(0.5, 0.5, f"{model}: no {axis} sweep\nin this grid", transform=ax.transAxes, ha="center", color=SOFT)
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
    return _finish(figure, data, "figure1", hollow_marks=_has_printed(data, groups, ["none"]))


def _line(data: FigureData, group: Group) -> str:
    settings = data.compressors[group.compressor]
    size = f", groups of {settings['group_size']}" if settings.get("group_size") else ""
    pattern = f", {settings['pattern']}" if settings.get("pattern") else ""
    corpus = "" if group.corpus == UNCALIBRATED else f" ({group.corpus})"
    return f"{settings['algorithm']}{size}{pattern}{corpus}"


def figure2(data: FigureData, title: str) -> Figure:
    """Perplexity against average accuracy as the prompt grows: better text models need not answer better."""
    shown = {}
    for group in data.groups():
        prompts = [m for m in data.results.methods(group) if _is_trained_prompt(data, m) and data.average(group, m)]
        if prompts and data.average(group, "none"):
            shown[group] = ["none", *sorted(prompts, key=data.tokens)]
    if not shown:
        return absent(title, "a compressed model with and without a trained prompt")
    columns = unique((g.model, g.compressor) for g in shown)
    figure, axes = _wrapped(len(columns))
    corpora, handles = unique(g.corpus for g in shown), []
    for ax, (model, compressor) in zip(axes, columns, strict=True):
        for group, methods in shown.items():
            if group[:2] != (model, compressor):
                continue
            colour, marker, style = SERIES[corpora.index(group.corpus) % len(SERIES)]
            above = 4 if corpora.index(group.corpus) % 2 == 0 else -10  # labels of two corpora don't meet
            values = [(_perplexity(data, group, m), data.average(group, m), m) for m in methods]
            values = [(x, y, m) for x, y, m in values if x is not None]
            ax.plot([x for x, *_ in values], [y["value"] for _, y, _ in values], style, color=colour, linewidth=0.9, alpha=0.7)
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
    return _finish(figure, data, "figure2", ["Numbers at the marks: prompt tokens."])


def figure4(data: FigureData, title: str) -> Figure:
    """Average accuracy against the parameters that a method adds, ours filled and the paper's hollow."""
    groups = [g for g in data.groups() if data.average(g, "none")]
    if not groups:
        return absent(title, "a compressed model with and without a recovery method")
    figure, axes = _wrapped(len(groups))
    handles = []
    for ax, group in zip(axes, groups, strict=True):
        level(ax, data.average(group, "dense"), "dense", "--")
        level(ax, data.average(group, "none"), "compressed", "-")
        for kind, (label, colour, marker, _) in FAMILIES.items():
            family = []
            for method in data.results.methods(group):
                value, settings = data.average(group, method), data.methods[method]
                if value and settings["kind"] == kind and settings.get("trained", True):
                    family.append((_parameters(data, group, method), value, method))
            family.sort(key=lambda entry: entry[0])
            ax.plot([s for s, *_ in family], [v["value"] for _, v, _ in family], color=colour, linewidth=0.9, alpha=0.6)
            for size, value, method in family:
                point(ax, size, value, colour, marker, 6.5)
                _printed(data, ax, size, group, method, colour, marker)
            if family:
                handles.append(Line2D([], [], color=colour, marker=marker, label=label))
        ax.set(xscale="log", xlabel="parameters added", ylabel=AVERAGE)
        ax.set_title(_name(group))
    legend(figure, handles, 5)
    methods = unique(m for g in groups for m in data.results.methods(g))
    return _finish(figure, data, "figure4", hollow_marks=_has_printed(data, groups, methods))


def figure6(data: FigureData, title: str) -> Figure:
    """IDP's average accuracy against the mean length of its prompts, beside single prompts of that length."""
    dynamic = {g: [m for m in data.results.methods(g) if data.methods[m]["kind"] == "idp" and data.average(g, m)] for g in data.groups()}
    shown = [g for g, methods in dynamic.items() if methods]
    if not shown:
        return absent(title, "an IDP cell whose tasks are all there")
    figure, axes = _wrapped(len(shown))
    for ax, group in zip(axes, shown, strict=True):
        level(ax, data.average(group, "none"), "compressed", "-")
        level(ax, data.average(group, "dense"), "dense", "--")
        singles = [m for m in data.results.methods(group) if _is_trained_prompt(data, m) and data.average(group, m)]
        for kind, points in (
            ("prompt", [(data.tokens(m), data.average(group, m)) for m in singles]),
            ("idp", [(np.mean([data.tokens(p) for p in member_names(data.methods[m])]), data.average(group, m)) for m in dynamic[group]]),
        ):
            _, colour, marker, _ = FAMILIES[kind]
            points.sort(key=lambda entry: entry[0])
            ax.plot([x for x, _ in points], [y["value"] for _, y in points], ":" if kind == "prompt" else "-", color=colour, linewidth=1)
            for x, y in points:
                point(ax, x, y, colour, marker, 7 if kind == "idp" else 5)
        ax.set(xlabel="prompt tokens (IDP: mean of its prompts)", ylabel=AVERAGE)
        ax.set_title(_name(group))
    legend(figure, [Line2D([], [], color=FAMILIES[k][1], marker=FAMILIES[k][2], label=t)
                    for k, t in (("idp", "IDP"), ("prompt", "one prompt of that length"))])  # fmt: skip
    return _finish(figure, data, "figure6")


def figure7(data: FigureData, title: str) -> Figure:
    """Change of each task's accuracy against no recovery: the small prompt, the large one, IDP over both."""
    trios = {group: trio for group in data.groups() if (trio := _trio(data, group))}
    if not trios:
        return absent(title, "an IDP method together with its smallest and largest single prompt")
    figure, axes = _wrapped(len(trios), 1 if len(trios) < 3 else 2, height=2.2, width=8 if len(trios) < 3 else 13)
    handles = []
    for ax, (group, trio) in zip(axes, trios.items(), strict=True):
        judged = next(g for g in data.verdict["groups"] if Group(g["model"], g["compressor"], g["corpus"]) == group)
        tasks = [task for task in data.tasks if all(task in judged["tasks"].get(m, {}) for m in trio)]
        names = [*(SHORT.get(task, task) for task in tasks), "Average"]
        for position, (method, (colour, hatch)) in enumerate(zip(trio, _BAR_COLOURS, strict=True)):
            changes = [judged["tasks"][method][task]["difference"] for task in tasks]
            average = judged["metrics"]["accuracy"]["methods"].get(method)
            changes.append(average["gain"] if average else {"value": np.nan, "low": None, "high": None})
            xs = np.arange(len(names)) + 0.27 * (position - 1)
            ax.bar(xs, [100 * c["value"] for c in changes], 0.25, color=colour, hatch=hatch, edgecolor="white", linewidth=0.5)
            for x, change in zip(xs, changes, strict=True):
                if change["low"] is not None:
                    ax.vlines(x, 100 * change["low"], 100 * change["high"], color=INK, linewidth=0.9)
            handles.append(Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=_trio_label(data, method)))
        ax.axhline(0, color=INK, linewidth=0.9)
        ax.axvline(len(tasks) - 0.5, color=SOFT, linewidth=0.7, linestyle=":")
        ax.set_xticks(range(len(names)), names, fontsize=7)
        ax.grid(axis="x", visible=False)
        ax.set(ylabel="change (points)")
        ax.set_title(_name(group))
    legend(figure, handles, 3)
    note = "Lines at a task: 95 % interval of the paired difference (Agresti and Min); at Average: paired bootstrap."
    return _finish(figure, data, "figure7", [note])


def _trio(data: FigureData, group: Group) -> list[str] | None:
    planned = data.results.methods(group)
    dynamic = sorted((m for m in planned if data.methods[m]["kind"] == "idp"), key=lambda m: m != data.pair["prompt"])
    for method in dynamic:
        members = sorted(set(member_names(data.methods[method])), key=data.tokens)
        trio = [members[0], members[-1], method]
        if len(members) > 1 and all(data.results.first(*group, name) for name in (*trio, "none")):
            return trio
    return None


def _trio_label(data: FigureData, method: str) -> str:
    return f"{method}" if data.methods[method]["kind"] == "idp" else f"{method} alone"


def _is_trained_prompt(data: FigureData, method: str) -> bool:
    return data.methods[method]["kind"] == "prompt" and data.methods[method].get("trained", True)


def _perplexity(data: FigureData, group: Group, method: str) -> float | None:
    scores = data.results.evaluations[data.results.first(*group, method)]["perplexity"]
    chosen = scores.get(group.corpus) or next(iter(scores.values()), None)
    return chosen and chosen["token"]


def _parameters(data: FigureData, group: Group, method: str) -> float:
    return data.results.evaluations[data.results.first(*group, method)]["parameters"]["effective"]


def _wrapped(count: int, columns: int = 3, **size):
    figure, axes = panels(-(-count // columns), min(count, columns), **size)
    for ax in axes.flat[count:]:
        ax.axis("off")
    return figure, axes.flat[:count]


def _name(group: Group) -> str:
    return f"{group.model}, {group.compressor}\n({group.corpus})"


def _printed_average(data: FigureData, group: Group, method: str) -> float | None:
    for table in (1, 2, 3):
        if found := paper.printed(data.printed, table, group.model, group.compressor, method):
            return found["Average"]
    return None


def _printed(data: FigureData, ax, x: float, group: Group, method: str, colour: str, marker: str) -> None:
    if (value := _printed_average(data, group, method)) is not None:
        hollow(ax, x, value, colour, marker)


def _has_printed(data: FigureData, groups: list[Group], methods: list[str]) -> bool:
    return any(_printed_average(data, g, m) is not None for g in groups for m in methods)


def _finish(figure: Figure, data: FigureData, name: str, notes: list[str] = (), hollow_marks: bool = False) -> Figure:
    missing = data.results.missing
    shared = "Intervals: 95 %, bootstrap over items. Methods answer the same items: compare them by the paired gains of the tables."
    lines = ["" if name == "figure7" else shared, *notes]
    if hollow_marks:
        lines.append("Hollow marks: printed in the paper, which does not say for which corpus.")
    if missing:
        shown = "; ".join(map(str, missing[:4])) + (f"; and {len(missing) - 4} more" if len(missing) > 4 else "")
        lines.append(f"Planned cells without a result: {shown}.")
    lines.append(f"snakemake results/{data.results.grid}/figures/{name}.svg")
    footer(figure, [line for line in lines if line])
    return figure

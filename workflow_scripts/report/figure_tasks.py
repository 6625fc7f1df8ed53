"""Figure 7: the change of each task's accuracy."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke

from workflow_scripts.judge.choices import member_names
from workflow_scripts.plan.layout import Group
from workflow_scripts.report.figure_style import (
    INK,
    SOFT,
    FigureData,
    absent,
    finish,
    legend,
    name_of,
    wrapped,
)
from workflow_scripts.report.tables import SHORT

_BAR_COLOURS = [("#9BC4E2", ".."), ("#0072B2", ""), ("#7A3E9D", "\\\\")]
_HALO = [Stroke(linewidth=2.7, foreground="white"), Normal()]  # else an interval is lost in a dark bar


def figure7(data: FigureData, title: str) -> Figure:
    """Change of each task's accuracy against no recovery: the small prompt, the large one, IDP over both."""
    trios = {group: trio for group in data.groups() if (trio := _trio(data, group))}
    if not trios:
        return absent(
            data, "figure7", title, "an IDP method together with its smallest and largest single prompt"
        )
    figure, axes = wrapped(
        len(trios), 1 if len(trios) < 3 else 2, height=2.2, width=8 if len(trios) < 3 else 13
    )
    handles = []
    for ax, (group, trio) in zip(axes, trios.items(), strict=True):
        judged = next(
            g for g in data.verdict["groups"] if Group(g["model"], g["compressor"], g["corpus"]) == group
        )
        tasks = [task for task in data.tasks if all(task in judged["tasks"].get(m, {}) for m in trio)]
        names = [*(SHORT.get(task, task) for task in tasks), "Average"]
        for position, (method, (colour, hatch)) in enumerate(zip(trio, _BAR_COLOURS, strict=True)):
            changes = [judged["tasks"][method][task]["difference"] for task in tasks]
            average = judged["metrics"]["accuracy"]["methods"].get(method)
            changes.append(average["gain"] if average else {"value": np.nan, "low": None, "high": None})
            xs = np.arange(len(names)) + 0.27 * (position - 1)
            ax.bar(
                xs,
                [100 * c["value"] for c in changes],
                0.25,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.5,
            )
            for x, change in zip(xs, changes, strict=True):
                if change["low"] is not None:
                    ends = 100 * change["low"], 100 * change["high"]
                    ax.vlines(x, *ends, color=INK, linewidth=0.9, path_effects=_HALO)
            handles.append(
                Patch(facecolor=colour, hatch=hatch, edgecolor="white", label=_trio_label(data, method))
            )
        ax.axhline(0, color=INK, linewidth=0.9)
        ax.axvline(len(tasks) - 0.5, color=SOFT, linewidth=0.7, linestyle=":")
        ax.set_xticks(range(len(names)), names, fontsize=7)
        ax.grid(axis="x", visible=False)
        ax.set(ylabel="change (points)")
        ax.set_title(name_of(group))
    legend(figure, handles, 3)
    notes = [
        "Lines at a task: 95 % interval of the paired difference (Agresti and Min); at Average: paired bootstrap."
    ]
    if any(len(data.results.seeds(*group, method)) > 1 for group, trio in trios.items() for method in trio):
        notes.append("Of several training seeds a task shows the first, Average their mean.")
    return finish(figure, data, "figure7", notes)


def _trio(data: FigureData, group: Group) -> list[str] | None:
    planned = data.results.methods(group)
    dynamic = sorted(
        (m for m in planned if data.methods[m]["kind"] == "idp"), key=lambda m: m != data.pair["prompt"]
    )
    for method in dynamic:
        members = sorted(set(member_names(data.methods[method])), key=data.tokens)
        trio = [members[0], members[-1], method]
        if len(members) > 1 and all(data.results.first(*group, name) for name in (*trio, "none")):
            return trio
    return None


def _trio_label(data: FigureData, method: str) -> str:
    return f"{method}" if data.methods[method]["kind"] == "idp" else f"{method} alone"

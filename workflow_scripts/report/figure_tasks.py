"""Figure 7: the change of each task's accuracy."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke

from workflow_scripts.judge.catalogue import member_names
from workflow_scripts.plan.layout import Group
from workflow_scripts.report.data import GridData
from workflow_scripts.report.figure_style import INK, SOFT, absent, finish, label_y, legend, name_of, wrapped

_BAR_COLOURS = [("#9BC4E2", ".."), ("#0072B2", ""), ("#7A3E9D", "\\\\")]
_HALO = [Stroke(linewidth=2.7, foreground="white"), Normal()]  # else an interval is lost in a dark bar
_NEED = "an IDP method together with its smallest and largest single prompt"


def figure7(data: GridData, title: str) -> Figure:
    """Change of each task's accuracy against no recovery: the small prompt, the large one, IDP over both."""
    trios = {group: trio for group in data.groups() if (trio := _trio(data, group))}
    if not trios:
        return absent(data, title, _NEED)
    few = len(trios) < 3
    figure, axes = wrapped(len(trios), 1 if few else 2, height=2.2, width=8 if few else 13)
    handles = []
    for ax, (group, trio) in zip(axes, trios.items(), strict=True):
        handles += _draw(ax, data, group, trio)
    legend(figure, handles, 3)
    notes = [
        "Lines at a task: 95 % interval of the paired difference (Agresti and Min); at Average: paired bootstrap."
    ]
    if any(len(data.results.seeds(*group, method)) > 1 for group, trio in trios.items() for method in trio):
        notes.append("Of several replicates a task shows the first, Average their mean.")
    return finish(figure, notes)


def _draw(ax: Axes, data: GridData, group: Group, trio: list[str]) -> list[Patch]:
    """Bars of one group; returns the legend's handles."""
    judged, handles = data.judged(group), []
    tasks = [task for task in data.tasks if all(task in judged["tasks"].get(m, {}) for m in trio)]
    names = [*(task.replace("_", "_\n") for task in tasks), "Average"]
    for position, (method, (colour, hatch)) in enumerate(zip(trio, _BAR_COLOURS, strict=True)):
        changes = [judged["tasks"][method][task]["difference"] for task in tasks]
        average = data.accuracy(group)["methods"].get(method)
        gain = average and average["gain"]
        changes.append(gain or {"value": np.nan, "low": None, "high": None})
        xs = np.arange(len(names)) + 0.27 * (position - 1)
        look: dict[str, Any] = {"hatch": hatch, "edgecolor": "white"}
        ax.bar(xs, [100 * c["value"] for c in changes], 0.25, color=colour, linewidth=0.5, **look)
        for x, change in zip(xs, changes, strict=True):
            if change["low"] is not None:
                ends = 100 * change["low"], 100 * change["high"]
                ax.vlines(x, *ends, color=INK, linewidth=0.9, path_effects=_HALO)
        label = method if data.methods[method]["kind"] == "idp" else f"{method} alone"
        handles.append(Patch(facecolor=colour, label=label, **look))
    ax.axhline(0, color=INK, linewidth=0.9)
    ax.axvline(len(tasks) - 0.5, color=SOFT, linewidth=0.7, linestyle=":")
    ax.set_xticks(range(len(names)), names, fontsize=8)
    ax.grid(axis="x", visible=False)
    label_y(ax, "change (points)")
    ax.set_title(name_of(group))
    return handles


def _trio(data: GridData, group: Group) -> list[str] | None:
    """The smallest and the largest prompt of an IDP method and itself, the verdict's method first; None without one."""
    dynamic = [m for m in data.results.methods(group) if data.methods[m]["kind"] == "idp"]
    for method in sorted(dynamic, key=lambda m: m != data.verdict["pair"]["prompt"]):
        members = sorted(set(member_names(data.methods[method])), key=data.tokens)
        trio = [members[0], members[-1], method]
        if len(members) > 1 and all(data.results.first(*group, name) for name in (*trio, "none")):
            return trio
    return None

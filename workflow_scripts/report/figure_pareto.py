"""The Pareto view: average accuracy against what a method costs, in parameters, bytes and time."""

from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from workflow_scripts.plan.layout import NO_CORPUS, Group
from workflow_scripts.report.data import GridData
from workflow_scripts.report.figure_lines import Name, place_names
from workflow_scripts.report.figure_style import (
    AVERAGE,
    FAMILIES,
    INK,
    SOFT,
    absent,
    finish,
    intervals,
    legend,
    panels,
    point,
    short_number,
)

ADAPTER_BYTES = 4  # per parameter: adapters are stored in float32
DENSE_BITS = 16  # per weight, as dense checkpoints ship and as sparse values are stored; a source may hold 32
LINEAR = 10_000  # parameters below this stand on a linear part of the axis: no method adds 1 to 9,999 but it may add 0
COLUMNS = {  # a setting's cost -> label of its axis
    "parameters": "parameters added",
    "megabytes": "stored weights and adapter (MB)",
    "seconds": "forward pass (s)",
}


class Setting(NamedTuple):
    """A compressed or dense model with a method, and its costs."""

    label: str
    kind: str
    accuracy: dict
    parameters: float
    megabytes: float | None
    seconds: float | None


def pareto(data: GridData, title: str) -> Figure:
    """Accuracy against parameters added, stored bytes and forward-pass time; lines join the settings that no other
    beats in both."""
    by_model = {model: settings(data, model) for model in data.results.models}
    shown = {model: found for model, found in by_model.items() if found}
    if not shown:
        return absent(data, title, "a compressed model whose tasks are all there")
    figure, axes = panels(len(shown), len(COLUMNS), 3.0, 11, sharey="row")
    handles, names = [], []
    for row, (model, found) in zip(axes, shown.items(), strict=True):
        for ax, measure in zip(row, COLUMNS, strict=True):
            handles += _panel(ax, found, measure)
            names += _front(ax, found, measure)
        row[0].set(ylabel=AVERAGE, title=model)
    legend(figure, handles, 6)
    groups = [group for group in data.results.groups() if group.model in shown]
    drawn = {g: [m for m in ("none", *data.results.methods(g)) if data.average(g, m)] for g in groups}
    notes = [
        "Numbered and named below: no setting is both cheaper and better.",
        f"Bytes: decoder linears as stored, the dense model's at {DENSE_BITS} bits, and the adapter in float32. Time: "
        "medians; if a compressor was not timed, those of the dense model, since both compute in one precision.",
        intervals(data, drawn),
    ]
    return place_names(finish(figure, notes, _key(shown)), names)


def _panel(ax: Axes, found: list[Setting], measure: str) -> list[Line2D]:
    """One model's settings against one cost; returns the legend's handles."""
    drawn, handles = [setting for setting in found if getattr(setting, measure) is not None], []
    for setting in drawn:
        family, colour, marker, _ = FAMILIES[setting.kind]
        point(ax, getattr(setting, measure), setting.accuracy, colour, marker)
        handles.append(Line2D([], [], color=colour, marker=marker, linestyle="none", label=family))
    ax.margins(x=0.1)
    if not drawn:
        ax.set_xticks([])
        ax.text(0.5, 0.5, "not measured", transform=ax.transAxes, ha="center", color=SOFT)
    ax.set_xlabel(COLUMNS[measure])
    if measure == "parameters":
        ax.set_xscale("symlog", linthresh=LINEAR, linscale=0.4)
        top = max((s.parameters for s in drawn), default=LINEAR)
        powers = [10**n for n in range(4, 12) if 10**n <= 2 * top]
        ax.set_xticks([0, *powers], ["0", *map(short_number, powers)])
        ax.minorticks_off()
    elif measure == "megabytes" and drawn:
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=9))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    return handles


def settings(data: GridData, model: str) -> list[Setting]:
    """Every setting of a model whose average is complete; the dense model once."""
    found: dict[str, Setting] = {}
    for group in (g for g in data.results.groups() if g.model == model):
        for method in ("dense", "none", *data.results.methods(group)):
            if accuracy := data.average(group, method):
                place = Group(model, "dense", NO_CORPUS) if method == "dense" else group
                name = "none" if method == "dense" else method
                label = "dense" if method == "dense" else f"{group.compressor} {group.corpus} {method}"
                found.setdefault(label, _setting(data, label, place, name, accuracy))
    return list(found.values())


def _setting(data: GridData, label: str, place: Group, method: str, accuracy: dict) -> Setting:
    size = data.evaluation(place, method)["parameters"]["effective"]
    stored = next(
        (
            record["bytes_on_disk"] * _shipped(place, record)
            for path, record in data.records("compression").items()
            if Group.at(path) in (place, place._replace(corpus=NO_CORPUS))
        ),
        None,
    )
    megabytes = None if stored is None else (stored + ADAPTER_BYTES * size) / 1e6
    return Setting(
        label, data.methods[method]["kind"], accuracy, size, megabytes, _seconds(data, place, method)
    )


def _shipped(place: Group, record: dict) -> float:
    """The share of a model's stored bytes that counts: half of a dense source with 32 bits a weight."""
    return min(1.0, DENSE_BITS / record["effective_bits"]) if place.compressor == "dense" else 1.0


def _seconds(data: GridData, place: Group, method: str) -> float | None:
    """Median time of the method's fastest variant, on its compressor or on the dense model."""
    for compressor in (place.compressor, "dense"):
        times = [
            entry["prefill"]["median"]
            for record in data.records("latency").values()
            if (record["place"]["model"], record["place"]["compressor"]) == (place.model, compressor)
            for entry in record["latencies"]
            if entry["method"] == method
        ]
        if times:
            return min(times)
    return None


def front(found: list[Setting], measure: str) -> list[Setting]:
    """The settings, cheapest first, that no other setting equals in cost and beats in accuracy, or the reverse."""
    best: list[Setting] = []
    for setting in sorted(found, key=lambda s: (getattr(s, measure), -s.accuracy["value"])):
        if not best or setting.accuracy["value"] > best[-1].accuracy["value"]:
            best.append(setting)
    return best


def _front(ax: Axes, found: list[Setting], measure: str) -> list[Name]:
    """The line that joins the settings of the front; returns their numbers, as names."""
    line = front([s for s in found if getattr(s, measure) is not None], measure)
    xs, ys = [getattr(s, measure) for s in line], [s.accuracy["value"] for s in line]
    ax.step(xs, ys, where="post", color=INK, linewidth=0.9, alpha=0.6, zorder=1)
    numbers = {s.label: str(n) for n, s in enumerate(_numbered(found), 1)}
    return [Name(ax, x, y, numbers[s.label]) for x, y, s in zip(xs, ys, line, strict=True)]


def _numbered(found: list[Setting]) -> list[Setting]:
    """Every setting on one of the fronts, best accuracy first: a number means the same in all panels of a model."""
    members = {
        setting.label: setting
        for measure in COLUMNS
        for setting in front([s for s in found if getattr(s, measure) is not None], measure)
    }
    return sorted(members.values(), key=lambda s: (-s.accuracy["value"], s.label))


def _key(shown: dict[str, list[Setting]]) -> list[str]:
    """The names of the numbered settings, for below the panels."""
    return [
        f"{number} {f'{model} ' if len(shown) > 1 else ''}{setting.label}"
        for model, found in shown.items()
        for number, setting in enumerate(_numbered(found), 1)
    ]

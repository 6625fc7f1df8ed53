"""Which points of a figure a line may join, and names beside points so that no name covers another or a mark."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

from workflow_scripts.judge.catalogue import member_names
from workflow_scripts.report.figure_style import INK, SOFT, point

SIZES = {"tokens": None, "rank": "alpha", "r": "lora_alpha"}  # of a method -> the setting that grows with it
JOINED = "A line joins methods that differ in size alone."
BESIDE = "Methods of equal size stand side by side."
FONT = 7  # points
WIDTH, HEIGHT = 0.6 * FONT, 1.25 * FONT  # of a character; measuring the text would tie the bytes to a font
MARK = 4.0  # points from a mark's centre to its edge
SIDEWAYS = (6, 14, 26, 42, 60)  # points from a mark to its name
CROSSED = 14.0  # a name over another point's interval is as bad as one so many points further off
COVERED = 1000.0  # so is a name over a mark, another name, or the frame
ROUNDS = 3  # in which names look for a better place
STEP = 0.015  # of an axis, between points of equal size
LEAD: dict[str, Any] = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
Place = tuple[float, float]


class Name(NamedTuple):
    """The name of a point."""

    axes: Axes
    x: float
    y: float
    text: str


def series(methods: dict[str, dict], name: str) -> str:
    """A method's settings but its size (tokens, rank): equal for methods that differ in nothing else.

    A LoRA's alpha counts as a multiple of its rank; a method of several adapters has the series of each.
    """
    settings = methods[name]
    parts = {
        "options": _without_size(settings.get("options", {})),
        "members": sorted(series(methods, member) for member in member_names(settings)),
    }
    return json.dumps(_without_size(settings) | parts, sort_keys=True)


def _without_size(settings: dict) -> dict:
    """Settings without sizes; what grows with a size is left as a multiple of it."""
    left = {key: value for key, value in settings.items() if key not in SIZES}
    ratios = {
        scaled: settings[scaled] / settings[size]
        for size, scaled in SIZES.items()
        if size in settings and settings.get(scaled)
    }
    return left | ratios


def draw_series(
    ax: Axes, methods: dict[str, dict], points: dict[str, tuple[float, dict]], look: tuple[str, str, Any]
) -> list[Name]:
    """Points with intervals, those of a series joined by a line in their order.

    points: method -> (place on the x axis, value), by size; look: colour, marker, line style. Returns the names that a
    reader needs: of a point alone, and of both ends of a line.
    """
    colour, marker, style = look
    members: dict[str, list[str]] = {}
    for method in points:
        members.setdefault(series(methods, method), []).append(method)
    named = []
    for line in members.values():
        xs, heights = [points[m][0] for m in line], [points[m][1]["value"] for m in line]
        ax.plot(xs, heights, style, color=colour, linewidth=1, alpha=0.7)
        for method, x in zip(line, xs, strict=True):
            point(ax, x, points[method][1], colour, marker, 6.5)
        named += [
            Name(ax, points[m][0], points[m][1]["value"], m) for m in dict.fromkeys((line[0], line[-1]))
        ]
    return named


def beside(places: dict[str, float], log: bool) -> dict[str, float]:
    """Places on an axis, with equal ones parted a little, else their intervals cover each other."""
    scaled = {method: math.log(x) if log else x for method, x in places.items()}
    step = STEP * (max(scaled.values(), default=0) - min(scaled.values(), default=0) or 1)
    moved = {}
    for x in set(scaled.values()):
        equal = [method for method, other in scaled.items() if other == x]
        for number, method in enumerate(equal):
            shifted = x + step * (number - (len(equal) - 1) / 2)
            moved[method] = math.exp(shifted) if log else shifted
    return moved


def place_names(figure: Figure, names: Iterable[Name]) -> Figure:
    """Write each name beside its point, at the nearest free place within the frame; a line leads to one further off."""
    by_axes: dict[Axes, list[Name]] = {}
    for name in names:
        by_axes.setdefault(name.axes, []).append(name)
    if by_axes:
        figure.draw_without_rendering()  # the layout says where the points are
    for axes, wanted in by_axes.items():
        room = _Room(axes)
        ordered = sorted(set(wanted), key=lambda n: (-n.y, n.x, n.text))
        for name in ordered * ROUNDS:  # the first ones find the places of the last ones free
            room.take(name)
        for name in ordered:
            _write(name, _points(axes, name.x, name.y), room.taken[name])
    return figure


def _points(axes: Axes, x: float, y: float) -> Place:
    """A place of the axes in whole points: the layout's last digits differ between processors."""
    found = axes.transData.transform((x, y)) * _scale(axes)
    return round(found[0]), round(found[1])


def _scale(axes: Axes) -> float:
    """Points of a pixel."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return 72 / figure.dpi


class _Room:
    """The room of axes, in points: marks and names, which no name may cover, and lines, which it should not cross."""

    def __init__(self, axes: Axes):
        self.frame = Bbox(axes.get_window_extent().get_points() * _scale(axes))
        self.marks: list[Bbox] = []
        self.lines: list[Bbox] = []
        self.taken: dict[Name, Bbox] = {}
        for line in axes.lines:
            ends: list[Place] = list(zip(*map(np.asarray, line.get_data()), strict=True))
            if line.get_linestyle() == "None":
                self.marks += [_around(_points(axes, *end), MARK) for end in ends]
            elif line.get_transform() == axes.transData:
                for start, end in itertools.pairwise(_points(axes, *end) for end in ends):
                    self.lines += _along(start, end)
            else:  # a level across the frame
                y = _points(axes, axes.get_xlim()[0], ends[0][1])[1]
                self.lines.append(Bbox.from_extents(self.frame.x0, y - 0.5, self.frame.x1, y + 0.5))
        for drawn in axes.collections:  # intervals
            assert isinstance(drawn, LineCollection)
            for low, high in drawn.get_segments():
                self.lines.append(Bbox([_points(axes, *low), _points(axes, *high)]).padded(0.5))

    def take(self, name: Name) -> None:
        """Take the best box for a name, as the others stand."""
        self.taken.pop(name, None)
        at = _points(name.axes, name.x, name.y)
        covers, crosses = [*self.marks, *self.taken.values()], list(self.lines)
        for other, box in self.taken.items():
            crosses += _along(_points(other.axes, other.x, other.y), _edge(other, box))
        best = math.inf
        for far, box in sorted(_candidates(at, len(name.text) * WIDTH), key=lambda entry: entry[0]):
            if far >= best:
                break
            lead = _along(at, _edge(name, box))[2:]
            led_over = sum(part.count_overlaps(covers) > 0 for part in lead)
            crossed = (box.count_overlaps(crosses) > 0) + led_over / 3
            covered = box.count_overlaps(covers) + (not self._holds(box))
            if (cost := far + CROSSED * crossed + COVERED * covered) < best:
                best, self.taken[name] = cost, box

    def _holds(self, box: Bbox) -> bool:
        frame = self.frame
        return frame.x0 < box.x0 and box.x1 < frame.x1 and frame.y0 < box.y0 and box.y1 < frame.y1


def _around(place: Place, half: float) -> Bbox:
    return Bbox.from_extents(place[0] - half, place[1] - half, place[0] + half, place[1] + half)


def _along(start: Place, end: Place) -> list[Bbox]:
    """Small boxes on the way from start to end, four points from one to the next."""
    steps = max(1, round(math.dist(start, end) / 4))
    across, up = (end[0] - start[0]) / steps, (end[1] - start[1]) / steps
    return [_around((start[0] + n * across, start[1] + n * up), 0.5) for n in range(steps + 1)]


def _candidates(at: Place, width: float) -> Iterator[tuple[float, Bbox]]:
    """Boxes for a name of that width, with their distance."""
    for across in SIDEWAYS:
        for left in (at[0] + across, at[0] - across - width):
            for up in range(-120, 121, 3):
                yield across + abs(up), Bbox.from_bounds(left, at[1] + up - HEIGHT / 2, width, HEIGHT)


def _edge(name: Name, box: Bbox) -> Place:
    """The middle of the side of a box that faces its point."""
    at = _points(name.axes, name.x, name.y)
    return (box.x0 if box.x0 > at[0] else box.x1), (box.y0 + box.y1) / 2


def _write(name: Name, at: Place, box: Bbox) -> None:
    x, y = _edge(name, box)
    offset, right = (x - at[0], y - at[1]), box.x0 > at[0]
    look: dict[str, Any] = {"textcoords": "offset points", "va": "center", "ha": "left" if right else "right"}
    look["bbox"] = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.4}  # over intervals
    if abs(offset[0]) > SIDEWAYS[0] or abs(offset[1]) > FONT:
        look["arrowprops"] = LEAD | {"relpos": (0 if right else 1, 0.5)}
    text = name.axes.annotate(name.text, (name.x, name.y), xytext=offset, fontsize=FONT, color=INK, **look)
    text.set_in_layout(False)


def spread_names(figure: Figure, names: Iterable[Name]) -> Figure:
    """Write each name at the right of the frame, at the height of its point or as near as the others leave room."""
    by_axes: dict[Axes, list[tuple[Name, Annotation]]] = {}
    place: dict[str, Any] = {
        "xycoords": ("axes fraction", "data"),
        "xytext": (16, 0),
        "annotation_clip": False,
    }
    place |= {"textcoords": "offset points", "va": "center", "arrowprops": LEAD | {"relpos": (0, 0.5)}}
    for name in names:
        text = name.axes.annotate(name.text, (1, name.y), fontsize=FONT, color=INK, **place)
        by_axes.setdefault(name.axes, []).append((name, text))
    if by_axes:
        figure.draw_without_rendering()
    for axes, written in by_axes.items():
        written.sort(key=lambda entry: (entry[0].y, entry[0].text))
        heights = [_points(axes, name.x, name.y)[1] for name, _ in written]
        for (_, text), old, new in zip(written, heights, apart(heights, HEIGHT), strict=True):
            text.set_position((16, new - old))
    return figure


def apart(heights: list[float], gap: float) -> list[float]:
    """Ascending heights moved as little as it takes to stand a gap apart: a crowd stays around its mean."""
    crowds: list[list[float]] = []  # [sum of heights less their gaps, members]
    for number, height in enumerate(heights):
        crowds.append([height - gap * number, 1])
        while len(crowds) > 1 and crowds[-2][0] / crowds[-2][1] >= crowds[-1][0] / crowds[-1][1]:
            total, members = crowds.pop()
            crowds[-1] = [crowds[-1][0] + total, crowds[-1][1] + members]
    means = [total / members for total, members in crowds for _ in range(int(members))]
    return [mean + gap * number for number, mean in enumerate(means)]

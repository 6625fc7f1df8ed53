"""A line joins only methods that differ in size; names and ticks cover nothing and stay within the figure."""

import copy
import itertools

import pytest

from tests.unit.synthetic_results import data_of, study, write_grid
from workflow_scripts.judge.results import read_results
from workflow_scripts.report.figure_lines import apart, beside, series
from workflow_scripts.report.figure_style import short_number, use_style
from workflow_scripts.report.figures import FIGURES

GAINS = {"lora-r4": 0.1, "prompt-50": 0.05, "prompt-100": 0.06, "ptune-50": -0.02, "idp-50-100": 0.1}
PROMPT, LORA = {"kind": "prompt", "tokens": 50}, {"kind": "lora", "rank": 2, "alpha": 4}
METHODS = {
    "prompt-50": PROMPT,
    "prompt-100": PROMPT | {"tokens": 100},
    "prompt-50-again": PROMPT | {"seed_offset": 1000},
    "prompt-50-science": PROMPT | {"corpus": {"tasks": ["sciq"]}},
    "prompt-100-kl": PROMPT | {"tokens": 100, "training": {"objective": "kl_dense"}},
    "lora-r2": LORA,
    "lora-r4": LORA | {"rank": 4, "alpha": 8},
    "lora-r4-strong": LORA | {"rank": 4, "alpha": 32},
    "lora-v-r2": LORA | {"targets": {"default": ["v_proj"]}},
    "dora-r4": {"kind": "peft", "peft_type": "DORA", "options": {"r": 4, "lora_alpha": 8}},
    "dora-r8": {"kind": "peft", "peft_type": "DORA", "options": {"r": 8, "lora_alpha": 16}},
    "idp-50-100": {"kind": "idp", "members": [{"adapter": "prompt-50"}, {"adapter": "prompt-100"}]},
    "idp-100-50": {"kind": "idp", "members": [{"adapter": "prompt-100"}, {"adapter": "prompt-50"}]},
    "idp-50-seeds": {"kind": "idp", "members": [{"adapter": "prompt-50"}, {"adapter": "prompt-50-again"}]},
}


def test_methods_that_differ_in_more_than_their_size_are_not_of_one_series():
    found: dict[str, list[str]] = {}
    for name in METHODS:
        found.setdefault(series(METHODS, name), []).append(name)
    joined = [members for members in found.values() if len(members) > 1]
    pairs = [["prompt-50", "prompt-100"], ["lora-r2", "lora-r4"], ["dora-r4", "dora-r8"]]
    assert joined == [*pairs, ["idp-50-100", "idp-100-50"]]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Prompts of two objectives and IDPs of two scores beside the plain ones."""
    data = data_of(
        read_results(write_grid(tmp_path_factory.mktemp("grid"), study("m", GAINS, control=False), 12)), 60
    )
    data.methods = data.methods | {
        "prompt-100": data.methods["prompt-100"] | {"training": {"objective": "kl_dense"}}
    }
    use_style()
    return data


@pytest.mark.parametrize("name", ["figure2", "figure4", "figure6"])
def test_points_of_two_series_are_not_joined_and_have_names(name, crowd):
    axes = FIGURES[name][0](crowd, "").axes[0]
    drawn = [
        line for line in axes.lines if line.get_linestyle() != "None" and "--" not in line.get_linestyle()
    ]
    assert all(
        len(line.get_xdata()) < 2 or list(line.get_xdata()) == [0, 1] for line in drawn
    )  # a level, or none
    prefix = "" if name == "figure2" else "prompt-"
    assert {f"{prefix}50", f"{prefix}100"} <= {text.get_text() for text in axes.texts}


@pytest.mark.parametrize("name", ["figure1", "figure2", "figure4", "figure6", "figure7", "pareto"])
def test_ticks_and_names_cover_no_other_and_no_text_leaves_the_figure(name, crowd):
    figure = FIGURES[name][0](crowd, "")
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = sorted(axes.get_xlim())
        drawn = [*axes.xaxis.get_major_ticks(), *axes.xaxis.get_minor_ticks()]
        ticks = [tick.label1 for tick in drawn if low <= tick.get_loc() <= high and tick.label1.get_text()]
        names = [text for text in axes.texts if text.get_text()]
        for group in (ticks, names):
            boxes = [text.get_window_extent() for text in group]
            assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
            inside = figure.bbox.padded(1)
            assert all(inside.contains(*box.min) and inside.contains(*box.max) for box in boxes)


def test_figure_4_has_no_panel_for_a_model_whose_methods_add_no_parameters(crowd):
    """Like an untrained prompt and an open book."""
    bare = copy.copy(crowd)
    bare.methods = {name: method | {"trained": False} for name, method in crowd.methods.items()}
    figure = FIGURES["figure4"][0](bare, "")
    assert not any(axes.lines for axes in figure.axes)


def test_a_large_number_on_an_axis_is_short():
    shown = {300: "300", 30_000: "30k", 1_000_000: "1M", 1.5e9: "1.5B"}
    assert {value: short_number(value) for value in shown} == shown


def test_equal_places_stand_side_by_side_around_their_value():
    moved = beside({"a": 50, "b": 50, "c": 100}, log=False)
    assert moved["a"] < 50 < moved["b"] and moved["a"] + moved["b"] == pytest.approx(100)
    assert moved["c"] == 100


def test_a_crowd_of_names_is_spread_around_its_mean_in_order():
    assert apart([0, 100, 200], 10) == [0, 100, 200]
    assert apart([50, 50, 51], 10) == pytest.approx([40 + 1 / 3, 50 + 1 / 3, 60 + 1 / 3])

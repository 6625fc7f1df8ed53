"""The headline figure: the verdict's own numbers of every method, and nothing in the place of a missing one."""

import pytest

from tests.unit.synthetic_results import data_of, study, write_grid
from workflow_scripts.judge.results import read_results
from workflow_scripts.report.figures import FIGURES, draw
from workflow_scripts.report.svg import notes_of

GAINS = {"lora-r4": 0.1, "prompt-50": 0.05, "idp-50-100": 0.1}


def marks(axes):
    """(row, filled) -> place on the axis."""
    drawn = [line for line in axes.lines if line.get_linestyle() == "None"]
    return {
        (round(float(m.get_ydata()[0])), m.get_markerfacecolor() != "white"): m.get_xdata()[0] for m in drawn
    }


def test_gains_stand_at_the_verdicts_own_numbers_the_pair_first(tmp_path):
    """Filled at g, hollow at h, in points; the band is the loss. Without a dense control there is no hollow mark."""
    truth, untold = study("m", GAINS), {("m", "dense", "wikipedia", "prompt-50", 0)}
    data = data_of(read_results(write_grid(tmp_path, truth, skip=untold)), 100)
    found = data.verdict["groups"][0]["metrics"]["accuracy"]
    axes = FIGURES["gains"][0](data, "").axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["idp-50-100", "lora-r4", "prompt-50"]
    expected = {
        (row, filled): pytest.approx(100 * value["value"])
        for row, name in enumerate(names)
        for number, filled in (("gain", True), ("dense_gain", False))
        if (value := found["methods"][name][number])
    }
    assert marks(axes) == expected and (2, False) not in expected
    [band] = axes.patches
    assert [band.get_x(), band.get_x() + band.get_width()] == pytest.approx(
        [100 * found["loss"][end] for end in ("low", "high")]
    )


def test_methods_that_were_told_answers_are_named(tmp_path):
    data = data_of(read_results(write_grid(tmp_path, study("m", GAINS))), 100)
    draw("gains", data, [str(tmp_path / "untold.svg")])
    told = {"task": "arc_easy", "methods": {"even": "lora-r4", "odd": "not-run"}}
    data.verdict["parts"] = [told | {"metric": metric} for metric in ("accuracy", "bits")]
    draw("gains", data, [str(tmp_path / "told.svg")])
    words = "Told half of a task's answers, so their gains may be learned: lora-r4 (arc_easy)."
    assert words in notes_of(tmp_path / "told.svg") and "Told" not in notes_of(tmp_path / "untold.svg")


def test_methods_over_several_replicates_are_named_since_their_intervals_are_wider(tmp_path):
    truth = study("m", GAINS)
    more = {(*place[:4], 1): value for place, value in truth.items() if place[3] in ("none", "lora-r4")}
    for name, cells in (("one", truth), ("mixed", truth | more)):
        draw(
            "gains",
            data_of(read_results(write_grid(tmp_path / name, cells)), 100),
            [str(tmp_path / f"{name}.svg")],
        )
    wider = "Intervals over replicates too, which makes them wider, not worse: lora-r4 (gptq-w3, wikipedia)."
    assert wider in notes_of(tmp_path / "mixed.svg") and "wider" not in notes_of(tmp_path / "one.svg")

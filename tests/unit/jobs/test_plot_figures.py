"""All figures are drawn by one job: it names the one that fails."""

import pytest

from workflow_scripts.jobs import plot_figures
from workflow_scripts.report.data import MeasuredFiles


def test_a_figure_that_fails_is_named(monkeypatch):
    def draw(name, data, forms):
        if name == "figure4":
            raise ValueError("no cells")

    monkeypatch.setattr(plot_figures, "draw", draw)
    monkeypatch.setattr(plot_figures, "read_grid", lambda *_: None)
    with pytest.raises(RuntimeError, match=r"figure4: ValueError: no cells"):
        plot_figures.main("verdict.json", {}, MeasuredFiles(), {}, ["figure1.svg", "figure4.svg"])

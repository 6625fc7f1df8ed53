"""Rule `report_grid`: the first view of Snakemake's report warns as the page does."""

from pathlib import Path

from workflow_scripts.jobs import report_grid
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.recipes import Plan

ROOT = Path(__file__).resolve().parents[3]


def test_the_first_view_says_what_was_not_run_and_what_teaches_nothing(tmp_path, monkeypatch):
    asked = read(*files(root=ROOT))
    asked["training"]["bench"]["tokens"] = 3 * 8 * 256
    config = load(asked | {"grid": "bench"})
    counted = Plan(config).counted("bench")
    measured = [file for file in counted if "/similarity/" in file]
    monkeypatch.chdir(tmp_path)
    made = Path(measured[0])
    made.parent.mkdir(parents=True)
    made.write_text("{}")
    minded = []
    monkeypatch.setattr(report_grid, "write_report", lambda *given: minded.append(given[-1]))
    contents = report_grid.Contents([], counted, [])
    report_grid.main(config.dump(), contents, "results/bench/report.html", "stamp.json", "0" * 64, {})
    [said] = minded
    lacking = len(measured) - 1
    assert said.startswith(f"Not run: {lacking} of {lacking + 1} planned measurements of similarity")
    assert "training.bench.tokens: " in said and " get 3 optimiser steps, too few to learn anything" in said

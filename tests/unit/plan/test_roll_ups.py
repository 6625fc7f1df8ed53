"""Roll-ups whose results, tables or records are not those that the grid's report was made with."""

import os
from pathlib import Path

import pytest

from tests.unit.plan import test_reruns as of_results
from tests.unit.plan.test_reruns import EVALUATION, MADE, rolled_up, shown
from workflow_scripts.files.artifacts import read_json, sha256_file, write_json
from workflow_scripts.plan.layout import ANSWERS, FIGURES, PAGE, STAMP, figure, table
from workflow_scripts.plan.reruns import Reruns

PLACES = {
    "find_answers": ANSWERS.path("smoke"),
    "tabulate": table("table1").path("smoke"),
    "plot_figures": figure(FIGURES[0]).path("smoke"),
    "draw_page": PAGE.path("smoke"),
    "report_grid": STAMP.path("smoke"),
}


plan, own_folder = of_results.plan, of_results.own_folder


def forced_roll_ups(plan, has_record=True) -> set[str]:
    """The entries whose roll-ups are forced."""
    found = set()
    reruns = Reruns(plan, lambda: found, lambda path: has_record)
    for entry, path in PLACES.items():
        reruns.force_roll_up_if_outdated(entry, path, "smoke")
    return {entry for entry, path in PLACES.items() if path in found}


@pytest.fixture
def reported(plan):
    """A finished grid; the report is newer than what it shows, and that newer than the results."""
    rolled_up(plan, plan.counted("smoke"))
    stamp = read_json(STAMP.path("smoke"))
    for file in (*shown(), PLACES["find_answers"]):
        Path(file).write_text("made")
    write_json(STAMP.path("smoke"), stamp | {"roll_ups": {file: sha256_file(file) for file in shown()}})
    for time, files in enumerate((plan.counted("smoke"), PLACES.values(), [STAMP.path("smoke")])):
        for file in files:
            os.utime(file, (time, time))
    assert forced_roll_ups(plan) == set()
    return plan


def put_back(path: str) -> None:
    """Another result of the planned recipe, with an older time, as `rsync -a` gives it."""
    content = read_json(path)
    write_json(path, content | {"manifest": content["manifest"] | {"host": "another"}})
    os.utime(path, (0, 0))


def test_roll_ups_are_of_the_results_that_are_there_whatever_their_times(reported):
    """Snakemake had nothing to do for a cell that was put back from a backup; `run` saw it and knew no way out."""
    put_back(MADE[EVALUATION])
    assert forced_roll_ups(reported) == {*PLACES}


def test_a_measurement_that_was_put_back_is_drawn_and_judges_nothing(reported):
    put_back(next(iter(reported.latency_places("smoke"))))
    assert forced_roll_ups(reported) == {"plot_figures", "draw_page", "report_grid"}


def test_roll_ups_that_were_made_after_the_report_are_not_made_twice(reported):
    put_back(MADE[EVALUATION])
    os.utime(PLACES["find_answers"], (3, 3))
    assert forced_roll_ups(reported) == {*PLACES} - {"find_answers"}


@pytest.mark.parametrize("changed", ["report", "measurement", "nothing"])
def test_an_edited_table_is_made_again_whatever_else_has_changed(reported, changed):
    """The next report showed and sealed it if a description or a measurement had changed as well."""
    Path(table("table2", "csv").path("smoke")).write_text("edited")
    if changed == "report":
        stamp = read_json(STAMP.path("smoke"))
        write_json(STAMP.path("smoke"), stamp | {"manifest": {"recipe": "0" * 64}})
    if changed == "measurement":
        put_back(next(iter(reported.latency_places("smoke"))))
    assert "tabulate" in forced_roll_ups(reported)


@pytest.mark.parametrize("has_record", [True, False], ids=["with Snakemake's records", "without"])
def test_a_roll_up_is_made_again_if_nothing_says_what_made_it(reported, has_record):
    """Of results that were copied without a report, an edit of the judge's code left the verdict as it was."""
    Path(STAMP.path("smoke")).unlink()
    kept = {
        "find_answers",
        "report_grid",
    }  # `restore` puts answers back, which need texts; the report is not there
    assert forced_roll_ups(reported, has_record) == (set() if has_record else {*PLACES} - kept)


def test_a_roll_up_of_a_report_that_knows_no_such_job_is_made_again(reported):
    """Figures of the version that drew each by a job of its own stayed in the report of the next."""
    stamp = read_json(STAMP.path("smoke"))
    stamp["recipes"]["plot_figure"] = stamp["recipes"].pop("plot_figures")
    write_json(STAMP.path("smoke"), stamp)
    assert forced_roll_ups(reported, has_record=False) == {"plot_figures"}

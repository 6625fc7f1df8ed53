"""Reruns: for each state of a result, what is forced, what counts by content, whether a grid is rolled up."""

import os
from pathlib import Path

import pytest

from workflow_scripts.files.artifacts import read_json, sha256_file, write_json
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.layout import (
    ADAPTER,
    ANSWERS,
    AUDIT,
    BENCHMARK,
    COMPRESSED,
    CORPUS,
    EVALUATION,
    EXPORTED,
    FIGURES,
    LATENCY,
    MODEL,
    PAGE,
    REPORT,
    REPORTED,
    SIMILARITY,
    STAMP,
    Artefact,
    companions,
    figure,
    table,
)
from workflow_scripts.plan.recipes import ANALYSIS, Plan
from workflow_scripts.plan.reruns import READ_CELLS, Reruns

ROOT = Path(__file__).parents[3]
PLACE = {
    "grid": "smoke",
    "model": "smollm2-135m",
    "compressor": "gptq-w3-g64",
    "corpus": "wikipedia",
    "seed": "0",
}
CELL = PLACE | {"method": "prompt-50"}
IDP = CELL | {"method": "idp-50-100"}
NAMES = {
    MODEL: {"model": "smollm2-135m"},
    CORPUS: {"corpus": "wikipedia"},
    BENCHMARK: {"benchmarks": "pypi", "task": "sciq"},
    COMPRESSED: PLACE,
    EXPORTED: PLACE | {"form": "plain"},
    ADAPTER: CELL,
    EVALUATION: CELL,
    SIMILARITY: CELL,
    LATENCY: PLACE,
}
MADE = {artefact: artefact.path(**names) for artefact, names in NAMES.items()}
OTHER = "0" * 64


@pytest.fixture(scope="module")
def plan():
    """The shipped configuration; its small grid measures latency, too."""
    config = read(*files(root=ROOT)) | {"grid": "smoke"}
    grids = config["grids"]
    grids["smoke"]["latency"] = grids["bench"]["latency"] | {"compressors": ["gptq-w3-g64"]}
    return Plan(load(config))


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def forced():
    return set()


@pytest.fixture
def reruns(plan, forced):
    return Reruns(plan, lambda: forced)


def put(path: str, recipe: str, complete: bool = True) -> None:
    """An artefact as planning sees it; without what is made beside it if it is not `complete`."""
    write_json(path, {"manifest": {"recipe": recipe}})
    for file in companions(path) if complete else ():
        Path(file).touch()


def recipe_of(reruns: Reruns, artefact: Artefact, names: dict | None = None) -> str:
    return reruns.arguments(artefact, names or NAMES[artefact])["recipe"]


def put_planned(reruns: Reruns, artefact: Artefact, names: dict | None = None, complete: bool = True) -> None:
    names = names or NAMES[artefact]
    put(artefact.path(**names), recipe_of(reruns, artefact, names), complete)


STATES = ("absent", "no recipe", "outdated", "incomplete", "as planned", "as planned, asked for by --force")
WEIGHTS = {  # jobs that read weights -> the artefacts whose deleted weights are made again for them
    ADAPTER: {MADE[COMPRESSED]},
    EXPORTED: {MADE[COMPRESSED]},
    LATENCY: {MADE[COMPRESSED]},
    EVALUATION: {MADE[COMPRESSED], MADE[ADAPTER]},
    SIMILARITY: {MADE[COMPRESSED], MADE[ADAPTER]},
}


def expected(artefact: Artefact, state: str) -> tuple[set[str], bool]:
    """(forced files, whether the artefact is finished) if all weights that its job may read are deleted."""
    path = MADE[artefact]
    lost_samples = artefact == EVALUATION and state == "incomplete"
    own = {path} if state in ("outdated", "as planned, asked for by --force") or lost_samples else set()
    will_run = own or state in ("absent", "no recipe")
    finished = state == "as planned" or (state == "incomplete" and not lost_samples)
    return own | (WEIGHTS.get(artefact, set()) if will_run else set()), finished


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("artefact", NAMES, ids=lambda artefact: artefact.rule)
def test_the_state_of_a_result_decides(reruns, forced, artefact, state):
    for weights in (COMPRESSED, ADAPTER):
        put_planned(reruns, weights, complete=False)
    path, planned = MADE[artefact], recipe_of(reruns, artefact)
    if state == "absent":
        Path(path).unlink(missing_ok=True)
    elif state == "no recipe":
        write_json(path, {})
    else:
        put(path, OTHER if state == "outdated" else planned, complete=state != "incomplete")
    if state.endswith("--force"):
        forced.add(path)
    reruns.force_if_outdated(artefact, NAMES[artefact])
    assert (forced, reruns.is_finished(artefact, NAMES[artefact])) == expected(artefact, state)


def test_weights_that_are_there_are_not_made_again(reruns, forced):
    for weights in (COMPRESSED, ADAPTER):
        put_planned(reruns, weights)
    reruns.force_if_outdated(EVALUATION, CELL)
    assert forced == set()


@pytest.mark.parametrize("artefact", [COMPRESSED, ADAPTER, EVALUATION], ids=lambda artefact: artefact.rule)
def test_a_local_model_that_was_moved_is_linked_anew_for_the_job_that_reads_it(reruns, forced, artefact):
    for made in (MODEL, COMPRESSED, ADAPTER, EVALUATION):
        put_planned(reruns, made)
    link = Path(MADE[MODEL]).with_name("model.safetensors")
    link.symlink_to(Path("disk").absolute())
    reruns.force_if_outdated(artefact, NAMES[artefact])
    assert forced == set(), "a finished result needs no weights"
    Path(MADE[artefact]).unlink()
    Reruns(reruns.plan, lambda: forced).force_if_outdated(artefact, NAMES[artefact])
    assert forced == {MADE[MODEL]}
    forced.clear()
    Path("disk").touch()
    Reruns(reruns.plan, lambda: forced).force_if_outdated(artefact, NAMES[artefact])
    assert forced == set()


def test_an_idp_needs_the_weights_under_its_missing_members_alone(reruns, forced):
    members = [CELL, CELL | {"method": "prompt-100"}]
    put_planned(reruns, COMPRESSED, complete=False)
    for member, complete in zip(members, (True, False)):
        put_planned(reruns, ADAPTER, member, complete)
    reruns.force_if_outdated(EVALUATION, IDP)
    assert forced == {MADE[COMPRESSED], ADAPTER.path(**members[1])}
    assert [file.path for file in reruns.adapters(IDP)] == [ADAPTER.path(**member) for member in members]


def test_a_planned_file_counts_by_content(reruns, forced):
    put_planned(reruns, MODEL)
    put_planned(reruns, COMPRESSED)
    put_planned(reruns, EVALUATION)
    assert reruns.is_ancient(reruns.model(CELL), EVALUATION, CELL)
    assert reruns.is_ancient(reruns.compression(CELL), EVALUATION, CELL)
    assert not reruns.is_ancient(reruns.benchmarks(CELL)[0], EVALUATION, CELL), "it is not there"


@pytest.mark.parametrize("harm", ["forced", "samples lost", "absent"])
def test_a_computed_file_counts_by_time_for_a_job_that_will_run(reruns, forced, harm):
    put_planned(reruns, MODEL)
    put_planned(reruns, COMPRESSED)
    put_planned(reruns, EVALUATION, complete=harm != "samples lost")
    if harm == "forced":
        forced.add(MADE[EVALUATION])
    if harm == "absent":
        os.remove(MADE[EVALUATION])
    assert reruns.is_ancient(reruns.model(CELL), EVALUATION, CELL)
    assert not reruns.is_ancient(reruns.compression(CELL), EVALUATION, CELL)


@pytest.mark.parametrize("finished", [True, False])
def test_a_source_that_is_fetched_again_counts_by_time_for_a_job_that_will_run(reruns, forced, finished):
    """After a model had moved, a missing cell was not made: Snakemake fetched the model and ended."""
    put_planned(reruns, MODEL)
    forced.add(MADE[MODEL])
    if finished:
        put_planned(reruns, EVALUATION)
    assert reruns.is_ancient(reruns.model(CELL), EVALUATION, CELL) == finished


def test_a_file_of_another_recipe_counts_by_time(reruns):
    put(MADE[MODEL], OTHER)
    put(MADE[COMPRESSED], OTHER)
    put_planned(reruns, EVALUATION)
    for file in (reruns.model(CELL), reruns.compression(CELL)):
        assert not reruns.is_ancient(file, EVALUATION, CELL)


def test_a_job_reads_the_texts_and_models_of_its_cell(reruns, plan):
    dense = PLACE | {"compressor": "dense", "corpus": "none"}
    assert reruns.calibration_text(dense) == []
    assert reruns.calibration_text(PLACE).path == reruns.training_text(CELL).path == MADE[CORPUS]
    assert reruns.compression(dense | {"corpus": "wikipedia"}).path == COMPRESSED.path(**dense)
    data = plan.grid("smoke").benchmarks
    assert [file.path for file in reruns.benchmarks(CELL)] == [
        BENCHMARK.path(benchmarks=data, task=task) for task in plan.tasks("smoke")
    ]
    assert reruns.centring_text(CELL) == []
    artefacts = plan.artefacts("smoke")
    read = [reruns.model(CELL), reruns.compression(CELL), *reruns.adapters(IDP), reruns.similarity_text(CELL)]
    for file in [*read, *reruns.benchmarks(CELL), *reruns.perplexity_text(CELL)]:
        assert artefacts[file.path] == file.recipe


def test_a_cell_that_cannot_be_is_refused(reruns):
    dense = PLACE | {"compressor": "dense", "corpus": "none", "seed": "1", "method": "none", "form": "plain"}
    for artefact in (EVALUATION, COMPRESSED, EXPORTED, LATENCY):
        asked, meant = artefact.path(**dense), artefact.path(**dense | {"seed": "0"})
        with pytest.raises(
            ValueError, match=f"^{asked}: nothing is trained .* so this is {meant}; ask for that"
        ):
            reruns.force_if_outdated(artefact, dense)
    reruns.force_if_outdated(EVALUATION, CELL | {"method": "none", "seed": "1"})


# ------------------------------------------------------------------------------------------------ roll-ups


def rolled_up(plan: Plan, files: list[str], **changes: str) -> None:
    """Finished results of the grid and a report that was made from `files`; changes: roll-up -> recorded recipe."""
    for path, recipe in plan.artefacts("smoke").items():
        put(path, recipe)
    recipes = {entry: plan.analysis("smoke", entry)["recipe"] for entry in (*ANALYSIS, "report_grid")}
    recipes |= changes
    stamp = {
        "manifest": {"recipe": recipes.pop("report_grid")},
        "recipes": recipes,
        "files": {file: sha256_file(file) for file in files},
    }
    write_json("results/smoke/report.json", stamp)


def test_a_report_is_current_while_its_files_and_recipe_are(plan, reruns):
    assert not reruns.is_rolled_up("smoke")
    rolled_up(plan, plan.counted("smoke"))
    assert Reruns(plan, set).is_rolled_up("smoke")
    assert Reruns(plan, set).missing_files("smoke") is None
    put(MADE[EVALUATION], OTHER)
    assert not Reruns(plan, set).is_rolled_up("smoke")
    rolled_up(plan, plan.counted("smoke"), report_grid=OTHER)
    assert not Reruns(plan, set).is_rolled_up("smoke")
    rolled_up(plan, plan.counted("smoke")[1:])
    assert not Reruns(plan, set).is_rolled_up("smoke")
    rolled_up(plan, plan.counted("smoke"))
    os.remove(companions(MADE[EVALUATION])[0])
    assert not Reruns(plan, set).is_rolled_up("smoke")


def test_a_partial_report_is_current_until_there_is_more(plan):
    partial = Plan(load(plan.config.dump() | {"partial": True}))
    first, *rest = partial.counted("smoke")
    rolled_up(partial, rest)
    text = Path(first).read_bytes()
    os.remove(first)
    assert Reruns(partial, set).is_rolled_up("smoke") and not Reruns(plan, set).is_rolled_up("smoke")
    assert Reruns(partial, set).present([first, *rest]) == rest
    Path(first).write_bytes(text)
    assert not Reruns(partial, set).is_rolled_up("smoke")


def test_deleted_weights_of_a_finished_report_are_named(plan):
    rolled_up(plan, plan.counted("smoke"))
    weights = companions(MADE[COMPRESSED])[0]
    os.remove(weights)
    line = Reruns(plan, set).missing_files("smoke")
    assert f"are gone: {weights}. A job that needs one makes it again" in line


@pytest.mark.parametrize("outdated", [True, False], ids=["outdated", "as planned"])
@pytest.mark.parametrize("entry", [*ANALYSIS, "report_grid"])
def test_a_roll_up_of_another_recipe_is_forced(plan, reruns, forced, entry, outdated):
    rolled_up(plan, plan.counted("smoke"), **({entry: OTHER} if outdated else {}))
    path = "results/smoke/report.json" if entry == "report_grid" else "results/smoke/file"
    reruns.force_roll_up_if_outdated(entry, path, "smoke")
    assert forced == ({path} if outdated else set())


def test_a_roll_up_without_a_report_is_not_forced(plan, reruns, forced):
    for entry in (*ANALYSIS, "report_grid"):
        reruns.force_roll_up_if_outdated(entry, "results/smoke/report.json", "smoke")
    assert forced == set()


def shown() -> list[str]:
    """The report and all that it shows; their folders are made."""
    files = [file.path("smoke") for file in (REPORT, *REPORTED)]
    for file in files:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    return files


@pytest.mark.parametrize("gone", ["report.html", "tables/table2.md", "figures/figure4.svg"])
def test_deleted_cells_are_made_again_for_a_report_that_lacks_something(plan, forced, gone):
    """Snakemake's report of them ended in "marked for report but does not exist"."""
    rolled_up(plan, plan.counted("smoke"))
    os.remove(MADE[EVALUATION])
    for file in (ANSWERS.path("smoke"), *shown()):
        Path(file).touch()
    Path("results/smoke", gone).unlink()
    Reruns(plan, lambda: forced).force_roll_up_if_outdated("report_grid", STAMP.path("smoke"), "smoke")
    assert forced == {MADE[EVALUATION]}


@pytest.mark.parametrize("entry", READ_CELLS)
@pytest.mark.parametrize("why", ["missing", "forced", "outdated"])
def test_deleted_cells_are_made_again_for_a_roll_up_that_will_run(plan, forced, entry, why):
    path = f"results/smoke/{entry}"
    rolled_up(plan, plan.counted("smoke"), **({entry: OTHER} if why == "outdated" else {}))
    os.remove(MADE[EVALUATION])
    Path(ANSWERS.path("smoke")).touch()
    if why != "missing":
        for file in (path, *shown()):
            Path(file).touch()
    if why == "outdated" and entry == "report_grid":
        path = STAMP.path("smoke")
    if why == "forced":
        forced.add(path)
    Reruns(plan, lambda: forced).force_roll_up_if_outdated(entry, path, "smoke")
    assert forced - {path} == {MADE[EVALUATION]}


def test_a_deleted_cell_is_not_made_for_roll_ups_that_stand_or_show_what_there_is(plan, forced):
    rolled_up(plan, plan.counted("smoke"))
    os.remove(MADE[EVALUATION])
    for file in (ANSWERS.path("smoke"), *shown()):
        Path(file).touch()
    for entry in READ_CELLS:
        Path("results/smoke", entry).touch()
        Reruns(plan, lambda: forced).force_roll_up_if_outdated(entry, f"results/smoke/{entry}", "smoke")
    partial = Plan(plan.config.model_copy(update={"partial": True}))
    Reruns(partial, lambda: forced).force_roll_up_if_outdated("judge", "results/smoke/nothing", "smoke")
    assert forced == set()


@pytest.mark.parametrize(
    ("edited", "entry", "path"),
    [
        ("tables/table2.csv", "tabulate", table("table1").path("smoke")),
        ("tables/changes.md", "tabulate", table("table1").path("smoke")),
        ("figures/figure4.pdf", "plot_figures", figure(FIGURES[0]).path("smoke")),
        ("paper_audit.html", "audit_paper", AUDIT.path("smoke")),
        ("overview.html", "draw_page", PAGE.path("smoke")),
        ("report.html", "report_grid", STAMP.path("smoke")),
    ],
)
def test_what_the_report_shows_is_made_again_once_changed(plan, forced, edited, entry, path):
    """A table that a spreadsheet saved was served by the next report, and packed."""
    rolled_up(plan, plan.counted("smoke"))
    for file in shown():
        Path(file).write_text("made")
    stamp = read_json(STAMP.path("smoke"))
    stamp["roll_ups"] = {file: sha256_file(file) for file in shown()}
    write_json(STAMP.path("smoke"), stamp)
    Reruns(plan, lambda: forced).force_roll_up_if_outdated(entry, path, "smoke")
    assert forced == set() and Reruns(plan, set).is_rolled_up("smoke")
    Path("results/smoke", edited).write_text("edited")
    Reruns(plan, lambda: forced).force_roll_up_if_outdated(entry, path, "smoke")
    assert forced == {path}
    reruns = Reruns(plan, set)
    assert not reruns.is_rolled_up("smoke") and reruns.is_reported("smoke")
    put(MADE[EVALUATION], OTHER)  # there are other results: all is made again in any case
    assert Reruns(plan, set).changed_roll_ups("smoke") == []


@pytest.mark.parametrize("content", ["", "[]", '{"recipe": ', '{"files": 3}'])
def test_a_record_of_a_report_that_is_damaged_makes_the_report_again(plan, reruns, forced, content):
    rolled_up(plan, plan.counted("smoke"))
    Path("results/smoke/report.json").write_text(content)
    for entry in (*ANALYSIS, "report_grid"):
        reruns.force_roll_up_if_outdated(entry, f"results/smoke/{entry}", "smoke")
    assert forced == {"results/smoke/report_grid"} and not reruns.is_rolled_up("smoke")

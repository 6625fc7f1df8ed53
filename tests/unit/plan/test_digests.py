"""digests: a job's code is the planned one from its first import to its last, or nothing of it is kept."""

import os
import shutil
import time
from pathlib import Path

import pytest

from workflow_scripts.files.artifacts import ArtifactError, sha256_file
from workflow_scripts.plan import digests
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.digests import OPTIONAL, import_closure
from workflow_scripts.plan.recipes import Plan

ROOT = Path(__file__).parents[3]
ENTRY = "jobs/entry.py"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of an entry, a module that it imports, and one that serves a kind of method alone; made long ago."""
    root = tmp_path / "workflow_scripts"
    (root / "jobs").mkdir(parents=True)
    (root / "jobs/entry.py").write_text("from workflow_scripts import used\n")
    for name in ("used", "optional", "other"):
        (root / f"{name}.py").write_text("VALUE = 1\n")
    monkeypatch.setattr(digests, "PACKAGE", root)
    monkeypatch.setattr(digests, "MODULES", {"idp": ("optional.py",), "none": ()})
    monkeypatch.setattr(digests, "OPTIONAL", frozenset({"optional.py"}))
    monkeypatch.setattr(digests, "_process_start", lambda: time.time() + 1)
    cached = (digests._imports, digests._content, digests.import_closure, digests.code_digest)
    for function in cached:
        function.cache_clear()
    yield root
    for function in cached:
        function.cache_clear()


def job(kind: str = "idp"):
    """The frame of a job of this kind of method, as it was planned."""
    return digests.unchanged("entry")({"method": {"kind": kind}, "code": digests.code_of("entry", kind)})


def put_back_by_write(file: Path, text: str) -> None:
    file.write_text(text)


def put_back_with_its_time(file: Path, text: str) -> None:
    shutil.copy2(file.with_suffix(".kept"), file)


@pytest.mark.parametrize("put_back", [put_back_by_write, put_back_with_its_time])
@pytest.mark.parametrize("name", [ENTRY, "used.py", "optional.py"])
def test_code_that_is_edited_while_a_job_runs_and_put_back_keeps_nothing(package, name, put_back):
    file, text = package / name, (package / name).read_text()
    shutil.copy2(file, file.with_suffix(".kept"))
    with pytest.raises(ArtifactError, match=f"workflow_scripts/{name} was edited while this job ran"), job():
        file.write_text(text + "# an edit\n")
        time.sleep(0.02)  # the file system's clock ticks
        put_back(file, text)


@pytest.fixture
def defined(package):
    """A task's definition, and the arguments of a job that was planned with it."""
    file = package / "evaluate/tasks/piqa.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("task: piqa\n")
    contents = {str(file.relative_to(package.parent)): sha256_file(file)}
    return file, {"code": digests.code_of("entry"), "contents": contents}


def test_a_tasks_definition_that_is_edited_while_a_job_runs_keeps_nothing(defined):
    file, args = defined
    with (
        pytest.raises(ArtifactError, match=r"tasks/piqa.yaml was edited while"),
        digests.unchanged("entry")(args),
    ):
        file.write_text("task: piqb\n")
        time.sleep(0.02)
        file.write_text("task: piqa\n")


def test_a_tasks_definition_that_is_not_the_planned_one_starts_no_work(defined, monkeypatch):
    """It was edited while other cells ran, and put back later: the cell bore the recipe of the other definition."""
    file, args = defined
    file.write_text("task: piqb\n")
    monkeypatch.setattr(digests, "_process_start", lambda: time.time() + 1)
    with (
        pytest.raises(ArtifactError, match=r"piqa\.yaml is not the file that was planned"),
        digests.unchanged("entry")(args),
    ):
        raise AssertionError("it ran")


def test_jobs_are_planned_with_the_other_files_that_they_read():
    plan = Plan(load(read(*files(root=ROOT))))
    cell = plan.definitions("smoke")
    assert "workflow_scripts/evaluate/tasks/piqa.yaml" in cell and len(cell) == len(plan.tasks("smoke"))
    assert "reports/workflow.rst" in plan.analysis("smoke", "report_grid")["contents"]
    assert "reports/templates/report_page.html.j2" in plan.analysis("smoke", "draw_page")["contents"]
    for planned in (cell, plan.analysis("smoke", "draw_page")["contents"]):
        assert all(sha256_file(ROOT / file) == sha for file, sha in planned.items())


def test_code_that_is_not_the_planned_one_starts_no_work(package):
    frame = job()
    (package / "used.py").write_text("VALUE = 2\n")
    with pytest.raises(ArtifactError, match="not the code that was planned"), frame:
        raise AssertionError("it ran")


def test_code_that_is_edited_while_a_job_imports_it_starts_no_work(package, monkeypatch):
    monkeypatch.setattr(digests, "_process_start", lambda: os.stat(package / "used.py").st_ctime - 1)
    with pytest.raises(ArtifactError, match="was edited while this job began"), job():
        raise AssertionError("it ran")


@pytest.mark.parametrize("name", ["other.py", "optional.py"])
def test_an_edit_of_what_the_job_does_not_import_is_no_matter(package, name):
    with job("none"):
        (package / name).write_text("VALUE = 2\n")


def test_every_entry_watches_its_own_code():
    for entry in sorted((ROOT / "workflow_scripts/jobs").glob("[!_]*.py")):
        assert f'    run(main, unchanged("{entry.stem}"))\n' in entry.read_text(), entry.name


@pytest.mark.parametrize("grid", ["smoke", "engines"])
def test_a_job_finds_the_planned_code_by_its_arguments_alone(grid, tmp_path, monkeypatch):
    """Kinds of methods and engines, of which modules of their own are digested, are read from the arguments."""
    plan = Plan(load(read(*files(root=ROOT))))
    monkeypatch.setattr(digests, "_process_start", lambda: time.time() + 1)
    jobs = [("judge", plan.analysis(grid, "judge")), ("fetch_model", plan.fetch("models", "smollm2-135m"))]
    jobs += [("train_adapter", plan.train(adapter)) for adapter in plan.adapters(grid)]
    jobs += [("evaluate_cell", plan.evaluate(cell)) for cell in plan.cells(grid)]
    jobs += [("measure_similarity", plan.similarity(cell)) for cell in plan.similarity_cells(grid)]
    jobs += [("measure_latency", plan.latency(grid, **place)) for place in plan.latency_places(grid).values()]
    copies = {copy[:4] + copy[5:] for copy in plan.copies(grid)}
    jobs += [("compress_model", plan.compress(*copy)) for copy in copies]
    for entry, args in jobs:
        with digests.unchanged(entry)(args):
            pass


def test_a_process_knows_when_it_began():
    assert 0 < time.time() - digests._process_start() < 24 * 3600


@pytest.mark.parametrize("entry", ["fetch_model", "fetch_benchmark"])
def test_what_checks_at_a_fetch_is_in_no_recipe(entry):
    """An edit of the scorer or of the configuration's types fetches no model and no benchmark again."""
    files = import_closure(f"jobs/{entry}.py", (), OPTIONAL)
    assert not [file for file in files if file.startswith(("evaluate/", "plan/schema", "plan/model_limits"))]


@pytest.mark.parametrize(
    "entry",
    ["fetch_model", "compress_model", "export_model", "train_adapter", "evaluate_cell", "measure_similarity"],
)
def test_what_a_model_computes_depends_neither_on_paths_nor_on_the_configurations_types(entry):
    """A new figure, or a new key of a compressor, makes no model, adapter or cell again."""
    files = import_closure(f"jobs/{entry}.py", (), OPTIONAL)
    assert not [file for file in files if file.startswith(("plan/layout", "plan/schema", "plan/contents"))]


def test_the_lists_of_kinds_are_in_no_recipe():
    """Registering a new kind of method or engine makes no model, adapter or cell again."""
    for entry in ("fetch_model", "compress_model", "train_adapter", "evaluate_cell"):
        assert "plan/digests.py" not in import_closure(f"jobs/{entry}.py", (), OPTIONAL)


@pytest.mark.parametrize(
    "block",
    [
        "def function():\n    {}",
        "class Some:\n    async def method(self):\n        {}",
        "if VALUE:\n    pass\nelse:\n    {}",
        "for one in VALUE:\n    pass\nelse:\n    {}",
        "while VALUE:\n    {}",
        "with VALUE:\n    {}",
        "try:\n    {}\nfinally:\n    pass",
        "try:\n    pass\nexcept OSError:\n    {}",
        "try:\n    pass\nexcept* OSError:\n    {}",
        "try:\n    pass\nfinally:\n    {}",
        "match VALUE:\n    case 1:\n        {}",
    ],
)
@pytest.mark.parametrize("line", ["from workflow_scripts import other", "import workflow_scripts.other"])
def test_an_import_counts_wherever_it_stands(package, block, line):
    (package / "used.py").write_text(block.format(line) + "\n")
    assert import_closure(ENTRY) == (ENTRY, "other.py", "used.py")

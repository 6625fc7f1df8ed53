"""The house: arrows between rooms go down, nothing runs in a circle, and ARCHITECTURE.md is what the package says."""

import ast
import graphlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys

import pytest

from tests.docs.examples import ROOT
from workflow_scripts.plan.config import files

specification = importlib.util.spec_from_file_location("architecture", ROOT / "docs/hooks/architecture.py")
architecture = importlib.util.module_from_spec(specification)
specification.loader.exec_module(architecture)

PACKAGE, ROOMS = architecture.PACKAGE, architecture.ROOMS
HEAVY = {"torch", "transformers", "peft", "datasets", "lm_eval"}
# Rooms that load no HEAVY library.
LIGHT = ("commands", "report", "archive", "judge", "plan", "cluster", "files")


def test_the_page_is_what_the_package_says():
    stale = f"ARCHITECTURE.md is out of date: run `{architecture.COMMAND}` and commit what it writes"
    assert architecture.PAGE.read_text() == architecture.page(), stale


def test_every_room_has_its_place_in_the_order():
    assert architecture.rooms() == sorted(ROOMS)


def test_every_folder_of_modules_says_what_it_is_for():
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    silent = [str(folder) for folder in folders if not architecture.docstring(folder / "__init__.py")]
    assert not silent, "an __init__.py without a docstring"


@pytest.mark.parametrize("room", ROOMS)
def test_every_module_says_what_it_is(room):
    silent = [str(file) for file in architecture.modules(room) if not architecture.docstring(file)]
    assert not silent, "no docstring"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_stands_below_it_and_in_its_docstring(room):
    below = ROOMS[ROOMS.index(room) + 1 :]
    permission = architecture.docstring(PACKAGE / room / "__init__.py").split("\n\n")[-1]
    assert permission.startswith("May import ")
    named = {name for name in ROOMS if re.search(rf"\b{name}\b", permission)}
    assert named <= set(below), f"{room}/__init__.py permits an arrow up"
    for file in architecture.modules(room):
        targets = {architecture.room_of(target) for target in architecture.imports(file)} - {room}
        assert targets <= named, f"{file}: {room} may not import {', '.join(sorted(targets - named))}"


def test_modules_import_each_other_in_no_circle():
    graph = {file: architecture.imports(file) - {file} for file in PACKAGE.rglob("*.py")}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"a circle: {' <- '.join(str(file.relative_to(PACKAGE)) for file in error.args[1])}")


@pytest.mark.parametrize("room", LIGHT)
def test_a_light_room_never_imports_torch(room):
    for file in architecture.modules(room):
        heavy = {name.split(".")[0] for name in architecture.names(file)} & HEAVY
        assert not heavy, f"{file} imports {', '.join(sorted(heavy))}"


PARSING = {
    "snakemake": """
from snakemake.cli import main
main(["--dry-run", "--snakefile", sys.argv[1], "--config", "grid=smoke"])
""",
    "commands": """
from workflow_scripts.__main__ import COMMANDS, main
for command in COMMANDS:
    try:
        main([command, "--help"])
    except SystemExit:
        pass
""",
}


@pytest.mark.parametrize("program", PARSING.values(), ids=PARSING)
def test_no_heavy_library_is_loaded_to_plan_a_run_or_to_explain_a_command(program, tmp_path):
    """A dry run of a whole grid: imports, rules, and the functions of their inputs, parameters and resources."""
    code = f"import atexit, sys\natexit.register(lambda: print(*sys.modules, file=sys.stderr))\n{program}"
    for name in files():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(ROOT / "Snakefile")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
    loaded = set(done.stderr.split())
    assert done.returncode == 0 and "workflow_scripts.plan.layout" in loaded, done.stderr[-2000:]
    assert not loaded & HEAVY


def test_a_cell_without_a_lora_does_not_load_peft():
    program = "import sys, workflow_scripts.evaluate.cell; print('peft' in sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout == "False\n"


def test_a_light_room_stands_on_light_rooms_alone():
    for room in LIGHT:
        assert set(architecture.arrows(room)) <= set(LIGHT), room


def test_the_rules_import_only_plan_cluster_and_files():
    for file in (ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))):
        rooms = re.findall(r"^\s*(?:from|import) workflow_scripts\.(\w+)", file.read_text(), re.MULTILINE)
        assert set(rooms) <= {"plan", "cluster", "files"}, file


def test_the_check_sees_imports_inside_functions_and_by_name(tmp_path):
    file = tmp_path / "module.py"
    lines = ["from torch import nn", "import workflow_scripts.plan.cells", "importlib.import_module('peft')"]
    file.write_text("\n    ".join(["def f():", *lines]))
    assert architecture.names(file) == {"torch", "torch.nn", "workflow_scripts.plan.cells", "peft"}


def test_a_relative_import_which_no_digest_sees_is_refused(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("def f():\n    from ..judge import verdict\n")
    with pytest.raises(ValueError, match=r"module.py:2: a relative import; write the whole name"):
        architecture.names(file)


@pytest.mark.parametrize("folder", ["workflow_scripts", "benchmarks", "docs/hooks"])
def test_functions_fit_on_a_screen_and_take_few_parameters(folder):
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                every = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                names = {each.arg for each in every} - {"self", "cls"}
                assert node.end_lineno - node.lineno < 59, f"{file}: {node.name} has 60 lines or more"
                assert len(names) <= 7, f"{file}: {node.name} takes too many parameters"


@pytest.mark.parametrize(
    "folder", ["workflow_scripts", "benchmarks", "tests", "rules", "config", "docs/hooks"]
)
def test_no_file_has_more_than_400_lines(folder):
    kinds = ("py", "smk", "yaml", "j2", "js")
    files = [file for kind in kinds for file in (ROOT / folder).rglob(f"*.{kind}")]
    by_commands = ("config/judge/", "tests/unit/archive/format-1/")  # by `judge` and `archive`
    written = [file for file in files if not any(folder in file.as_posix() for folder in by_commands)]
    assert written and not [file for file in written if file.read_bytes().count(b"\n") > 400]

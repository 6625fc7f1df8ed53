"""Requests that a run can't meet: paths of no result, sources and tasks that are not there.

They are reported before the first job, and in a dry run.
"""

import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from workflow_scripts.files.artifacts import PACKAGE, recorded_recipe
from workflow_scripts.files.gguf_parts import missing_part, parts_of
from workflow_scripts.files.members import ITEMS, RESOURCES, RESULTS
from workflow_scripts.plan import strata
from workflow_scripts.plan.layout import BENCHMARK, CHECKPOINT, CORPUS, KINDS, MODEL, check_path, is_shared
from workflow_scripts.plan.names import listed, nearest
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.reruns import Reruns

FETCHED = {"models": MODEL, "compressors": CHECKPOINT, "corpora": CORPUS, "benchmarks": BENCHMARK}
OPTIONS_OF_FILES = ("--report", "--configfile", "--configfiles", "--snakefile", "--directory", "--profile")


def targets(arguments: Iterable[str]) -> list[str]:
    """The results among the words of a command line; a file that an option names is none."""
    words = list(arguments)
    return [
        word
        for before, word in zip(["", *words], words)
        if before not in OPTIONS_OF_FILES
        and word.removeprefix("./").startswith((f"{RESULTS}/", f"{RESOURCES}/"))
    ]


def check_target(reruns: Reruns, path: str) -> None:
    """ValueError, one line, for a path of a result that can't be."""
    check_path(path, reruns.plan.config.names())
    for artefact in KINDS.values():
        if names := artefact.parse(path):
            reruns.arguments(artefact, names)


def problems(plan: Plan, paths: list[str]) -> list[str]:
    """Sources and tasks that are not there, of the grids to which the paths belong; of the chosen grid without a path.

    A rebuild fetches nothing. A single result may need less than its grid: its jobs are checked as they start.
    """
    if plan.config.rebuilt:
        return []
    whole = [path for path in paths if not any(artefact.parse(path) for artefact in KINDS.values())]
    grids = {parts[1] for path in whole if (parts := path.removeprefix("./").split("/"))[0] == RESULTS}
    chosen = sorted(grids & plan.config.grids.keys()) if paths else [plan.config.grid]
    return list(
        dict.fromkeys(
            problem
            for grid in chosen
            for problem in (*_sources(plan, grid), *_tasks(plan, grid), *_strata(plan, grid))
        )
    )


def _sources(plan: Plan, grid: str) -> Iterator[str]:
    """Local files that the grid's fetches would read and that are not there."""
    config = plan.config
    entries = [
        *config.models.values(),
        *map(config.compressors.__getitem__, plan.checkpoints(grid)),
        *config.corpora.values(),
        *config.benchmarks[plan.grid(grid).benchmarks].values(),
    ]
    if not any(getattr(entry, "path", None) for entry in entries):
        return  # the recipes below take a large grid seconds
    for path, recipe in plan.artefacts(grid).items():
        for catalogue, artefact in FETCHED.items():
            if (names := artefact.parse(path)) and is_shared(path) and recorded_recipe(path) != recipe:
                place = getattr(plan.source(catalogue, *names.values()), "path", None)
                if place and (gone := _gone(Path(place).expanduser())):
                    yield f"{'.'.join([catalogue, *names.values()])}.path: {gone}"


def _gone(where: Path) -> str | None:
    """Why a file or folder, or another part of a split GGUF file, can't be read; None if all is there."""
    if len(parts_of(where)) > 1:
        return missing_part(where)
    return None if where.exists() else f"{where.absolute()}: no such file or folder"


def _tasks(plan: Plan, grid: str) -> Iterator[str]:
    """Tasks that neither this package defines nor the harness."""
    wanted = {plan.config.tasks[task].task or task: task for task in plan.tasks(grid)}
    own = {file.stem for file in (PACKAGE / "evaluate/tasks").glob("*.yaml")}
    if unknown := wanted.keys() - own:
        known = _in_the_harness(unknown)
        for name in sorted(unknown - known):
            problem = f"tasks.{wanted[name]}: {name!r} is no task of workflow_scripts/evaluate/tasks or of the harness"
            asked = (
                "" if plan.config.tasks[wanted[name]].task else "; `task` names the definition that asks it"
            )
            yield f"{problem}{asked}{nearest(name, own)}"


def _strata(plan: Plan, grid: str) -> Iterator[str]:
    """Strata whose field no document of a fetched task has; the fetch of a task looks at every one."""
    for task in plan.tasks(grid):
        if not (asked := plan.config.tasks[task].strata):
            continue
        benchmarks = plan.grid(grid).benchmarks
        path = BENCHMARK.path(benchmarks=benchmarks, task=task)
        if recorded_recipe(path) != plan.recipe("benchmarks", benchmarks, task):
            continue  # it is fetched first
        file = Path(path).with_name(ITEMS)
        known = _fields(file)
        for kind, field in strata.fields(asked.dump()).items():
            if field not in known:
                reason = f"no document of {file} has the field {field!r}; they have {listed(known)}"
                yield f"tasks.{task}.strata.{kind}: {reason}{nearest(field, known)}"


def _fields(file: Path) -> dict[str, None]:
    """The fields that documents of a task's file have; none of a file that can't be read, which its readers name."""
    known: dict[str, None] = {}
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            known |= dict.fromkeys(json.loads(line)) if line.strip() else {}
    except (OSError, ValueError, TypeError):
        return {}
    return known


def _in_the_harness(names: Iterable[str]) -> set[str]:
    """The names that a definition of the harness bears. The harness is not imported: that would take seconds."""
    harness = importlib.util.find_spec("lm_eval")
    words = b"|".join(re.escape(name).encode() for name in names)
    line = re.compile(rb"""^["']?task["']?: *["']?(%s)["']? *$""" % words, re.MULTILINE)
    folders = harness.submodule_search_locations if harness else None
    found = {
        match.decode()
        for folder in folders or ()
        for file in Path(folder, "tasks").rglob("*.yaml")
        for match in line.findall(file.read_bytes())
    }
    return found if folders else set(names)

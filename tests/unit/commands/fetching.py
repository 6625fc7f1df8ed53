"""Fetches for tests of commands that start Snakemake: the same targets, made in this process."""

import sys
from io import StringIO
from pathlib import Path
from types import ModuleType
from types import SimpleNamespace as Any

from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.layout import BENCHMARK, CORPUS, MODEL
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.sources import benchmarks, corpora, models

KINDS = ((MODEL, "models", models), (CORPUS, "corpora", corpora), (BENCHMARK, "benchmarks", benchmarks))


def fetch(command: list[str]) -> int:
    """Fetch the targets of a call of Snakemake, which stand behind `--`, as their jobs would."""
    before, targets = command[: command.index("--")], command[command.index("--") + 1 :]
    named = before[before.index("--configfile") + 1 :] if "--configfile" in before else []
    plan = Plan(load(read(*files(*named))))
    for target in targets:
        artefact, catalogue, source = next(kind for kind in KINDS if kind[0].parse(target))
        names = artefact.parse(target).values()
        asked = plan.fetch(catalogue, *names)
        spec, made = (
            asked["spec"] | plan.details(catalogue, *names),
            {"recipe": asked["recipe"], "code": "test"},
        )
        source.fetch(asked["name"], spec, Path(target).parent, Path("wheels"), **made)
    return 0


def run_here(program: ModuleType, monkeypatch) -> object:
    """What stands for subprocess.run: the program's `main` in this process, with the input as its standard input."""

    def run(command: list[str], *, input: str, capture_output: bool = False, **_: object) -> Any:
        assert command[-1] == program.__name__
        monkeypatch.setattr(sys, "stdin", StringIO(input))
        if not capture_output:
            return Any(returncode=program.main())
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", out := StringIO())
            status = program.main()
        return Any(returncode=status, stdout=out.getvalue(), stderr="")

    return run

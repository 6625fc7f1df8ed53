"""Every command of the documentation runs: cheap ones here and now, whole pages as written in the slow tests."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.docs import stage
from tests.docs.examples import Example, commands, files

# How each command is tested, by the first pattern that it matches. A command that none matches is run by no test.
RUN = r"python -m workflow_scripts"
KINDS = {
    "itself": r"make (test|coverage)",  # the runs that hold this test
    # tests/docs/test_pages.py writes the tiny model and reads a page's configuration over it
    # tests/slurm runs the cluster's; `make test` itself needs the environment, lint stands before it in .ci/run
    # tests/workflow judges a checkpoint and adopts, tests/unit/commands checks, writes new files, plans, gates and
    # publishes, tests/unit/report writes the README, tests/unit/benchmarks simulates
    "by other tests": rf"(make|{RUN}) (adopt|check|gate|judge|new|plan|publish|readme|truth)( .*)?"
    r"|python -m benchmarks\.(train|verdict) .*|python -m benchmarks.verdict|python -m pytest tests/golden .*",
    "elsewhere": r"make (preflight|resume|test-slow|test-slurm)( .*)?|make (audit|optimum|llmcompressor|install|lint)"
    r"|make equivalences|python -m tests.mutations|pip install mlflow-skinny"
    r"|python -m tests\.tiny .*|snakemake .*/tiny/tiny\.yaml .*"
    rf"|{RUN} preflight( .*)?|{RUN} run --resume( .*)?",
    "cluster": r"snakemake --profile slurm",  # without a cluster: as a dry run, with the page
    "cheap": r"make|source .*|make (explain|forecast) .*|make status( .*)?"
    rf"|{RUN}|{RUN} \w+ --help|{RUN} (explain|forecast) .*|{RUN} status( .*)?"
    r"|snakemake .*--list-rules.*|snakemake --unlock|snakemake (.* )?-n( .*)?",
    "expensive": r"make (demo|(run|archive|rebuild|restore|compare) .*)|snakemake .*results/.*|cp .*"
    rf"|{RUN} (run|archive|rebuild|restore|compare) .*",
}
# Of a file that `make new` writes, like another, or on the largest grid: with their pages, in the slow tests.
LATER = r"snakemake (-n results/.*|--unlock)|make forecast GRID=mine .*|.*(--profile slurm|grid=paper).*"


def kind(command: str) -> str | None:
    return next((name for name, pattern in KINDS.items() if re.fullmatch(pattern, command)), None)


ALL = commands()
PAGES = list(dict.fromkeys(example.page for example in ALL))


def context(example: Example) -> tuple:
    """The page's files, where the command reads them."""
    named = files(example.page)
    return tuple(named.items()) if any(name in example.text for name in named) else ()


CHEAP = {
    (example.text, context(example)): example
    for example in ALL
    if kind(example.text) == "cheap" and not re.fullmatch(LATER, example.text)
}


def test_there_is_no_command_that_no_test_runs():
    assert len(ALL) > 30
    unknown = [f"{example}: {example.text}" for example in ALL if kind(example.text) is None]
    assert not unknown, "run by no test (KINDS decides):\n" + "\n".join(unknown)


@pytest.fixture(scope="session")
def outputs(made_once) -> dict[str, tuple[int, str]]:
    """Exit code and output of every cheap command, two at a time, each in the folder of its page's files."""

    def make(folder: Path) -> None:
        clones = {}
        for _, content in CHEAP:
            if content not in clones:
                clones[content] = stage.build(folder / f"clone-{len(clones)}")
                stage.write(clones[content], dict(content))
        with ThreadPoolExecutor(2) as pool:
            done = pool.map(lambda key: stage.run(clones[key[1]], key[0]), CHEAP)
            found = {f"{CHEAP[key]}: {key[0]}": (one.returncode, one.stdout) for key, one in zip(CHEAP, done)}
        (folder / "outputs.json").write_text(json.dumps(found))

    return json.loads((made_once("documentation", make) / "outputs.json").read_text())


@pytest.mark.parametrize("example", CHEAP.values(), ids=str)
def test_a_cheap_command_runs(outputs, example):
    code, output = outputs[f"{example}: {example.text}"]
    assert code == 0, f"{example}: {example.text}\n{output[-3000:]}"
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_as_it_is_written(page, tmp_path):
    folder = stage.with_tiny_sources(stage.build(tmp_path / "clone"))
    stage.write(folder, files(page))
    for text in dict.fromkeys(example.text for example in ALL if example.page == page):
        if kind(text) not in ("itself", "elsewhere"):
            done = stage.run(folder, f"{text} -n" if kind(text) == "cluster" else text)
            assert done.returncode == 0, f"{page}: {text}\n{done.stdout[-6000:]}"
            assert "Traceback" not in done.stdout

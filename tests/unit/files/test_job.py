"""How an entry's parameters are filled from a Snakemake job."""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.iocontainers import Namedlist

from workflow_scripts.files import job
from workflow_scripts.files.job import Folder, arguments, run
from workflow_scripts.files.provenance import Provenance


def named(**groups) -> Namedlist:
    """Files or values by name, as Snakemake gives them: a list of several where a list is given."""
    everything = []
    for value in groups.values():
        everything += value if isinstance(value, list) else [value]
    found, start = Namedlist(everything), 0
    for name, value in groups.items():
        end = start + (len(value) if isinstance(value, list) else 1)
        found._set_name(name, start, end if isinstance(value, list) else None)
        start = end
    return found


def made_up(**changes):
    parts = {
        "input": named(
            model="m/manifest.json", adapters=["a/t.json", "b/t.json"], corpus=[], text=["c/x.json"]
        ),
        "output": named(record="out/seed-3.json", samples="out/seed-3.parquet"),
        "params": named(args={"method": {"kind": "none"}, "recipe": "r", "code": "c"}, minutes=7),
        "wildcards": named(grid="g", model="tiny", seed="3"),
        "threads": 4,
        "config": {"grid": "g"},
    }
    return SimpleNamespace(**parts | changes)


@dataclass(frozen=True)
class Files:
    model: Folder
    adapters: list[Folder]
    corpus: Folder | None
    text: Folder | None = None


def test_a_parameter_is_filled_by_its_name():
    def main(method: dict, minutes: float, samples: str, threads: int, config: dict, device: str = "cpu"):
        pass

    assert arguments(main, made_up()) == {
        "method": {"kind": "none"},
        "minutes": 7,
        "samples": "out/seed-3.parquet",
        "threads": 4,
        "config": {"grid": "g"},
    }


def test_the_first_output_and_lists_of_all_files():
    def main(output: str, outputs: list[str], inputs: list[str], adapters: list[str]):
        pass

    found = arguments(main, made_up())
    assert found["output"] == "out/seed-3.json" and found["outputs"] == [
        "out/seed-3.json",
        "out/seed-3.parquet",
    ]
    assert found["inputs"] == ["m/manifest.json", "a/t.json", "b/t.json", "c/x.json"]
    assert type(found["adapters"]) is list and found["adapters"] == ["a/t.json", "b/t.json"]


def test_folders_are_those_of_the_files_and_a_dataclass_is_filled_by_the_same_rule():
    def main(files: Files, made: Provenance):
        pass

    found = arguments(main, made_up())
    assert found["files"] == Files(Path("m"), [Path("a"), Path("b")], None, Path("c"))
    made = found["made"]
    assert (made.recipe, made.code, made.seed, made.threads, made.device) == ("r", "c", 3, 4, None)


def test_a_wildcard_counts_where_nothing_else_has_its_name():
    def main(grid: str, seed: int, model: str, cell: dict):
        pass

    assert arguments(main, made_up()) == {
        "grid": "g",
        "seed": 3,
        "model": "m/manifest.json",
        "cell": {"grid": "g", "model": "tiny", "seed": 3},
    }


def test_a_parameter_without_a_source_or_with_two_is_an_error():
    def missing(nowhere: str):
        pass

    def twice(samples: str):
        pass

    with pytest.raises(TypeError, match="the rule has nothing named `nowhere`"):
        arguments(missing, made_up())
    with pytest.raises(TypeError, match="the rule has several things named `samples`"):
        arguments(twice, made_up(input=named(samples="x")))


def test_an_entry_takes_the_job_from_its_own_module(monkeypatch):
    given, entered = [], []

    def main(seed: int, samples: str):
        given.append((seed, samples))

    made = made_up()
    monkeypatch.setitem(main.__globals__, "snakemake", made)
    monkeypatch.setattr(job, "job", lambda snakemake: nullcontext(entered.append(snakemake)))
    run(main)
    assert given == [(3, "out/seed-3.parquet")] and entered == [made]


def test_an_entry_outside_snakemake_is_refused():
    def main(seed: int):
        raise AssertionError("it ran")

    with pytest.raises(
        RuntimeError, match=f"{__name__}: an entry runs only as the script of a Snakemake rule"
    ):
        run(main)

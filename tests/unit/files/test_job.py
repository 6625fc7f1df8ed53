"""How an entry's parameters are filled from a Snakemake job."""

import os
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.iocontainers import Namedlist

from workflow_scripts.files import artifacts, job
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.job import Folder, arguments, arguments_in, as_text, run
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
        "params": named(args=as_text({"method": {"kind": "none"}, "recipe": "r", "code": "c"}), minutes=7),
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


def test_no_tag_of_an_argument_reaches_a_rules_parameter():
    methods = {"t": {"text": "\\u003c/script>", "n": [1, 2.5, None]}}
    args = {"description": "x </script><!-- <SCRIPT>", "methods": methods}
    assert "<" not in as_text(args) and arguments_in(as_text(args)) == args


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
    monkeypatch.setattr(job, "put_back_times", nullcontext)
    run(main, lambda args: nullcontext(entered.append(args)))
    assert given == [(3, "out/seed-3.parquet")] and entered == [made, arguments_in(made.params.args)]


def test_an_entry_outside_snakemake_is_refused():
    def main(seed: int):
        raise AssertionError("it ran")

    with pytest.raises(
        RuntimeError, match=f"{__name__}: an entry runs only as the script of a Snakemake rule"
    ):
        run(main, nullcontext)


@pytest.mark.parametrize("fails", ["work", "check after it"])
def test_a_job_that_fails_leaves_nothing_that_it_wrote(tmp_path, monkeypatch, fails):
    """On a cluster Snakemake keeps the outputs of a failed job: they may belong to a finished cell."""
    monkeypatch.chdir(tmp_path)
    new, old, left = (Path(name) for name in ("new", "old", "left"))
    for file in (old, left):
        file.write_text("finished")

    def main(outputs: list[str]) -> None:
        for file in (new, old):
            artifacts.write_json(file, {})
        if fails == "work":
            raise ArtifactError("no")

    @contextmanager
    def frame(args):
        yield
        raise ArtifactError("edited meanwhile")

    made = made_up(output=named(new="new", old="old", left="left"))
    monkeypatch.setitem(main.__globals__, "snakemake", made)
    monkeypatch.setattr(job, "job", nullcontext)
    monkeypatch.setattr(job, "put_back_times", nullcontext)
    with pytest.raises(ArtifactError, match="no" if fails == "work" else "edited meanwhile"):
        run(main, frame)
    assert not new.exists() and not old.exists() and left.read_text() == "finished"


def test_an_input_from_the_future_costs_no_result(tmp_path, monkeypatch):
    """Snakemake deletes an output that is older than an input."""
    monkeypatch.chdir(tmp_path)
    for name in ("old", "target"):
        Path(name).touch()
    Path("link").symlink_to("target")
    inputs, later = ["old", "target", "link"], time.time() + 3600
    for name in inputs:
        os.utime(name, (later, later), follow_symlinks=False)
    os.utime("old", (5, 5))
    made = made_up(input=inputs, output=["made"], log=["job.log"], rule="r")
    Path("job.log").touch()
    with job.put_back_times(made):
        assert all(os.lstat(name).st_mtime < time.time() + 1 for name in inputs)
        Path("made").touch()
        os.utime("target", (later, later))  # a server whose clock is ahead
    assert all(os.lstat(name).st_mtime <= os.stat("made").st_mtime for name in inputs)
    assert os.stat("old").st_mtime == 5, "a file of the past keeps its time"


def test_an_input_from_the_future_that_is_somebody_elses_stops_the_job_before_its_work(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.chdir(tmp_path)
    Path("theirs").touch()
    Path("job.log").touch()
    later = time.time() + 3600
    os.utime("theirs", (later, later))
    monkeypatch.setattr(os, "utime", refused)
    made = made_up(input=["theirs"], output=["made"], log=["job.log"])
    said = "theirs: its time lies in the future and can't be changed .*run `touch theirs`"
    with pytest.raises(ArtifactError, match=said), job.put_back_times(made):
        raise AssertionError("it ran")

"""`check` finds, on a tiny model, what would end a cell of the long run: a line each, and nothing in results/."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from tests.unit.commands import fetching
from workflow_scripts.__main__ import main
from workflow_scripts.commands import check
from workflow_scripts.evaluate import rehearsal
from workflow_scripts.plan.config import write_complete

ROOT = Path(__file__).parents[3]
LONG = " ".join(tiny.WORDS * 6)  # a question of some 200 tokens
OTHER_KINDS = {
    "ia3": {"kind": "peft", "peft_type": "IA3"},
    "instruction": {"kind": "text", "text": "Answer the question."},
    "fewshot-2": {"kind": "fewshot", "shots": 2},
    "open-book": {"kind": "context"},
    "eora-r2": {"kind": "eora", "rank": 2},
    "idp-learned": {"kind": "idp", "members": ["prompt-5", "prompt-8"], "score": "learned"},
}


def with_long_rope(folder: Path) -> None:
    """A rotary table that changes for a pass beyond 128 positions."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"max_position_embeddings": 512, "original_max_position_embeddings": 128}
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config["rope_parameters"] = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 128,
        **factors,
    }
    (folder / "config.json").write_text(json.dumps(config))


def add_item(folder: Path, **changed: object) -> None:
    """One more item of arc_easy, the ninth, after another with these fields."""
    file = folder / "tasks" / "arc_easy.jsonl"
    first = json.loads(file.read_text().splitlines()[0])
    file.write_text(file.read_text() + json.dumps(first | changed) + "\n")


@pytest.fixture
def tried(tmp_path, monkeypatch, capfd) -> Callable[..., tuple[int, list[str]]]:
    """A function that tries the tiny grid with fetched sources, after a change of them: exit status, printed lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(
        change: Callable[[Path], None] = lambda folder: None, here: bool = True, **grid: object
    ) -> tuple[int, list[str]]:
        config = tiny.config(tmp_path / "sources")
        change(tmp_path / "sources")
        config["methods"] |= OTHER_KINDS
        config["tasks"]["arc_easy"]["context"] = "{{ question }} "
        config["grids"]["tiny"] |= grid
        config["grids"]["tiny"]["evaluation"]["items"] = 9
        write_complete(config, tmp_path)
        monkeypatch.setattr(check, "follow", fetching.fetch)
        capfd.readouterr()
        if here:
            monkeypatch.setattr(check.subprocess, "run", fetching.run_here(rehearsal, monkeypatch))
        status = main(["check", "--grid", "tiny"])
        return status, capfd.readouterr().out.splitlines()

    return run


def block(*methods: str) -> dict:
    return {
        "models": ["tiny"],
        "compressors": ["gptq-w3"],
        "corpora": ["text"],
        "methods": ["none", *methods],
    }


def test_every_kind_of_method_is_tried_and_nothing_is_written_to_results(tried, tmp_path):
    methods = [*tiny.config(tmp_path / "again")["grids"]["tiny"]["blocks"]["core"]["methods"], *OTHER_KINDS]
    status, lines = tried(here=False, blocks={"core": block(*methods[1:])})
    assert status == 0, lines
    tries = [line for line in lines if not line.startswith("Warning: ")]
    assert len(tries) == len(lines) - 2  # a training of few steps, a grid without the pair
    assert [line.partition(":")[0] for line in tries[:-1]] == [f"tiny, {method}" for method in methods]
    assert all(line.endswith(": ok") for line in tries[:-1])
    assert lines[-1] == "No other problem was found. Next: make run GRID=tiny"
    assert not Path("results").exists() and not Path("work").exists()
    assert "it/s" in Path("logs/check-tiny.log").read_text()  # what libraries say


def test_a_long_question_behind_a_long_prompt_is_found_before_the_run(tried):
    def change(folder):
        with_long_rope(folder / "model")
        add_item(folder, question=LONG)

    status, lines = tried(change, blocks={"core": block("prompt-8")})
    problems = [line for line in lines if line.startswith("problem: ")]
    assert status == 1 and len(problems) == 2, lines  # of `none` too
    where = f"line 9 of {Path('sources/tasks/arc_easy.jsonl').resolve()}"
    assert problems[1].startswith(f"problem: tiny, prompt-8, arc_easy, {where}: a text of ")
    assert " tokens behind a prompt of 8: " in problems[1] and "beyond 128 positions" in problems[1]


def test_an_answer_that_is_longer_than_the_window_is_found(tried):
    def change(folder):
        add_item(folder, choices={"text": [LONG * 3, "a", "b", "c"], "label": list("ABCD")})

    status, lines = tried(change, blocks={"core": block("prompt-8")})
    problems = [line for line in lines if line.startswith("problem: ")]
    assert status == 1 and len(problems) == 2  # of `none` too
    assert "the model takes 1 to 504 behind a prompt of 8" in problems[1]
    assert "line 9 of " in problems[1] and problems[1].count("line 9") == 1


def test_a_question_that_loses_its_beginning_is_said_and_stops_nothing(tried):
    status, lines = tried(lambda folder: add_item(folder, question=LONG * 3), blocks={"core": block()})
    assert status == 0
    cut = next(line for line in lines if line.startswith("note: "))
    assert "1 of 9 items exceed the 512 tokens" in cut and "line 9 of " in cut


def test_an_adapter_that_can_not_be_trained_is_found_and_its_cells_are_left_out(tried, monkeypatch):
    monkeypatch.setattr("workflow_scripts.plan.model_limits.of_grid", lambda config: [])
    training = {"sequence_length": 508, "tokens": 4064}
    config_of = tiny.config

    def long_windows(folder):
        config = config_of(folder)
        config["training"]["tiny"] |= training
        return config

    monkeypatch.setattr(tiny, "config", long_windows)
    status, lines = tried(blocks={"core": block("prompt-8", "lora-r2")})
    problems = [line for line in lines if line.startswith("problem: ")]
    assert status == 1 and len(problems) == 1
    assert problems[0].startswith(
        "problem: tiny, prompt-8, training: sequence_length: 508 tokens after a prompt of 8"
    )
    assert [line for line in lines if line.startswith("tiny, ")][-1].startswith("tiny, lora-r2: ")


def test_what_is_missing_is_fetched_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_complete(tiny.config(tmp_path / "sources"), tmp_path)
    called: list[str] = []
    monkeypatch.setattr(check, "follow", lambda command: called.extend(command) or 1)
    assert main(["check", "--grid", "tiny", "--blocks", "core"]) == 1
    asked = called[called.index("--") + 1 :]
    assert asked == [
        "resources/models/tiny/manifest.json",
        *(
            f"resources/benchmarks/local/{task}/manifest.json"
            for task in ("arc_easy", "lambada_openai", "triviaqa")
        ),
        "resources/corpora/text/manifest.json",
    ]
    assert called[called.index("--config") + 1 :][:2] == ["grid=tiny", "blocks=[core]"]
    assert "Nothing was tried" in capsys.readouterr().err


def test_both_sides_know_the_exit_status_of_a_problem():
    assert check.PROBLEMS == rehearsal.PROBLEMS

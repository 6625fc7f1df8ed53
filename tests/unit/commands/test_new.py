"""`new`: from a model's folder to a configuration with counted figures, whose printed commands run."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.docs import stage
from tests.tiny import change_json
from tests.unit.commands import fetching
from workflow_scripts.__main__ import main
from workflow_scripts.commands import check, new
from workflow_scripts.evaluate import outline, rehearsal
from workflow_scripts.plan.config import files, load, read

ROOT = Path(__file__).parents[3]


@pytest.fixture
def written(tmp_path, monkeypatch, capsys) -> Callable[..., tuple[str, list[str]]]:
    """A function that runs `new` on models/mine after a change of that folder: its text, the printed commands."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "config", "config")
    shutil.copy(ROOT / "config.yaml", "config.yaml")
    stage.with_tiny_sources(tmp_path)
    monkeypatch.setattr(new, "follow", fetching.fetch)
    monkeypatch.setattr(new.subprocess, "run", fetching.run_here(outline, monkeypatch))

    def run(change: Callable[[Path], None] = lambda folder: None) -> tuple[str, list[str]]:
        change(Path("models/mine"))
        capsys.readouterr()
        assert main(["new", "models/mine", "--items", "4"]) == 0
        counting, *said = capsys.readouterr().out.splitlines()
        assert re.match(r"Counting mine and the longest item of \d tasks", counting)  # else a silent minute
        assert said[0] == "Configuration: mine.yaml. Next:"
        return Path("mine.yaml").read_text(), said[1:]

    return run


def test_the_figures_are_counted_and_the_printed_commands_run(written, monkeypatch, capsys):
    text, commands = written()
    entry = yaml.safe_load(text)["models"]["mine"]
    width, inner, kv = 32, 64, 16  # of the tiny model; its head is tied
    layer = 2 * width * width + 2 * width * kv + 3 * width * inner + 2 * width
    vocabulary = json.loads(Path("models/mine/config.json").read_text())["vocab_size"]
    assert entry["parameters"] == vocabulary * width + 2 * layer + width
    assert (entry["positions"], entry["layers"]) == (4096, 2)
    linears = (width + width) + 2 * (width + kv) + 3 * (width + inner)  # llama's printed ones: no o_proj
    lora = 2 * 2 * linears
    assert (
        f"lora-r2 trains {lora:,} parameters: q_proj, k_proj, v_proj, gate_proj, up_proj, down_proj" in text
    )
    assert "No BOS begins a text" in text and "It takes 4,096 tokens." in text
    longest = dict(re.findall(r"(\w+) (\d+) \(line \d+\)", text))
    assert (
        longest.keys() == {"arc_easy", "lambada_openai", "triviaqa"} and min(map(int, longest.values())) > 5
    )
    grid = load(read(*files("mine.yaml"))).grids["mine"]
    block = grid.blocks["core"]
    assert "dense" in block.compressors and {grid.pair.prompt, grid.pair.lora, "none"} <= {*block.methods}
    assert grid.evaluation.items == 4

    named = "GRID=mine CONFIG=mine.yaml"
    assert commands == [f"make check {named}", f"make forecast {named}", f"make run {named}"]
    assert all(command in text for command in commands)
    words = ["--grid", "mine", "--configfile", "mine.yaml"]
    assert main(["forecast", *words]) == 0
    monkeypatch.setattr(check, "follow", fetching.fetch)
    monkeypatch.setattr(check.subprocess, "run", fetching.run_here(rehearsal, monkeypatch))
    assert main(["check", *words]) == 0
    assert f"No other problem was found. Next: {commands[-1]}" in capsys.readouterr().out


def short(folder: Path) -> None:
    change_json(folder / "config.json", max_position_embeddings=140)


def fused(folder: Path) -> None:
    """A GPT-NeoX, whose queries, keys and values are one linear."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
    )
    model.save_pretrained(folder)


def test_a_short_window_gets_shorter_windows_of_its_own(written):
    text, _ = written(short)
    config = load(read(*files("mine.yaml"), over={"grid": "mine"}))
    grid = config.grids["mine"]
    assert grid.training == "bench-40" and config.training["bench-40"].sequence_length == 40
    assert config.training["bench-40"].tokens == config.training["bench"].tokens
    assert grid.evaluation.perplexity.length == grid.calibration.length == 40
    assert "It takes 140 tokens." in text


def test_a_model_in_which_idp_can_not_choose_has_another_pair(written):
    text, _ = written(fused)
    grid = load(read(*files("mine.yaml"), over={"grid": "mine"})).grids["mine"]
    assert grid.pair.prompt == "prompt-100" and "idp-50-100" not in grid.blocks["core"].methods
    assert "idp-50-100 is not possible: its first layer " in text
    assert "lora-r2 trains" in text and "query_key_value" in text


def test_a_model_that_takes_too_little_text_is_refused(written, capsys):
    change_json(Path("models/mine/config.json"), max_position_embeddings=64)
    assert main(["new", "models/mine"]) == 1
    assert "mine: takes 64 tokens, too few for a prompt of 50 and text behind it" in capsys.readouterr().err
    assert not Path("mine.yaml").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere/at/all"], "MODEL nowhere/at/all: is no folder here, and no repository"),
        (
            ["models/mine", "--name", "smollm2-135m"],
            "smollm2-135m: the catalogue has a model or a grid of this name",
        ),
        (
            ["models/mine", "--training", "bnch"],
            "--training: 'bnch' is no name of the configuration; allowed: ",
        ),
        (["models/mine", "--items", "0"], "--items 0: at least 1 item of each task is needed"),
        (["models/mine/config.json"], "MODEL models/mine/config.json: is a file; name its folder"),
        (
            ["models/mine", "--name", "../elsewhere"],
            "models: '../elsewhere' is not allowed; allowed pattern: ",
        ),
        (["models/mine", "--out", "config.yaml"], "config.yaml: is there already; choose another by --out"),
    ],
)
def test_words_that_name_nothing_are_refused_before_a_fetch(words, said, written, monkeypatch, capsys):
    monkeypatch.setattr(new, "follow", lambda command: pytest.fail("it fetched"))
    assert main(["new", *words]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(said)

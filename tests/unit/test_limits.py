"""What a model can't do is refused with the key's path before any job, as far as the catalogue or config.json tell."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from workflow_scripts.config import ConfigError, load
from workflow_scripts.grid import Cell, Plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # without resources/
    return yaml.safe_load((ROOT / "config.yaml").read_text())


def edit(config: dict, path: list, value) -> dict:
    config = part = copy.deepcopy(config)
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["methods", "idp-50-100", "score"], "joint_mean",
         ["methods.idp-50-100.score: joint_mean is not defined with learned positions, which opt-6.7b has; use auto"]),
        (["methods", "lora-v-r2", "layers"], [0, 31, 32],
         ["methods.lora-v-r2.layers: 32 is not allowed; opt-6.7b has the layers 0 to 31"]),
        (["grids", "paper", "calibration", "length"], 2049,
         ["grids.paper.calibration.length: 2049 tokens exceed the 2048 positions of opt-6.7b; at most 2048"]),
        (["training", "paper", "sequence_length"], 1949,
         ["training.paper.sequence_length: 1949 tokens after a prompt of 100 exceed", "of llama-7b; at most 1948"]),
        (["grids", "paper", "evaluation", "perplexity", "length"], 1923,
         ["grids.paper.evaluation.perplexity.length: 1923 tokens after a prompt of 126", "with concat-26-100"]),
        (["grids", "paper", "similarity", "length"], 1949, ["grids.paper.similarity.length: 1949 tokens after"]),
        (["grids", "paper", "latency", "sequence"], 2000,
         ["grids.paper.latency.sequence: 2008 tokens after a prompt of 100"]),
        (["methods", "prompt-100", "tokens"], 3000, ["prompt of 3000", "at most 0 are possible with prompt-100"]),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, list) and len(value) > 2 else "",
)  # fmt: skip
def test_what_the_catalogue_knows_to_be_impossible_stops_the_run(shipped, path, value, words):
    with pytest.raises(ConfigError) as error:
        load(edit(shipped, path, value))
    assert all(word in str(error.value) for word in words), error.value


def test_at_the_limit_everything_is_possible(shipped):
    for path, value in (
        (["methods", "lora-v-r2", "layers"], [31]),
        (["grids", "paper", "calibration", "length"], 2048),
        (["training", "paper", "sequence_length"], 1948),
    ):
        load(edit(shipped, path, value))


def test_a_fetched_model_tells_its_own_limits(shipped, tmp_path):
    load(
        edit(shipped, ["grids", "smoke", "calibration", "length"], 8193)
    )  # nothing is known of the model yet
    folder = tmp_path / "resources/models/smollm2-135m"
    folder.mkdir(parents=True)
    found = {"model_type": "llama", "max_position_embeddings": 8192, "num_hidden_layers": 30}
    (folder / "config.json").write_text(json.dumps(found))
    load(shipped)
    with pytest.raises(
        ConfigError, match=r"grids.smoke.calibration.length: 8193 tokens exceed the 8192 positions"
    ):
        load(edit(shipped, ["grids", "smoke", "calibration", "length"], 8193))
    (folder / "config.json").write_text(json.dumps(found | {"model_type": "opt"}))
    with pytest.raises(ConfigError, match=r"methods.idp-50-100.score: joint_sum is not defined"):
        load(edit(shipped, ["methods", "idp-50-100", "score"], "joint_sum"))


def test_a_cell_that_no_grid_names_is_checked_when_it_is_asked_for(shipped):
    joint = {"kind": "idp", "members": ["prompt-50", "prompt-100"], "score": "joint_mean"}
    plan = Plan(load(edit(shipped, ["methods", "idp-joint"], joint)))
    cell = Cell("paper", "llama-7b", "gptq-w3", "c4", "idp-joint", 0)
    assert plan.check(cell) == cell
    with pytest.raises(
        ValueError, match=r"idp-joint/seed-0.json can't be: methods.idp-joint.score: joint_mean"
    ):
        plan.check(cell._replace(model="opt-6.7b"))

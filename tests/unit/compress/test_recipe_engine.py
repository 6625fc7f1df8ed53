"""Compressors by a recipe of llm-compressor: its file, and the way to llm-compressor's process and back."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tiny_copies import compressed
from workflow_scripts.compress.settings import CompressionError
from workflow_scripts.compress.stored_model import load_compressed
from workflow_scripts.compress.task import Machine
from workflow_scripts.files.artifacts import read_json
from workflow_scripts.plan.config import ConfigError, files, load, read
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.sources import models

ROOT = Path(__file__).resolve().parents[3]
RECIPE = {"a_stage": {"a_modifiers": {"SmoothQuantModifier": {"smoothing_strength": 0.5}}}}
FAKE = '''
"""Stands in for llm-compressor: says what it was asked for, and halves each weight of the decoder."""
import json, pathlib, torch
from transformers import AutoTokenizer

def oneshot(model, tokenizer, dataset, recipe, output_dir):
    draw = torch.rand(1).item()
    rows = [{key: value.tolist() for key, value in row.items()} for row in dataset]
    asked = {"rows": rows, "recipe": pathlib.Path(recipe).read_text(), "draw": draw}
    pathlib.Path(__file__).with_name("asked.json").write_text(json.dumps(asked))
    for name, weight in model.named_parameters():
        if ".layers." in name:
            weight.data.mul_(0.5)
    model.save_pretrained(output_dir)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(output_dir)
'''


@pytest.fixture
def fake(tmp_path):
    """A Python whose `llmcompressor` is FAKE, and the file in which that says what it was asked for."""
    library = tmp_path / "library"
    package = library / "llmcompressor"
    (package / "pipelines").mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    (package / "pipelines" / "__init__.py").touch()
    (package / "pipelines" / "cache.py").write_text("class IntermediatesCache: pass\n")
    for name in ("llmcompressor", "compressed-tensors"):
        about = library / f"{name.replace('-', '_')}-9.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Name: {name}\nVersion: 9\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={library} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python), package / "asked.json"


def compress(sources, folder, python):
    settings = {"algorithm": "recipe", "engine": "llmcompressor", "recipe": RECIPE}
    calibration, machine = {"windows": 3, "length": 16}, Machine(llmcompressor_python=python)
    compressed(sources / "model", folder, settings, calibration, machine=machine)


def test_the_recipe_and_the_windows_reach_llmcompressor_and_its_checkpoint_is_stored(sources, fake, here):
    python, asked = fake
    compress(sources, here / "out", python)
    said = json.loads(asked.read_text())
    assert "SmoothQuantModifier" in said["recipe"] and "strength: 0.5" in said["recipe"]
    assert len(said["rows"]) == 3 and all(len(row["input_ids"][0]) == 16 for row in said["rows"])
    torch.manual_seed(0)
    assert said["draw"] == torch.rand(1).item()  # rotations are drawn
    proof = read_json(here / "out" / "compression.json", schema="compression")
    assert proof["compressor"] == {"algorithm": "recipe", "recipe": RECIPE}
    assert proof["calibration"]["windows"] == 3 and proof["calibration"]["length"] == 16
    assert proof["checkpoint"]["source"] == "engine"
    assert {layer["error"] for layer in proof["layers"]} == {None}  # the norms are others too
    assert proof["manifest"]["libraries"]["llm-compressor's llmcompressor"] == "9"
    dense = models.load_dense(sources / "model").state_dict()
    stored = load_compressed(sources / "model", here / "out").state_dict()
    for name, weight in stored.items():
        assert torch.equal(weight, dense[name] * (0.5 if ".layers." in name else 1)), name
    assert load_file(here / "out" / "weights.safetensors")["model.norm.weight"].dtype == torch.float32


def test_a_missing_environment_names_its_command(sources, here):
    with pytest.raises(
        CompressionError, match=r"engine llmcompressor .* nowhere is not there: `make llmcompressor`"
    ):
        compress(sources, here / "out", "nowhere")


def test_a_recipe_that_changes_nothing_is_refused(sources, fake, here):
    python, asked = fake
    asked.with_name("__init__.py").write_text(FAKE.replace("mul_(0.5)", "mul_(1.0)"))
    with pytest.raises(CompressionError, match="the recipe left every tensor as it was in the dense model"):
        compress(sources, here / "out", python)
    assert not (here / "out" / "compression.json").exists()


@pytest.fixture(scope="module")
def shipped():
    return read(*files(root=ROOT))


def with_recipe(shipped, file):
    config = copy.deepcopy(shipped)
    config["compressors"]["mine"] = {"algorithm": "recipe", "engine": "llmcompressor", "recipe": str(file)}
    return config


def test_a_recipes_content_and_not_its_path_is_what_counts(shipped, tmp_path):
    first, second, third = tmp_path / "a.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"
    for file in (first, second):
        file.write_text(json.dumps(RECIPE))
    third.write_text(json.dumps(RECIPE).replace("0.5", "0.6"))
    one, same, other = (
        Plan(load(with_recipe(shipped, file))).compress("smoke", "smollm2-135m", "mine", "wikipedia", "0")
        for file in (first, second, third)
    )
    assert one == same
    assert one["compressor"] == {"algorithm": "recipe", "engine": "llmcompressor", "recipe": RECIPE}
    assert one["recipe"] != other["recipe"]


def test_a_library_that_stops_is_quoted_in_one_line(sources, fake, here):
    python, asked = fake
    words = "raise ValueError('128 does not divide 576\\nand more')"
    asked.with_name("__init__.py").write_text(f"def oneshot(**given):\n    {words}\n")
    said = (
        r"llm-compressor stopped: ValueError: 128 does not divide 576; its own words stand above in the log$"
    )
    with pytest.raises(CompressionError, match=said):
        compress(sources, here / "out", python)


def test_the_catalogues_recipes_are_found_from_anywhere(shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plan = Plan(load(shipped))
    named = [name for name, entry in shipped["compressors"].items() if entry["algorithm"] == "recipe"]
    assert len(named) == 8
    for name in named:
        [(stage, groups)] = plan.compressor(name)["recipe"].items()
        assert stage == "compress_stage" and list(groups) == ["compress_modifiers"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory"),
        ("", "a recipe is"),
        ("a: [", "while parsing"),
        ("compress: {modifiers: {GPTQModifier: {}}}", "'compress': a recipe is"),
        ("compress_stage: {modifiers: {GPTQModifier: {}}}", "compress_stage: 'modifiers': a recipe is"),
        ("compress_stage: {quant_modifiers: {}}", "compress_stage: 'quant_modifiers': a recipe is"),
        (
            "compress_stage: {quant_modifiers: {GPTQModifier: }}",
            "quant_modifiers: 'GPTQModifier': a recipe is",
        ),
        ("1: {quant_modifiers: {GPTQModifier: {}}}", "1: a recipe is"),
        ("compress_stage: {1: {GPTQModifier: {}}}", "compress_stage: 1: a recipe is"),
        (
            "a_stage: {a_modifiers: {SmoothQuantModifier: {smoothing_strength: .nan}}}",
            "holds a number that is not finite",
        ),
        (
            "a_stage: {a_modifiers: {GPTQModifer: {scheme: W4A16}}}",
            "a_stage: a_modifiers: 'GPTQModifer' is no modifier of llm-compressor 0.14.0.1; .*mean 'GPTQModifier'",
        ),
        (
            "a_stage: {a_modifiers: {GPTQModifier: {dampening_frac: 0.1, shceme: W4A16}}}",
            "GPTQModifier: 'shceme' is no key of it; .*mean 'scheme'",
        ),
        ("a_stage: {a_modifiers: {SparseGPTModifier: {}}}", "SparseGPTModifier: the key sparsity is missing"),
        (
            "a_stage: {a_modifiers: {GPTQModifier: {scheme: W4A61}}}",
            "scheme: 'W4A61' is no preset; .*mean 'W",
        ),
        ("a_stage: {a_modifiers: {GPTQModifier: {scheme: {w9: [Linear]}}}}", "scheme: 'w9' is no preset"),
        ("a_stage: {a_modifiers: {GPTQModifier: {config_groups: {a: W8A8}}}}", "config_groups: a: {targets"),
        ("a_stage: {a_modifiers: {GPTQModifier: {config_groups: [a]}}}", "config_groups: {<name>"),
        (
            "a_stage: {a_modifiers: {GPTQModifier: {scheme: W8A8, config_groups: {a: {targets: [Linear]}}}}}",
            "give either scheme or config_groups",
        ),
        (
            "a_stage: {a_modifiers: {GPTQModifier: {config_groups: {a: {weights: {num_bits: 4}}}}}}",
            "config_groups: a: the key targets is missing",
        ),
        (
            "a_stage: {a_modifiers: {GPTQModifier: {config_groups: {a: {targets: [Linear], weights: {bits: 4}}}}}}",
            "a: weights: 'bits' is no key of it; .*mean 'num_bits'",
        ),
        (
            "{a_stage: {a_modifiers: {AWQModifier: {}}}, b_stage: {b_modifiers: {SmoothQuantModifier: {}}}}",
            "AWQModifier scales for a modifier after it that rounds, and there is none: AutoRoundModifier,",
        ),
    ],
)
def test_a_file_that_is_no_recipe_is_named_before_any_job(content, words, shipped, tmp_path):
    file = tmp_path / "recipe.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(
        ConfigError, match=rf"compressors\.mine\.recipe: .*recipe\.yaml' is no recipe .*{words}"
    ):
        load(with_recipe(shipped, file))

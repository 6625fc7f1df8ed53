"""The other engine without its environment: what is planned, refused, read back and measured."""

import copy
import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.tiny_copies import compressed, fetch_corpus, fetch_model
from tests.tiny_settings import GPTQ as SETTINGS
from workflow_scripts.compress.bit_packing import from_stored
from workflow_scripts.compress.engines import optimum
from workflow_scripts.compress.engines.optimum import keep_solutions, quantize
from workflow_scripts.compress.environments import interpreter
from workflow_scripts.compress.export_formats import to_gptq
from workflow_scripts.compress.settings import CompressionError, CompressorSettings
from workflow_scripts.compress.task import CompressionTask, Machine, Sources
from workflow_scripts.compress.walk import FinishedLayers
from workflow_scripts.files.artifacts import read_json
from workflow_scripts.plan.config import ConfigError, files, load, read
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.sources import models

ROOT = Path(__file__).parents[3]
CALIBRATION = {"windows": 8, "length": 32}


@pytest.fixture(scope="module")
def shipped():
    return read(*files(root=ROOT))


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    fetch_model(tiny.write_model(root / "local", "opt"), root / "model")
    fetch_corpus(root / "corpus")
    return root


def test_the_engine_enters_recipes_only_where_it_is_another(shipped):
    def recipe(plan, compressor):
        return plan.compress("bench", "smollm2-135m", compressor, "wikipedia", "0")

    config = copy.deepcopy(shipped)
    config["compressors"]["gptq-w3"]["engine"] = "own"
    config["compressors"]["gptq-w3"]["forward"] = "fp32"
    plan, said = Plan(load(copy.deepcopy(shipped))), Plan(load(config))
    assert recipe(plan, "gptq-w3") == recipe(said, "gptq-w3")
    assert "engine" not in recipe(plan, "gptq-w3")["compressor"]
    other = recipe(plan, "gptq-w3-optimum")
    assert other["compressor"]["engine"] == "optimum"
    assert other["code"] != recipe(plan, "gptq-w3")["code"]
    config["optimum_python"] = "/elsewhere/python"
    assert recipe(Plan(load(config)), "gptq-w3-optimum") == other


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("bits", 5, "2, 3, 4, 8"),
        ("static_groups", True, "False"),
        ("clip", "mse", "none"),
        ("block_size", 64, "128"),
        ("group_size", 48, "16, 32"),
        ("forward", "bf16", "fp32"),
    ],
)
def test_what_optimum_does_not_know_is_named(shipped, key, value, words):
    config = copy.deepcopy(shipped)
    config["compressors"]["gptq-w3-optimum"][key] = value
    with pytest.raises(ConfigError) as error:
        load(config)
    assert f"compressors.gptq-w3-optimum.{key}: {value!r} is not allowed with engine optimum" in str(
        error.value
    )
    assert words in str(error.value)


def by_optimum(sources, tmp_path, calibration, python):
    settings, machine = SETTINGS | {"engine": "optimum"}, Machine(optimum_python=python)
    compressed(sources / "model", tmp_path / "out", settings, calibration, machine=machine)


def test_a_missing_environment_names_its_command(sources, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompressionError, match=r"its Python \. is not there: `make optimum`"):
        interpreter(".", "engine optimum")  # a folder
    with pytest.raises(CompressionError, match="no-such/python is not there: `make optimum`"):
        by_optimum(sources, tmp_path, CALIBRATION, "no-such/python")


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ({"windows": 1, "length": 513}, r"calibration\.length: 513 tokens exceed the model's 512 positions"),
        ({"windows": 1, "length": 48}, r"layer 0, linear fc2: 48 calibration tokens for 64 inputs"),
    ],
)
def test_a_calibration_that_cannot_do_is_refused_before_optimum_starts(
    calibration, words, sources, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(optimum, "quantize", lambda *arguments: pytest.fail("optimum was started"))
    with pytest.raises((ValueError, CompressionError), match=words):
        by_optimum(sources, tmp_path, calibration, sys.executable)


FAKE = '''
"""Stands in for optimum: says what it was asked for, and packs one linear of zeros."""
import json, pathlib, torch

class GPTQ:
    def fasterquant(self, **options):
        return None, None, None, 1.5, 0.25, 0.02

class GPTQQuantizer:
    def __init__(self, dataset, **asked):
        asked["dataset"] = [{key: value.tolist() for key, value in row.items()} for row in dataset]
        pathlib.Path(__file__).with_name("asked.json").write_text(json.dumps(asked))
        self.name = asked["block_name_to_quantize"] + ".1.fc1"

    def quantize_model(self, model):
        GPTQ().fasterquant(blocksize=128)
        self.pack_model(model, {self.name: None})

    def pack_model(self, model, quantizers):
        for part in ("qweight", "qzeros", "scales", "g_idx"):
            setattr(model.get_submodule(self.name), part, torch.zeros(2))
'''


@pytest.fixture
def fake_python(tmp_path):
    """A Python whose `optimum` is FAKE, and the file in which that says what it was asked for."""
    library = tmp_path / "library"
    (library / "optimum" / "gptq").mkdir(parents=True)
    (library / "optimum" / "__init__.py").touch()
    (library / "optimum" / "gptq" / "__init__.py").touch()
    (library / "optimum" / "gptq" / "quantizer.py").write_text(FAKE)
    for name in ("optimum", "gptqmodel"):
        (library / f"{name}-9.dist-info").mkdir()
        (library / f"{name}-9.dist-info" / "METADATA").write_text(f"Name: {name}\nVersion: 9\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={library} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    return str(python), library / "optimum" / "gptq" / "asked.json"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "bits": 4,
            "group_size": None,
            "symmetric": True,
            "act_order": False,
            "damping": 0.05,
            "true_sequential": True,
        },
    ],
    ids=["as they are", "the other way"],
)
def test_settings_reach_optimum_in_its_process(changes, sources, fake_python, tmp_path):
    python, asked = fake_python
    settings = CompressorSettings(**SETTINGS | changes)
    windows, work = torch.arange(3, 15).view(3, 4), tmp_path / "work"
    work.mkdir()
    save_file({"windows": windows}, work / "windows.safetensors")
    task = CompressionTask(Sources(sources / "model"), settings, None, 0, work, "cpu", 1, Machine())
    found, versions = quantize(task, optimum.block_of(models.load_dense(sources / "model")), python)
    said = json.loads(asked.read_text())
    rows = said.pop("dataset")
    assert said == {
        "bits": settings.bits,
        "group_size": settings.group_size or -1,
        "damp_percent": settings.damping,
        "desc_act": settings.act_order,
        "act_group_aware": False,
        "sym": settings.symmetric,
        "true_sequential": settings.true_sequential,
        "block_name_to_quantize": "model.decoder.layers",
        "backend": "gptq_torch",
    }
    assert rows == [{"input_ids": [row], "attention_mask": [[1] * 4]} for row in windows.tolist()]
    assert (versions["optimum"], versions["gptqmodel"]) == ("9", "9")
    [(name, (tensors, seconds, damping))] = found.items()
    assert (name, seconds, damping) == ("1.fc1", 1.5, 0.02)
    assert set(tensors) == {"qweight", "qzeros", "scales", "g_idx"}


def test_what_the_other_engine_packed_is_stored_and_measured_as_our_own(sources, tmp_path, monkeypatch):
    """Our own solution, handed over as optimum hands over its: the same tensors and figures come out."""
    monkeypatch.chdir(tmp_path)
    folder = compressed(sources / "model", tmp_path / "own", SETTINGS)
    own = load_file(folder / "weights.safetensors")
    records = read_json(folder / "compression.json")["layers"]
    settings, found = CompressorSettings(**SETTINGS), {}
    for record in records:
        name = f"{record['layer']}.{record['linear']}"
        parts = {k.removeprefix(f"{name}."): v for k, v in own.items() if k.startswith(f"{name}.")}
        quantized = from_stored(parts, record["shape"][1], settings).quantized
        found[name] = (to_gptq(quantized, 2), record["seconds"], record["damping"])
    dense = models.load_dense(sources / "model")
    places = Sources(sources / "model", sources / "corpus")
    windows, _ = CompressionTask(places, settings, CALIBRATION, 0, tmp_path, "cpu", 1, Machine()).windows(
        None
    )
    finished = FinishedLayers(tmp_path / "layers")
    measured = keep_solutions(dense, windows, found, settings, finished)
    tensors = {key: tensor for index in range(2) for key, tensor in finished.load(index)[0].items()}
    assert tensors.keys() == own.keys()
    assert all(torch.equal(tensors[key], value) for key, value in own.items())
    for ours, theirs in zip(records, measured, strict=True):
        assert theirs.pop("error") == pytest.approx(ours.pop("error"), rel=1e-6)
        assert theirs == ours
    del found["1.fc1"]
    with pytest.raises(CompressionError, match="layer 1, linear fc1: optimum left it as it was"):
        keep_solutions(models.load_dense(sources / "model"), windows, found, settings, finished)

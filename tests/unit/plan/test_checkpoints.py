"""Compressors that are stored whole, checkpoints of others among them: their keys, cells, recipes, limits."""

import copy
import json
from pathlib import Path

import pytest

from workflow_scripts.plan.config import ConfigError, load
from workflow_scripts.plan.layout import CHECKPOINT, COMPRESSED, Cell
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.reruns import Reruns

ROOT = Path(__file__).parents[3]
HUB = {"algorithm": "external", "source": "hub", "repo": "some/where", "revision": "0" * 40}
WHEEL = {"package": "some-gguf", "version": "1.0", "sha256": "0" * 64, "file": "a/b.gguf"}


def with_compressor(config, entry, **block):
    """The configuration with a compressor `new`, in a block of the smoke grid if `block` names any of its lists."""
    config = copy.deepcopy(config)
    config["compressors"]["new"] = entry
    if block:
        lists = {"models": ["smollm2-135m"], "corpora": ["wikipedia"], "methods": ["none"], **block}
        config["grids"]["smoke"]["blocks"]["new"] = lists | {"compressors": ["new"]}
        del config["grids"]["smoke"]["similarity"]
    return config


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"source": "hub"}, "compressors.new: the key repo, revision is missing (source hub)"),
        ({"source": "local"}, "compressors.new: the key path is missing (source local)"),
        (
            {"source": "pypi", "package": "a"},
            "compressors.new: the key version, sha256, file is missing (source pypi)",
        ),
        (
            HUB | {"path": "x"},
            "compressors.new.path: unknown key with source hub; allowed: repo, revision, file",
        ),
        (
            {"source": "gguf", "parts": [WHEEL]},
            "compressors.new: the key file_sha256 is missing (source gguf)",
        ),
        (
            {"source": "gguf", "parts": [WHEEL | {"sha256": "1"}], "file_sha256": "0" * 64},
            "compressors.new.parts[0].sha256: '1' is not allowed",
        ),
        (HUB | {"model": "smollm"}, "compressors.new.model: 'smollm' is no name in models"),
        (HUB | {"revision": "v1"}, "compressors.new.revision: 'v1' is not allowed"),
        (HUB | {"bits": 4}, "compressors.new.bits: unknown key"),
        ({"source": "ftp"}, "compressors.new.source: 'ftp' is not allowed; allowed: local, hub, pypi"),
    ],
)
def test_a_wrong_key_of_a_checkpoint_is_named(unfetched, entry, expected):
    with pytest.raises(ConfigError) as error:
        load(with_compressor(unfetched, {"algorithm": "external", **entry}))
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"algorithm": "drop-layers"}, "compressors.new: give either count or layers"),
        (
            {"algorithm": "drop-layers", "count": 1, "layers": [0]},
            "compressors.new: give either count or layers",
        ),
        ({"algorithm": "drop-layers", "layers": [3, 3]}, "compressors.new.layers: 3 is listed twice"),
        ({"algorithm": "svd", "rank": 4, "ratio": 0.5}, "compressors.new: give either rank or ratio"),
        (
            {"algorithm": "svd", "ratio": 1.0},
            "compressors.new.ratio: 1.0 is not allowed; allowed: above 0 below 1",
        ),
    ],
)
def test_a_wrong_key_of_layers_and_factors_is_named(unfetched, entry, expected):
    with pytest.raises(ConfigError) as error:
        load(with_compressor(unfetched, entry))
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({}, "models.new: give either path or parts (source gguf)"),
        (
            {"path": "a.gguf", "parts": [WHEEL], "file_sha256": "0" * 64},
            "models.new: give either path or parts",
        ),
        ({"parts": [WHEEL]}, "models.new: parts and file_sha256 go together"),
        ({"parts": []}, "models.new.parts: "),
        ({"path": "a.gguf", "file_sha256": "0" * 64}, "models.new: parts and file_sha256 go together"),
    ],
)
def test_a_wrong_key_of_a_gguf_model_is_named(unfetched, entry, expected):
    unfetched["models"]["new"] = {"source": "gguf", "parameters": 1.0e6, **entry}
    with pytest.raises(ConfigError) as error:
        load(unfetched)
    assert expected in str(error.value)


def test_every_part_of_a_split_file_is_a_content_of_the_recipe(unfetched, tmp_path):
    parts = [tmp_path / f"a-0000{number}-of-00002.gguf" for number in (1, 2)]
    unfetched["models"]["new"] = {"source": "gguf", "parameters": 1.0e6, "path": str(parts[0])}
    unfetched["compressors"]["new"] = {"algorithm": "external", "source": "local", "path": str(parts[0])}
    seen = []
    for contents in ((), ("one",), ("one", "two"), ("one", "other")):
        for part, text in zip(parts, contents):
            part.write_text(text)
        plan = Plan(load(unfetched))
        seen.append((plan.fetch("models", "new")["recipe"], plan.fetch("compressors", "new")["recipe"]))
    assert seen[0] == seen[1] and len(set(seen)) == 3


def test_a_block_with_another_model_than_the_checkpoints_is_refused(unfetched):
    config = with_compressor(unfetched, HUB | {"model": "smollm2-135m"}, models=["smollm2-135m", "llama-7b"])
    with pytest.raises(ConfigError) as error:
        load(config)
    expected = "new.compressors[0]: 'new' is a checkpoint of smollm2-135m, and the block has llama-7b"
    assert expected in str(error.value)


def test_a_grid_that_compares_layer_by_layer_has_no_shallower_model(unfetched):
    config = with_compressor(unfetched, {"algorithm": "drop-layers", "count": 2}, seeds=[0])
    load(config)
    config["grids"]["smoke"]["similarity"] = unfetched["grids"]["smoke"]["similarity"]
    with pytest.raises(ConfigError) as error:
        load(config)
    assert "grids.smoke.similarity: compares layer by layer, and 'new' of block new has fewer" in str(
        error.value
    )


@pytest.mark.parametrize(
    ("entry", "corpus"),
    [
        (HUB, "none"),
        ({"algorithm": "svd", "rank": 4}, "none"),
        ({"algorithm": "drop-layers", "layers": [1]}, "none"),
        ({"algorithm": "drop-layers", "count": 1}, "wikipedia"),
    ],
)
def test_only_a_search_for_layers_is_calibrated(unfetched, entry, corpus):
    plan = Plan(load(with_compressor(unfetched, entry, seeds=[0])))
    [cell] = [cell for cell in plan.cells("smoke") if cell.compressor == "new"]
    assert cell.corpus == corpus
    assert ("calibration" in plan.compress(**COMPRESSED.parse(plan.compression(cell)))) == (corpus != "none")


def test_the_checkpoint_is_an_artefact_of_its_own_and_its_source_is_in_the_recipe(unfetched):
    entry = HUB | {"model": "smollm2-135m"}
    plan = Plan(load(with_compressor(unfetched, entry, seeds=[0])))
    [cell] = [cell for cell in plan.cells("smoke") if cell.compressor == "new"]
    path = CHECKPOINT.path(compressor="new")
    assert path == "resources/checkpoints/new/manifest.json" and path in plan.artefacts("smoke")
    asked = plan.fetch("compressors", "new")
    assert asked["spec"] == {"source": "hub", "repo": "some/where", "revision": "0" * 40}
    assert plan.compress(**COMPRESSED.parse(plan.compression(cell)))["compressor"] == {
        "algorithm": "external",
        "distilled": False,
    }
    reruns = Reruns(plan, forced=set)
    assert reruns.checkpoint(cell._asdict()).path == path
    assert reruns.checkpoint({"compressor": "gptq-w3"}) == []
    other = Plan(load(with_compressor(unfetched, entry | {"revision": "1" * 40}, seeds=[0])))
    assert other.compressed_recipe(cell) != plan.compressed_recipe(cell)
    noted = Plan(load(with_compressor(unfetched, entry | {"note": "x"}, seeds=[0])))
    assert noted.compressed_recipe(cell) == plan.compressed_recipe(cell)
    assert noted.details("compressors", "new") == {"note": "x"}
    with pytest.raises(ValueError, match=r"compressors\.gptq-w3: is no checkpoint \(algorithm gptq\)"):
        plan.fetch("compressors", "gptq-w3")


def test_a_whole_model_is_exported_as_plain_alone(unfetched):
    plan = Plan(load(with_compressor(unfetched, HUB, seeds=[0])))
    [cell] = [cell for cell in plan.cells("smoke") if cell.compressor == "new"]
    where = COMPRESSED.parse(plan.compression(cell))
    assert plan.export(**where, form="plain")["form"] == "plain"
    with pytest.raises(
        ValueError, match=r"gptq/export\.json can't be: new is stored whole; export it as plain"
    ):
        plan.export(**where, form="gptq")


def fetched(folder, **config):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "num_hidden_layers": 30, **config})
    )


def test_layers_that_are_not_there_are_named(unfetched, tmp_path):
    fetched(tmp_path / "resources/models/smollm2-135m")
    for entry, said in (
        ({"layers": [30]}, "compressors.new.layers: 30 is not allowed; smollm2-135m has the layers 0 to 29"),
        ({"count": 30}, "compressors.new.count: 30 can't be left out: smollm2-135m has 30 layers"),
    ):
        with pytest.raises(ConfigError) as error:
            load(with_compressor(unfetched, {"algorithm": "drop-layers", **entry}, seeds=[0]))
        assert said in str(error.value)
    config = with_compressor(unfetched, {"algorithm": "drop-layers", "count": 6}, methods=["lora-v-r3"])
    with pytest.raises(
        ConfigError, match=r"methods.lora-v-r3.layers: 24 is not allowed; .* the layers 0 to 23"
    ):
        load(config)


def test_a_fetched_checkpoint_tells_its_own_depth_and_positions(unfetched, tmp_path):
    fetched(tmp_path / "resources/models/smollm2-135m", max_position_embeddings=2048)
    config = with_compressor(unfetched, HUB, methods=["lora-v-r3"])
    load(config)
    fetched(tmp_path / "resources/checkpoints/new", num_hidden_layers=20)
    with pytest.raises(
        ConfigError, match=r"methods.lora-v-r3.layers: 20 is not allowed; .* the layers 0 to 19"
    ):
        load(config)
    compared = with_compressor(unfetched, HUB, seeds=[0])
    load(compared)
    compared["grids"]["smoke"]["similarity"] = unfetched["grids"]["smoke"]["similarity"]
    said = r"grids\.smoke\.similarity: .* 'new' has 20 layers, smollm2-135m 30; name it in a grid without similarity"
    with pytest.raises(ConfigError, match=said):
        load(compared)
    cell = Cell("smoke", "smollm2-135m", "new", "none", "none", 0)
    fewer = {"max_position_embeddings": 256, "num_hidden_layers": 30, "model_type": "llama"}
    (tmp_path / "resources/checkpoints/new/config.json").write_text(json.dumps(fewer))
    with pytest.raises(ConfigError, match=r"tokens .*exceed the 256 positions of smollm2-135m"):
        Plan(load(with_compressor(unfetched, HUB, seeds=[0]))).check(cell)

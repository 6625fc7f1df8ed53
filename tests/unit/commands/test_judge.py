"""`judge` writes a grid of its own, for models that are named by folder, repository or catalogue."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from tests import tiny_gguf
from workflow_scripts.__main__ import main
from workflow_scripts.commands import judge, run
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan.config import ConfigError, files, load, read
from workflow_scripts.plan.recipes import plan_of

ROOT = Path(__file__).parents[3]
HERE = "Some Model_v1"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with the shipped configuration and a folder of a model, and no run."""
    for file in files(root=ROOT):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(file.read_text())
    model = tmp_path / "Some Model_v1"
    model.mkdir()
    save_file({"a": np.zeros((40, 100), np.float16)}, model / "model.safetensors")
    (model / "config.json").write_text(json.dumps({"num_hidden_layers": 3, "max_position_embeddings": 400}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ran(monkeypatch):
    """Grids that were forecast and run, with their options."""
    calls = []
    monkeypatch.setattr(run, "main", lambda grid, **options: calls.append((grid, options)) or 0)
    return calls


def test_the_grid_has_the_pair_on_both_models_and_controls(here, ran, capsys):
    options_of_run = {"profile": "slurm", "snakemake_options": ["--keep-going"]}
    assert judge.main("smollm2-135m", "Some Model_v1", items=7, **options_of_run) == 0
    file, grid = "config/judge/judge-Some-Model-v1.yaml", "judge-Some-Model-v1"
    [(called, given)] = ran
    assert called == grid
    assert given == {"configfile": [file], "first": "compress_model", **options_of_run}
    said = capsys.readouterr().out
    assert f"Configuration: {file}" in said and f"Forecast of grid '{grid}': 16 cells, 8 adapters" in said
    plan = plan_of(files(file), grid)
    cells = plan.cells(grid)
    assert {cell.model for cell in cells} == {"smollm2-135m"}
    for compressor in ("dense", "Some-Model-v1"):
        methods = {cell.method for cell in cells if cell.compressor == compressor}
        assert methods == {*judge.RECOVERIES, *judge.CONTROLS}
    assert plan.grid(grid).evaluation.items == 7 and plan.grid(grid).benchmarks == "pypi"
    entry = plan.config.compressors["Some-Model-v1"]
    assert (entry.source, entry.path, entry.model) == ("local", str(here / "Some Model_v1"), "smollm2-135m")
    assert "&" not in Path(file).read_text().replace("\\&", "")


@pytest.mark.parametrize("dense", ["smollm2-135m", "./Some Model_v1"])
def test_a_chat_is_asked_for_of_the_dense_model(here, ran, dense):
    (here / "Some Model_v1/chat_template.jinja").write_text("{{ messages }}")
    judge.main(dense, f"owner/compressed@{COMMIT}", chat=True)
    plan = plan_of(files("config/judge/judge-compressed.yaml"), "judge-compressed")
    assert all(plan.evaluate(cell)["chat"] for cell in plan.cells("judge-compressed"))


def test_a_dense_folder_tells_its_size_depth_and_positions(here, ran):
    judge.main("./Some Model_v1", f"owner/compressed@{COMMIT}")
    config = load(read(*files("config/judge/judge-compressed.yaml")))
    dense = config.models["Some-Model-v1"]
    assert (dense.parameters, dense.layers, dense.positions) == (4000, 3, 400)
    compressed = config.compressors["compressed"]
    assert (compressed.repo, compressed.revision) == ("owner/compressed", COMMIT)
    assert config.grids["judge-compressed"].evaluation.perplexity.length == 300


def test_a_second_time_is_the_same_grid_and_another_folder_needs_another_name(here, ran):
    judge.main("smollm2-135m", "Some Model_v1")
    judge.main("smollm2-135m", "Some Model_v1", items=9)
    other = here / "elsewhere" / "Some Model_v1"
    other.mkdir(parents=True)
    with pytest.raises(
        ArtifactError, match=r"Some-Model-v1\.yaml: judges other compressors under this name; .*--name"
    ):
        judge.main("smollm2-135m", "elsewhere/Some Model_v1")
    judge.main("smollm2-135m", "elsewhere/Some Model_v1", name="another")
    assert [grid for grid, _ in ran] == ["judge-Some-Model-v1", "judge-Some-Model-v1", "another"]
    written = yaml.safe_load(Path("config/judge/judge-Some-Model-v1.yaml").read_text())
    assert written["grids"]["judge-Some-Model-v1"]["evaluation"]["items"] == 9


def test_a_forecast_alone_runs_nothing(here, ran):
    assert judge.main("smollm2-135m", "Some Model_v1", forecast_only=True) == 0
    assert not ran and Path("config/judge/judge-Some-Model-v1.yaml").exists()


def test_a_model_beside_itself_is_told_so(here, ran, capsys):
    said = "DENSE and COMPRESSED are the same files, so this grid measures no compression."
    judge.main("./Some Model_v1", str(here / "Some Model_v1"), forecast_only=True)
    assert said in capsys.readouterr().out
    judge.main("./Some Model_v1", f"owner/compressed@{COMMIT}", forecast_only=True)
    judge.main("smollm2-135m", "Some Model_v1", name="other", forecast_only=True)
    assert said not in capsys.readouterr().out


def test_names_are_safe_and_new(here):
    taken = {"gptq-w3": None}
    assert judge.name_of("owner/gptq-w3@main", taken) == "gptq-w3-judged"
    assert judge.name_of("owner/A__b..C-@x", taken) == "A-b-C"
    assert judge.name_of("../models/x.Q4_K_M.gguf", taken) == "x-Q4-K-M"
    assert len(judge.name_of("o/" + "long-" * 40, taken)) <= judge.LONGEST
    assert judge.name_of("/", taken) == "model"


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (("nowhere", HERE), {}, r"DENSE nowhere: is no folder here, and no repository"),
        (("smollm2-135m", "./gone"), {}, r"COMPRESSED \./gone: is no folder here"),
        (("smollm2-135m", ""), {}, r"COMPRESSED : is no folder here"),
        (
            ("smollm2-135m", f"{HERE}/config.json"),
            {},
            r"COMPRESSED .*/config\.json: is a file; name its folder",
        ),
        (("smollm2-135m", HERE), {"name": "bench"}, r"--name bench: a grid of this name is there already"),
        ((f"{HERE}/model.safetensors", HERE), {}, r"DENSE .*/model\.safetensors: is a file; name its folder"),
        (
            ("smollm2-135m", "Some Model_v1"),
            {"benchmarks": "pipy"},
            r"--benchmarks pipy: no such set; there are pypi, ",
        ),
        (
            (f"owner/dense@{COMMIT}", "Some Model_v1"),
            {},
            r"DENSE owner/dense@0123.*the hub can't be asked .*--parameters",
        ),
        (("smollm2-135m", "owner/x@branch"), {}, r"COMPRESSED owner/x@branch: the hub can't be asked"),
    ],
)
def test_words_that_name_no_model_are_refused(here, ran, monkeypatch, words, options, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match=message):
        judge.main(*words, **options)
    assert not ran


def test_a_configuration_without_the_grid_of_the_usual_tasks_is_named(here, ran, capsys):
    config = yaml.safe_load(Path("config.yaml").read_text())
    config["grids"]["mine"] = config["grids"].pop("smoke")
    Path("config.yaml").write_text(yaml.safe_dump(config | {"grid": "mine"}))
    for words in (["judge", HERE, HERE], ["new", HERE]):
        assert main(words) == 1
        said = "grids.smoke: is missing, whose tasks are asked here; put it back into config.yaml\n"
        assert capsys.readouterr().err == said


@pytest.mark.parametrize("content", ["[]", "3", '"x"', "null"])
def test_a_config_json_that_is_no_object_is_named(here, ran, content):
    (here / "Some Model_v1" / "config.json").write_text(content)
    with pytest.raises(
        ArtifactError, match=r"DENSE .*Some Model_v1: config\.json is a \w+, no object of a model"
    ):
        judge.main(f"{here}/Some Model_v1", f"{here}/Some Model_v1")
    assert not ran


def test_a_wrong_option_is_told_by_its_key_before_anything_runs(here, ran):
    with pytest.raises(ConfigError, match=r"grids\.judge-Some-Model-v1\.evaluation\.items: 0 is not allowed"):
        judge.main("smollm2-135m", "Some Model_v1", items=0)
    with pytest.raises(ConfigError, match=r"grids\.judge-Some-Model-v1\.training: 'smok' .*'smoke'"):
        judge.main("smollm2-135m", "Some Model_v1", training="smok")
    with pytest.raises(ConfigError, match=r"grid: '\.\./x' is not allowed; allowed pattern"):
        judge.main("smollm2-135m", "Some Model_v1", name="../x")
    assert not ran and not Path("config/judge").exists() and not Path("config/x.yaml").exists()


def test_seeds_train_every_adapter_anew_and_the_error_rate_is_said(here, ran, capsys):
    judge.main("smollm2-135m", "Some Model_v1", seeds=3)
    said = capsys.readouterr().out
    assert "covers items and 3 trainings. The checkpoint is one copy" in said
    plan = plan_of(files("config/judge/judge-Some-Model-v1.yaml"), "judge-Some-Model-v1")
    cells = plan.cells("judge-Some-Model-v1")
    for compressor in ("dense", "Some-Model-v1"):
        seeds = {
            method: {cell.seed for cell in cells if (cell.compressor, cell.method) == (compressor, method)}
            for method in (*judge.RECOVERIES, *judge.CONTROLS)
        }
        assert all(seeds.pop(method) == {0} for method in ("none", *judge.CONTROLS))
        assert set(map(frozenset, seeds.values())) == {frozenset({0, 1, 2})}
    judge.main("smollm2-135m", "Some Model_v1")
    assert "covers items alone; SEEDS=3 adds the training" in capsys.readouterr().out
    with pytest.raises(ArtifactError, match="--seeds 0: at least 1 training"):
        judge.main("smollm2-135m", "Some Model_v1", seeds=0)


def test_gguf_files_are_both_models_and_a_split_one_is_whole(here, ran):
    tiny_gguf.write(here / "small.gguf", positions=400, split_max_tensors=5)
    tiny_gguf.write(here / "dense.gguf", positions=400)
    judge.main("dense.gguf", "small-00002-of-00003.gguf")
    config = load(read(*files("config/judge/judge-small.yaml")))
    dense, small = config.models["dense"], config.compressors["small"]
    assert (dense.source, dense.path) == ("gguf", str(here / "dense.gguf"))
    weights = 5 * 32 + 3 * 64 * 32 + 4 * 32 * 32 + 3 * 32
    assert (dense.parameters, dense.layers, dense.positions) == (weights, 1, 400)
    assert (small.source, small.path) == ("local", str(here / "small-00001-of-00003.gguf"))
    assert config.grids["judge-small"].evaluation.perplexity.length == 300
    judge.main("small-00001-of-00003.gguf", "dense.gguf", name="other")
    dense = load(read(*files("config/judge/other.yaml"))).models["small"]
    assert (dense.source, dense.parameters) == ("gguf", weights)
    (here / "small-00003-of-00003.gguf").unlink()
    for words, what in (
        (("dense.gguf", "small-00001-of-00003.gguf"), "COMPRESSED"),
        (("small-00001-of-00003.gguf", "dense.gguf"), "DENSE"),
    ):
        with pytest.raises(
            ArtifactError, match=rf"{what} .*small-00003-of-00003\.gguf: is missing; .*one of 3 parts"
        ):
            judge.main(*words, name="third")
    (here / "dense.gguf").write_bytes((here / "dense.gguf").read_bytes()[:-500])
    with pytest.raises(ArtifactError, match=r"DENSE dense\.gguf: cut short, or no GGUF file"):
        judge.main("dense.gguf", "Some Model_v1", name="fourth")


def test_models_of_the_catalogue_in_pieces_are_named(here, ran):
    part = {"package": "gemma-part1", "version": "1.0", "sha256": "0" * 64, "file": "a/gemma.gguf.part00"}
    pieces = {"source": "gguf", "parts": [part, part | {"package": "gemma-part2"}], "file_sha256": "1" * 64}
    own = yaml.safe_load(Path("config.yaml").read_text())
    own["models"] = {"gemma": pieces | {"parameters": 2.7e8}}
    own["compressors"] = {"gemma-q4": pieces | {"algorithm": "external", "model": "gemma"}}
    Path("config.yaml").write_text(yaml.safe_dump(own))
    judge.main("gemma", "gemma-q4")
    plan = plan_of(files("config/judge/judge-gemma-q4.yaml"), "judge-gemma-q4")
    assert {(cell.model, cell.compressor) for cell in plan.cells("judge-gemma-q4")} == {
        ("gemma", "dense"),
        ("gemma", "gemma-q4"),
    }
    assert plan.fetch("models", "gemma")["spec"]["parts"] == pieces["parts"]
    assert plan.fetch("compressors", "gemma-q4")["spec"]["file_sha256"] == "1" * 64
    with pytest.raises(
        ConfigError, match=r"'gemma-q4' is a checkpoint of gemma, and the block has smollm2-135m"
    ):
        judge.main("smollm2-135m", "gemma-q4", name="other")

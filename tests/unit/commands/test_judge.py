"""`judge` writes a grid of its own, for models that are named by folder, repository or catalogue."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

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
    options = {"items": 7, "profile": "slurm", "snakemake_options": ["--keep-going"]}
    assert judge.main("smollm2-135m", "Some Model_v1", **options) == 0
    file, grid = "config/judge/judge-Some-Model-v1.yaml", "judge-Some-Model-v1"
    [(called, given)] = ran
    assert called == grid
    assert given == {"configfile": [file], "profile": "slurm", "snakemake_options": ["--keep-going"]}
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


def test_a_wrong_option_is_told_by_its_key_before_anything_runs(here, ran):
    with pytest.raises(ConfigError, match=r"grids\.judge-Some-Model-v1\.evaluation\.items: 0 is not allowed"):
        judge.main("smollm2-135m", "Some Model_v1", items=0)
    with pytest.raises(ConfigError, match=r"grids\.judge-Some-Model-v1\.training: 'smok' .*'smoke'"):
        judge.main("smollm2-135m", "Some Model_v1", training="smok")
    assert not ran

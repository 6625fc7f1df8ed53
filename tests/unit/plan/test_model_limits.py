"""What a model can't do is refused with the key's path before any job, as far as the catalogue or config.json tell."""

import copy
import json
import os
import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan import after_fetch
from workflow_scripts.plan.config import ConfigError, load
from workflow_scripts.plan.layout import Cell
from workflow_scripts.plan.recipes import Plan

ROOT = Path(__file__).parents[3]


def fetched(config: dict, model: str = "smollm2-135m") -> Path:
    """The folder of a model of which only config.json is there."""
    folder = Path("resources/models", model).absolute()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def edit(config: dict, path: list, value, grid: str = "smoke") -> dict:
    """The configuration of a grid with another value at `path`."""
    config = part = copy.deepcopy(config) | {"grid": grid}
    config["methods"]["prompt-1"] = {"kind": "prompt", "tokens": 2047}  # named by no block
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (
            "methods idp-50-100 score",
            "joint_mean",
            "joint_mean is not defined with learned positions, which opt-6.7b has; use auto",
        ),
        ("methods lora-v-r2 layers", [0, 31, 32], "32 is not allowed; opt-6.7b has the layers 0 to 31"),
        (
            "grids paper calibration length",
            2049,
            "2049 tokens exceed the 2048 positions of opt-6.7b; at most 2048",
        ),
        (
            "training paper sequence_length",
            1949,
            "1949 tokens after a prompt of 100 exceed .* of opt-6.7b; at most 1948",
        ),
        (
            "grids paper evaluation perplexity length",
            1923,
            "1923 tokens after a prompt of 126 .*with concat-26-100",
        ),
        ("grids paper similarity length", 1949, "1949 tokens after"),
        ("grids paper latency sequence", 2000, "2008 tokens after a prompt of 100"),
        (
            "methods prompt-100 tokens",
            3000,
            "a prompt of 3000 leaves no room for text in the 2048 positions of",
        ),
        (
            "methods concat-26-100 members",
            ["prompt-26", "prompt-1"],
            "a prompt of 2073 leaves no room for text in the 2048 positions of",
        ),
    ],
)
def test_what_the_catalogue_knows_to_be_impossible_stops_the_run(unfetched, path, value, said):
    with pytest.raises(ConfigError, match=f"{re.escape(path.replace(' ', '.'))}: {said}"):
        load(edit(unfetched, path.split(), value, "paper"))


def test_one_wrong_value_is_one_line(unfetched):
    with pytest.raises(ConfigError) as error:
        load(edit(unfetched, ["methods", "prompt-100", "tokens"], 3000, "paper"))
    [line] = str(error.value).splitlines()
    assert re.search(r"found in \d+ pairs of model and method", line)
    with pytest.raises(ConfigError) as error:
        load(edit(unfetched, ["grids", "paper", "evaluation", "perplexity", "length"], 2049, "paper"))
    [line] = str(error.value).splitlines()
    # The tightest.
    assert "after a prompt of 126" in line and "at most 1922 are possible with concat-26-100" in line


def test_a_grid_is_not_refused_for_a_model_of_another(unfetched, tmp_path):
    broken = edit(unfetched, ["grids", "paper", "calibration", "length"], 2049)
    folder = tmp_path / "resources/models/opt-6.7b"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("")
    plan = Plan(load(broken))
    with pytest.raises(ArtifactError, match=r"resources/models/opt-6.7b/config.json: not valid JSON"):
        plan.check(Cell("paper", "opt-6.7b", "gptq-w3", "c4", "none", 0))
    with pytest.raises(ValueError, match=r"grids.paper.calibration.length: 2049 .* of llama-7b"):
        plan.check(Cell("paper", "llama-7b", "gptq-w3", "c4", "none", 0))


def test_at_the_limit_everything_is_possible(unfetched):
    for path, value in (
        (["methods", "lora-v-r2", "layers"], [31]),
        (["grids", "paper", "calibration", "length"], 2048),
        (["training", "paper", "sequence_length"], 1948),
    ):
        load(edit(unfetched, path, value, "paper"))


def test_a_fetched_model_tells_its_own_limits(unfetched):
    # Nothing is known of the model yet.
    load(edit(unfetched, ["grids", "smoke", "calibration", "length"], 8193))
    found = {"model_type": "llama", "max_position_embeddings": 8192, "num_hidden_layers": 30}
    folder = fetched(found)
    load(unfetched)
    with pytest.raises(
        ConfigError, match=r"grids.smoke.calibration.length: 8193 tokens exceed the 8192 positions"
    ):
        load(edit(unfetched, ["grids", "smoke", "calibration", "length"], 8193))
    (folder / "config.json").write_text(json.dumps(found | {"model_type": "opt"}))
    with pytest.raises(ConfigError, match=r"methods.idp-50-100.score: joint_sum is not defined"):
        load(edit(unfetched, ["methods", "idp-50-100", "score"], "joint_sum"))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {"attn_logit_softcapping": 50.0},
            "methods.idp-50-100: IDP can't choose prompts for .*: its first layer caps",
        ),
        ({"partial_rotary_factor": 0.25}, None),  # the class decides, once it is fetched
        ({"use_bidirectional_attention": True}, "its first layer attends to tokens ahead"),
        ({"sliding_window": 64}, None),
        ({"sliding_window": 64, "use_sliding_window": False}, None),
        ({"sliding_window": 64, "max_window_layers": 21}, None),
        ({"sliding_window": 64, "layer_types": ["full_attention", "sliding_attention"]}, None),
    ],
)
def test_a_first_layer_in_which_idp_cannot_score_stops_the_run(found, words, unfetched):
    fetched({"model_type": "any"} | found)
    with nullcontext() if words is None else pytest.raises(ConfigError, match=words):
        load(unfetched)


@pytest.mark.parametrize(("window", "refused"), [(611, True), (612, False)])
def test_means_of_logits_beyond_the_first_layers_window_stop_the_run(window, refused, unfetched):
    fetched({"model_type": "any", "sliding_window": window})
    unfetched["methods"]["idp-50-100"]["score"] = "logit_mean"
    said = f"perplexity.length: 512 tokens after a prompt of 100 exceed the {window} that"
    with pytest.raises(ConfigError, match=said) if refused else nullcontext():
        load(unfetched)


LONGROPE = {"rope_type": "longrope", "original_max_position_embeddings": 661}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            {"rope_parameters": LONGROPE},
            "perplexity.length: 512 tokens after a prompt of 150 exceed the 661 positions",
        ),
        ({"rope_parameters": LONGROPE | {"original_max_position_embeddings": 662}}, None),
        (
            {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 400},
            "perplexity.length: 512 tokens after a prompt of 150 exceed the 400 positions up to which smollm",
        ),
        ({"rope_scaling": {"type": "dynamic"}, "max_position_embeddings": 662}, None),
        ({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 64}}, None),
    ],
)
def test_text_beyond_one_rotary_table_stops_the_run(found, words, unfetched):
    fetched({"model_type": "any"} | found)
    with nullcontext() if words is None else pytest.raises(ConfigError, match=re.escape(words)):
        load(unfetched)


def test_fused_projections_are_seen_in_the_weights_names(unfetched):
    folder = fetched({"model_type": "phi3"})
    save_file({"model.layers.0.self_attn.qkv_proj.weight": np.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"methods.idp-50-100: .* its first layer has fused projections"):
        load(unfetched)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_fetched_model_tells_its_linears_and_widths(sharded, unfetched):
    found = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536}
    folder = fetched(found)
    linears = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
        "input_layernorm",
    )
    names = [f"model.layers.{layer}.{linear}.weight" for layer in range(2) for linear in linears]
    names += ["model.embed_tokens.weight", "lm_head.weight"]
    if sharded:
        index = {"weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(dict.fromkeys(names, np.zeros(1)), folder / "model.safetensors")
    load(unfetched)
    load(edit(unfetched, ["methods", "lora-r2", "targets"], {"llama": ["mlp.up_proj", "o_proj"]}))
    with pytest.raises(ConfigError) as error:
        load(edit(unfetched, ["methods", "lora-r2", "targets", "llama"], ["q_proj", "q_projj"]))
    said = (
        "methods.lora-r2.targets.llama[1]: 'q_projj' is no module of smollm2-135m's decoder layers; allowed: "
    )
    assert said in str(error.value)
    assert "did you mean 'q_proj'?" in str(error.value)
    for outside in ("embed_tokens", "lm_head"):
        with pytest.raises(
            ConfigError, match=rf"targets.llama\[0\]: '{outside}' is no module of smollm2-135m's dec"
        ):
            load(edit(unfetched, ["methods", "lora-r2", "targets", "llama"], [outside]))
    unfetched["grids"]["smoke"]["blocks"]["core"]["compressors"].append("sparsegpt-2of4")
    load(unfetched)
    with pytest.raises(
        ConfigError, match=r"compressors.sparsegpt-2of4.pattern: 2:5 does not divide the 576 inputs"
    ):
        load(edit(unfetched, ["compressors", "sparsegpt-2of4", "pattern"], "2:5"))
    load(edit(unfetched, ["compressors", "sparsegpt-2of4", "pattern"], "2:3"))


def test_a_local_models_folder_is_read_before_any_fetch(unfetched, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    unfetched["models"]["smollm2-135m"] = {"source": "local", "path": str(folder), "parameters": 1.0e6}
    load(unfetched)  # no config.json: the fetch says so
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 600}))
    with pytest.raises(
        ConfigError, match="512 tokens after a prompt of 150 exceed the 600 positions of smollm2-135m"
    ):
        load(unfetched)
    for text in ("[]", "{"):
        (folder / "config.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"mine/config\.json: .*; it must be mended at its source"):
            load(unfetched)
    odd = (
        {"sliding_window": "8"},
        {"num_hidden_layers": 1.5},
        {"rope_parameters": [1]},
        {"layer_types": 5, "sliding_window": 8},
    )
    for value in odd:
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"} | value))
        with pytest.raises(
            ArtifactError, match=r"mine/config\.json: no configuration of transformers .*; it must be"
        ):
            load(unfetched)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "x", "num_hidden_layers": 10**12, "sliding_window": 8})
    )
    load(unfetched)  # the fetch refuses so many layers; nothing here counts them
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    load(unfetched)


def test_a_model_that_attends_to_tokens_ahead_stops_the_run(unfetched):
    folder = fetched({"model_type": "llama", "is_causal": True})
    load(unfetched)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "is_causal": False}))
    with pytest.raises(ConfigError, match="no cell of it can be evaluated: it attends to tokens ahead"):
        load(unfetched)


@pytest.mark.parametrize("kind", ["llama4", "gemma3", "mistral3", "qwen2_5_vl"])
def test_a_decoder_inside_a_model_of_images_stops_the_run(kind, unfetched):
    """Its windows, positions and widths stand where no check of the configuration looks."""
    fetched({"model_type": kind, "text_config": {"num_hidden_layers": 2}, "vision_config": {}})
    with pytest.raises(
        ConfigError, match=r"no cell of it can be evaluated: its decoder is a part of a model"
    ):
        load(unfetched)


def test_a_model_of_which_no_cell_can_be_evaluated_stops_the_run_once_it_is_fetched(unfetched):
    folder = fetched({"model_type": "falcon"})
    for reason in (None, "FalconForCausalLM has no pluggable attention"):
        (folder / "manifest.json").write_text(json.dumps({"unscorable": reason}))
        if reason is None:
            load(unfetched)
        else:
            with pytest.raises(
                ConfigError, match=f"models.smollm2-135m: no cell of it can be evaluated: {reason}"
            ):
                load(unfetched)


@pytest.mark.parametrize(
    ("kind", "key"), [("idp", "methods.idp-50-100"), ("prompt", "methods.prompt-100"), ("fewshot", None)]
)
def test_a_method_that_a_model_cannot_have_stops_the_run_once_it_is_fetched(kind, key, unfetched):
    """Of a kind that no method of the grid has nothing is said."""
    folder = fetched({"model_type": "olmo2"})
    (folder / "manifest.json").write_text(json.dumps({"unfit": {kind: "no norm before its attention"}}))
    said = rf"{key}: smollm2-135m can't have a method of kind {kind}: no norm before its attention"
    with pytest.raises(ConfigError, match=said) if key else nullcontext():
        load(unfetched)


def test_after_a_fetch_the_whole_configuration_is_checked_again(unfetched, tmp_path):
    folder = tmp_path / "resources/models/smollm2-135m"
    folder.mkdir(parents=True)
    after_fetch.check(unfetched, "smollm2-135m")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 600}))
    said = "and it cannot run the configuration: .*512 tokens after a prompt of 150 exceed the 600 pos"
    with pytest.raises(ArtifactError, match=said):
        after_fetch.check(unfetched, "smollm2-135m")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json", "model.safetensors"])
def test_a_damaged_file_of_a_fetched_model_is_named_with_the_folder_to_delete(file, unfetched):
    folder = fetched({"model_type": "llama"})
    for content in ("", "[]"):
        (folder / file).write_text(content)
        said = rf"resources/models/smollm2-135m/{re.escape(file)}: .*; delete resources/models/smollm2-135m and it will"
        with pytest.raises(ArtifactError, match=said):
            load(unfetched)


def test_a_cell_that_no_grid_names_is_checked_when_it_is_asked_for(unfetched):
    joint = {"kind": "idp", "members": ["prompt-50", "prompt-100"], "score": "joint_mean"}
    plan = Plan(load(edit(unfetched, ["methods", "idp-joint"], joint)))
    cell = Cell("paper", "llama-7b", "gptq-w3", "c4", "idp-joint", 0)
    assert plan.check(cell) == cell
    with pytest.raises(
        ValueError, match=r"idp-joint/seed-0.json can't be: methods.idp-joint.score: joint_mean"
    ):
        plan.check(cell._replace(model="opt-6.7b"))

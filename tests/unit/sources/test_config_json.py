"""Numbers of a model's config.json: those that make no sense are refused at the fetch, by key and value."""

import json

import pytest

from tests.tiny import change_json
from tests.unit.sources.test_vocabulary import fetched, refused
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources.model_folder import read_config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("max_position_embeddings", 0), ("max_position_embeddings", -5), ("n_positions", -1)),
        *(("rope_theta", 0), ("rope_theta", -1.0), ("rms_norm_eps", -1e-6), ("rms_norm_eps", 1e6)),
        *(("vocab_size", -1), ("hidden_size", -32), ("num_attention_heads", -4), ("num_key_value_heads", -1)),
        *(("routed_scaling_factor", 0), ("partial_rotary_factor", 0), ("embedding_multiplier", 0)),
        *(("head_dim", -8), ("sliding_window", -3), ("logits_scaling", 0), ("attention_dropout", 2)),
        *(("rope_parameters", {"rope_theta": -1}), ("rope_scaling", {"type": "linear", "factor": 0})),
        ("rope_scaling", {"type": "longrope", "short_factor": [1.0, -1.0]}),
    ],
)
def test_a_number_of_config_json_that_makes_no_sense_is_refused_by_key_and_value(key, value, given):
    change_json(given / "config.json", **{key: value})
    inner = [*value][-1] if isinstance(value, dict) else key
    refused(given, rf"config.json: `{inner}` is .*, a number (from|above) 0 to .* is right")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("vocab_size", 50), ("hidden_size", 33), ("num_attention_heads", 5), ("num_key_value_heads", 3)),
        *(("rope_theta", "x"), ("max_position_embeddings", "many"), ("rms_norm_eps", "small")),
        ("rope_theta", float("inf")),
    ],
)
def test_other_values_that_fit_no_weights_or_no_type_are_refused_too(key, value, given):
    change_json(given / "config.json", **{key: value})
    if key == "rope_theta":
        read = json.loads((given / "config.json").read_text())
        del read["rope_parameters"]
        (given / "config.json").write_text(json.dumps(read))
    with pytest.raises(ArtifactError, match=r"config\.json"):
        fetched(given)


@pytest.mark.parametrize(
    "values",
    [
        {"pad_token_id": -1, "sliding_window": None, "image_token_index": -200, "num_local_experts": 0},
        {"mtp_loss_scaling_factor": 0.0, "initializer_factor": 0, "moe_train_capacity_factor": 0},
        {"attention_dropout": 0.1, "max_window_layers": 0, "rms_norm_eps": 1e-5, "rope_theta": 1e9},
    ],
)
def test_numbers_that_published_models_have_pass(values, given):
    change_json(given / "config.json", **values)
    fetched(given)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_a_group_of_minus_one_is_a_whole_row_of_a_quantised_checkpoint(key, given):
    groups = {"linears": {"weights": {"num_bits": 8, "group_size": -1}}}
    said = {"quant_method": "gptq", "bits": 4, "group_size": -1, "config_groups": groups}
    change_json(given / "config.json", **{key: said})
    assert read_config("small", given)[key] == said

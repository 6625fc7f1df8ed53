"""Settings of config.json that no weight shows."""

import pytest

from workflow_scripts.compress.foreign.configuration import other_settings

DENSE = {"num_hidden_layers": 2, "rms_norm_eps": 1e-5, "layer_types": ["full", "sliding"], "vocab_size": 9}
DENSE |= {"tie_word_embeddings": False, "model_type": "llama"}
DENSE |= {"rope_parameters": {"full": {"rope_theta": 1e6, "factor": None}}}


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({}, []),
        ({"vocab_size": 10, "torch_dtype": "float16"}, []),
        ({"rms_norm_eps": 9.999999747378752e-06}, []),  # 1e-5 in float32
        ({"rms_norm_eps": 1e-6}, ["rms_norm_eps"]),
        ({"model_type": "gemma"}, ["model_type"]),  # which adds 1 to norms and scales embeddings
        ({"rope_parameters": {"full": {"rope_theta": 1e4, "factor": None}}}, ["rope_parameters"]),
        ({"rope_parameters": None, "hidden_act": "gelu"}, ["hidden_act", "rope_parameters"]),
        ({"tie_word_embeddings": True}, ["tie_word_embeddings"]),
        ({"layer_types": ["full", "full"]}, ["layer_types"]),
        ({"layer_types": ["full"], "num_hidden_layers": 1}, []),
    ],
)
def test_what_differs_is_named_and_precision_is_no_difference(changed, found):
    assert other_settings(DENSE, DENSE | changed) == found


def test_a_head_that_makers_untie_is_stored_and_no_difference():
    assert other_settings(DENSE | {"tie_word_embeddings": True}, DENSE) == []

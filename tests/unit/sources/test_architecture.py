"""Whether cells of a model can be evaluated, as its class in transformers tells once it is fetched."""

import json

import pytest

from tests.unit.compress import walked
from workflow_scripts.evaluate.block_attention import NotPackable
from workflow_scripts.evaluate.self_check import require_packable
from workflow_scripts.sources.architecture import limits, unscorable


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("llama", None),
        ("gemma3_text", None),
        *(
            (kind, None)
            for kind in ("gpt2", "opt", "mixtral", "qwen3_moe", "deepseek_v3", "olmo2", "granite", "phi3")
        ),
        ("falcon", "FalconForCausalLM has no pluggable"),
        ("gpt_oss", "GptOssAttention attends with s_aux"),
        ("recurrent_gemma", "8 of the 26 layers of RecurrentGemmaForCausalLM have pluggable"),
        ("granitemoehybrid", "GraniteMoeHybridForCausalLM can't read packed rows"),
        ("deepseek_v32", "DeepseekV32ForCausalLM can't read packed rows"),
        ("bert", "BertSelfAttention attends to tokens ahead"),
        ("llama4_text", "Llama4ForCausalLM has no decoder of its own"),
        ("modernbert-decoder", "ModernBertDecoderForCausalLM has no decoder of its own"),
        *((kind, "is a part of a model with other inputs") for kind in ("llama4", "gemma3", "emu3")),
        ("t5", "no causal"),
    ],
)
def test_the_manifest_says_if_no_cell_of_a_model_can_be_evaluated(family, said, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    found = unscorable(tmp_path)
    assert found is None if said is None else said in found


def test_layers_of_which_one_is_a_convolution_are_told_with_the_manifest(tmp_path):
    shape = {"model_type": "lfm2", "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    assert "Lfm2ForCausalLM can't read packed rows" in unscorable(tmp_path)


@pytest.mark.parametrize("family", walked.FAMILIES)
def test_the_manifest_says_what_the_scorers_own_check_finds(family, tmp_path):
    model = walked.tiny(family)
    model.config.save_pretrained(tmp_path)
    if unscorable(tmp_path) is None:
        require_packable(model)
    else:
        with pytest.raises(NotPackable):
            require_packable(model)


@pytest.mark.parametrize(
    ("family", "kind", "said"),
    [
        ("olmo2", "idp", "no norm before its attention"),
        ("olmoe", "idp", "norms queries and keys otherwise"),
        ("hunyuan_v1_dense", "idp", "norms queries and keys otherwise"),
        ("phi", "idp", "rotates only a part of each head"),
        ("gpt2", "idp", "positions are neither rotary nor"),
        ("minicpm3", "idp", "query and key projections of their own"),
        ("minicpm3", "prefix", "its keys and values, or those of its layers, differ"),
        ("deepseek_v3", "prefix", "its keys and values, or those of its layers, differ"),
        ("gemma4_text", "prompt", "a prompt's vectors are of none"),
    ],
)
def test_the_manifest_says_which_methods_a_model_cannot_have(family, kind, said, tmp_path):
    sizes = {"head_dim": 128} if family == "hunyuan_v1_dense" else {}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **sizes}))
    unscorable, unfit = limits(tmp_path)
    assert unscorable is None and said in unfit[kind]


@pytest.mark.parametrize(
    "family", ["llama", "opt", "gemma3_text", "qwen3", "granite", "cohere", "mistral", "glm4"]
)
def test_a_model_that_may_have_every_method(family, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    assert limits(tmp_path) == (None, {})

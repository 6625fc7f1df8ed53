"""Adapters: PEFT's own loader reads them, seeds decide them, counts are the paper's, the base stays frozen."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, OPTConfig

from tests.tiny_models import FAMILIES, VOCABULARY, tiny_llama, tiny_of, tiny_opt
from tests.unit.compress import walked
from workflow_scripts.compress.decoder import decoder_layers, get_weight, layer_linears
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan.config import files, read
from workflow_scripts.plan.schema import methods
from workflow_scripts.recover import adapters, lora

TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"],
    "opt": ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"],
}
LORA = {"kind": "lora", "rank": 2, "alpha": 4, "dropout": 0.0, "targets": TARGETS, "layers": None}
PROMPT = {"kind": "prompt", "tokens": 6, "init": "vocabulary", "trained": True}
PREFIX = {"kind": "prefix", "tokens": 6, "init": "text"}
METHODS = {
    "lora": LORA,
    "prompt": PROMPT,
    "prompt-random": PROMPT | {"init": "random"},
    "prefix": PREFIX,
    "prefix-random": PREFIX | {"init": "random"},
}
WINDOW = torch.arange(2, 14)


def perturbed(model, method, seed=0):
    """A new adapter whose parameters were moved, as by training."""
    adapted = adapters.create(model, method, seed, WINDOW)
    with torch.no_grad():
        torch.manual_seed(99)
        for parameter in adapters.trained_parameters(adapted):
            parameter += 0.1 * torch.randn_like(parameter)
    return adapted


@torch.no_grad()
def attached_logits(recovered, ids):
    cache = recovered.bank.cache(0, len(ids)) if recovered.bank else None
    return recovered.model(input_ids=ids, past_key_values=cache).logits


def test_lora_on_a_layer_that_the_model_lacks_is_refused():
    model = tiny_llama()
    last = model.config.num_hidden_layers - 1
    adapters.create(model, LORA | {"layers": [last]}, 0)
    with pytest.raises(
        ValueError, match=f"layers: {last + 1} is not allowed; the model has the layers 0 to {last}"
    ):
        adapters.create(tiny_llama(), LORA | {"layers": [0, last + 1]}, 0)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_loads_what_is_saved_and_attach_gives_its_logits(family, name, tmp_path):
    method = METHODS[name]
    adapters.save(perturbed(FAMILIES[family](), method), tmp_path, "tiny")
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == "tiny"
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    ids = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    peft = PeftModel.from_pretrained(FAMILIES[family](), str(tmp_path)).eval()
    with torch.no_grad():
        reference = peft(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, -9:]
    recovered = adapters.attach(FAMILIES[family](), None, method, [tmp_path])
    torch.testing.assert_close(attached_logits(recovered, ids), reference, atol=1e-4, rtol=0)
    base = attached_logits(adapters.attach(FAMILIES[family](), None, {"kind": "none"}, []), ids)
    assert (base - reference).abs().max() > 0.01


@pytest.mark.parametrize("name", METHODS)
def test_seed_decides_the_start_whatever_was_drawn_before(name):
    def start(seed):
        torch.rand(3)
        adapted = adapters.create(tiny_llama(), METHODS[name], seed, WINDOW)
        return torch.cat([parameter.detach().flatten() for parameter in adapters.trained_parameters(adapted)])

    assert torch.equal(start(1), start(1))
    if name == "prefix":
        assert torch.equal(start(1), start(2)), (
            "the start from text is the window's, which the data seed draws"
        )
    else:
        assert not torch.equal(start(1), start(2))


def test_prompt_starts_from_vocabulary_and_prefix_from_the_keys_and_values_of_text():
    model = tiny_opt()
    (prompt,) = adapters.trained_parameters(adapters.create(model, PROMPT, 0))
    vocabulary = model.get_input_embeddings().weight
    assert all((vocabulary == row).all(1).any() for row in prompt)
    (prefix,) = adapters.trained_parameters(adapters.create(model, PREFIX, 0, WINDOW))
    keys, values = adapters.prefix_keys_values(prefix, model)
    with torch.no_grad():
        cache = model(input_ids=WINDOW[None, :6], use_cache=True).past_key_values
    for layer, (key, value) in enumerate(zip(keys, values)):
        torch.testing.assert_close(key, cache.layers[layer].keys)
        torch.testing.assert_close(value, cache.layers[layer].values)
    with pytest.raises(ValueError, match="6 tokens starts from a training window at least that long"):
        adapters.create(tiny_opt(), PREFIX, 0, WINDOW[:5])


def test_concatenation_is_both_prompts_run_together(tmp_path):
    prompts = []
    for seed in (0, 1):
        adapted = perturbed(tiny_llama(), PROMPT, seed)
        adapters.save(adapted, tmp_path / str(seed), "tiny")
        prompts.append(adapters.trained_parameters(adapted)[0].detach())
    members = [{"adapter": "prompt-6", "seed": seed} for seed in (0, 1)]
    method = {"kind": "concat", "members": members}
    recovered = adapters.attach(tiny_llama(), None, method, [tmp_path / "0", tmp_path / "1"])
    model = tiny_llama()
    with torch.no_grad():
        embeddings = torch.cat([*prompts, model.get_input_embeddings()(WINDOW)])[None]
        reference = model(inputs_embeds=embeddings).logits[:, 12:]
    torch.testing.assert_close(attached_logits(recovered, WINDOW[None]), reference, atol=1e-4, rtol=0)
    assert recovered.parameters["effective"] == 2 * 6 * 32
    assert recovered.bank.prefixes[0].name == "prompt-6/seed-0+prompt-6/seed-1"


def test_written_text_is_a_prefix_like_any_other():
    """Control: an instruction before the text; the same logits as the tokens run through together."""

    class Letters:
        def encode(self, text):
            return [ord(letter) % VOCABULARY for letter in text]

    method = {"kind": "text", "text": "Answer the question."}
    recovered = adapters.attach(tiny_opt(), Letters(), method, [])
    ids = torch.tensor([Letters().encode(method["text"]) + WINDOW.tolist()])
    with torch.no_grad():
        reference = tiny_opt()(input_ids=ids).logits[:, 20:]
    torch.testing.assert_close(attached_logits(recovered, WINDOW[None]), reference, atol=1e-4, rtol=0)
    assert recovered.parameters["trainable"] == recovered.parameters["effective"] == 0


def test_idp_joins_soft_prompts_only_and_each_member_has_a_folder(tmp_path):
    adapters.save(perturbed(tiny_llama(), LORA), tmp_path, "tiny")
    method = {
        "kind": "idp",
        "members": [{"adapter": "lora-r2", "seed": 0}],
        "score": "auto",
        "calibrated": False,
    }
    with pytest.raises(ArtifactError, match=r"adapter_config\.json: peft_type: 'LORA' is no soft prompt"):
        adapters.attach(tiny_llama(), None, method, [tmp_path])
    with pytest.raises(ValueError, match="1 adapter folders expected, 0 given"):
        adapters.attach(tiny_llama(), None, method, [])


def test_calibrated_scores_have_median_zero_over_the_training_text(tmp_path):
    folders = [tmp_path / str(seed) for seed in range(3)]
    for seed, folder in enumerate(folders):
        adapters.save(perturbed(tiny_llama(), PROMPT, seed), folder, "tiny")
    members = [{"adapter": "prompt-6", "seed": seed} for seed in range(3)]
    method = {"kind": "idp", "members": members, "score": "auto", "calibrated": True}
    contexts = [list(range(2, 12)), list(range(30, 60)), [5, 4, 3]]
    recovered = adapters.attach(tiny_llama(), None, method, folders, contexts=contexts)
    scores = recovered.selector.scores(contexts)
    torch.testing.assert_close(
        scores.median(0).values, torch.zeros(3, dtype=torch.float64), atol=1e-9, rtol=0
    )


# ---------------------------------------------------------------------------------------------- counts


def llama_7b():
    return LlamaConfig()  # transformers' defaults are Llama-7B's


def opt_6_7b():
    return OPTConfig(
        hidden_size=4096,
        word_embed_proj_dim=4096,
        ffn_dim=16384,
        num_hidden_layers=32,
        num_attention_heads=32,
    )


@pytest.mark.parametrize(
    ("config", "printed"),
    [(llama_7b, {2: 4.47, 3: 6.71, 4: 8.95}), (opt_6_7b, {2: 4.72, 3: 7.08, 4: 9.44})],
)
def test_lora_counts_are_the_printed_ones_from_the_configs_alone(config, printed):
    for rank, millions in printed.items():
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config())
            adapted = get_peft_model(model, lora.lora_config(LORA | {"rank": rank}, model))
        count = sum(parameter.numel() for parameter in adapters.trained_parameters(adapted))
        assert round(count / 1e6, 2) == millions


def smollm2_135m():
    return LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
    )


@pytest.mark.parametrize(
    ("name", "config"), [("lora-v-r3", smollm2_135m), ("lora-v-r2", llama_7b), ("lora-v-r2", opt_6_7b)]
)
def test_the_catalogues_small_lora_has_exactly_the_parameters_of_prompt_100(name, config):
    catalogue = read(*files(root=Path(__file__).parents[3]))["methods"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config())
        method = {"dropout": 0.0} | catalogue[name]
        adapted = get_peft_model(model, lora.lora_config(method, model))
    count = sum(parameter.numel() for parameter in adapters.trained_parameters(adapted))
    assert count == catalogue["prompt-100"]["tokens"] * model.config.hidden_size


def test_appendix_formulas():
    """d = 4096, d_inter = 11008, 32 layers: the appendix' 4.92 M for r = 2, t d, and L t d."""
    config = llama_7b()
    assert adapters.paper_formula(LORA, config) == 32 * 2 * (8 * 4096 + 4 * 11008) == 4_915_200
    assert adapters.paper_formula(PROMPT | {"tokens": 100}, config) == 409_600
    assert adapters.paper_formula(PREFIX | {"tokens": 50}, config) == 6_553_600


def test_lora_on_chosen_layers_and_targets():
    """The control with as many parameters as a prompt: v_proj alone, few layers."""
    method = LORA | {"targets": {"default": ["v_proj"]}, "layers": [1]}
    parameters = adapters.trained_parameters(adapters.create(tiny_llama(), method, 0))
    assert sum(parameter.numel() for parameter in parameters) == 2 * (32 + 32)
    with pytest.raises(ValueError, match="llama has no linear q_projj"):  # PEFT would train v_proj alone
        adapters.create(tiny_llama(), LORA | {"targets": {"default": ["q_projj", "v_proj"]}}, 0)


def test_merged_lora_equals_unmerged(tmp_path):
    adapters.save(perturbed(tiny_llama(), LORA), tmp_path, "tiny")
    recovered = adapters.attach(tiny_llama(), None, LORA, [tmp_path])
    unmerged = attached_logits(recovered, WINDOW[None])
    with torch.no_grad():
        merged = lora.merge(recovered.model)(input_ids=WINDOW[None]).logits
    torch.testing.assert_close(merged, unmerged, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", walked.FAMILIES)
def test_without_targets_lora_adapts_every_linear_of_the_decoder_layers(family):
    """Gemma, Qwen, GPT-2 and others: none is adapted in part because its linears have other names."""
    method = methods.Lora(kind="lora", rank=2).dump()
    model = walked.tiny(family)
    shapes = [
        get_weight(linear).shape
        for layer in decoder_layers(model)
        for linear in layer_linears(layer).values()
    ]
    adapted = adapters.create(model, method, 0)
    assert sum(p.numel() for p in adapters.trained_parameters(adapted)) == sum(2 * sum(s) for s in shapes)
    assert sum(lora.adapted_linears(adapted).values()) == len(shapes)


@pytest.mark.parametrize(
    ("family", "inner"), [("gpt2", {}), ("bloom", {}), ("falcon", {}), ("gptj", {"n_inner": 128})]
)
def test_the_paper_formula_knows_families_without_an_intermediate_size(family, inner):
    """It is written into training.json after the training, which an unknown width would lose."""
    sizes = {"n_embd": 32, "hidden_size": 32, "num_attention_heads": 4}
    config = AutoConfig.for_model(family, **sizes, **inner)
    layers = config.num_hidden_layers
    assert adapters.paper_formula(LORA, config) == layers * 2 * (8 * 32 + 4 * 128)


def test_gemma_270m_has_all_its_linears_where_q_k_v_would_be_a_fourth():
    method = read(*files(root=Path(__file__).parents[3]))["methods"]["lora-r2"] | {
        "dropout": 0.0,
        "layers": None,
    }
    config = AutoConfig.for_model(
        "gemma3_text",
        hidden_size=640,
        intermediate_size=2048,
        num_hidden_layers=18,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,
        vocab_size=8,
    )
    with torch.device("meta"):
        adapted = adapters.create(AutoModelForCausalLM.from_config(config), method, 0)
    assert sum(p.numel() for p in adapters.trained_parameters(adapted)) == 474_624
    assert lora.adapted_linears(adapted) == dict.fromkeys(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], 18
    )


ROUTED = {  # family, last name of what routes, settings
    "phimoe": ("Phimoe", "router", {"num_local_experts": 4}),
    "jetmoe": ("JetMoe", "layer", {"num_local_experts": 4, "kv_channels": 8}),
    "qwen2_moe": ("Qwen2Moe", "shared_expert_gate", {"num_experts": 4, "moe_intermediate_size": 24}),
    "hunyuan": ("HunYuanMoEV1", "wg", {"num_experts": 4, "head_dim": 8}),
}


@pytest.mark.parametrize("family", ROUTED)
def test_what_routes_tokens_to_experts_is_no_projection(family):
    name, router, settings = ROUTED[family]
    adapted = adapters.create(tiny_of(name, **settings), LORA | {"targets": {"default": ["all-linear"]}}, 0)
    found = lora.adapted_linears(adapted)
    assert found and router not in found
    with pytest.raises(ValueError, match=f"has no linear {router} in its decoder layers"):
        adapters.create(tiny_of(name, **settings), LORA | {"targets": {"default": [router]}}, 0)


@pytest.mark.parametrize("target", ["embed_tokens", "lm_head", "input_layernorm", "q_projj"])
@pytest.mark.parametrize("tied", [True, False])
def test_what_is_no_linear_of_the_decoder_layers_is_refused_before_training(target, tied):
    """A merged adapter on a tied embedding changes the head too; the head takes no gradient in training."""
    model = walked.tiny("llama", tie_word_embeddings=tied)
    with pytest.raises(
        ValueError, match=f"llama has no linear {target} in its decoder layers; they have self_attn.q"
    ):
        adapters.create(model, LORA | {"targets": {"default": ["q_proj", target]}}, 0)


def test_both_spell_the_word_for_all_linears_alike():
    assert lora.ALL_LINEAR == methods.ALL_LINEAR

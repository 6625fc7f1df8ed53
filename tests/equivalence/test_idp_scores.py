"""First-layer scores are those of the model's own eager attention over prompt and text, and for OPT of plain loops."""

import math

import pytest
import torch

from tests.equivalence.idp_models import LENGTHS, ROTARY, make_bank, make_contexts, make_prompts
from tests.tiny_models import FAMILIES, tiny_of, tiny_opt
from workflow_scripts.recover import idp
from workflow_scripts.recover.idp import Selector, attention_logits


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_the_models_own_attention(family):
    """Prompt and text run together with eager attention: its first-layer weights on the prompt give every score.

    With mass A on the prompt and 1 - A on the text, r = A / (1 - A), the joint sums are r_i / (1 + r_1 + .. + r_m).
    """
    model, prompts, context = FAMILIES[family](attention="eager"), make_prompts(), make_contexts()[1]
    bank = make_bank(model, prompts)
    masses = []
    for prompt in prompts:
        embeddings = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(context))])[None]
        with torch.no_grad():
            attention = model(inputs_embeds=embeddings, output_attentions=True).attentions[0][0].double()
        masses.append(attention[:, len(prompt) :, : len(prompt)].sum(-1))  # (heads, T)
    lengths = torch.tensor(LENGTHS, dtype=torch.float64)
    mass = torch.stack(masses, -1)
    expected = {"indep_sum": mass.mean((0, 1)), "indep_mean": mass.mean((0, 1)) / lengths}
    if family in ROTARY:
        ratio = mass / (1 - mass)
        joint = (ratio / (1 + ratio.sum(-1, keepdim=True))).mean((0, 1))
        expected |= {"joint_sum": joint, "joint_mean": joint / lengths}
    for score, reference in expected.items():
        torch.testing.assert_close(
            Selector(model, bank, score).scores([context])[0], reference, atol=1e-6, rtol=0
        )


@torch.no_grad()
def own_mass(model, prompt, context) -> float:
    """Share of the first layer's eager attention on a prompt before the text, mean over heads and tokens."""
    embeddings = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(context))])[None]
    model.set_attn_implementation("eager")
    weights = model(inputs_embeds=embeddings, output_attentions=True, use_cache=False).attentions[0][0]
    return weights[:, len(prompt) :, : len(prompt)].double().sum(-1).mean().item()


SCORED = {
    "own scaling": ("Granite", {"attention_multiplier": 0.9, "embedding_multiplier": 0.3}),
    "queries and keys normalised": ("Qwen3", {"head_dim": 8}),
    "biased projections": ("Qwen2", {}),
    "YaRN": (
        "Llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
    ),
    "a window that holds all": ("Mistral", {"sliding_window": 18}),
    "a window that cuts": ("Mistral", {"sliding_window": 7}),
    "a window of two tokens": ("Mistral", {"sliding_window": 2}),
    "rotary embeddings by layer type": ("Gemma3", {"head_dim": 8, "sliding_window": 64}),
    "rotary embeddings by layer type, a window that cuts": ("Gemma3", {"head_dim": 8, "sliding_window": 7}),
    "a full first layer before sliding ones": (
        "Gemma3",
        {"head_dim": 8, "sliding_window": 7, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    "rotation of a part of each head, every second number": ("Glm4", {"head_dim": 8}),
    "rotation of a part of each head, its first half": ("Nemotron", {}),
    "norm after attention": (
        "OPT",
        {"ffn_dim": 48, "do_layer_norm_before": False, "word_embed_proj_dim": 16},
    ),
}


@pytest.mark.parametrize("case", SCORED)
def test_every_model_that_is_scored_is_scored_by_its_own_attention(case):
    name, settings = SCORED[case]
    model, context = tiny_of(name, "Text" if name == "Gemma3" else "", **settings), make_contexts()[1]
    prompts = [prompt[:, : model.get_input_embeddings().embedding_dim] for prompt in make_prompts()]
    if name == "Qwen3":  # whose norm starts at one, where its weight could as well be left out
        torch.nn.init.normal_(model.model.layers[0].self_attn.q_norm.weight)
    scores = Selector(model, make_bank(model, prompts), "indep_sum").scores([context])[0]
    expected = [own_mass(model, prompt, context) for prompt in prompts]
    torch.testing.assert_close(scores.tolist(), expected, atol=1e-6, rtol=0)


UNSCORED = {
    "caps the attention's logits": ("Gemma2", {"head_dim": 8, "attn_logit_softcapping": 2.0}),
    "rotates only a part of each head": ("StableLm", {}),
    "rotates only a part of each head .*size of tensor": ("Phi", {}),
    "is of a kind that the scores don't know .*q_proj": ("Phi3", {}),
    "is of a kind that the scores don't know .*input_layernorm": ("Olmo2", {}),
    "attends to tokens ahead": ("Gemma3", {"head_dim": 8, "use_bidirectional_attention": True}),
}


@pytest.mark.parametrize("reason", UNSCORED)
def test_a_first_layer_that_the_scores_do_not_know_is_refused_by_name(reason):
    name, settings = UNSCORED[reason]
    name, suffix = ("Gemma3", "Text") if name == "Gemma3" else (name, "")
    model = tiny_of(name, suffix, **settings)
    with pytest.raises(
        ValueError, match=rf"^{name}ForCausalLM: IDP can't choose prompts .*: its first layer {reason}"
    ):
        Selector(model, make_bank(model, make_prompts()))


def test_a_scaling_that_the_score_missed_would_be_refused(monkeypatch):
    model = tiny_of("Granite", attention_multiplier=0.9)
    bank = make_bank(model, make_prompts())
    monkeypatch.setattr(
        idp, "attention_logits", lambda queries, keys, scaling: attention_logits(queries, keys)
    )
    with pytest.raises(
        ValueError, match=r"0\.\d+ of the attention is on a prompt by the score, 0\.\d+ in the model"
    ):
        Selector(model, bank)


def test_means_of_logits_are_refused_beyond_the_first_layers_window():
    model = tiny_of("Mistral", sliding_window=18)
    selector = Selector(model, make_bank(model, make_prompts()), "logit_mean")
    selector.scores([list(range(10))])
    with pytest.raises(ValueError, match=r"8 prompt positions \+ 11 text tokens exceed the 18 that"):
        selector.scores([list(range(11))])


def test_opt_scores_by_plain_loops():
    """OPT: offset of 2 in the position table, biases, learned positions, all six numbers spelled out."""
    model, prompts, context = tiny_opt(), make_prompts(), make_contexts()[2]
    decoder = model.model.decoder
    layer, heads, width = decoder.layers[0], 4, 8

    def projected(linear, vector):
        hidden = layer.self_attn_layer_norm(vector)
        return (linear.weight.double() @ hidden.double() + linear.bias.double()).view(heads, width)

    expected = {"indep_mean": [], "indep_sum": [], "logit_mean": [], "logit_lme": []}
    with torch.no_grad():
        for prompt in prompts:
            n = len(prompt)
            places = [prompt[j] + decoder.embed_positions.weight[j + 2] for j in range(n)]
            places += [
                decoder.embed_tokens.weight[token] + decoder.embed_positions.weight[n + t + 2]
                for t, token in enumerate(context)
            ]
            keys = [projected(layer.self_attn.k_proj, place) for place in places]
            sums = dict.fromkeys(expected, 0.0)
            for t in range(len(context)):
                query = projected(layer.self_attn.q_proj, places[n + t])
                for h in range(heads):
                    z = [float(query[h] @ keys[j][h]) / math.sqrt(width) for j in range(n + t + 1)]
                    mass = sum(math.exp(value) for value in z[:n]) / sum(math.exp(value) for value in z)
                    sums["indep_sum"] += mass
                    sums["indep_mean"] += mass / n
                    sums["logit_mean"] += sum(z[:n]) / n
                    sums["logit_lme"] += math.log(sum(math.exp(value) for value in z[:n]) / n)
            for score in expected:
                expected[score].append(sums[score] / (heads * len(context)))
    bank = make_bank(model, prompts)
    for score, reference in expected.items():
        ours = Selector(model, bank, score).scores([context])[0]
        torch.testing.assert_close(ours, torch.tensor(reference, dtype=torch.float64), atol=2e-6, rtol=0)
    assert Selector(model, bank).score == "indep_mean"


def test_opt_refuses_joint_scores_and_more_positions_than_it_has():
    model = tiny_opt(positions=16)
    bank = make_bank(model, make_prompts())
    with pytest.raises(ValueError, match="joint_mean is not defined with learned positions"):
        Selector(model, bank, "joint_mean")
    bank.cache(2, 1, text_length=8)
    with pytest.raises(
        ValueError, match=r"8 prompt positions .* 9 text tokens exceed the model's 16 positions"
    ):
        bank.cache(2, 1, text_length=9)
    with pytest.raises(ValueError, match="exceed the model's 16 positions"):
        Selector(model, bank).select([list(range(9))])

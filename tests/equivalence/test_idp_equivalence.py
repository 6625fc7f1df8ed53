"""IDP is exact: the chosen prompt alone, whatever the batch, the padding, the order of prompts or the cache.

Two ways to the same number, in float32 to 1e-4 on logits. The first-layer scores are compared with what the model's
own eager attention does when prompt and text are run together, and for OPT with plain loops.
"""

import copy
import math

import pytest
import torch
from peft import PeftModel
from transformers import XGLMConfig, XGLMForCausalLM

from tests.tiny_models import FAMILIES, VOCABULARY, tiny_llama, tiny_of, tiny_opt
from tests.unit.compress.test_walk import HALF, W3, rebuilt, walked
from workflow_scripts.evaluate.similarity import layer_states
from workflow_scripts.recover import adapters, idp
from workflow_scripts.recover.idp import SCORES, Selector, attention_logits
from workflow_scripts.recover.prompt_bank import Prefix, PromptBank, encode, expanded_cache, learned_positions
from workflow_scripts.recover.training import Learner

LENGTHS = (5, 3, 8)
ROTARY = ("llama", "llama-gqa")


def make_prompts(lengths=LENGTHS, seed=1, scale=0.3):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(length, 32, generator=draw) * scale for length in lengths]


def make_contexts(lengths=(5, 10, 7), seed=2):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (length,), generator=draw).tolist() for length in lengths]


@torch.no_grad()
def make_bank(model, prompts) -> PromptBank:
    prefixes = [Prefix(f"p{i}", *encode(model, prompt)) for i, prompt in enumerate(prompts)]
    return PromptBank(prefixes, learned_positions(model))


def mixing(model, bank, contexts) -> Selector:
    """A selector whose scores are centred on these contexts, so that no prompt wins everywhere."""
    selector = Selector(model, bank)
    selector.calibrate(contexts)
    return selector


@torch.no_grad()
def prepended(model, prompt, context):
    """Logits of the text (T, V) with the prompt's embeddings before it, no cache anywhere."""
    embeddings = torch.cat([prompt.to(model.dtype), model.get_input_embeddings()(torch.tensor(context))])
    return model(inputs_embeds=embeddings[None], use_cache=False).logits[0, len(prompt) :]


@torch.no_grad()
def batched(model, bank, selector, contexts, side="right", extra=0):
    """Logits per context: rows grouped by their prompt, padded on one side, the losing prompts not in the cache."""
    indices, _ = selector.select(contexts)
    results = [None] * len(contexts)
    for index in set(indices.tolist()):
        rows = [row for row in range(len(contexts)) if indices[row] == index]
        length = max(len(contexts[row]) for row in rows) + extra
        ids, mask = torch.full((len(rows), length), 1), torch.zeros(len(rows), length, dtype=torch.long)
        spans = []
        for slot, row in enumerate(rows):
            start = 0 if side == "right" else length - len(contexts[row])
            spans.append(slice(start, start + len(contexts[row])))
            ids[slot, spans[-1]], mask[slot, spans[-1]] = torch.tensor(contexts[row]), 1
        n = bank.prefixes[index].length
        output = model(
            input_ids=ids,
            past_key_values=bank.cache(index, len(rows), length),
            attention_mask=torch.cat([torch.ones(len(rows), n, dtype=torch.long), mask], 1),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0) + n,
        )
        for slot, row in enumerate(rows):
            results[row] = output.logits[slot, spans[slot]]
    return results, indices


def assert_same(ours, reference, tolerance=1e-4):
    assert len(ours) == len(reference)
    for one, other in zip(ours, reference):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_prompt_is_prompt_tuning_is_embeddings_prepended(family, tmp_path):
    method = {"kind": "prompt", "tokens": 5, "init": "vocabulary", "trained": True}
    model = FAMILIES[family]()
    adapted = adapters.create(model, method, seed=3)
    adapters.save(adapted, tmp_path, "tiny")
    context = make_contexts()[1]
    prompt = adapters.trained_parameters(adapted)[0].detach()
    reference = prepended(model, prompt, context)

    with torch.no_grad():
        peft = PeftModel.from_pretrained(FAMILIES[family](), str(tmp_path)).eval()
        peft_logits = peft(input_ids=torch.tensor([context])).logits[0, 5:]
    idp = {"kind": "idp", "members": [{"adapter": "prompt-5", "seed": 0}], "score": "auto"}
    idp |= {"calibrated": False}
    one = adapters.attach(FAMILIES[family](), None, method, [tmp_path])
    chosen = adapters.attach(FAMILIES[family](), None, idp, [tmp_path])
    with torch.no_grad():
        tuned = one.model(input_ids=torch.tensor([context]), past_key_values=one.bank.cache(0, 1)).logits[0]
    selected, indices = batched(chosen.model, chosen.bank, chosen.selector, [context])
    assert indices.tolist() == [0]
    assert_same([peft_logits, tuned, selected[0]], [reference] * 3)
    assert chosen.parameters == {"trainable": 160, "effective": 160, "base": one.parameters["base"]}


@pytest.mark.parametrize("family", FAMILIES)
def test_bank_is_unchanged_after_many_calls(family):
    model = FAMILIES[family]()
    bank = make_bank(model, make_prompts())
    before = [tensor.clone() for prefix in bank.prefixes for tensor in (*prefix.keys, *prefix.values)]
    selector = Selector(model, bank)
    first = batched(model, bank, selector, make_contexts())[0]
    for _ in range(3):
        again = batched(model, bank, selector, make_contexts(), extra=2)[0]
    assert_same(again, first)
    after = [tensor for prefix in bank.prefixes for tensor in (*prefix.keys, *prefix.values)]
    assert all(torch.equal(one, other) for one, other in zip(before, after))


@pytest.mark.parametrize("family", FAMILIES)
def test_identical_prompts_score_the_same_and_the_first_is_chosen(family):
    model = FAMILIES[family]()
    bank = make_bank(model, make_prompts()[:1] * 3)
    indices, scores = Selector(model, bank).select(make_contexts())
    assert indices.tolist() == [0, 0, 0]
    assert torch.equal(scores, scores[:, :1].expand(-1, 3))


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("family", FAMILIES)
def test_permuted_prompts_permute_scores_and_leave_logits(family, score):
    if family == "opt" and score.startswith("joint"):
        pytest.skip("not defined with learned positions")
    model, prompts, order = FAMILIES[family](), make_prompts(), [2, 0, 1]
    bank, permuted = make_bank(model, prompts), make_bank(model, [prompts[i] for i in order])
    first, second = Selector(model, bank, score), Selector(model, permuted, score)
    contexts = make_contexts()
    assert (first.scores(contexts)[:, order] - second.scores(contexts)).abs().max() <= 1e-7
    assert_same(batched(model, bank, first, contexts)[0], batched(model, permuted, second, contexts)[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_mixed_selections_and_padding_equal_each_prompt_alone(family):
    """Points 5 and 6: lengths 5, 10, 7 in one batch; the chosen prompt's logits, clearly not another's."""
    model, prompts, contexts = FAMILIES[family](), make_prompts(), make_contexts()
    bank = make_bank(model, prompts)
    selector = mixing(model, bank, contexts)
    together, indices = batched(model, bank, selector, contexts)
    assert len(set(indices.tolist())) > 1, "the scores must mix selections"
    chosen = [prepended(model, prompts[i], context) for i, context in zip(indices.tolist(), contexts)]
    others = [
        prepended(model, prompts[(i + 1) % 3], context) for i, context in zip(indices.tolist(), contexts)
    ]
    assert_same(together, chosen)
    assert min((one - other).abs().max() for one, other in zip(together, others)) > 0.05


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_and_attention_implementation_change_nothing(family):
    contexts, results, scores = make_contexts(), [], []
    for attention in ("sdpa", "eager"):
        model = FAMILIES[family](attention=attention)
        bank = make_bank(model, make_prompts())
        selector = Selector(model, bank, "indep_mean")
        for side, extra in (("right", 0), ("left", 0), ("right", 6), ("left", 6)):
            results.append(batched(model, bank, selector, contexts, side, extra)[0])
        scores += [selector.scores(contexts), torch.cat([selector.scores([context]) for context in contexts])]
        scores.append(selector.scores([*contexts, make_contexts((30,))[0]])[:3])
    for other in results[1:]:
        assert_same(other, results[0])
    for other in scores[1:]:
        assert (other - scores[0]).abs().max() <= 1e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_with_mixed_selections_and_left_padding_equals_each_alone(family):
    model, prompts, contexts = FAMILIES[family](), make_prompts(), make_contexts((5, 10, 7, 6))
    bank = make_bank(model, prompts)
    indices, _ = mixing(model, bank, contexts).select(contexts)
    assert 1 < len(set(indices.tolist())) < 4, "the scores must mix selections and share one"
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 1, "eos_token_id": None}
    for index in set(indices.tolist()):
        rows = [context for context, chosen in zip(contexts, indices.tolist()) if chosen == index]
        n, longest = bank.prefixes[index].length, max(map(len, rows))
        ids = torch.tensor([[1] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[1] * n + [0] * (longest - len(row)) + [1] * len(row) for row in rows])
        held = torch.cat(
            [torch.zeros(len(rows), n, dtype=torch.long), ids], 1
        )  # generate wants ids of cached slots
        output = model.generate(
            held, attention_mask=mask, past_key_values=bank.cache(index, len(rows)), **options
        )
        for row, generated in zip(rows, output[:, -6:].tolist()):
            context = list(row)
            for _ in range(6):
                context.append(int(prepended(model, prompts[index], context)[-1].argmax()))
            assert generated == context[-6:]


def test_continuations_never_enter_the_selection():
    """Scores are a function of the context: a document's choices share one, whatever else is in the batch."""
    model = tiny_llama()
    selector = Selector(model, make_bank(model, make_prompts()))
    context, other = make_contexts((9, 12))
    alone = selector.scores([context])
    assert (selector.scores([context, context, context, other]) - alone)[:3].abs().max() <= 1e-7
    longer = selector.scores([context + other])
    assert (longer - alone).abs().max() > 1e-4, "a continuation would have changed the scores"


@pytest.mark.parametrize("family", FAMILIES)
def test_groups_of_any_size_score_every_context(family, monkeypatch):
    """A few logits at a time: one context each, or a few of different length, in the order that was asked."""
    model = FAMILIES[family]()
    selector, contexts = (
        Selector(model, make_bank(model, make_prompts())),
        make_contexts((9, 3, 12, 5, 9, 1, 7)),
    )
    alone = torch.cat([selector.scores([context]) for context in contexts])
    heads, prompts = model.config.num_attention_heads, sum(LENGTHS)
    for most in (1, 3 * heads * 12 * (12 + prompts)):
        monkeypatch.setitem(idp.MOST_LOGITS, "cpu", most)
        assert (selector.scores(contexts) - alone).abs().max() <= 1e-7


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
    "norm after attention": (
        "OPT",
        {"ffn_dim": 48, "do_layer_norm_before": False, "word_embed_proj_dim": 16},
    ),
}


@pytest.mark.parametrize("case", SCORED)
def test_every_model_that_is_scored_is_scored_by_its_own_attention(case):
    name, settings = SCORED[case]
    model, context = tiny_of(name, **settings), make_contexts()[1]
    prompts = [prompt[:, : model.get_input_embeddings().embedding_dim] for prompt in make_prompts()]
    if name == "Qwen3":  # whose norm starts at one, where its weight could as well be left out
        torch.nn.init.normal_(model.model.layers[0].self_attn.q_norm.weight)
    scores = Selector(model, make_bank(model, prompts), "indep_sum").scores([context])[0]
    expected = [own_mass(model, prompt, context) for prompt in prompts]
    torch.testing.assert_close(scores.tolist(), expected, atol=1e-6, rtol=0)


UNSCORED = {
    "caps the attention's logits": ("Gemma2", {"head_dim": 8, "attn_logit_softcapping": 2.0}),
    "rotates only a part of each head": ("StableLm", {}),
    "is of a kind that the scores don't know .*q_proj": ("Phi3", {}),
    "is of a kind that the scores don't know .*input_layernorm": ("Olmo2", {}),
    "is of a kind that the scores don't know .*layer_type": ("Gemma3", {"head_dim": 8}),
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


def test_text_beyond_the_first_layers_window_is_refused():
    model = tiny_of("Mistral", sliding_window=18)
    selector = Selector(model, make_bank(model, make_prompts()))
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


@pytest.mark.parametrize("family", FAMILIES)
def test_nan_in_padded_slots_never_leaks(family):
    """A padding token whose embedding is NaN: neither its own score nor its neighbours' is touched."""
    model, contexts = FAMILIES[family](), make_contexts()
    contexts = [[token or 1 for token in context] for context in contexts]
    bank = make_bank(model, make_prompts())
    selectors = [Selector(model, bank, score) for score in ("auto", "indep_sum", "logit_mean", "logit_lme")]
    before = [selector.scores(contexts) for selector in selectors]
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = torch.nan  # token 0 fills the selector's padding
    for selector, reference in zip(selectors, before):
        assert torch.equal(selector.scores(contexts), reference)


COMPRESSORS = {"dense": None, "gptq-w3": W3, "sparsegpt-50": HALF}


def compressed_model(family, compressor, folder):
    """A tiny model with the weights that the product's own compression gives it."""
    model, settings = FAMILIES[family](), COMPRESSORS[compressor]
    return rebuilt(model, *walked(model, folder / "layers", settings), settings) if settings else model


@pytest.mark.parametrize("compressor", ["gptq-w3", "sparsegpt-50"])
@pytest.mark.parametrize("family", FAMILIES)
def test_compressed_weights(family, compressor, tmp_path):
    """The equalities hold on what the solver leaves as they do on dense weights."""
    model, prompts = compressed_model(family, compressor, tmp_path), make_prompts()
    contexts, bank = make_contexts((5, 10, 7, 12, 6)), make_bank(model, prompts)
    together, indices = batched(model, bank, mixing(model, bank, contexts), contexts)
    assert len(set(indices.tolist())) > 1
    assert_same(together, [prepended(model, prompts[i], text) for i, text in zip(indices.tolist(), contexts)])


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16(family, compressor, tmp_path):
    """Stated tolerance in bfloat16, to float32 on the same (rounded) weights: 3e-4 on mean attention, 3e-3 on the other
    scores; 5 % of the logits' range, to float32 and to each prompt alone."""
    model, prompts, contexts = compressed_model(family, compressor, tmp_path), make_prompts(), make_contexts()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.to(torch.bfloat16))
    half = copy.deepcopy(model).to(torch.bfloat16)
    bank, bank_half = make_bank(model, prompts), make_bank(half, prompts)
    for score in SCORES:
        if family == "opt" and score.startswith("joint"):
            continue
        exact = Selector(model, bank, score).scores(contexts)
        rough = Selector(half, bank_half, score).scores(contexts)
        tolerance = 3e-4 if score in ("joint_mean", "indep_mean") else 3e-3
        assert 0 < (rough - exact).abs().max() <= tolerance, score
    together, indices = batched(half, bank_half, Selector(half, bank_half), contexts)
    exact = [prepended(model, prompts[i], text) for i, text in zip(indices.tolist(), contexts)]
    alone = [prepended(half, prompts[i], text) for i, text in zip(indices.tolist(), contexts)]
    span = float(torch.cat(exact).max() - torch.cat(exact).min())
    assert_same(together, alone, tolerance=0.05 * span)
    assert_same([logits.float() for logits in together], exact, tolerance=0.05 * span)


def test_expanded_cache_is_fresh_each_time():
    model = tiny_llama()
    bank = make_bank(model, make_prompts())
    cache = bank.cache(0, 4)
    cache.layers[0].keys += 1
    cache.layers[0].update(torch.zeros(4, 4, 1, 8), torch.zeros(4, 4, 1, 8))
    assert bank.cache(0, 4).get_seq_length() == bank.prefixes[0].length
    fresh = expanded_cache(bank.prefixes[0].keys, bank.prefixes[0].values, 4)
    assert torch.equal(fresh.layers[0].keys[3], bank.prefixes[0].keys[0][0])
    assert not torch.equal(cache.layers[0].keys[0, :, :5], bank.prefixes[0].keys[0][0])


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}


@pytest.mark.parametrize(
    ("table", "positions"), [(LONGROPE, 256), (DYNAMIC, 32)], ids=["longrope", "dynamic"]
)
def test_text_beyond_the_one_rotary_table_of_a_prompt_is_refused(table, positions, tmp_path):
    """Up to there a cached prompt is the prompt before the text; one token more and it is another."""
    model = tiny_of("Llama", head_dim=8, rope_parameters=table, max_position_embeddings=positions)
    method = {"kind": "prompt", "tokens": 7, "init": "random", "trained": True}
    for name, tokens in (("seven", 7), ("three", 3)):
        adapters.save(adapters.create(model, method | {"tokens": tokens}, 0), tmp_path / name, "tiny")
        model = tiny_of("Llama", head_dim=8, rope_parameters=table, max_position_embeddings=positions)
    folders = [tmp_path / "seven", tmp_path / "three"]
    members = [{"adapter": "seven"}, {"adapter": "three"}]
    both = {"kind": "idp", "score": "indep_sum", "calibrated": False, "members": members}
    recovered = adapters.attach(model, None, both, folders)
    prompt = adapters._trained(folders[0])[1]
    longest, beyond = make_contexts((25, 26))
    cached = model(input_ids=torch.tensor([longest]), past_key_values=recovered.bank.cache(0, 1, 25)).logits[
        0
    ]
    assert (cached - prepended(model, prompt, longest)).abs().max() <= 1e-4
    over = model(input_ids=torch.tensor([beyond]), past_key_values=recovered.bank.cache(0, 1)).logits[0]
    assert (over - prepended(model, prompt, beyond)).abs().max() > 1e-3, "why it must be refused"
    recovered.selector.scores([longest])
    said = r"7 prompt positions \+ 26 text tokens exceed the model's 32 positions \(learned, or of one rotary table"
    with pytest.raises(ValueError, match=said):
        recovered.selector.scores([longest, beyond])
    with pytest.raises(ValueError, match=said):
        recovered.bank.cache(0, 1, 26)
    with pytest.raises(ValueError, match=said):
        next(layer_states(model, beyond, recovered.bank))
    learner = Learner(adapters.create(model, method, 0))
    learner.require_room(25)
    with pytest.raises(
        ValueError,
        match=r"26 tokens after a prompt of 7 exceed the model.s 32 positions that keep one rotary",
    ):
        learner.require_room(26)
    with pytest.raises(ValueError, match="it leaves no room for text"):
        learner.__class__(adapters.create(model, method | {"tokens": 40}, 0)).require_room(1)


def test_a_model_of_unknown_positions_is_refused_by_name_before_a_prompt_is_trained():
    xglm = XGLMConfig(vocab_size=97, d_model=32, ffn_dim=48, num_layers=2, attention_heads=4)
    with pytest.raises(ValueError, match="XGLMForCausalLM: soft prompts can't stand before its text"):
        adapters.create(
            XGLMForCausalLM(xglm), {"kind": "prompt", "tokens": 4, "init": "random", "trained": True}, 0
        )

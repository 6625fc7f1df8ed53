"""IDP is exact: the chosen prompt alone, whatever the batch, the padding, the order of prompts or the cache.

Two ways to the same number, in float32 to 1e-4 on logits. The first-layer scores are compared with what the model's
own eager attention does when prompt and text are run together, and for OPT with plain loops.
"""

import copy

import pytest
import torch
from peft import PeftModel
from transformers import XGLMConfig, XGLMForCausalLM

from tests.equivalence.idp_models import (
    LENGTHS,
    assert_same,
    batched,
    make_bank,
    make_contexts,
    make_prompts,
    mixing,
    prepended,
)
from tests.tiny_models import FAMILIES, tiny_llama, tiny_of
from tests.unit.compress.walked import HALF, W3, rebuilt, walked
from workflow_scripts.evaluate.similarity import layer_states
from workflow_scripts.recover import adapters, idp
from workflow_scripts.recover.idp import SCORES, Selector
from workflow_scripts.recover.learner import Learner
from workflow_scripts.recover.prompt_bank import expanded_cache


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
        # Generate wants ids of cached slots.
        held = torch.cat([torch.zeros(len(rows), n, dtype=torch.long), ids], 1)
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

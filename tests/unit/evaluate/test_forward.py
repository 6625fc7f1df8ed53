"""Scores from logits, tokens per forward pass on an accelerator, models that packed rows don't fit."""

import pytest
import torch
from lm_eval.api.instance import Instance

from tests.equivalence import scorer_models
from tests.tiny_models import tiny_of
from workflow_scripts.evaluate import block_attention, document_scorer, forward, self_check
from workflow_scripts.evaluate.row_packing import Sequence, pack_rows
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.kernels.packed_linears import PackedLinears
from workflow_scripts.recover.prompt_bank import Prefix, PromptBank, encode, learned_positions


def test_log_probabilities_are_those_of_log_softmax_and_the_first_of_equal_logits_is_taken():
    torch.manual_seed(0)
    logits = 30 * torch.randn(50, 101)
    logits[3, 7] = logits[3, 9] = logits[3].max() + 1
    rows = torch.tensor([3, 3, 49, 0, *range(49, -1, -1)])
    targets = torch.tensor([7, 9, 5, 100, *logits.argmax(-1).flip(0).tolist()])
    scores, largest = forward.log_probabilities(logits, rows, targets)
    torch.testing.assert_close(scores, logits.log_softmax(-1)[rows, targets], atol=1e-5, rtol=1e-6)
    assert largest.tolist() == [True, True, False, False] + [True] * 50
    assert forward.first_largest(logits[rows], targets).tolist() == [True, False, False, False] + [True] * 50


def test_tokens_on_an_accelerator_follow_from_its_free_memory(monkeypatch):
    class Accelerated:
        config = scorer_models.model("llama").config
        device, dtype = torch.device("cuda"), torch.bfloat16

    def with_free(gigabytes: float) -> int:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(gigabytes * 1e9), int(80e9)))
        return forward.tokens_that_fit(Accelerated(), 5)

    assert 1 <= with_free(0.001) < with_free(0.01) < with_free(0.1) <= with_free(40) == forward.MOST_TOKENS
    assert with_free(0) == 1
    assert forward.tokens_that_fit(scorer_models.model("llama"), 5) == 5


@pytest.mark.parametrize("dearness", block_attention.OVERHEAD.values())
def test_division_into_blocks_changes_no_score(monkeypatch, dearness):
    monkeypatch.setattr(block_attention, "OVERHEAD", {"cpu": dearness})
    model = scorer_models.model("llama")
    context = tuple(range(5, 60))
    sequences = [Sequence((*context, *range(k, 3 * k)), (k, k + 1)) for k in (90, 100, 110)]
    (row,) = pack_rows([[(k, sequence) for k, sequence in enumerate(sequences)]], 1000)
    found = forward.score_row(model, row, [sequences[k].targets for k in row.members])
    for k, (score, _) in zip(row.members, found, strict=True):
        ids = torch.tensor([sequences[k].inputs])
        with torch.no_grad():
            expected = model(ids).logits[0, -2:].log_softmax(-1)[[0, 1], sequences[k].targets].sum()
        assert score == pytest.approx(float(expected), abs=1e-4)


def planned():
    return block_attention.RowAttention([], 12, torch.arange(12), torch.float32)


def test_a_model_whose_windows_its_attention_is_not_told_of_is_refused():
    model = tiny_of("Mistral", sliding_window=8)
    with (
        pytest.raises(
            ValueError, match="MistralForCausalLM can't be scored packed: 2 of its 2 layers have sliding"
        ),
        block_attention.attention_in(model, planned()),
    ):
        states = torch.zeros(1, 4, 12, 8)
        for layer in model.model.layers:
            block_attention.attend(layer.self_attn, states, states, states, None)


def test_attention_that_is_more_than_a_softmax_is_refused():
    model = scorer_models.model("llama")
    usual = model.config._attn_implementation
    layer, states = model.model.layers[0].self_attn, torch.zeros(1, 4, 12, 8)
    for special in ("softcap", "s_aux", "position_bias"):
        with (
            pytest.raises(ValueError, match=f"LlamaAttention attends with {special}"),
            block_attention.attention_in(model, planned()),
        ):
            block_attention.attend(layer, states, states, states, None, **{special: 50.0})
    with block_attention.attention_in(model, planned()):
        for layer in model.model.layers:
            block_attention.attend(layer.self_attn, states, states, states, None, sliding_window=12)
    for asking in (0, 1):  # a model, or a layer of one, that mixes tokens by its own means doesn't ask
        with (
            pytest.raises(
                ValueError, match=f"LlamaForCausalLM can't be scored packed: {asking} of its 2 layers"
            ),
            block_attention.attention_in(model, planned()),
        ):
            for _ in range(asking):
                block_attention.attend(layer.self_attn, states, states, states, None)
    assert model.config._attn_implementation == usual


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_packed_weights_give_the_same_products_and_are_gone_outside(family):
    model = scorer_models.model(family)
    ids = torch.arange(40)[None]
    packed = PackedLinears(model)
    with torch.inference_mode():
        expected = model(ids).logits
        with packed.in_use():
            assert "forward" in vars(model.get_output_embeddings())
            found = model(ids).logits
        again = model(ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    assert torch.equal(again, expected)


def test_weights_that_changed_after_packing_are_noticed():
    model = scorer_models.model("llama")
    packed = PackedLinears(model)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
    with pytest.raises(RuntimeError, match="weights changed"), packed.in_use():
        pass
    assert "forward" not in vars(model.get_output_embeddings())


REQUESTS = {
    "loglikelihood": ("Question", " yes"),
    "loglikelihood_rolling": ("Question",),
    "generate_until": ("Question", {"until": [], "max_gen_toks": 2}),
}


def asked(model, kind: str, bank=None, **settings):
    scorer = Scorer(model, scorer_models.tokenizer(bos=True), bank, **settings)
    return scorer, getattr(scorer, kind)([Instance(kind, {}, REQUESTS[kind], 0, ("any", 0, 1))])


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize(
    ("family", "settings", "said"),
    [
        ("Lfm2", {"layer_types": ["conv", "full_attention"]}, "1 of its 2 layers have pluggable attention"),
        (
            "Jamba",
            {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
            "1 of its 2 layers have pluggable attention",
        ),
        ("FalconH1", {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_ssm": 32}, "mixes neighbouring tokens"),
        ("Falcon", {"alibi": False}, "takes no pluggable attention .* TypeError"),
        (
            "Mpt",
            {"d_model": 32, "n_heads": 4, "n_layers": 2},
            "takes no pluggable attention .* AttributeError",
        ),
    ],
)
def test_models_that_mix_tokens_by_other_means_are_refused_by_name(family, settings, said, kind):
    """Recurrences and convolutions read across a packed row: without a word every number would be another."""
    model = tiny_of(family, vocab_size=400, **settings)
    with pytest.raises(ValueError, match=rf"{family}ForCausalLM can't be scored packed: .*{said}"):
        asked(model, kind)


@pytest.mark.parametrize(
    ("layers", "dtype"),
    [
        (["conv", "full_attention"], torch.float32),
        (["full_attention", "conv"], torch.float32),
        (["conv", "full_attention"], torch.bfloat16),
    ],
)
def test_the_self_check_alone_finds_a_layer_that_mixes_tokens(monkeypatch, layers, dtype):
    """Also where every layer asked for its attention, as in models that have both in one layer."""
    model = tiny_of("Lfm2", layer_types=layers).to(dtype)
    monkeypatch.setattr(
        block_attention.RowAttention,
        "used",
        property(lambda self: 2, lambda self, value: None),
        raising=False,
    )
    with pytest.raises(ValueError, match=r"Lfm2ForCausalLM .* mixes neighbouring tokens"):
        self_check.require_packable(model)


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_the_self_check_runs_once_and_passes_in_every_precision_behind_a_prompt(
    monkeypatch, family, dtype, prompt, kind
):
    checks, real = [], self_check.require_packable
    monkeypatch.setattr(document_scorer, "require_packable", lambda *args: checks.append(args) or real(*args))
    model = scorer_models.model(family).to(dtype)
    bank = None
    if dtype != torch.float32:
        forward.float32_head(model)
    if prompt:
        keys, values = encode(model, torch.randn(6, 48))
        bank = PromptBank([Prefix("six", keys, values)], learned_positions(model))
    scorer, _ = asked(model, kind, bank)
    getattr(scorer, kind)([Instance(kind, {}, REQUESTS[kind], 0, ("any", 0, 1))])
    assert checks == [(model, bank)]


def test_the_self_check_sees_attention_over_what_a_sequence_alone_would_not_see(monkeypatch):
    """As a fault of packing itself would be: each block sees the one before it."""
    real = block_attention._call

    def nosy(row, block, prefix, dtype, device):
        call = real(row, block, prefix, dtype, device)
        return block_attention.Call(call.start, call.end, ((0, call.end),), None, causal=False)

    monkeypatch.setattr(block_attention, "_call", nosy)
    with pytest.raises(ValueError, match="LlamaForCausalLM can't be scored packed"):
        self_check.require_packable(scorer_models.model("llama"))


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_a_bf16_model_gets_a_float32_head_of_its_own(family):
    model = scorer_models.model(family).bfloat16()
    before = model.get_output_embeddings().weight.clone()
    forward.float32_head(model)
    head = model.get_output_embeddings()
    assert head.weight.dtype == torch.float32 and torch.equal(head.weight, before.float())
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16

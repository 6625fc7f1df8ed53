"""Training's attention equals transformers' own, is used where it may be, and steps aside where attention does more."""

import contextlib

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

from tests.tiny_models import FAMILIES, VOCABULARY
from workflow_scripts.kernels import causal_attention
from workflow_scripts.recover.prompt_bank import encode, expanded_cache

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
SPECIAL = {
    "a window of 5 tokens": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=5)),
    "soft-capped scores, eager alone": lambda: Gemma2ForCausalLM(
        Gemma2Config(**SIZES, attn_logit_softcapping=0.5)
    ),
}


def hidden_and_gradient(
    model, prompt: torch.Tensor | None, rows: torch.Tensor, inside=contextlib.nullcontext
):
    """Last hidden states of rows behind an encoded prompt, and the gradient of their weighted sum in the prompt.

    The text alone runs `inside`.
    """
    keys, values = encode(model, prompt) if prompt is not None else ([], [])
    cache = expanded_cache(keys, values, len(rows)) if keys else None
    with inside():
        states = model.get_decoder()(
            input_ids=rows, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
    leaf = prompt if prompt is not None else model.get_decoder().layers[0].self_attn.v_proj.weight
    weights = torch.linspace(-1, 1, states.numel()).view_as(states)
    (gradient,) = torch.autograd.grad((states * weights).sum(), leaf)
    return states.detach(), gradient


def strided(states: torch.Tensor) -> torch.Tensor:
    """The same in the layout of CUDA's memory-efficient kernel: time before heads."""
    return states.transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize("length", [0, 1, 7])
@pytest.mark.parametrize("name", [*FAMILIES, *SPECIAL])
def test_states_and_gradients_are_those_of_transformers_own_attention(name, length, monkeypatch):
    torch.manual_seed(0)
    model = (FAMILIES | SPECIAL)[name]().eval()
    decoder, rows = model.get_decoder(), torch.randint(VOCABULARY, (3, 11))
    width = model.get_input_embeddings().embedding_dim
    prompt = torch.randn(length, width, requires_grad=True) if length else None
    monkeypatch.setattr(causal_attention, "SHORTEST", 1)
    expected = hidden_and_gradient(model, prompt, rows)
    implementation, kernel = (
        decoder.config._attn_implementation,
        torch.nn.functional.scaled_dot_product_attention,
    )
    calls = []

    @contextlib.contextmanager
    def watched():
        with monkeypatch.context() as patch, causal_attention.causal_attention(decoder):
            patch.setattr(
                torch.nn.functional,
                "scaled_dot_product_attention",
                lambda *states, **options: (
                    calls.append(options["is_causal"]) or strided(kernel(*states, **options))
                ),
            )
            yield

    found = hidden_and_gradient(model, prompt, rows, watched)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    if name in FAMILIES:
        assert calls and all(calls)
    else:
        assert not any(calls)
    assert not causal_attention._verdicts
    assert decoder.config._attn_implementation == implementation

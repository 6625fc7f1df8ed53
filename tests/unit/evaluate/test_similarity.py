"""Figure 5's measure against the models' own `output_attentions`, and against prompts prepended as embeddings."""

import pytest
import torch
import transformers

from tests.tiny_models import FAMILIES, VOCABULARY, tiny_of
from workflow_scripts.evaluate.similarity import layer_similarities, layer_states
from workflow_scripts.recover.prompt_bank import Prefix, PromptBank, encode, learned_positions

WINDOW = [(7 * i * i + 3 * i) % VOCABULARY for i in range(24)]
PROMPTS = (5, 9)


def bank_of(model):
    """A bank of two random prompts and their embeddings."""
    width = model.get_input_embeddings().embedding_dim
    embeddings = [torch.randn(n, width, generator=torch.Generator().manual_seed(n)) for n in PROMPTS]
    with torch.inference_mode():
        prefixes = [Prefix(f"prompt-{len(each)}", *encode(model, each)) for each in embeddings]
    return PromptBank(prefixes, learned_positions(model)), embeddings


@torch.inference_mode()
def reference(model, embeddings=None):
    """Per layer (attention over text, output of the layer), the prompt prepended uncached; no last layer's output."""
    text = model.get_input_embeddings()(torch.tensor([WINDOW]))
    prompt = text[:, :0] if embeddings is None else embeddings[None]
    n = prompt.shape[1]
    output = model(
        inputs_embeds=torch.cat([prompt, text], 1),
        output_attentions=True,
        output_hidden_states=True,
        use_cache=False,
    )
    maps = [each[0, :, n:, n:].double() for each in output.attentions]
    shares = [each / each.sum(-1, keepdim=True) for each in maps]
    return shares, [each[0, n:].double() for each in output.hidden_states[1:-1]]


def agree(found, shares, outputs):
    assert len(found) == len(shares) == len(outputs) + 1
    for (attention, _), share in zip(found, shares, strict=True):
        torch.testing.assert_close(attention, share, atol=2e-6, rtol=0)
    for (_, states), output in zip(found, outputs, strict=False):
        torch.testing.assert_close(states, output, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", [None, 0, 1])
def test_states_equal_the_models_own_behind_a_prepended_prompt(family, prompt):
    model = FAMILIES[family](attention="eager")
    bank, embeddings = bank_of(model) if prompt is not None else (None, None)
    with torch.inference_mode():
        found = list(layer_states(model, WINDOW, bank, prompt or 0))
    agree(found, *reference(model, embeddings and embeddings[prompt]))


def gemma_3():
    """Two rotary tables, and a window that is shorter than the text in every other layer."""
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.2,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"] * 2,
    )
    return transformers.Gemma3ForCausalLM(config).eval()


UNEVEN = {
    "gemma-3": gemma_3,
    "mistral": lambda: tiny_of("Mistral", sliding_window=8),
    "qwen2": lambda: tiny_of("Qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "gpt-neox": lambda: tiny_of("GPTNeoX"),
}


@pytest.mark.parametrize("name", UNEVEN)
def test_layers_that_differ_get_their_own_masks_and_positions(name):
    model = UNEVEN[name]()
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        found = list(layer_states(model, WINDOW))
    agree(found, *reference(model))


@pytest.mark.parametrize("family", ["llama-gqa", "opt"])
def test_similarities_are_mean_cosines_of_heads_and_of_tokens(family):
    dense, model = (FAMILIES[family](attention="eager", seed=seed) for seed in (0, 1))
    bank, _ = bank_of(model)
    windows = [WINDOW, WINDOW[::-1]]
    attention, activations = layer_similarities(dense, model, windows, bank, [1, 0])
    expected_attention, expected_activations = [], []
    for window, prompt in zip(windows, [1, 0], strict=True):
        with torch.inference_mode():
            states = [list(layer_states(dense, window)), list(layer_states(model, window, bank, prompt))]
        heads, tokens = [], []
        for (a, x), (b, y) in zip(*states, strict=True):
            heads.append(sum(_cosine(p.flatten(), q.flatten()) for p, q in zip(a, b, strict=True)) / len(a))
            tokens.append(sum(_cosine(p, q) for p, q in zip(x, y, strict=True)) / len(x))
        expected_attention.append(heads)
        expected_activations.append(tokens)
    for found, expected in ((attention, expected_attention), (activations, expected_activations)):
        assert found == pytest.approx(torch.tensor(expected).mean(0).tolist(), abs=1e-6)
        assert max(found) < 0.999


def _cosine(a, b) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def test_a_model_that_is_more_than_its_layers_is_refused():
    model = tiny_of("Llama")
    model.set_attn_implementation("eager")
    whole = model.model.layers[0].forward
    calls = []

    def first_call_differs(*args, **kwargs):
        calls.append(1)
        return whole(*args, **kwargs) * (1 if len(calls) > 1 else 2)

    model.model.layers[0].forward = first_call_differs
    with (
        pytest.raises(ValueError, match="LlamaForCausalLM does more than call its layers in turn"),
        torch.inference_mode(),
    ):
        list(layer_states(model, WINDOW))


def test_layers_without_an_attention_that_is_known_are_refused():
    model = tiny_of("Lfm2", layer_types=["conv", "full_attention"])
    model.set_attn_implementation("eager")
    with (
        pytest.raises(ValueError, match="Lfm2DecoderLayer has no attention of a known name"),
        torch.inference_mode(),
    ):
        list(layer_states(model, WINDOW))

"""Sliding windows and rotary embeddings by layer type: scores, generations, choices, training as in transformers."""

import pytest
import torch

from tests.equivalence import scorer_models
from tests.equivalence.idp_models import make_bank, prepended
from tests.tiny_models import tiny_of
from workflow_scripts.evaluate.document_scorer import Document
from workflow_scripts.evaluate.generation import Decoding, generate_greedy
from workflow_scripts.evaluate.row_packing import Sequence
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.plan.schema.methods import Lora, SoftPrompt
from workflow_scripts.recover.adapters import create
from workflow_scripts.recover.idp import Selector
from workflow_scripts.recover.learner import Learner

GEMMA = {
    "head_dim": 8,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    },
}
MODELS = {
    "gemma3": lambda: tiny_of("Gemma3", "Text", **GEMMA),
    "mistral": lambda: tiny_of("Mistral", sliding_window=8),
    "qwen2": lambda: tiny_of("Qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1),
}
METHODS = {"prompt": SoftPrompt(kind="prompt", tokens=11).dump(), "lora": Lora(kind="lora", rank=2).dump()}
DRAW = torch.Generator().manual_seed(3)
# Shorter and longer than the window.
PROMPTS = [torch.randn(length, 32, generator=DRAW) * 0.3 for length in (6, 11)]


def tokens(count: int, seed: int) -> tuple[int, ...]:
    return tuple(torch.randint(3, 97, (count,), generator=torch.Generator().manual_seed(seed)).tolist())


def scorer(model, prompt=None):
    bank = None if prompt is None else make_bank(model, [prompt])
    return Scorer(model, scorer_models.tokenizer(), bank, row_tokens=200)


def reference(model, prompt, sequence: Sequence) -> float:
    """Summed log-probability of the targets, the prompt's embeddings before the text, no cache anywhere."""
    prompt = torch.empty(0, 32) if prompt is None else prompt
    logits = prepended(model, prompt, list(sequence.inputs))[-len(sequence.targets) :]
    return float(logits.log_softmax(-1)[range(len(sequence.targets)), list(sequence.targets)].sum())


def test_a_text_beyond_the_first_chunk_is_refused():
    """Llama 4 attends in chunks, which packed rows don't know: within the first one its scores are its own."""
    shape = {"head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 32}
    model = tiny_of("Llama4", "Text", **shape, attention_chunk_size=24)
    within, beyond = (Sequence(tokens(count, 5), tokens(4, 9)) for count in (24, 25))
    [answer] = scorer(model).score([Document(list(within.inputs), [within])])
    logits = model(torch.tensor([within.inputs])).logits[0, -4:].log_softmax(-1)
    assert answer.scores[0][0] == pytest.approx(float(logits[range(4), list(within.targets)].sum()), abs=2e-4)
    with pytest.raises(ValueError, match="a text of 25 tokens: Llama4ForCausalLM attends in chunks of 24"):
        scorer(model).score([Document(list(beyond.inputs), [beyond])])


@pytest.mark.parametrize("prompt", [None, 0, 1])
@pytest.mark.parametrize("family", MODELS)
def test_packed_scores_beyond_the_window_are_those_of_each_sequence_alone(family, prompt):
    model, prompt = MODELS[family](), None if prompt is None else PROMPTS[prompt]
    contexts = [tokens(count, count) for count in (3, 7, 20, 40)]
    documents = [
        Document(
            list(context),
            [Sequence((*context, *tokens(n, 50 + n)[:-1]), tokens(n, 50 + n)) for n in (1, 4, 12)],
        )
        for context in contexts
    ]
    answers = scorer(model, prompt).score(documents)
    for document, answer in zip(documents, answers, strict=True):
        for sequence, (score, _) in zip(document.sequences, answer.scores, strict=True):
            assert score == pytest.approx(reference(model, prompt, sequence), abs=2e-4)


@pytest.mark.parametrize("prompts", [None, [1, 1, 1, 1], [0, 1, 1, 0]])
@pytest.mark.parametrize("family", MODELS)
def test_generations_that_outgrow_the_window_are_those_of_whole_passes(family, prompts):
    """Behind no prompt, a prompt, and prompts of different length in one batch."""
    model = MODELS[family]()
    contexts = [list(tokens(count, count)) for count in (2, 5, 9, 30)]
    bank = None if prompts is None else make_bank(model, PROMPTS)
    ends = Decoding(12, set(), lambda row: len(row) >= 12 or row[-1] % 7 == 0)  # rows stop at different steps
    found = [row for _, row in sorted(generate_greedy(model, contexts, ends, 100, bank, prompts, rows=2))]
    for n, (context, row) in enumerate(zip(contexts, found, strict=True)):
        text = list(context)
        for token in row.tokens:
            embeddings = torch.empty(0, 32) if prompts is None else PROMPTS[prompts[n]]
            assert int(prepended(model, embeddings, text)[-1].argmax()) == token
            text.append(token)
    assert max(len(row.tokens) for row in found) > 6


def test_prompts_of_a_bank_share_the_passes_of_generation():
    model, passes = MODELS["mistral"](), []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    contexts, ends = [[3, 4], [5, 6, 7], [8], [9, 10]], Decoding(8, set(), lambda _: False)
    bank = make_bank(model, PROMPTS)
    passes.clear()
    assert len(list(generate_greedy(model, contexts, ends, 100, bank, [0, 1, 0, 1]))) == 4
    assert len(passes) == 2 + 7  # a prompt's contexts are read together, and give their first tokens


@pytest.mark.parametrize("family", ["gemma3", "mistral"])
def test_idp_chooses_on_texts_longer_than_the_window(family):
    model = MODELS[family]()
    bank = make_bank(model, PROMPTS)
    selector, context = Selector(model, bank), list(tokens(30, 1))
    model.set_attn_implementation("eager")
    masses = []
    for prompt in PROMPTS:
        embeddings = torch.cat([prompt, model.get_input_embeddings()(torch.tensor(context))])[None]
        with torch.no_grad():
            weights = model(inputs_embeds=embeddings, output_attentions=True, use_cache=False).attentions[0][
                0
            ]
        masses.append(weights[:, len(prompt) :, : len(prompt)].double().sum(-1))
    mass = torch.stack(masses, -1)  # (heads, T, m)
    ratio = mass / (1 - mass)
    lengths = torch.tensor([len(prompt) for prompt in PROMPTS], dtype=torch.float64)
    joint = (ratio / (1 + ratio.sum(-1, keepdim=True))).mean((0, 1)) / lengths
    torch.testing.assert_close(selector.scores([context])[0], joint, atol=1e-6, rtol=0)
    assert (mass[:, 20:] == 0).all(), "late tokens see no prompt"


@pytest.mark.parametrize("kind", ["prompt", "lora"])
@pytest.mark.parametrize("family", MODELS)
def test_training_on_windows_longer_than_the_layers_has_the_loss_and_gradient_of_whole_passes(family, kind):
    method = METHODS[kind]
    rows = torch.tensor([tokens(30, 5), tokens(30, 6)])
    learner = Learner(create(MODELS[family](), method, 0))
    loss = learner.accumulate(rows, 1)
    mine = [parameter.grad.clone() for parameter in learner.parameters]

    model = MODELS[family]()
    adapted = create(model, method, 0)
    (first, *_) = trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    text = model.get_input_embeddings()(rows)
    before = first.expand(2, -1, -1) if kind == "prompt" else text[:, :0]
    logits = model(inputs_embeds=torch.cat([before, text], 1), use_cache=False).logits[:, before.shape[1] :]
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), rows[:, 1:].flatten())
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for found, parameter in zip(mine, trained, strict=True):
        torch.testing.assert_close(found, parameter.grad, atol=1e-5, rtol=1e-3)

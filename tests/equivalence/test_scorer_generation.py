"""Generation against HFLM at its edges: contexts, stops, end tokens, settings; and batches, equal requests, stores."""

import itertools

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tests.equivalence import scorer_models
from workflow_scripts.evaluate import generation
from workflow_scripts.evaluate import scorer as scorer_module
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.store import AnswerStore
from workflow_scripts.recover.prompt_bank import Prefix, PromptBank, encode, learned_positions

CONTEXTS = [f"Question: {question}?\nAnswer:" for question, _ in scorer_models.QUESTIONS]
LONG = "Who wrote the play Hamlet? " * 60  # beyond the model's 256 positions


def requests(contexts, **settings) -> list[Instance]:
    settings = {"until": [], "max_gen_toks": 12} | settings
    return [
        Instance("generate_until", {}, (each, settings), 0, ("any", n, 1)) for n, each in enumerate(contexts)
    ]


def both(model, tokenizer, contexts=CONTEXTS, **settings) -> tuple[list[str], list[str]]:
    """(the scorer's strings, HFLM's, one row at a time)"""
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    return (
        Scorer(model, tokenizer, row_tokens=96).generate_until(requests(contexts, **settings)),
        harness.generate_until(requests(contexts, **settings), disable_tqdm=True),
    )


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_contexts_beyond_the_window_leave_room_for_the_new_tokens_as_in_hflm(family):
    model, tokenizer = scorer_models.model(family), scorer_models.tokenizer(bos=True)
    ours, theirs = both(model, tokenizer, [LONG, "What? " + LONG, *CONTEXTS[:2]], max_gen_toks=40)
    assert ours == theirs
    assert len(set(ours)) > 1


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_long_contexts_and_continuations_behind_a_prompt_are_cut_to_what_it_leaves(family):
    """By hand: the prompt's embeddings before the tokens that fit behind it, through the model without a cache."""
    model, tokenizer, length, cap = scorer_models.model(family), scorer_models.tokenizer(bos=True), 6, 10
    soft = torch.randn(length, 48)
    with torch.no_grad():
        keys, values = encode(model, soft)
    ours = Scorer(model, tokenizer, PromptBank([Prefix("six", keys, values)], learned_positions(model)))
    assert ours.max_length == 256 - length

    def logits(ids: list[int]) -> torch.Tensor:
        text = model.get_input_embeddings()(torch.tensor([ids]))
        with torch.no_grad():
            return model(inputs_embeds=torch.cat([soft[None], text], dim=1)).logits[0]

    ids = tokenizer(LONG)["input_ids"]
    read, tokens = ids[-(256 - length - cap) :], []
    for _ in range(cap):
        tokens.append(int(logits(read + tokens)[-1].argmax()))
        if tokens[-1] == tokenizer.eos_token_id:
            break
    (found,) = ours.generate_until(requests([LONG], max_gen_toks=cap))
    assert found == tokenizer.decode(tokens, skip_special_tokens=True)
    (score,) = ours.loglikelihood([Instance("loglikelihood", {}, (LONG.strip(), " milk"), 0, ("any", 0, 1))])
    ids, end = ours.encode_pairs([(LONG.strip(), " milk")])[0]
    whole = (ids + end)[-(256 - length + 1) :]
    expected = logits(whole[:-1])[-len(end) :].log_softmax(-1)
    assert score[0] == pytest.approx(float(expected[range(len(end)), end].sum()), abs=1e-4)


def second_tokens(model, tokenizer) -> list[int]:
    """Tokens that greedy decoding writes in the middle of a text."""
    ids = tokenizer(CONTEXTS[1])["input_ids"]
    return model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) + 2 :].tolist()


def test_a_stop_that_is_a_special_token_ends_a_generation_as_in_hflm():
    """As `<|im_end|>` of gsm8k in the tokenizers that have it: it is in no text, but it was said."""
    model, plain = scorer_models.model("llama"), scorer_models.tokenizer(bos=True)
    token = plain.convert_ids_to_tokens(second_tokens(model, plain)[0])
    special = scorer_models.tokenizer(bos=True)
    special.add_special_tokens({"additional_special_tokens": [token]})
    (stop,) = {special.decode(special.convert_tokens_to_ids([token]))}
    ours, theirs = both(model, special, until=[stop])
    assert ours == theirs
    assert ours != both(model, special)[0]
    scorer = Scorer(model, special)
    scorer.generate_until(requests(CONTEXTS[1:2], until=[stop]))
    assert not scorer.cut_off


def test_every_end_token_of_the_generation_config_ends_a_generation_as_in_hflm():
    model, tokenizer = scorer_models.model("llama"), scorer_models.tokenizer(bos=True)
    unbounded, _ = both(model, tokenizer)
    model.generation_config.eos_token_id = [1, second_tokens(model, tokenizer)[0]]
    ours, theirs = both(model, tokenizer)
    assert ours == theirs
    assert ours != unbounded


@pytest.mark.parametrize(
    "changing",
    [
        {"no_repeat_ngram_size": 1},
        {"num_beams": 3},
        {"min_new_tokens": 5},
        {"suppress_tokens": [5]},
        {"bad_words_ids": [[5]]},
        {"min_length": 200},
        {"guidance_scale": 2.0},
        {"begin_suppress_tokens": [5]},
        {"forced_eos_token_id": 1},
        {"stop_strings": ["a"]},
    ],
    ids=lambda changing: next(iter(changing)),
)
@pytest.mark.parametrize("place", ["request", "generation_config"])
def test_settings_that_change_greedy_output_are_refused_by_name(changing, place):
    model, tokenizer = scorer_models.model("llama"), scorer_models.tokenizer(bos=True)
    ((key, value),) = changing.items()
    settings = changing if place == "request" else {}
    if place == "generation_config":
        setattr(model.generation_config, key, value)
    with pytest.raises(ValueError, match=f"generates greedily; it has no {key}"):
        Scorer(model, tokenizer).generate_until(requests(CONTEXTS, **settings))


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("place", ["request", "generation_config"])
def test_a_penalty_of_repetition_is_applied_as_in_hflm(place, family):
    model, tokenizer = scorer_models.model(family), scorer_models.tokenizer(bos=True)
    plain, _ = both(model, tokenizer)
    settings = {}
    if place == "request":
        settings = {"repetition_penalty": 1.3}
        model.generation_config.repetition_penalty = 50.0  # the request's counts
    else:
        model.generation_config.repetition_penalty = 1.3
    ours, theirs = both(model, tokenizer, **settings)
    assert ours == theirs != plain
    few, _ = both(model, tokenizer, CONTEXTS[:2], **settings)
    assert few == ours[:2]  # whatever else is in the batch


@pytest.mark.parametrize("value", [0, -1.0, "1.1", float("nan"), True])
def test_a_penalty_that_is_none_is_refused(value):
    scorer = Scorer(scorer_models.model("llama"), scorer_models.tokenizer())
    scorer.model.generation_config.repetition_penalty = value
    with pytest.raises(ValueError, match=r"repetition_penalty is .*; a number above 0 is right"):
        scorer.generate_until(requests(CONTEXTS))


@pytest.mark.parametrize("unknown", ["max_length", "some_new_key"])
def test_settings_of_a_request_that_nobody_knows_are_refused(unknown):
    scorer = Scorer(scorer_models.model("llama"), scorer_models.tokenizer())
    with pytest.raises(ValueError, match=f"it has no {unknown} "):
        scorer.generate_until(requests(CONTEXTS, **{unknown: 20}))


def test_settings_without_effect_on_greedy_output_pass_and_equal_hflm():
    """Published models ship sampling settings; tasks write out what holds anyway."""
    model, tokenizer = scorer_models.model("llama"), scorer_models.tokenizer(bos=True)
    plain, _ = both(model, tokenizer)
    for key, value in {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
        "repetition_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "num_beams": 1,
        "suppress_tokens": [],
        "max_length": 2048,
    }.items():
        setattr(model.generation_config, key, value)
    ours, theirs = both(
        model, tokenizer, do_sample=False, temperature=0.0, repetition_penalty=1.0, num_beams=1
    )
    assert ours == theirs == plain


def test_a_batch_has_room_for_its_prompts(monkeypatch):
    """Every row holds a prompt's keys and values in full."""
    model, tokenizer, sizes = scorer_models.model("llama"), scorer_models.tokenizer(), []
    with torch.no_grad():
        keys, values = encode(model, torch.randn(40, 48))
    bank = PromptBank([Prefix("forty", keys, values)])
    real = generation.Batch
    monkeypatch.setattr(generation, "Batch", lambda *args: sizes.append(args[1:]) or real(*args))
    for given, prompt in ((None, 0), (bank, 40)):
        sizes.clear()
        Scorer(model, tokenizer, given, generation_tokens=200).generate_until(requests(CONTEXTS))
        ((rows, columns),) = sizes
        assert columns >= prompt + 12 and rows * columns <= 200
        assert rows == len(CONTEXTS) or (rows + 1) * (columns + 1) > 200
        assert prompt == 0 or rows < len(CONTEXTS)


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_strings_are_the_same_for_any_batch_size_and_order(family, monkeypatch):
    """Rows end at different steps; the next contexts take their places, beside rows that go on."""
    model, tokenizer, steps = scorer_models.model(family), scorer_models.tokenizer(bos=True), []
    real = generation.Batch.step
    monkeypatch.setattr(generation.Batch, "step", lambda self: steps.append([*self.members]) or real(self))
    contexts = [f"{context} {word}" for context in CONTEXTS for word in ("red", "blue", "a long one:", "x")]
    settings = {"until": ["e", "a"], "max_gen_toks": 12}
    alone = [Scorer(model, tokenizer).generate_until(requests([each], **settings))[0] for each in contexts]
    assert len({len(text) for text in alone}) > 3
    for tokens in (1, 150, 400, 100_000):
        for order in (range(len(contexts)), torch.randperm(len(contexts)).tolist()):
            steps.clear()
            scorer = Scorer(model, tokenizer, row_tokens=60, generation_tokens=tokens)
            found = scorer.generate_until(requests([contexts[n] for n in order], **settings))
            assert found == [alone[n] for n in order]
    assert max(map(len, steps)) > 3
    steps.clear()
    Scorer(model, tokenizer, generation_tokens=150).generate_until(requests(contexts, **settings))
    joined = [set(later) - set(sooner) for sooner, later in itertools.pairwise(steps)]
    kept = [set(later) & set(sooner) for sooner, later in itertools.pairwise(steps)]
    assert any(new and old for new, old in zip(joined, kept, strict=True))


def test_equal_requests_are_generated_once_and_answered_each(monkeypatch):
    model, tokenizer, seen = scorer_models.model("llama"), scorer_models.tokenizer(), []
    real = scorer_module.generate_greedy
    monkeypatch.setattr(scorer_module, "generate_greedy", lambda *args: seen.extend(args[1]) or real(*args))
    scorer = Scorer(model, tokenizer)
    alone = scorer.generate_until(requests(CONTEXTS))
    assert len(seen) == len(CONTEXTS)
    seen.clear()
    order = [0, 3, 0, 1, 1, 0, 5]
    assert scorer.generate_until(requests([CONTEXTS[n] for n in order])) == [alone[n] for n in order]
    assert len(seen) == 4
    assert set(scorer.selections) == {("any", n) for n in range(len(order))}


def test_a_document_that_ended_under_a_larger_cap_is_cut_off_no_longer():
    model, tokenizer = scorer_models.model("llama"), scorer_models.tokenizer()
    scorer = Scorer(model, tokenizer)
    scorer.generate_until(requests(CONTEXTS[:1], until=["e"], max_gen_toks=1))
    assert scorer.cut_off == {("any", 0)}
    (text,) = scorer.generate_until(requests(CONTEXTS[:1], until=["e"], max_gen_toks=100))
    assert text and scorer.cut_off == set()


def test_the_store_keeps_the_settings_of_a_request_apart(tmp_path):
    model, tokenizer = scorer_models.model("llama"), scorer_models.tokenizer()
    asked = [{"max_gen_toks": 3}, {"max_gen_toks": 12}, {"until": ["e"]}]
    fresh = [Scorer(model, tokenizer).generate_until(requests(CONTEXTS, **each)) for each in asked]
    assert len({tuple(texts) for texts in fresh}) == 3
    for each, expected in zip(asked, fresh, strict=True):
        scorer = Scorer(model, tokenizer, store=AnswerStore(tmp_path / "store", "same"))
        assert scorer.generate_until(requests(CONTEXTS, **each)) == expected
    resumed = Scorer(model, tokenizer, store=AnswerStore(tmp_path / "store", "same"))
    resumed._running = None  # nothing is left to run
    for each, expected in zip(asked, fresh, strict=True):
        assert resumed.generate_until(requests(CONTEXTS, **each)) == expected

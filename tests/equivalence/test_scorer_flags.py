"""Greedy flags against HFLM where they are true, and requests whose numbers would depend on their company."""

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tests import tiny_models
from tests.equivalence import scorer_models
from workflow_scripts.evaluate import scorer as scorer_module
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.store import AnswerStore

CONTEXTS = [f"Question: {question}?\nAnswer:" for question, _ in scorer_models.QUESTIONS]


def requests(kind: str, arguments: list[tuple]) -> list[Instance]:
    return [Instance(kind, {}, each, 0, ("any", n, 1)) for n, each in enumerate(arguments)]


def greedy_tokens(model, tokenizer, context: str, count: int) -> list[int]:
    ids = torch.tensor([tokenizer(context)["input_ids"]])
    return model.generate(ids, max_new_tokens=count, min_new_tokens=count, do_sample=False)[
        0, ids.shape[1] :
    ].tolist()


@pytest.mark.parametrize(("family", "bos"), [("llama", False), ("llama", True), ("opt", True)])
def test_flags_of_greedy_and_nearly_greedy_continuations_equal_hflm(family, bos):
    """The model's own text, and the same with its first, its middle or its last token exchanged."""
    model, tokenizer = scorer_models.model(family), scorer_models.tokenizer(bos)
    ours, harness = (
        Scorer(model, tokenizer, row_tokens=96),
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4),
    )
    encoded = []
    for context in CONTEXTS:
        ids = tokenizer(context)["input_ids"]
        greedy = greedy_tokens(model, tokenizer, context, 5)
        for length in (1, 3, 5):
            encoded.append((("", ""), ids, greedy[:length]))
        for wrong in (0, 2, 4):
            other = list(greedy)
            other[wrong] = (other[wrong] + 7) % 400
            encoded.append((("", ""), ids, other))
    mine = [
        answer.scores[0]
        for answer in ours.score(
            [
                scorer_module.Document(ids, [ours.sequence(ids, continuation)])
                for _, ids, continuation in encoded
            ]
        )
    ]
    theirs = harness._loglikelihood_tokens(encoded, disable_tqdm=True)
    flags = [flag for _, flag in theirs]
    assert flags == [True, True, True, False, False, False] * len(CONTEXTS)
    assert [flag for _, flag in mine] == flags
    assert [loglik for loglik, _ in mine] == pytest.approx([loglik for loglik, _ in theirs], abs=1e-4)


def test_of_two_equally_likely_tokens_the_first_is_greedy_as_in_hflm():
    model, tokenizer = scorer_models.model("llama"), scorer_models.tokenizer(bos=True)
    ids = tokenizer(CONTEXTS[0])["input_ids"]
    (best,) = greedy_tokens(model, tokenizer, CONTEXTS[0], 1)
    with torch.no_grad():
        twin = best + 1
        model.get_output_embeddings().weight[twin] = model.get_output_embeddings().weight[best]
    ours, harness = Scorer(model, tokenizer), HFLM(pretrained=model, tokenizer=tokenizer)
    encoded = [(("", ""), ids, [token]) for token in (best, twin)]
    (first, first_flag), (second, second_flag) = harness._loglikelihood_tokens(encoded, disable_tqdm=True)
    assert first == second and (first_flag, second_flag) == (True, False)
    documents = [scorer_module.Document(ids, [ours.sequence(ids, [token])]) for token in (best, twin)]
    assert [answer.scores[0][1] for answer in ours.score(documents)] == [True, False]


def test_a_continuation_that_adds_no_token_is_named():
    ours = Scorer(scorer_models.model("llama"), scorer_models.tokenizer())
    asked = [("What do bees make", " honey"), ("What do bees make", "")]
    with pytest.raises(
        ValueError, match=r"any, document 1: the answer '' adds no token .* 'What do bees make'"
    ):
        ours.loglikelihood(requests("loglikelihood", asked))


def test_windows_of_a_text_are_kept_apart_in_the_store(tmp_path):
    """All begin and end alike here: what tells them apart is where they start."""
    model, tokenizer = scorer_models.model("llama", positions=64), scorer_models.tokenizer()
    text = "What do bees make? " * 40
    asked = requests("loglikelihood_rolling", [(text,), ("One short line",)])
    store = AnswerStore(tmp_path / "store", "same")
    scorer = Scorer(model, tokenizer, store=store)
    total = scorer.loglikelihood_rolling(asked)
    windows = -(-len(scorer.encode([text])[text]) // scorer.max_length)
    assert windows > 3 and len(store) == windows + 1
    again = Scorer(model, tokenizer, store=AnswerStore(tmp_path / "store", "same"))
    again._running = None  # nothing is left to run
    assert again.loglikelihood_rolling(asked) == total
    assert total == Scorer(model, tokenizer).loglikelihood_rolling(asked)


def longrope():
    table = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0] * 4,
        "long_factor": [3.0, 4.0, 5.0, 6.0],
        "original_max_position_embeddings": 32,
        "factor": 8.0,
    }
    return tiny_models.tiny_of(
        "Phi3", vocab_size=400, original_max_position_embeddings=32, rope_parameters=table
    )


def dynamic():
    table = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    return tiny_models.tiny_of("Llama", vocab_size=400, max_position_embeddings=32, rope_parameters=table)


@pytest.mark.parametrize("made", [longrope, dynamic])
def test_a_text_that_would_change_the_rotary_table_of_its_row_is_refused(made):
    """Of `longrope` and `dynamic` the table follows the largest position of a pass."""
    model, tokenizer = made(), scorer_models.tokenizer()
    tokenizer.model_max_length = 256
    model.config.max_position_embeddings = 256 if made is longrope else 32
    ours = Scorer(model, tokenizer)
    ours.max_length = 256
    short = [("What is it", " Paris"), ("What do", " bees make")]
    alone = [ours.loglikelihood(requests("loglikelihood", [each]))[0][0] for each in short]
    assert [found for found, _ in ours.loglikelihood(requests("loglikelihood", short))] == pytest.approx(
        alone, abs=1e-4
    )
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    theirs = harness.loglikelihood(requests("loglikelihood", short), disable_tqdm=True)
    assert alone == pytest.approx([found for found, _ in theirs], abs=1e-4)
    long = ("Who wrote the play Hamlet? " * 12, " milk")
    said = f"{type(model).__name__} changes its rotary table .* beyond 32 positions"
    with pytest.raises(ValueError, match=said):
        ours.loglikelihood(requests("loglikelihood", [*short, long]))
    with pytest.raises(ValueError, match=said):
        ours.loglikelihood_rolling(requests("loglikelihood_rolling", [long[:1]]))
    (ids,) = ours.encode([short[0][0]]).values()
    for new, fits in ((33 - len(ids), True), (34 - len(ids), False)):
        asked = requests("generate_until", [(short[0][0], {"until": [], "max_gen_toks": new})])
        if fits:
            ours.generate_until(asked)
            continue
        with pytest.raises(ValueError, match=said):
            ours.generate_until(asked)
    exact = [
        scorer_module.Document([], [scorer_module.Sequence(tuple(range(2, 2 + n)), (5,))]) for n in (32, 33)
    ]
    ours.score(exact[:1])
    with pytest.raises(ValueError, match="a text of 33 tokens"):
        ours.score(exact)


def test_rows_with_the_most_logits_run_first():
    """What a heap frees it keeps: a larger row after a smaller one would take fresh memory beside it."""
    model = scorer_models.model("llama")
    ours, rows = Scorer(model, scorer_models.tokenizer(), row_tokens=16), []
    ours.score(
        [scorer_module.Document([1], [ours.sequence([1], [2])])]
    )  # the check of the first pass is no row
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda module, args, logits: rows.append(logits.shape[1]))
    texts = {length: list(range(10 * length, 11 * length)) for length in (4, 16, 9, 2, 12)}
    ours.score([scorer_module.Document(ids[:1], [ours.sequence(ids[:1], ids[1:])]) for ids in texts.values()])
    handle.remove()
    assert rows == [15, 12, 11]  # 16 tokens, then 2, 4 and 9, then 12

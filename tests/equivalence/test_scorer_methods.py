"""The scorer behind soft prompts and LoRA: against HFLM + PEFT where PEFT is right, and IDP against its members."""

from types import SimpleNamespace

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tests.equivalence import scorer_models
from tests.tiny_settings import LORA
from workflow_scripts.evaluate.cell import gold_answers
from workflow_scripts.evaluate.encoding import common_prefix
from workflow_scripts.evaluate.perplexity import perplexity
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.store import AnswerStore
from workflow_scripts.recover.adapters import attach, create, save
from workflow_scripts.recover.lora import merge

TOLERANCE = 1e-4  # nats
METHODS = {
    "prompt": {"kind": "prompt", "tokens": 6, "init": "random", "trained": True},
    "prefix": {"kind": "prefix", "tokens": 6, "init": "random"},
    "lora": LORA,
}
IDP = {
    "kind": "idp",
    "score": "auto",
    "calibrated": False,
    "members": [
        {"adapter": "long", "seed": 0},
        {"adapter": "short", "seed": 0},
    ],
}


def requests(kind="loglikelihood", **settings) -> list[Instance]:
    """Four choices per document, and a document (as winogrande) whose choices differ in context."""
    made = []
    for n, (question, answers) in enumerate(scorer_models.QUESTIONS):
        context = f"Question: {question}?\nAnswer:"
        if kind == "generate_until":
            made.append(Instance(kind, {}, (context, settings), 0, ("any", n, 1)))
        else:
            made += [
                Instance(kind, {}, (context, f" {answer}"), i, ("any", n, 1))
                for i, answer in enumerate(answers)
            ]
    if kind == "loglikelihood":
        for i, option in enumerate(("bees", "the spiders")):
            made.append(Instance(kind, {}, (f"They say that {option}", " make honey."), i, ("any", n + 1, 1)))
    return made


def trained(family: str, method: dict, folder):
    """A saved adapter, its weights moved away from their start so that it matters."""
    adapted = create(scorer_models.model(family), method, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    save(adapted, folder, "tiny")
    return adapted.eval()


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("kind", METHODS)
def test_loglikelihoods_equal_hflm_with_peft(family, kind, tmp_path):
    tokenizer, method = scorer_models.tokenizer(bos=True), METHODS[kind]
    adapted = trained(family, method, tmp_path)
    harness = HFLM(pretrained=adapted, tokenizer=tokenizer, batch_size=3)
    recovered = attach(scorer_models.model(family), tokenizer, method, [tmp_path])
    model = merge(recovered.model) if kind == "lora" else recovered.model  # as a cell is evaluated in float32
    ours = Scorer(model, tokenizer, recovered.bank, row_tokens=64)
    plain = Scorer(scorer_models.model(family), tokenizer)
    mine, theirs = ours.loglikelihood(requests()), harness.loglikelihood(requests(), disable_tqdm=True)
    for (loglik, greedy), (expected, expected_greedy) in zip(mine, theirs, strict=True):
        assert loglik == pytest.approx(expected, abs=TOLERANCE)
        assert greedy == expected_greedy
    without = plain.loglikelihood(requests())
    assert max(abs(a - b) for (a, _), (b, _) in zip(mine, without, strict=True)) > 1e-2


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("kind", METHODS)
def test_generation_equals_peft_row_by_row(family, kind, tmp_path):
    """One row at a time: nothing is padded, so PEFT is right."""
    tokenizer, method = scorer_models.tokenizer(bos=True), METHODS[kind]
    adapted = trained(family, method, tmp_path)
    recovered = attach(scorer_models.model(family), tokenizer, method, [tmp_path])
    asked = requests("generate_until", until=["e"], max_gen_toks=8, do_sample=False)
    ours = Scorer(recovered.model, tokenizer, recovered.bank)
    mine = ours.generate_until(asked)
    for request, text in zip(asked, mine, strict=True):
        ids = torch.tensor([tokenizer(request.args[0])["input_ids"]])
        tokens = []
        for _ in range(8):
            tokens.append(
                int(
                    adapted(input_ids=torch.cat([ids, torch.tensor([tokens], dtype=torch.long)], 1))
                    .logits[0, -1]
                    .argmax()
                )
            )
            if tokens[-1] == tokenizer.eos_token_id or "e" in tokenizer.decode(tokens):
                break
        assert text == tokenizer.decode(tokens, skip_special_tokens=True).split("e")[0]


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_idp_gives_each_document_the_numbers_of_its_prompt(family, tmp_path):
    tokenizer = scorer_models.tokenizer(bos=True)
    for name, tokens in (("long", 9), ("short", 4)):
        trained(family, METHODS["prompt"] | {"tokens": tokens}, tmp_path / name)
    folders = [tmp_path / "long", tmp_path / "short"]
    contexts = [tokenizer(request.args[0])["input_ids"] for request in requests()]
    recovered = attach(
        scorer_models.model(family), tokenizer, IDP | {"calibrated": True}, folders, contexts=contexts
    )
    ours = Scorer(recovered.model, tokenizer, recovered.bank, recovered.selector, row_tokens=64)
    answers = ours.loglikelihood(requests())
    texts = ours.generate_until(requests("generate_until", until=["e"], max_gen_toks=8, do_sample=False))
    assert {ours.selections["any", n] for n in range(7)} == {0, 1}  # both prompts are in play
    alone = []
    for folder in folders:
        single = attach(scorer_models.model(family), tokenizer, METHODS["prompt"] | {"tokens": 0}, [folder])
        alone.append(Scorer(single.model, tokenizer, single.bank))
    scores = [scorer.loglikelihood(requests()) for scorer in alone]
    strings = [
        s.generate_until(requests("generate_until", until=["e"], max_gen_toks=8, do_sample=False))
        for s in alone
    ]
    for i, request in enumerate(requests()):
        chosen = ours.selections["any", request.doc_id]
        assert answers[i][0] == pytest.approx(scores[chosen][i][0], abs=TOLERANCE)
        assert abs(scores[0][i][0] - scores[1][i][0]) > 10 * TOLERANCE
    for n, text in enumerate(texts):
        assert text == strings[ours.selections["any", n]][n]


def test_selection_sees_only_what_all_contexts_of_a_document_share(tmp_path):
    class Recorder:
        def select(self, contexts):
            self.contexts = contexts
            return torch.ones(len(contexts), dtype=torch.long), None

    tokenizer = scorer_models.tokenizer(bos=True)
    for name in ("long", "short"):
        trained("llama", METHODS["prompt"], tmp_path / name)
    recovered = attach(scorer_models.model("llama"), tokenizer, IDP, [tmp_path / "long", tmp_path / "short"])
    recorder = Recorder()
    ours = Scorer(recovered.model, tokenizer, recovered.bank, recorder)
    ours.loglikelihood(requests())
    shared = [tokenizer(f"They say that {option}")["input_ids"] for option in ("bees", "the spiders")]
    assert common_prefix(shared) in recorder.contexts
    assert shared[0] not in recorder.contexts
    text = " ".join(f"What do {number} bees make?" for number in range(80))
    ours.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0, ("any", 0, 1))])
    tokens, longest = ours.encode([text])[text], ours.max_length
    # the first window has no text before it: never asked, prompt 0
    assert recorder.contexts == [tokens[:start][-longest:] for start in range(longest, len(tokens), longest)]
    assert len(recorder.contexts) > 1
    windows = [tokens[i : i + 20] for i in range(0, 80, 20)]
    perplexity(ours, windows, [b"text"] * len(windows))
    assert recorder.contexts == windows[:-1]
    assert ours.score([]) == []


class OnSpace:
    """Chooses prompt 1 for contexts that end in white space, which a score of an answer never sees, else prompt 0."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def select(self, contexts):
        return torch.tensor(
            [int(self.tokenizer.decode(context)[-1:].isspace()) for context in contexts]
        ), None


def test_a_gold_answer_is_scored_behind_the_prompt_that_its_document_was_generated_behind(tmp_path):
    tokenizer = scorer_models.tokenizer(bos=True)
    for name, tokens in (("long", 9), ("short", 4)):
        trained("llama", METHODS["prompt"] | {"tokens": tokens}, tmp_path / name)
    folders = [tmp_path / "long", tmp_path / "short"]
    recovered = attach(scorer_models.model("llama"), tokenizer, IDP, folders)

    def asked(kind, settings):
        return [
            Instance(kind, {}, (f"Q: {q}?{' ' * (n % 2)}", settings), 0, ("any", n, 1))
            for n, (q, _) in enumerate(scorer_models.QUESTIONS)
        ]

    settings = {"until": ["e"], "max_gen_toks": 4, "do_sample": False}
    store = AnswerStore(tmp_path / "answers.jsonl", "key")
    ours = Scorer(recovered.model, tokenizer, recovered.bank, OnSpace(tokenizer), row_tokens=64, store=store)
    plain = ours.loglikelihood(asked("loglikelihood", " gold"))
    assert set(ours.selections.values()) == {0}  # what the spaces belong to is chosen without them
    ours.generate_until(asked("generate_until", settings))
    generated = dict(ours.selections)
    assert list(generated.values()) == [0, 1] * 3
    task = SimpleNamespace(
        name="any",
        gold=lambda doc: "gold",
        delimiter=lambda document: " ",
    )
    logged = [{"doc": {}, "arguments": [(r.args[0], {})]} for r in asked("generate_until", settings)]
    found = gold_answers(ours, task, logged)
    assert ours.selections == generated
    single = attach(scorer_models.model("llama"), tokenizer, METHODS["prompt"] | {"tokens": 4}, [folders[1]])
    alone = Scorer(single.model, tokenizer, single.bank).loglikelihood(asked("loglikelihood", " gold"))
    for n, loglik in enumerate(found):
        assert loglik == pytest.approx((plain, alone)[n % 2][n][0], abs=TOLERANCE)
        assert abs(plain[n][0] - alone[n][0]) > 10 * TOLERANCE
    assert gold_answers(ours, task, logged) == found  # from the store, which keeps both apart

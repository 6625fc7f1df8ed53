"""How latency is measured: order of the calls, warm-ups, pairs within rounds, and what its intervals cover."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
import yaml

from tests.tiny_models import FAMILIES, VOCABULARY, tiny_llama
from tests.tiny_settings import LORA
from workflow_scripts.evaluate import latency
from workflow_scripts.files.artifacts import SCHEMAS
from workflow_scripts.recover.prompt_bank import Prefix, PromptBank, encode
from workflow_scripts.report.figures_measured import _VARIANTS

NAMES = ("none", "a", "b", "c")
ROUNDS = 6


class Recorder:
    """A variant that writes down what is called; its prefill's state is its name."""

    selector = None

    def __init__(self, name, log):
        self.name, self.log = name, log

    def __call__(self):
        self.log.append(("prefill", self.name))
        return self.name

    def generate(self, state, tokens):
        assert state == self.name and self.log[-1] == ("prefill", self.name), "the state of a fresh prefill"
        self.log.append(("token", self.name))


@pytest.fixture
def measured(monkeypatch):
    """(calls in their order, those that were timed, rows) of a measurement of NAMES."""
    log, timed = [], []

    def time(function, device):
        before = len(log)
        function()
        timed.extend(log[before:])
        return float(len(timed))

    monkeypatch.setattr(latency, "timed", time)
    made = {(name, name): Recorder(name, log) for name in NAMES}
    rows = latency.measure(made, {}, torch.device("cpu"), 4, ROUNDS)
    return log, timed, rows


@pytest.mark.parametrize("kind", ["prefill", "token"])
def test_every_round_times_each_variant_once_in_an_order_of_its_own(measured, kind):
    _, timed, _ = measured
    names = [name for called, name in timed if called == kind]
    orders = [tuple(names[start : start + len(NAMES)]) for start in range(0, len(names), len(NAMES))]
    assert len(orders) == ROUNDS and all(sorted(order) == sorted(NAMES) for order in orders)
    assert len(set(orders)) > 2 and len({order[0] for order in orders}) > 1


def test_each_variant_runs_once_before_anything_of_its_kind_is_timed(measured):
    log, timed, _ = measured
    assert log[: len(NAMES)] == [("prefill", name) for name in NAMES]
    assert Counter(timed) == Counter(
        {(kind, name): ROUNDS for kind in ("prefill", "token") for name in NAMES}
    )
    tokens = [name for kind, name in log if kind == "token"]
    assert tokens[: len(NAMES)] == list(NAMES) and len(tokens) == (ROUNDS + 1) * len(NAMES)
    # Its prefill; a prefill stands before each token and is not timed.
    start = log.index(("token", "none")) - 1
    assert [kind for kind, _ in log[start:]] == ["prefill", "token"] * (len(tokens))


def test_ratios_are_of_the_same_round(monkeypatch):
    """A variant that takes twice as long in every round, whatever the round's own speed."""
    speed = iter([1.0, 5.0, 2.0, 9.0, 3.0, 7.0])
    seconds = {("none", "none"): [], ("a", "a"): []}
    for _ in range(ROUNDS):
        base = next(speed)
        seconds["none", "none"].append(base)
        seconds["a", "a"].append(2 * base)
    monkeypatch.setattr(latency, "rounds", lambda *_, **__: seconds)
    made = dict.fromkeys(seconds)
    rows = latency.measure(made, {}, torch.device("cpu"), 0, ROUNDS)
    assert rows[1]["prefill_ratio"] == {"median": 2.0, "low": 2.0, "high": 2.0, "coverage": 1 - 2 / 64}
    assert rows[1]["token"] is None and rows[1]["token_ratio"] is None


@pytest.mark.parametrize(
    ("rounds", "rank"), [(3, 1), (5, 1), (6, 1), (7, 1), (8, 1), (9, 2), (11, 2), (12, 3), (20, 6)]
)
def test_an_interval_covers_what_it_says(rounds, rank):
    """All 2^n ways of the values to lie below or above the true median, which are equally likely."""
    ordered = [float(i) for i in range(1, rounds + 1)]
    found = latency.median_interval(ordered[::-1])
    assert (found["low"], found["high"]) == (ordered[rank - 1], ordered[-rank])
    ways = Counter(bin(way).count("1") for way in range(2**rounds))  # values below -> ways
    held = sum(ways[below] for below in range(rank, rounds - rank + 1))
    assert found["coverage"] == pytest.approx(held / 2**rounds)
    assert (found["coverage"] >= 0.95) == (rounds >= 6)
    narrower = sum(ways[below] for below in range(rank + 1, rounds - rank)) / 2**rounds
    assert narrower < 0.95


@pytest.mark.parametrize("kind", ["text", "cached", "embeddings"])
def test_a_prefill_ends_in_the_greedy_token_of_its_last_position(kind):
    model = tiny_llama()
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randn(5, 32, generator=draw)
    bank = PromptBank([Prefix("p", *encode(model, prompt))]) if kind == "cached" else None
    prefill = latency.Prefill(
        model,
        torch.randint(97, (3, 9), generator=draw),
        bank,
        embeddings=prompt if kind == "embeddings" else None,
    )
    state = prefill()
    embedded = model.get_input_embeddings()(prefill.ids)
    if kind != "text":
        embedded = torch.cat([prompt.expand(3, -1, -1), embedded], dim=1)
    with torch.no_grad():
        expected = model(inputs_embeds=embedded).logits[:, -1].argmax(-1, keepdim=True)
    assert torch.equal(state.tokens, expected) and len(expected.unique()) > 1
    assert set(state.positions.flatten().tolist()) == {embedded.shape[1]} and state.mask is None


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_prompts_of_different_length_continue_in_one_pass_as_alone(family):
    model, draw = FAMILIES[family](), torch.Generator().manual_seed(0)
    prefixes = [Prefix(str(n), *encode(model, torch.randn(n, 32, generator=draw))) for n in (5, 9)]
    ids = torch.randint(VOCABULARY, (4, 7), generator=draw)
    selector = SimpleNamespace(select=lambda contexts: (torch.tensor([0] * len(contexts)),))
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    together = latency.Prefill(model, ids, PromptBank(prefixes), selector, mixed=True)
    found = together.generate(together(), 6)
    assert len(passes) == 2 + 6 and found.shape == (4, 7)
    for prompt, prefix in enumerate(prefixes):  # the rows of the first prompt come first
        alone = latency.Prefill(model, ids[prompt::2], PromptBank([prefix]))
        assert torch.equal(found[2 * prompt :][:2], alone.generate(alone(), 6))


@pytest.mark.parametrize("choice", [{"calibrated": True}, {"score": "learned"}])
def test_an_idp_that_chooses_by_text_is_timed_on_text_of_the_measurements_own(tmp_path, choice):
    prompt = {"kind": "prompt", "tokens": 5, "init": "random", "trained": True}
    members = [{"adapter": name, "seed": 0} for name in ("a", "b")]
    idp = {"kind": "idp", "members": members, "score": "auto", "calibrated": False} | choice
    methods = {"none": {"kind": "none"}, "a": prompt, "b": prompt | {"tokens": 8}, "idp": idp}
    timed = latency.variants(tiny_llama(), None, methods, tmp_path, 2, 8)
    assert sum(timed["idp", "idp"].shares().values()) == pytest.approx(1)


def test_every_variant_is_one_of_the_schema_and_has_its_marks_in_the_figure(tmp_path):
    """What a method of each kind can be timed as: a result with another name would be refused when it is written."""
    prompt = {"kind": "prompt", "tokens": 5, "init": "random", "trained": True}
    members = [{"adapter": name, "seed": 0} for name in ("prompt", "other")]
    methods = {
        "none": {"kind": "none"},
        "lora": LORA,
        "eora": {"kind": "eora", "rank": 2},
        "peft": {"kind": "peft", "peft_type": "DORA", "options": {"r": 2}},
        "prompt": prompt,
        "other": prompt,
        "prefix": {"kind": "prefix", "tokens": 5, "init": "random"},
        "idp": {"kind": "idp", "members": members, "score": "auto", "calibrated": False},
        "concat": {"kind": "concat", "members": members},
    }
    timed = {variant for _, variant in latency.variants(tiny_llama(), None, methods, tmp_path, 2, 8)}
    schema = yaml.safe_load((SCHEMAS / "latency.schema.yaml").read_text())
    allowed = schema["properties"]["latencies"]["items"]["properties"]["variant"]["enum"]
    assert timed == set(allowed) == set(_VARIANTS)

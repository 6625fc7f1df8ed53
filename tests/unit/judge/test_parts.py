"""Held-out facts: answers planted as learned, accessed, both or neither are told apart."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from tests.unit.synthetic_results import CATALOGUE, METHODS, PAIR, PARAMETERS, write_grid
from workflow_scripts.files.artifacts import check, read_json, write_json
from workflow_scripts.judge.judgement import Question, Resampling, judge_grid
from workflow_scripts.judge.ledger import build
from workflow_scripts.judge.parts import families
from workflow_scripts.judge.results import read_results, samples_beside
from workflow_scripts.plan.parts import part_of

TASK, ITEMS = "triviaqa", 200
TEXT = {"task": TASK, "part": "even"}
EVEN, ODD = (
    {"kind": "lora", "rank": 4, "corpus": TEXT},
    {"kind": "lora", "rank": 4, "corpus": TEXT | {"part": "odd"}},
)
NAMES = {"even": "lora-even", "odd": "lora-odd"}
ADAPTERS = {"lora-even": EVEN, "lora-odd": ODD}
PLACES = {"dense": ("m", "dense", "none"), "gptq-w3": ("m", "gptq-w3", "wikipedia")}


@pytest.fixture(autouse=True)
def catalogue(monkeypatch):
    for name, settings in ADAPTERS.items():
        monkeypatch.setitem(METHODS, name, settings)
        monkeypatch.setitem(PARAMETERS, name, 0)


def right(model: str, items: np.ndarray) -> np.ndarray:
    """The dense model knows three items of five, of which the copy lost two of three."""
    known = items % 5 < 3
    return known if model == "dense" else known & (items % 3 == 0)


def learned(model, items, trained):
    return trained | right(model, items)


def accessed(model, items, trained):
    return right("dense", items)


def both(model, items, trained):
    return trained | right("dense", items)


def nothing(model, items, trained):
    return right(model, items)


def form(model, items, trained):
    """A third of all answers becomes right, whether or not the dense model knew them."""
    return right(model, items) | ((items % 7 < 2) & (model != "dense"))


def everywhere(model, items, trained):
    """The dense model gains in the untrained items as much as the copy does."""
    return right(model, items) | (items % 5 == 4)


def accessed_and_learned_everywhere(model, items, trained):
    """What both models learn alike hides nothing of what the copy alone gets back."""
    return everywhere(model, items, trained) | (items % 5 == 1)


class Noisy:
    """Every answer is drawn: half of the items are known with 0.9, half with 0.3, and the copy knows less of them.

    Answers of one kind, without an adapter or with one, share half of their noise, whatever the model. back: what an
    adapter adds to the copy's chance of a known item.
    """

    def __init__(self, back: float, items: int):
        rng = np.random.default_rng(5)
        known = np.arange(items) % 2 == 0
        self.right = {}
        for adapted in (False, True):
            shared = rng.normal(size=items)
            for model in PLACES:
                lost = (0.2 - back * adapted) * known * (model != "dense")
                noise = (shared + rng.normal(size=items)) / np.sqrt(2)
                self.right[model, adapted] = norm.cdf(noise) < np.where(known, 0.9, 0.3) - lost

    def plain(self, model, items):
        return self.right[model, False][items]

    def adapted(self, model, items, trained):
        return self.right[model, True][items]


def plant(
    folder, answered, adapters=ADAPTERS, seeds=(0,), control=True, items=ITEMS, plain=right, left_out=0
):
    """verdict.json's `parts` of a grid whose adapted cells answer as `answered` says.

    left_out: how many items no adapter was told, since both halves ask their question.
    """
    cells = {(*place, "none", 0): 0.5 for place in PLACES.values()}
    for seed in seeds:
        cells |= {("m", "gptq-w3", "wikipedia", method, seed): 0.5 for method in ("none", *adapters)}
        cells |= {("m", "dense", "wikipedia", method, seed): 0.5 for method in adapters if control}
    for path in write_grid(folder, cells, items=items):
        file = samples_beside(path)
        samples = pd.read_parquet(file)
        mine = samples["task"] == TASK
        numbers = samples.loc[mine, "doc_id"].to_numpy()
        model, method = path.split("/")[-4], path.split("/")[-2]
        flags = plain(model, numbers)
        if method in adapters:
            part = adapters[method]["corpus"]["part"]
            hashes = samples.loc[mine, "doc_hash"]
            trained = np.array([part_of(doc_hash) == part for doc_hash in hashes]) & (numbers >= left_out)
            untold = {"left_out": list(hashes[numbers < left_out])}
            write_json(path, read_json(path) | untold, schema="evaluation")
            flags = answered(model, numbers, trained)
        samples.loc[mine, "correct"] = flags
        samples.to_parquet(file, index=False)
    results = read_results([str(path) for path in sorted(folder.rglob("seed-*.json"))])
    verdict = judge_grid(results, Question(PAIR), CATALOGUE, Resampling(1000))
    check(verdict, "verdict", "verdict.json")
    return {row["metric"]: row for row in verdict["parts"]}


@pytest.mark.parametrize(
    ("answered", "shows"),
    [
        (learned, "learning"),
        (accessed, "access"),
        (both, "both"),
        (nothing, "neither"),
        (form, "neither"),
        (everywhere, "neither"),
        (accessed_and_learned_everywhere, "access"),
    ],
)
@pytest.mark.parametrize("crossed", [True, False])
def test_planted_answers_are_told_apart(tmp_path, answered, shows, crossed):
    adapters = ADAPTERS if crossed else {"lora-even": EVEN}
    rows = plant(tmp_path, answered, adapters)
    assert set(rows) == {"accuracy", "bits_per_byte"}  # a task without choices
    row = rows["accuracy"]
    assert row["shows"] == shows
    assert row["methods"] == (NAMES if crossed else {"even": "lora-even"})
    half = ITEMS if crossed else ITEMS // 2
    assert row["trained"]["items"] == row["untrained"]["items"] == half
    same = answered not in (everywhere, accessed_and_learned_everywhere)
    assert (row["untrained"]["known"] + row["untrained"]["never_known"] == half) == same


@pytest.mark.parametrize(("back", "shows"), [(0.0, "neither"), (0.2, "access")])
def test_noise_of_the_answers_is_no_access_and_hides_none(tmp_path, back, shows):
    """Items that one answer of the dense model chose would fall by half of their noise, or rise, with any adapter."""
    noisy = Noisy(back, 1000)
    row = plant(tmp_path, noisy.adapted, items=1000, plain=noisy.plain)["accuracy"]
    assert row["shows"] == shows
    assert back or row["known_apart"]["low"] < 0 < row["known_apart"]["high"]


def test_gains_are_the_shares_that_were_planted(tmp_path):
    """Of an item that only training on it makes right, each side counts by the adapter of its own part."""
    row = plant(tmp_path, both)["accuracy"]
    numbers = np.arange(ITEMS)
    lost = (right("dense", numbers) & ~right("gptq-w3", numbers)).mean()
    unknown, missing = (~right("dense", numbers)).mean(), (~right("gptq-w3", numbers)).mean()
    assert row["untrained"]["gain"]["value"] == pytest.approx(lost)
    assert row["untrained"]["dense_gain"]["value"] == 0
    assert row["untrained"]["never_known_gain"]["value"] == 0
    assert row["trained"]["gain"]["value"] == pytest.approx(missing)
    assert row["trained"]["dense_gain"]["value"] == pytest.approx(unknown)
    assert row["trained"]["never_known_gain"]["value"] == 1
    assert row["learned"]["value"] == pytest.approx(missing - lost)


def test_crossed_items_are_paired_and_other_halves_are_not(tmp_path):
    """With both twins the same items stand on both sides, so what all of them gain drops out of `learned`."""
    widths = {}
    for name, adapters in (("crossed", ADAPTERS), ("one", {"lora-even": EVEN})):
        found = plant(tmp_path / name, accessed, adapters)["accuracy"]["learned"]
        widths[name] = found["high"] - found["low"]
    assert 0 < widths["crossed"] < 0.1 < widths["one"]  # what happened not to change could have


def test_replicates_are_covered_and_a_missing_control_leaves_the_word_open(tmp_path):
    row = plant(tmp_path / "seeds", accessed, seeds=(0, 1, 2))["accuracy"]
    assert (row["seeds"], row["covers"]) == ([0, 1, 2], "items and 3 replicates")
    assert row["shows"] == "access"
    row = plant(tmp_path / "alone", accessed, control=False)["accuracy"]
    assert row["shows"] is None and row["untrained"]["recovered"] is None
    assert row["untrained"]["gain"]["low"] > 0


@pytest.mark.parametrize("crossed", [True, False])
def test_an_item_that_no_half_was_told_is_on_no_side(tmp_path, crossed):
    adapters = ADAPTERS if crossed else {"lora-even": EVEN}
    row = plant(tmp_path, lambda model, items, trained: trained, adapters, left_out=40)["accuracy"]
    assert row["trained"]["items"] + row["untrained"]["items"] == (ITEMS - 40) * (2 if crossed else 1)
    if crossed:  # every told item is right
        already = right("gptq-w3", np.arange(40, ITEMS)).mean()
        assert row["trained"]["gain"]["value"] == pytest.approx(1 - already)
    ledger = build(read_results([str(path) for path in sorted(tmp_path.rglob("seed-*.json"))]), PAIR)
    untold = ledger[(ledger["task"] == TASK) & (ledger["doc_id"] < 40)]
    assert len(untold) and untold["part"].isna().all()
    assert set(ledger.drop(untold.index)["part"]) == {"even", "odd"}


def test_adapters_of_a_task_that_no_cell_answered_have_no_row(tmp_path, monkeypatch):
    for name, settings in ADAPTERS.items():
        monkeypatch.setitem(METHODS, name, settings | {"corpus": settings["corpus"] | {"task": "nq_open"}})
    assert plant(tmp_path, learned, items=20) == {}


def test_twins_differ_in_the_part_alone():
    other = EVEN | {"rank": 8}
    prompt = {"kind": "prompt", "tokens": 5, "corpus": "wikipedia"}
    found = families({"a": EVEN, "p": prompt, "b": other, "c": ODD, "d": EVEN, "none": {"kind": "none"}})
    assert [f.methods for f in found] == [{"even": "a", "odd": "c"}, {"even": "b"}, {"even": "d"}]

"""The item ledger: every outcome by hand, and the rates beside chance."""

import pandas as pd
import pytest

from tests.unit.synthetic_results import PAIR, study, write_grid
from workflow_scripts.judge.ledger import OUTCOMES, build, outcomes
from workflow_scripts.judge.rates import rates
from workflow_scripts.judge.results import read_results, samples_beside

CASES = [  # dense, compressed, prompt, lora -> outcome
    (1, 1, 1, 1, "kept"),
    (1, 1, 0, 1, "newly_broken"),
    (1, 1, 1, 0, "newly_broken"),
    (1, 1, 0, 0, "newly_broken"),
    (1, 0, 0, 0, "lost"),
    (1, 0, 1, 0, "recovered_by_prompt"),
    (1, 0, 0, 1, "recovered_by_lora"),
    (1, 0, 1, 1, "recovered_by_both"),
    (0, 0, 0, 0, "never_known"),
    (0, 0, 1, 0, "gained"),
    (0, 0, 0, 1, "gained"),
    (0, 0, 1, 1, "gained"),
    (0, 1, 0, 0, "gained"),
    (0, 1, 1, 1, "gained"),
]
NAMES = ["correct/dense", "correct/none", "correct/idp-50-100", "correct/lora-r4"]


def table(cases):
    return pd.DataFrame([case[:4] for case in cases], columns=NAMES).astype("boolean")


def test_every_combination_has_its_outcome():
    assert list(outcomes(table(CASES), PAIR)) == [case[4] for case in CASES]
    assert {case[4] for case in CASES} == set(OUTCOMES)


def test_without_the_pair_only_compression_speaks():
    found = outcomes(table([(1, 1, 0, 0), (1, 0, 1, 1), (0, 0, 1, 1), (0, 1, 0, 0)]), {})
    assert list(found) == ["kept", "lost", "never_known", "gained"]


def test_an_item_that_a_model_never_saw_has_no_outcome():
    items = table([(1, 0, 0, 0), (1, 0, 0, 0)])
    items.loc[1, "correct/dense"] = pd.NA
    assert list(outcomes(items, PAIR).isna()) == [False, True]


@pytest.mark.parametrize("method", ["idp-50-100", "lora-r4"])
def test_an_item_that_a_method_did_not_answer_is_neither_lost_nor_broken_by_it(method):
    items = table([(1, 1, 1, 1), (1, 0, 0, 0), (0, 0, 0, 0), (1, 1, 1, 1)])
    items.loc[:2, f"correct/{method}"] = pd.NA
    assert list(outcomes(items, PAIR).isna()) == [True, True, True, False]
    assert outcomes(items, PAIR)[3] == "kept"


def test_a_method_without_any_answer_leaves_every_outcome_open():
    items = table([(1, 1, 1, 1), (1, 0, 0, 0)]).drop(columns="correct/lora-r4")
    assert outcomes(items, PAIR).isna().all()


def test_items_that_a_methods_file_lacks_have_no_outcome_in_the_ledger(tmp_path):
    paths = write_grid(tmp_path, study("m", {"idp-50-100": 0.1, "lora-r4": 0.1}), items=8)
    samples = samples_beside(next(p for p in paths if "gptq-w3" in p and "lora-r4" in p))
    frame = pd.read_parquet(samples)
    frame[(frame["task"] != "piqa") | (frame["doc_id"] > 2)].to_parquet(samples, index=False)
    ledger = build(read_results(paths), PAIR).set_index(["task", "doc_id"])["outcome"]
    assert list(ledger["piqa"].isna()) == [True] * 3 + [False] * 5
    assert ledger.drop("piqa").notna().all()


def test_the_ledger_holds_each_item_once_with_question_and_margins(tmp_path):
    paths = write_grid(tmp_path, study("m", {"idp-50-100": 0.1, "lora-r4": 0.1, "prompt-50": 0.05}), items=8)
    ledger = build(read_results(paths), PAIR)
    assert len(ledger) == 8 * 9
    assert not ledger.duplicated(
        ["model", "compressor", "corpus", "seed", "task", "doc_hash", "occurrence"]
    ).any()
    assert {
        "question",
        "gold",
        "domain",
        "outcome",
        "correct/prompt-50",
        "margin/dense",
        "prediction/lora-r4",
    } <= set(ledger.columns)
    assert "selected_prompt/idp-50-100" in ledger and "selected_prompt/none" not in ledger
    ledger.to_parquet(tmp_path / "ledger.parquet")
    assert len(pd.read_parquet(tmp_path / "ledger.parquet")) == len(ledger)


def test_a_group_without_its_dense_cell_is_left_out(tmp_path):
    truth = study("m", {"lora-r4": 0.1})
    paths = write_grid(tmp_path, truth, items=4, skip={("m", "dense", "none", "none", 0)})
    assert len(build(read_results(paths), PAIR)) == 0


def test_each_seed_is_held_against_its_own_copy(tmp_path):
    truth = study("m", {"idp-50-100": 0.1, "lora-r4": 0.1})
    compressed = ("m", "gptq-w3", "wikipedia")
    for seed, accuracy in ((1, 0.2), (2, 0.6)):
        truth |= {(*compressed, method, seed): accuracy for method in ("none", *PAIR.values())}
    lost = {(*compressed, "none", 2)}
    ledger = build(read_results(write_grid(tmp_path, truth, items=40, noise=0.0, skip=lost)), PAIR)
    shares = ledger.groupby("seed")["correct/none"].mean()
    assert list(shares.index) == [0, 1], "a copy without its cell without recovery has no rows"
    assert shares[1] == pytest.approx(0.2, abs=0.1) and shares[0] > 0.35


def test_rates_count_lost_unknown_and_kept_items():
    ledger = table(
        [(1, 0, 1, 0)] * 3
        + [(1, 0, 0, 0)]
        + [(0, 0, 1, 0)]
        + [(0, 0, 0, 0)] * 3
        + [(1, 1, 0, 1)]
        + [(1, 1, 1, 1)]
    )
    keys = {"model": "m", "compressor": "c", "corpus": "t", "seed": 0, "domain": "world", "task": "sciq"}
    for name, value in keys.items():
        ledger[name] = value
    ledger["answer_in_training_text"] = pd.array([True, False, pd.NA, False, *[pd.NA] * 6], dtype="boolean")
    table_of_rates = rates(ledger, ["idp-50-100"])
    assert list(table_of_rates["scope"]) == ["all", "world", "sciq"]
    row = table_of_rates.query("scope == 'all'").iloc[0]
    assert (row["untaught"], row["untaught_n"]) == (0.5, 2)
    assert (row["recovered"], row["recovered_n"]) == (0.75, 4)
    assert (row["chance"], row["chance_n"]) == (0.25, 4)
    assert (row["broken"], row["broken_n"]) == (0.5, 2)
    assert row["recovered_low"] < 0.75 < row["recovered_high"]


def test_planted_recovery_stands_above_chance(tmp_path):
    truth = study("m", {"idp-50-100": 0.2, "lora-r4": 0.0}, losses={"gptq-w3": 0.25})
    ledger = build(read_results(write_grid(tmp_path, truth, items=60, noise=0.01)), PAIR)
    ledger["answer_in_training_text"] = pd.array([pd.NA] * len(ledger), dtype="boolean")
    by_method = rates(ledger, ["idp-50-100", "lora-r4"]).query("scope == 'all'").set_index("method")
    assert by_method.loc["idp-50-100", "recovered_low"] > by_method.loc["idp-50-100", "chance_high"]
    assert by_method.loc["lora-r4", "recovered"] == pytest.approx(0.0, abs=0.05)


def test_what_a_method_did_not_answer_is_left_out_of_its_rates(tmp_path):
    ledger = build(read_results(write_grid(tmp_path, study("m", {"lora-r4": 0.1}), 40, 0.05)), PAIR)
    ledger["answer_in_training_text"] = pd.array([pd.NA] * len(ledger), dtype="boolean")
    shuffled = rates(ledger.sample(frac=1, random_state=0), ["lora-r4"]).set_index("scope")
    whole = rates(ledger, ["lora-r4", "idp-50-100"]).set_index("scope")
    assert set(whole["method"]) == {"lora-r4"}  # of the other there is no answer
    pd.testing.assert_frame_equal(whole.sort_index(), shuffled.sort_index())
    ledger.loc[ledger["task"] == "piqa", "correct/lora-r4"] = pd.NA
    lacking = rates(ledger, ["lora-r4"]).set_index("scope")
    assert set(whole.index) - set(lacking.index) == {"piqa", "common"}

"""The item ledger: every outcome by hand, and the rates beside chance."""

import pandas as pd
import pytest

from tests.unit.synthetic_results import PAIR, study, write_grid
from workflow_scripts.analyze.ledger import OUTCOMES, build, outcomes, rates
from workflow_scripts.analyze.results import read_results

CASES = [  # dense, compressed, prompt, lora -> outcome
    (1, 1, 1, 1, "kept"), (1, 1, 0, 1, "newly_broken"), (1, 1, 1, 0, "newly_broken"), (1, 1, 0, 0, "newly_broken"),
    (1, 0, 0, 0, "lost"), (1, 0, 1, 0, "recovered_by_prompt"), (1, 0, 0, 1, "recovered_by_lora"),
    (1, 0, 1, 1, "recovered_by_both"), (0, 0, 0, 0, "never_known"), (0, 0, 1, 0, "gained"), (0, 0, 0, 1, "gained"),
    (0, 0, 1, 1, "gained"), (0, 1, 0, 0, "gained"), (0, 1, 1, 1, "gained"),
]  # fmt: skip
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


def test_the_ledger_holds_each_item_once_with_question_and_margins(tmp_path):
    paths = write_grid(tmp_path, study("m", {"idp-50-100": 0.1, "lora-r4": 0.1, "prompt-50": 0.05}), items=8)
    ledger = build(read_results(paths), PAIR)
    assert len(ledger) == 8 * 9
    assert not ledger.duplicated(
        ["model", "compressor", "corpus", "seed", "task", "doc_hash", "occurrence"]
    ).any()
    assert {"question", "gold", "domain", "outcome", "correct/prompt-50", "margin/dense"} <= set(
        ledger.columns
    )
    assert "selected_prompt/idp-50-100" in ledger and "selected_prompt/none" not in ledger
    ledger.to_parquet(tmp_path / "ledger.parquet")
    assert len(pd.read_parquet(tmp_path / "ledger.parquet")) == len(ledger)


def test_a_group_without_its_dense_cell_is_left_out(tmp_path):
    truth = study("m", {"lora-r4": 0.1})
    paths = write_grid(tmp_path, truth, items=4, skip={("m", "dense", "none", "none", 0)})
    assert len(build(read_results(paths), PAIR)) == 0


def test_rates_count_lost_unknown_and_kept_items():
    ledger = table(
        [(1, 0, 1, 0)] * 3
        + [(1, 0, 0, 0)]
        + [(0, 0, 1, 0)]
        + [(0, 0, 0, 0)] * 3
        + [(1, 1, 0, 1)]
        + [(1, 1, 1, 1)]
    )
    for name, value in {"model": "m", "compressor": "c", "corpus": "t", "seed": 0, "domain": "world"}.items():
        ledger[name] = value
    row = rates(ledger, ["idp-50-100"]).query("domain == 'all'").iloc[0]
    assert (row["recovered"], row["recovered_n"]) == (0.75, 4)
    assert (row["chance"], row["chance_n"]) == (0.25, 4)
    assert (row["broken"], row["broken_n"]) == (0.5, 2)
    assert row["recovered_low"] < 0.75 < row["recovered_high"]


def test_planted_recovery_stands_above_chance(tmp_path):
    truth = study("m", {"idp-50-100": 0.2, "lora-r4": 0.0}, losses={"gptq-w3": 0.25})
    ledger = build(read_results(write_grid(tmp_path, truth, items=60, noise=0.01)), PAIR)
    by_method = rates(ledger, ["idp-50-100", "lora-r4"]).query("domain == 'all'").set_index("method")
    assert by_method.loc["idp-50-100", "recovered_low"] > by_method.loc["idp-50-100", "chance_high"]
    assert by_method.loc["lora-r4", "recovered"] == pytest.approx(0.0, abs=0.05)

"""The verdict rule: every branch, the order of the branches, and what it says when it can't tell."""

import numpy as np
import pytest

from workflow_scripts.files.artifacts import check
from workflow_scripts.judge.judgement import SCHEMA
from workflow_scripts.judge.statistics import Estimate
from workflow_scripts.judge.verdict import MEANING, decide

NOISE = np.random.default_rng(0).standard_normal((3, 4000))
NOISE -= NOISE.mean(axis=1, keepdims=True)


def estimate(point: float, error: float, source: int) -> Estimate:
    return Estimate(point, point + error * NOISE[source])


@pytest.mark.parametrize(
    ("word", "loss", "prompt", "lora", "error"),
    [
        ("no_loss", 0.01, 0.00, 0.00, 0.01),
        ("no_loss", -0.20, 0.00, 0.00, 0.01),  # a gain is not a loss
        ("displaced", 0.20, 0.15, 0.14, 0.005),
        ("displaced", 0.20, 0.10, 0.13, 0.003),  # LoRA leads by less than delta = 0.05
        ("forgotten", 0.20, 0.01, 0.15, 0.005),
        ("both", 0.20, 0.08, 0.18, 0.005),
        ("unrecovered", 0.20, 0.001, 0.001, 0.005),
        ("undecided", 0.20, 0.06, 0.10, 0.05),
    ],
)
def test_every_branch_is_reached(word, loss, prompt, lora, error):
    verdict = decide(estimate(loss, error, 0), estimate(prompt, error, 1), estimate(lora, error, 2))
    assert verdict.word == word
    assert verdict.to_json()["meaning"] == MEANING[word]


def test_displaced_is_tried_before_both():
    """A prompt that leads is not "both", and one 0.02 behind LoRA with delta 0.05 is displaced, not both."""
    verdict = decide(estimate(0.2, 0.001, 0), estimate(0.10, 0.001, 1), estimate(0.12, 0.001, 2))
    assert verdict.word == "displaced"


def test_undecided_lists_what_it_looked_at_and_how_much_more_data_would_settle_it():
    verdict = decide(estimate(0.2, 0.02, 0), estimate(0.15, 0.1, 1), estimate(0.15, 0.01, 2))
    assert verdict.word == "undecided"
    assert {c.text for c in verdict.conditions} >= {"G(prompt) > 0", "G(prompt) - G(lora) > -delta"}
    assert "times as many items would settle it as displaced" in verdict.more_data


def test_the_factor_of_items_shrinks_the_interval_to_the_threshold():
    verdict = decide(estimate(0.2, 0.001, 0), estimate(0.06, 0.06, 1), estimate(0.0, 0.001, 2))
    factor = float(verdict.more_data.split("about ")[1].split()[0])
    assert factor == pytest.approx(1.96**2, rel=0.1)


def test_without_a_dense_control_a_loss_stays_undecided():
    verdict = decide(
        estimate(0.2, 0.01, 0), None, None, "no dense control: idp was not run on the dense model"
    )
    assert verdict.word == "undecided"
    assert verdict.reason.startswith("no dense control")


def test_a_missing_interval_is_undecided_not_a_crash():
    loss = Estimate(0.2, np.full(100, np.nan))
    assert decide(loss, loss, loss).word == "undecided"


def test_the_words_are_those_of_the_schema():
    verdict = decide(estimate(0.2, 0.01, 0), None, None, "x").to_json()
    group = {"model": "m", "compressor": "c", "corpus": "t", "family": 0, "missing": []}
    group |= {key: {} for key in ("seeds", "items", "tasks")}
    group["metrics"] = {"accuracy": {"verdict": verdict}, "gold_loglik": {"verdict": verdict}}
    document = {
        "schema": SCHEMA,
        "grid": "g",
        "pair": {"prompt": "p", "lora": "l"},
        "settings": {"resamples": 1, "seed": 0, "level": 0.95, "command": "snakemake"},
        "cells": {"planned": 1, "missing": []},
        "groups": [group],
        **{key: [] for key in ("dense_groups", "scores", "choices", "changes")},
    }
    for word in MEANING:
        verdict["word"] = word
        check(document, "verdict", "verdict.json")

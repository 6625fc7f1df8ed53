"""The rule: its labels partition the space, harm earns nothing, support decides, and what would settle a case."""

import numpy as np
import pytest

from workflow_scripts.files.artifacts import check
from workflow_scripts.judge.judgement import SCHEMA
from workflow_scripts.judge.statistics import Estimate
from workflow_scripts.judge.verdict import (
    DELTA,
    F_DISPLACED,
    F_FORGOTTEN,
    LABELS,
    MEANING,
    decide,
    in_words,
    labels,
    other_reading,
    recovered,
)

LAMBDA = 0.01


def estimate(point, error=0.001, seed=0, resamples=4000):
    return Estimate(point, point + error * np.random.default_rng(seed).standard_normal(resamples))


def by_definition(loss, prompt, lora):
    """The partition as docs/explanation/statistics.md writes it, one number at a time."""
    if loss < LAMBDA:
        return "no_loss"
    if max(prompt, lora) < DELTA * loss:
        return "unrecovered"
    if prompt >= F_DISPLACED * lora:
        return "displaced"
    return "forgotten" if prompt < F_FORGOTTEN * lora else "both"


def test_the_labels_are_those_of_the_definition_everywhere():
    random = np.random.default_rng(0)
    loss, prompt, lora = random.uniform(-0.05, 0.1, (3, 5000))
    loss[:3], prompt[:3], lora[:3] = LAMBDA, [0.0025, 0.0024, 0.01], [0.0, 0.01, 0.0]
    found = [LABELS[number] for number in labels(loss, prompt, lora, LAMBDA)]
    assert found == [by_definition(*each) for each in zip(loss, prompt, lora, strict=True)]
    assert set(found) == set(LABELS)


@pytest.mark.parametrize(
    ("word", "loss", "prompt", "lora"),
    [
        ("no_loss", 0.0, 0.0, 0.0),
        ("displaced", 0.06, 0.045, 0.045),
        ("displaced", 0.06, 0.045, -0.02),
        ("forgotten", 0.06, 0.0, 0.045),
        ("forgotten", 0.06, -0.05, 0.045),
        ("both", 0.06, 0.02, 0.04),
        ("unrecovered", 0.06, 0.005, -0.1),
    ],
)
def test_a_clear_case_has_its_word_and_full_support(word, loss, prompt, lora):
    found = decide(estimate(loss, seed=1), estimate(prompt, seed=2), estimate(lora, seed=3), LAMBDA)
    assert found.word == word and found.support[word] == 1.0 and found.settle is None
    assert sum(found.support.values()) == pytest.approx(1)


def test_harm_to_the_dense_model_earns_nothing_and_adaptation_does_not_count():
    gain = estimate(0.01, seed=1)
    assert recovered(gain, estimate(-0.05, seed=2)) == gain
    adapted = recovered(gain, estimate(0.03, seed=2))
    assert adapted.point == pytest.approx(-0.02)
    assert adapted.standard_error == pytest.approx(np.hypot(0.001, 0.001), rel=0.05)
    back = recovered(estimate(-0.3, seed=1), estimate(-0.36, seed=2))  # both models guess
    assert decide(estimate(0.06, seed=3), back, back, LAMBDA).word == "unrecovered"


def test_a_control_of_nothing_takes_nothing_on_average():
    """Draws' positive parts have a positive mean; the point decides instead."""
    points = 0.01 * np.random.default_rng(0).standard_normal(400)
    found = [
        recovered(estimate(0.0, 0.01, 2 * k), estimate(point, 0.01, 2 * k + 1))
        for k, point in enumerate(points)
    ]
    taken = -np.mean([back.point for back in found])
    # Of the estimate alone, not of its draws too.
    assert taken == pytest.approx(0.01 / np.sqrt(2 * np.pi), rel=0.2)
    assert np.mean([back.draws.mean() for back in found]) == pytest.approx(-taken, abs=2e-4)


def test_a_control_measured_below_0_that_may_lie_above_must_not_decide_the_word():
    """h is half its error above 0: a third of the samples measure it below, and R = g there, which is too high."""
    random, words = np.random.default_rng(0), []
    L, lora = estimate(0.06, 0.003, 1), estimate(0.042, 0.003, 2)
    z = random.standard_normal((2, 4000))
    both = [0.0305 + 0.01, 0.01]  # g and h: R is 0.73 of LoRA's
    for gain, control in random.normal(both, [0.003, 0.02], (300, 2)):
        g, h = (
            Estimate(point, point + error * draws)
            for point, error, draws in zip((gain, control), (0.003, 0.02), z, strict=True)
        )
        back, other = recovered(g, h), other_reading(g, h, 0.975)
        words.append(decide(L, back, lora, LAMBDA, others=(other, None)).word)
    assert words.count("displaced") + words.count("forgotten") <= 0.05 * 300
    assert decide(L, estimate(0.05), lora, LAMBDA, others=(estimate(0.049), None)).word == "displaced"
    open_sign = decide(L, estimate(0.05), lora, LAMBDA, others=(estimate(0.02), None))
    assert open_sign.word == "undecided" and open_sign.support["displaced"] == 1
    assert open_sign.reason.endswith(
        "but displaced 0 % if a dense gain that was measured below 0 may lie above"
    )
    for control in (0.002, -0.02):  # counted whatever its sign; surely below 0
        assert other_reading(estimate(0.01), estimate(control, 0.005), 0.975) is None


@pytest.mark.parametrize("common", [0.0, -0.8])
def test_two_open_recoveries_are_no_displaced(common):
    """Both lie just below delta of the loss, with noise of their own: few draws have both there, and either may."""
    random, words = np.random.default_rng(0), []
    noise = np.linalg.cholesky([[1, common], [common, 1]])
    loss, z = estimate(0.6, 1e-6, 1), noise @ random.standard_normal((2, 4000))
    for points in 0.1499 + 0.003 * random.standard_normal((400, 2)) @ noise.T:
        prompt, lora = (Estimate(point, point + 0.003 * mine) for point, mine in zip(points, z, strict=True))
        words.append(decide(loss, prompt, lora, LAMBDA).word)
    # by the support alone 10 % and 24 %
    assert words.count("displaced") <= 0.05 * 400 + 2 * np.sqrt(0.05 * 0.95 * 400)
    prompt, lora = (
        Estimate(point, point + 0.003 * mine) for point, mine in zip((0.154, 0.154), z, strict=True)
    )
    near = decide(loss, prompt, lora, LAMBDA)
    assert near.support["displaced"] > 0.975 and near.word == "undecided"
    assert "one and the same method" in near.reason and near.settle.startswith("about 3 times")
    assert decide(loss, prompt, estimate(0.16), LAMBDA).word == "displaced"


def test_support_decides_and_the_number_of_verdicts_raises_what_is_needed():
    loss, lora = estimate(0.06, 1e-6, 1), estimate(0.04, 1e-6, 3)
    prompt = estimate(0.03 + 2.2 * 0.001, 0.001, 2)  # 98.6 % of the draws above f R_lora
    assert decide(loss, prompt, lora, LAMBDA).word == "displaced"
    crowded = decide(loss, prompt, lora, LAMBDA, verdicts=4)
    assert crowded.word == "undecided" and crowded.needed == 1 - 0.025 / 4
    assert set(crowded.support) == set(LABELS) and 0.975 < crowded.support["displaced"] < crowded.needed


def test_an_undecided_case_says_how_much_data_would_settle_it():
    loss, lora = estimate(0.06, 1e-6, 1), estimate(0.04, 1e-6, 3)
    near = decide(loss, estimate(0.034, 0.003, 2), lora, LAMBDA)
    assert near.word == "undecided" and near.settle.startswith("about 3 times as much data")
    assert decide(loss, estimate(0.034, 0.003 / np.sqrt(3), 2), lora, LAMBDA).word == "displaced"
    assert "near a boundary" in decide(loss, estimate(0.0301, 0.003, 2), lora, LAMBDA).settle


def test_data_that_would_settle_a_case_settles_it_by_every_reading():
    """By the point of h three times the data are enough; if h counts draw by draw, R lies nearer to the boundary."""
    loss, lora = estimate(0.06, 1e-6, 1), estimate(0.04, 1e-6, 3)
    prompt, other = estimate(0.034, 0.0035, 2), estimate(0.032, 0.0035, 2)
    alone = decide(loss, prompt, lora, LAMBDA).settle
    both = decide(loss, prompt, lora, LAMBDA, others=(other, None)).settle
    assert alone.startswith("about 3 times") and both.startswith("about 12 times")


def test_few_changes_need_their_bound_for_no_loss_now_and_with_more_data():
    """The draws alone would settle it; the bound of lost items falls with the data, here below lambda at 3 times."""
    nothing, back = estimate(0.0, 1e-4, 1), estimate(0.0, 1e-4, 2)
    assert decide(nothing, back, back, LAMBDA, bound=lambda times: 0.5 * LAMBDA / times).word == "no_loss"
    for prompt in (back, None):
        found = decide(nothing, prompt, prompt, LAMBDA, bound=lambda times: 2.5 * LAMBDA / times)
        assert found.word == "undecided" and "up to 2.5 points may be lost" in found.reason
    assert found.settle is None
    near = decide(estimate(0.008, 1.2e-3, 1), back, back, LAMBDA, bound=lambda times: 2.5 * LAMBDA / times)
    alone = decide(estimate(0.008, 1.2e-3, 1), back, back, LAMBDA)
    assert alone.settle.startswith("about 1.5 times") and near.settle.startswith("about 3 times")


def test_without_the_pair_only_no_loss_can_be_said():
    assert decide(estimate(0.0), None, None, LAMBDA).word == "no_loss"
    assert decide(estimate(0.05), estimate(0.04), None, LAMBDA).word == "unavailable"


def test_a_missing_interval_is_undecided_not_a_crash():
    loss = Estimate(0.2, np.full(100, np.nan))
    assert decide(loss, loss, loss, LAMBDA).word == "undecided"


def test_support_in_words_names_every_label_of_half_a_percent():
    support = {"displaced": 0.9957, "both": 0.0042, "forgotten": 0.0001, "no_loss": 0.0, "unrecovered": 0.0}
    assert in_words(support) == "displaced 99.5 %"
    assert in_words({"no_loss": 1.0}) == "no loss 100 %"
    assert in_words({"both": 0.72, "displaced": 0.28}) == "both 72 %, displaced 28 %"


def test_the_words_are_those_of_the_schema():
    verdict = decide(estimate(0.2), None, None, LAMBDA).to_json()
    group = {"model": "m", "compressor": "c", "corpus": "t", "missing": []}
    group |= {key: {} for key in ("seeds", "family", "tasks")}
    metric = {"items": {}, "absent_tasks": [], "methods": {}, "verdict": verdict}
    names = ("accuracy", "accuracy_all_tasks", "choice_loglik", "bits_per_byte")
    group["metrics"] = dict.fromkeys(names, metric)
    document = {
        "schema": SCHEMA,
        "manifest": {},
        "grid": "g",
        "pair": {"prompt": "p", "lora": "l"},
        "metric": "accuracy",
        "settings": {"resamples": 1, "seed": 0, "level": 0.95, "command": "snakemake"},
        "cells": {"planned": 1, "missing": []},
        "informative": {},
        "groups": [group],
        **{
            key: []
            for key in (
                "plan",
                "dense_groups",
                "lost_items",
                "parts",
                "rates",
                "scores",
                "choices",
                "changes",
            )
        },
    }
    for word in MEANING:
        verdict["word"] = word
        check(document, "verdict", "verdict.json")

"""The simulation of verdicts: planted truths are what they claim, clear ones are found, harm is not paid for."""

import numpy as np
import pytest

from benchmarks.verdict import DESIGNS, TRUTHS, Truth, plant, simulate, word
from workflow_scripts.judge.verdict import LABELS


def test_every_label_is_planted_and_answers_have_the_planted_means():
    assert {word(truth.means) for truth in TRUTHS.values()} == set(LABELS)
    truth = Truth(6, 1, 4, -2, 1)
    sample, means = plant(truth, (4000, 2, False), np.random.default_rng(0))
    assert np.allclose(means, truth.means)
    for key, arm in sample.arms.items():
        column = (key, arm.seeds)
        found = np.mean([values.mean() for values in sample.by_replicate(column).values()])
        place = (int(key[0] != "dense"), ("none", "prompt", "lora").index(key[1]))
        assert found == pytest.approx(truth.means[place], abs=0.01)


def test_replicates_of_a_copy_err_alike_and_the_dense_model_is_one():
    sample, _ = plant(TRUTHS["nothing restores"], (2000, 2, False), np.random.default_rng(1))
    one, other = (
        np.concatenate(list(sample.by_replicate((("c", m), (0, 1))).values())) for m in ("none", "prompt")
    )
    same = np.corrcoef(one[:, 0], other[:, 0])[0, 1]
    across = np.corrcoef(one[:, 0], other[:, 1])[0, 1]
    assert same > across + 0.03 and len(sample.arms["dense", "none"].cells) == 1


@pytest.mark.parametrize("name", ["prompt: all guess", "only LoRA restores 70 %", "both restore 70 %"])
def test_a_clear_truth_is_found_with_five_replicates_and_nothing_else_is_said(name):
    shares, covered = simulate(TRUTHS[name], (1000, 5, False), trials=12, resamples=400, seed=3)
    assert shares[0] == 0 and shares[1] >= 0.75
    assert set(covered) == {"L", "g", "h", "R"}
    assert (1000, 5, False) in DESIGNS

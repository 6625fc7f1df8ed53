"""Lost items that come back, cross-fitted over two copies.

An item that one noisy copy lost comes back in the next copy by chance. So the copy that says which items are lost is
never the one that says which came back: for copies k != k',
  rho(m) = mean over pairs of P(C_k,m right | D right, C_k' wrong) - P(C_k right | D right, C_k' wrong).
Both conditions are the same, so rho is the mean of C_k,m - C_k over the items that D has and C_k' has not, pooled over
pairs: a copy that lost more counts more.
"""

from itertools import permutations

import numpy as np

from workflow_scripts.judge.arms import DENSE, Arm, group_arms, replicates_of, sample
from workflow_scripts.judge.metrics import ACCURACY
from workflow_scripts.judge.results import Results
from workflow_scripts.judge.statistics import Estimate, finite, ratio, resampled_averages
from workflow_scripts.plan.layout import Group


def recovered_items(results: Results, informative: dict[str, dict], resamples: int, seed: int) -> list[dict]:
    """verdict.json's `lost_items`: rho and its two terms by group and method, over the informative tasks.

    A method needs two copies of the compressed model with and without it; a compressor of one copy has none. Intervals
    cover items; there is none if the number of lost items is not told from 0. by_chance: the second term, the share
    that comes back in another copy without a method.
    """
    rows = []
    for group in results.groups():
        tasks = [task for task, row in informative.get(group.model, {}).items() if row["informative"]]
        arms = {arm.key: arm for arm in group_arms(results, group)}
        base, dense = arms.get((group.compressor, "none")), arms.get(DENSE)
        if base is None or dense is None or base.shared:
            continue
        for method in results.methods(group):
            arm = arms.get((group.compressor, method))
            seeds = replicates_of(arm, base)
            if arm and len(seeds) > 1:
                drawn = _shares(results, [dense, base, arm], seeds, tasks)
                rows += _row(group, method, seeds, drawn, resamples, seed)
    return rows


def _row(
    group: Group, method: str, seeds: tuple[int, ...], sums: dict[str, np.ndarray], resamples: int, seed: int
) -> list[dict]:
    """sums: task -> (items, 3): over pairs of copies, how often an item is lost, back with the method, back without."""
    if not sums or not sum(values[:, 0].sum() for values in sums.values()):
        return []
    total = sum(len(values) for values in sums.values())
    # Pooled items.
    weighted = {task: values * len(values) * len(sums) / total for task, values in sums.items()}
    (draws,) = resampled_averages([weighted], resamples, seed)
    points = np.mean([values.mean(axis=0) for values in weighted.values()], axis=0)
    lost, back, chance = (Estimate(float(points[i]), draws[:, i]) for i in range(3))
    pairs = len(seeds) * (len(seeds) - 1)
    return [
        {
            **group._asdict(),
            "method": method,
            "seeds": list(seeds),
            "lost": float(sum(values[:, 0].sum() for values in sums.values())) / pairs,
            "rho": _of_lost(back - chance, lost),
            "back": _of_lost(back, lost),
            "by_chance": _of_lost(chance, lost),
        }
    ]


def _of_lost(part: Estimate, lost: Estimate) -> dict:
    """part / lost; without an interval if so few items are lost that a new sample of items may have none."""
    if lost.interval()[0] > 0:
        return ratio(part, lost)
    return {"value": finite(part.point / lost.point), "low": None, "high": None}


def _shares(
    results: Results, arms: list[Arm], seeds: tuple[int, ...], tasks: list[str]
) -> dict[str, np.ndarray]:
    """Task -> (items, 3), summed over ordered pairs of copies; arms: dense, compressed, compressed with the method."""
    paired = sample(results, arms, ACCURACY, tasks)
    dense, base, arm = (paired.by_replicate((a.key, seeds)) for a in arms)
    sums = {}
    for task in paired.values:
        columns = np.zeros((len(dense[task]), 3))
        for k, other in permutations(range(len(seeds)), 2):
            lost = dense[task][:, k] * (1 - base[task][:, other])
            columns += np.stack([lost, lost * arm[task][:, k], lost * base[task][:, k]], axis=1)
        sums[task] = columns
    return sums

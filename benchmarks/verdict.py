"""How often the verdict is wrong: truths are planted in made-up answers, and the rule of `judge` is applied to them.

    python -m benchmarks.verdict [--trials 400] [--resamples 2000] [--truths NAME ...] [--coverage]

Six arms (dense and compressed; none, prompt, LoRA) answer items of nine tasks. Whether an item is right depends on its
difficulty, on the copy of the model (all arms of one copy err alike) and on the arm; replicates are new copies. With
shifts each copy and each training also moves all items of an arm (standard deviation 1 and 0.5 points). With one
replicate a verdict speaks of that copy, so its truth is the copy's own; with more it is the mean over copies.
Printed per truth and design: wrong / right / undecided, percent of trials. `--coverage` prints how often 95 % intervals
of L, g, h and R hold the truth instead.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from workflow_scripts.judge.arms import DENSE, Arm, Estimates, PairedItems
from workflow_scripts.judge.judged import Judged
from workflow_scripts.judge.metrics import ACCURACY, METRICS
from workflow_scripts.judge.verdict import LABELS, labels
from workflow_scripts.plan.layout import Cell, Group

GROUP = Group("m", "c", "t")
PAIR = {"prompt": "prompt", "lora": "lora"}
METHODS = ("none", "prompt", "lora")
OFFSETS = (-0.15, -0.12, -0.08, -0.04, 0.0, 0.04, 0.08, 0.12, 0.15)
TASKS = {f"task{number}": offset for number, offset in enumerate(OFFSETS)}  # accuracies about their mean
# Of the variance of an answer, as in reports/bench; the rest is the arm's own.
SHARED = {"item": 0.82, "copy": 0.1}
COPY_SHIFT, TRAINING_SHIFT = 0.01, 0.005
Design = tuple[int, int, bool]  # items a task, replicates, shifts
BATCH = 25  # trials that share their resamples


@dataclass(frozen=True)
class Truth:
    """Accuracies in points: the loss; what prompt and LoRA add to the compressed model, and to the dense one."""

    loss: float
    prompt: float = 0.0
    lora: float = 0.0
    dense_prompt: float = 0.0
    dense_lora: float = 0.0
    clear: bool = False  # far from every boundary
    kin: float = 0.0  # share of the noise that the compressed model has in common with the dense one

    @property
    def means(self) -> np.ndarray:
        """(2, 3): dense and compressed; none, prompt, LoRA; fractions."""
        dense = 55 + np.array([0, self.dense_prompt, self.dense_lora])
        return np.stack([dense, 55 - self.loss + np.array([0, self.prompt, self.lora])]) / 100


TRUTHS = {
    "noise only": Truth(0, clear=True, kin=0.9),
    "no loss, other answers": Truth(0),
    "loss at lambda": Truth(1),
    "nothing restores": Truth(6, clear=True),
    "same gain of both models": Truth(6, 3, 3, 3, 3, clear=True),
    "prompt harms dense by 2": Truth(6, 0, 0, -2, clear=True),
    "prompt harms dense by 4": Truth(6, 0, 0, -4, clear=True),
    "both harm dense by 2": Truth(6, 0, 0, -2, -2, clear=True),
    "both harm dense by 4": Truth(6, 0, 0, -4, -4, clear=True),
    "prompt: half guess": Truth(6, -12, 0, -15, clear=True),
    "prompt: all guess": Truth(6, -24, 0, -30, clear=True),
    "both restore 70 %": Truth(6, 4.2, 4.2, clear=True),
    "both restore 70 %, adaptation 2": Truth(6, 6.2, 6.2, 2, 2, clear=True),
    "only LoRA restores 70 %": Truth(6, 0, 4.2, clear=True),
    "only LoRA, prompt harms dense by 4": Truth(6, 0, 4.2, -4, clear=True),
    "only LoRA, prompt harms both": Truth(6, -3, 4.2, -4, clear=True),
    "LoRA 45 %, prompt 20 %, harm 2": Truth(6, 1.2, 2.7, -2),
    "LoRA 80 %, prompt 40 %": Truth(6, 2.4, 4.8, clear=True),
    "prompt 70 %, LoRA 0": Truth(6, 4.2, 0, clear=True),
    "just below delta": Truth(6, 1.49, 1.49),
    "just above delta": Truth(6, 1.51, 1.51),
    "just above delta, LoRA alone": Truth(6, 0, 1.51),
    "just below delta, adaptation 2": Truth(6, 3.49, 3.49, 2, 2),
    "just below f": Truth(6, 3.14, 4.2),
    "just below f, adaptation 0.5": Truth(6, 3.64, 4.2, 0.5),
    "just above f": Truth(6, 3.16, 4.2),
    "just below f0": Truth(6, 1.04, 4.2),
    "just above f0": Truth(6, 1.06, 4.2),
    "corner of delta and f0": Truth(6, 0.37, 1.49),
    "corner of delta and f": Truth(6, 1.12, 1.51),
    "just below lambda, both restore": Truth(0.99, 0.7, 0.7),
    "just above lambda, both restore": Truth(1.01, 0.7, 0.7),
}
DESIGNS: list[Design] = [
    (200, 1, False),
    (1000, 1, False),
    (200, 5, False),
    (1000, 5, False),
    (1000, 1, True),
    (200, 5, True),
    (1000, 5, True),
]


def word(means: np.ndarray) -> str:
    """The label of (2, 3) accuracies."""
    dense, compressed = means
    loss, gain, control = dense[0] - compressed[0], compressed[1:] - compressed[0], dense[1:] - dense[0]
    back = gain - np.maximum(0, control)
    # Ties: as defined.
    number = labels(np.array([loss + 1e-12]), back[:1], back[1:], METRICS[ACCURACY].negligible)
    return LABELS[int(number[0])]


def plant(truth: Truth, design: Design, random: np.random.Generator) -> tuple[PairedItems, np.ndarray]:
    """Answers of all arms, and the mean accuracies (2, 3) of the copies that gave them."""
    items, replicates, shifts = design
    moved = np.repeat(truth.means[..., None], replicates, axis=2)  # (2, 3, replicates)
    if shifts:
        moved[1] += COPY_SHIFT * random.standard_normal(replicates)
        moved[:, 1:] += TRAINING_SHIFT * random.standard_normal((2, 2, replicates))
    values = {}
    for task, offset in TASKS.items():
        difficulty = random.standard_normal((items, 1, 1, 1))
        copies = random.standard_normal((items, 2, 1, replicates))
        copies[:, 0] = copies[:, 0, :, :1]  # one dense model
        own = random.standard_normal((items, 2, 3, replicates))
        own[:, 0, 0] = own[:, 0, 0, :1]
        for noise in (copies, own):
            noise[:, 1] = np.sqrt(truth.kin) * noise[:, 0] + np.sqrt(1 - truth.kin) * noise[:, 1]
        latent = (
            np.sqrt(SHARED["item"]) * difficulty
            + np.sqrt(SHARED["copy"]) * copies
            + np.sqrt(1 - sum(SHARED.values())) * own
        )
        right = latent < norm.ppf(np.clip(moved + offset, 1e-9, 1 - 1e-9))
        dense, compressed = right[:, 0].astype(float), right[:, 1].astype(float)
        columns = [dense[:, 0, :1], dense[:, 1], dense[:, 2], *(compressed[:, m] for m in range(3))]
        values[task] = np.hstack(columns)
    return PairedItems(METRICS[ACCURACY], _arms(replicates), values), moved.mean(axis=2)


def _arms(replicates: int) -> dict[tuple[str, str], Arm]:
    found = {}
    for compressor in ("dense", GROUP.compressor):
        for method in METHODS:
            key = (compressor, method)
            seeds = range(1 if key == DENSE else replicates)
            cells = tuple(Cell("g", GROUP.model, compressor, GROUP.corpus, method, seed) for seed in seeds)
            found[key] = Arm(compressor, method, cells, shared=key == DENSE)
    return found


def simulate(
    truth: Truth, design: Design, trials: int, resamples: int, seed: int
) -> tuple[np.ndarray, dict[str, float]]:
    """(wrong, right, undecided) shares of trials; contrast -> how often its 95 % interval holds the truth."""
    random = np.random.default_rng(seed)
    counts, covered = np.zeros(3), dict.fromkeys(("L", "g", "h", "R"), 0)
    for start in range(0, trials, BATCH):
        planted = [plant(truth, design, random) for _ in range(min(BATCH, trials - start))]
        judged = [Judged(GROUP, sample, PAIR) for sample, _ in planted]
        estimates = Estimates([(one.sample, one.columns) for one in judged], resamples, seed + start)
        for one, mine, (_, own) in zip(judged, estimates, planted, strict=True):
            one.estimates = mine
            means = own if design[1] == 1 else truth.means
            said = one.verdict(1)["word"]
            counts[2 if said == "undecided" else int(said == word(means))] += 1
            for name, low, high, true in _intervals(one, means):
                covered[name] += low <= true <= high
    return counts / trials, {name: count / trials for name, count in covered.items()}


def _intervals(one: Judged, means: np.ndarray) -> list[tuple[str, float, float, float]]:
    """(contrast, low, high, truth) of the loss and of the prompt's numbers."""
    dense, compressed = means
    found, row = one.to_json(), one.to_json()["methods"]["prompt"]
    gain, control = compressed[1] - compressed[0], dense[1] - dense[0]
    true = {"L": dense[0] - compressed[0], "g": gain, "h": control, "R": gain - max(0.0, control)}
    shown = {"L": found["loss"], "g": row["gain"], "h": row["dense_gain"], "R": row["recovered"]}
    return [(name, shown[name]["low"], shown[name]["high"], true[name]) for name in true]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--truths", nargs="*", default=list(TRUTHS), choices=list(TRUTHS), metavar="NAME")
    parser.add_argument("--coverage", action="store_true", help="print coverage of intervals instead")
    options = parser.parse_args()
    heads = [f"{items} x {replicates}{' shifts' if shifts else ''}" for items, replicates, shifts in DESIGNS]
    print(f"| truth | should say | {' | '.join(heads)} |")
    print("|---|---|" + "--:|" * len(heads))
    for name in options.truths:
        truth, cells = TRUTHS[name], []
        for number, design in enumerate(DESIGNS):
            shares, covered = simulate(truth, design, options.trials, options.resamples, 1000 * number)
            cells.append(
                " ".join(f"{key} {100 * share:.0f}" for key, share in covered.items())
                if options.coverage
                else " / ".join(f"{100 * share:.0f}" for share in shares)
            )
        print(
            f"| {name}{'*' if truth.clear else ''} | {word(truth.means)} | {' | '.join(cells)} |", flush=True
        )


if __name__ == "__main__":
    main()

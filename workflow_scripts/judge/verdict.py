"""Forgotten or displaced: the rule (docs/explanation/statistics.md) for one (model, compressor, corpus).

L = D0 - C0 is the loss, g = Cm - C0 the gain of method m on the compressed model, h = Dm - D0 that on the dense one.
  R(m) = g - max(0, h)   what m brings back: adaptation that the dense model gets too does not count, harm earns nothing
Five labels partition the space of (L, R_prompt, R_lora), so no order of branches decides:
  no_loss      L < lambda
  unrecovered  else, if both R < delta L
  displaced    else, if R_prompt >= f R_lora
  forgotten    else, if R_prompt < f0 R_lora
  both         else
The support of a label is its share of the paired draws. The verdict is the label with a support of 1 - 0.025 / k or
more, for the k verdicts of a grid on its primary metric; otherwise it is `undecided`. If an h is measured below 0 and
may lie above, the label needs that support with h counted draw by draw too. `displaced` also needs that support for
a recovery of delta L by one and the same method, with half the error, since either may do.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from workflow_scripts.judge.statistics import Estimate, finite

DELTA = 0.25  # of the loss: less is no recovery
F_DISPLACED = 0.75  # of LoRA's recovery: a prompt that brings back as much redirects all of it
F_FORGOTTEN = 0.25  # of LoRA's recovery: a prompt that brings back less redirects next to nothing
ERROR = 0.025  # of a wrong word, over the verdicts of a grid
LABELS = ("no_loss", "displaced", "forgotten", "both", "unrecovered")
MEANING = {
    "no_loss": "compression cost less than the smallest loss that counts, so there is nothing to recover",
    "displaced": "the knowledge is displaced: redirecting the input brings back at least three quarters of what added "
    "parameters do",
    "forgotten": "the knowledge is forgotten: added parameters bring it back, redirecting the input less than a "
    "quarter of that",
    "both": "both: redirecting the input brings back between a quarter and three quarters of what added parameters do",
    "unrecovered": "neither method brings back a quarter of the loss",
    "undecided": "undecided: what was measured supports more than one reading",
    "unavailable": "unavailable: what was evaluated can't give a verdict",
}
INFERENCE_LIMITS = (
    "LoRA can redirect the input too, so its success alone does not show that facts were learned again; and neither "
    "method need have met the facts of a benchmark in its training text."
)
ONE_COPY = (
    "All replicates stand on one compressed copy and differ in training alone: the error rate covers items and "
    "training, not another copy by the same compressor."
)
MORE = (1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # times the data, tried for an undecided verdict


@dataclass(frozen=True)
class Verdict:
    """The word, why, and the support of each label (None if the rule could not be applied). shared: all replicates
    stand on one compressed copy."""

    word: str
    reason: str
    support: dict[str, float] | None = None
    needed: float | None = None
    replicates: int = 1
    shared: bool = False
    settle: str | None = None
    limits: str = field(default=INFERENCE_LIMITS)

    def to_json(self) -> dict:
        of_one_copy = self.word in LABELS and (self.replicates == 1 or self.shared)
        in_training = self.shared and self.replicates > 1
        return {
            "word": self.word,
            "meaning": MEANING[self.word],
            "reason": self.reason,
            "support": self.support,
            "needed": finite(self.needed) if self.needed is not None else None,
            "replicates": self.replicates,
            "of_one_copy": of_one_copy,
            "settle": self.settle,
            "limits": f"{self.limits} {ONE_COPY}" if in_training else self.limits,
        }


def recovered(gain: Estimate, dense_gain: Estimate) -> Estimate:
    """R = g - max(0, h).

    The point of h says which side counts, not each draw: the mean of draws' positive parts lies above 0 if h is 0, and
    would take that from every recovery. The variance of h counts as soon as h does.
    """
    return gain - dense_gain if dense_gain.point > 0 else gain


def needed_support(verdicts: int) -> float:
    """1 - 0.025 / k."""
    return 1 - ERROR / max(1, verdicts)


def other_reading(gain: Estimate, dense_gain: Estimate, needed: float) -> Estimate | None:
    """R draw by draw if h is measured below 0 and may lie above; None if it can't, or is measured above.

    R by the point alone is g there: too high by h, as often as a small h > 0 is measured below 0. If h is measured
    above 0, g - h is never too high, and its variance holds that of h.
    """
    if dense_gain.point > 0 or float((dense_gain.draws > 0).mean()) <= 1 - needed:
        return None
    return Estimate(gain.point, gain.draws - np.maximum(0, dense_gain.draws))


def labels(loss: np.ndarray, prompt: np.ndarray, lora: np.ndarray, negligible: float) -> np.ndarray:
    """Number of the label in LABELS of each draw, arrays of one shape; negligible: lambda, in the metric's unit."""
    shares = np.where(prompt >= F_DISPLACED * lora, 1, np.where(prompt < F_FORGOTTEN * lora, 2, 3))
    found = np.where(np.maximum(prompt, lora) < DELTA * loss, 4, shares)
    return np.where(loss < negligible, 0, found)


def decide(
    loss: Estimate,
    prompt: Estimate | None,
    lora: Estimate | None,
    negligible: float,
    verdicts: int = 1,
    others: tuple[Estimate | None, Estimate | None] = (None, None),
    bound: Callable[[float], float] | None = None,
) -> Verdict:
    """The verdict, its support and the data that would settle it.

    loss: L; prompt, lora: R of the pair, None if it can't be known, which leaves no_loss as the only possible word.
    negligible: lambda. verdicts: k, of the grid on the metric. others: `other_reading` of prompt and lora. bound: of
    the lost items with so many times as much data, if few changes have a tail of their own (`statistics.lost_bound`);
    no_loss needs it below lambda.
    """
    needed = needed_support(verdicts)
    known = [estimate for estimate in (loss, prompt, lora) if estimate is not None]
    if not all(estimate.known for estimate in known):
        return Verdict("undecided", "a task with a single shared item has no interval; evaluate more items")
    if prompt is None or lora is None:
        share = float((loss.draws < negligible).mean())
        reason = f"no loss {percent(share)} %"
        if share < needed:
            return Verdict("unavailable", reason, None, needed)
        if bound and bound(1) >= negligible:
            return Verdict("undecided", f"{reason}; {_few_changes(bound)}", {"no_loss": share}, needed)
        return Verdict("no_loss", reason, {"no_loss": share}, needed)
    prompts, loras = ([r for r in pair if r is not None] for pair in zip((prompt, lora), others, strict=True))
    readings = list(product(prompts, loras))
    support = _support(loss, readings[0], negligible)
    first = max(LABELS, key=support.__getitem__)
    if support[first] < needed:
        settle = _settled(loss, readings, negligible, needed, bound)
        return Verdict("undecided", in_words(support), support, needed, settle=settle)
    least = min(_support(loss, reading, negligible)[first] for reading in readings)
    if least < needed:
        doubt = f"{first.replace('_', ' ')} {percent(least)} % if a dense gain that was measured below 0 may lie above"
        reason = f"{in_words(support)}; but {doubt}"
        settle = "more data would tell on which side of 0 the dense gain lies"
        return Verdict("undecided", reason, support, needed, settle=settle)
    alone = min(_by_one_method(loss, reading) for reading in readings)
    if first == "displaced" and alone < _of_either(needed):
        doubt = f"one and the same method brings back a quarter of the loss in {percent(alone)} % of the draws alone"
        settle = _settled(loss, readings, negligible, needed, bound)
        return Verdict("undecided", f"{in_words(support)}; but {doubt}", support, needed, settle=settle)
    if first == "no_loss" and bound and bound(1) >= negligible:
        reason = f"{in_words(support)}; {_few_changes(bound)}"
        settle = _settled(loss, readings, negligible, needed, bound)
        return Verdict("undecided", reason, support, needed, settle=settle)
    return Verdict(first, in_words(support), support, needed)


def _few_changes(bound: Callable[[float], float]) -> str:
    return f"but so few answers changed that up to {100 * bound(1):.1f} points may be lost"


def in_words(support: dict[str, float]) -> str:
    """ "displaced 72 %, both 27 %, unrecovered 1 %": the labels with a support of half a percent or more."""
    order = sorted(support, key=lambda label: -support[label])
    return ", ".join(
        f"{label.replace('_', ' ')} {percent(support[label])} %" for label in order if support[label] >= 0.005
    )


def percent(share: float, digits: int = 0) -> str:
    """Support in percent, rounded down above 99, so that 100 stands for every draw."""
    return (
        f"{100 * share:.{digits}f}" if share <= 0.99 or share == 1 else f"{np.floor(1000 * share) / 10:.1f}"
    )


def _support(
    loss: Estimate, reading: tuple[Estimate, Estimate], negligible: float, times: float = 1.0
) -> dict[str, float]:
    """Share of each label if there were `times` as much data and the points stayed. reading: R of prompt and LoRA."""
    L, P, R = _with(loss, reading, times)
    counts = np.bincount(labels(L, P, R, negligible), minlength=len(LABELS))
    return {label: float(count) / len(L) for label, count in zip(LABELS, counts, strict=True)}


def _by_one_method(loss: Estimate, reading: tuple[Estimate, Estimate], times: float = 1.0) -> float:
    """Share of draws in which a method brings back delta L, of the method with the larger share.

    `unrecovered` is a wedge of two such conditions. At its tip few draws lie in it although each condition is open,
    if the noise of R_prompt and that of R_lora have little in common. Each of the other labels is an intersection of
    half-spaces, so its support bounds the error of each.
    """
    L, P, R = _with(loss, reading, times)
    return float(max((back >= DELTA * L).mean() for back in (P, R)))


def _of_either(needed: float) -> float:
    """The support that each of two conditions needs, if either may stand for both."""
    return (1 + needed) / 2


def _with(loss: Estimate, reading: tuple[Estimate, Estimate], times: float) -> list[np.ndarray]:
    """Draws of L and both R with `times` as much data, if the points stayed."""
    return [e.point + (e.draws - e.point) / np.sqrt(times) for e in (loss, *reading)]


def _settled(
    loss: Estimate,
    readings: list[tuple[Estimate, Estimate]],
    negligible: float,
    needed: float,
    bound: Callable[[float], float] | None,
) -> str:
    """The amount of data that would settle the verdict by every reading, if the point estimates stayed."""
    for times in MORE:
        supports = [_support(loss, reading, negligible, times) for reading in readings]
        best = max(LABELS, key=supports[0].__getitem__)
        if best == "no_loss" and bound and bound(times) >= negligible:
            continue
        alone = min(_by_one_method(loss, reading, times) for reading in readings)
        if best == "displaced" and alone < _of_either(needed):
            continue
        if min(support[best] for support in supports) >= needed:
            word = best.replace("_", " ")
            return f"about {times:g} times as much data would settle it as {word}, if the estimates stayed"
    return (
        f"the estimates lie near a boundary of the labels: {MORE[-1]} times as much data would not settle it"
    )

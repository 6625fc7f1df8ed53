"""Forgotten or displaced: the rule (docs/explanation/statistics.md) for one (model, compressor, corpus)."""

from dataclasses import dataclass, field

from workflow_scripts.judge.statistics import Estimate

DELTA = 0.25  # of the loss: the margin below which two recoveries count as equal
MEANING = {
    "no_loss": "compression cost nothing that this sample can see, so there is nothing to recover",
    "displaced": "the knowledge is displaced: redirecting the input brings back what added parameters do, to within a "
    "quarter of the loss",
    "forgotten": "the knowledge is forgotten: only added parameters bring it back",
    "both": "both: the prompt brings some of it back, added parameters more",
    "unrecovered": "neither method brings back a quarter of the loss",
    "undecided": "undecided: what was measured allows more than one reading",
    "unavailable": "unavailable: cells that the rule needs are missing",
}
INFERENCE_LIMITS = (
    "LoRA can redirect the input too, so its success alone does not show that facts were learned again; and neither "
    "method need have met the facts of a benchmark in its training text."
)


@dataclass(frozen=True)
class Condition:
    """`text` holds if the whole interval of `contrast` lies above 0."""

    text: str
    contrast: Estimate

    @property
    def holds(self) -> bool:
        return self.contrast.interval()[0] > 0  # False for nan

    def to_json(self) -> dict:
        return {"condition": self.text, **self.contrast.to_json(), "holds": self.holds}


@dataclass(frozen=True)
class Verdict:
    """The word, its reason, and every condition that was tried."""

    word: str
    reason: str
    conditions: list[Condition] = field(default_factory=list)
    more_data: str | None = None

    def to_json(self) -> dict:
        return {
            "word": self.word,
            "meaning": MEANING[self.word],
            "reason": self.reason,
            "conditions": [condition.to_json() for condition in self.conditions],
            "more_data": self.more_data,
            "limits": INFERENCE_LIMITS,
        }


def decide(loss: Estimate, prompt: Estimate | None, lora: Estimate | None, missing: str = "") -> Verdict:
    """The first branch of the rule that matches.

    loss: L = dense - compressed. prompt, lora: G(m) = (m - none) on the compressed model minus (m - none) on the
    dense model, None if a cell is missing (`missing` names it). "x > c" means that the whole 95 % interval of
    x - c lies above 0; since delta = 0.25 L is itself an estimate, x - 0.25 L is resampled as one.
    """
    if not loss.known:
        return Verdict("undecided", "a task with a single shared item has no interval; evaluate more items")
    low, high = loss.interval()
    if low <= 0:
        text = (
            "the loss's interval contains 0"
            if high >= 0
            else "the compressed model is better than the dense one"
        )
        return Verdict("no_loss", text, [Condition("L > 0", loss)])
    if prompt is None or lora is None:
        return Verdict("undecided", missing, [Condition("L > 0", loss)])
    for word, conditions in _branches(loss, prompt, lora):
        if all(condition.holds for condition in conditions):
            return Verdict(word, "; ".join(c.text for c in conditions), conditions)
    looked_at = {c.text: c for _, conditions in _branches(loss, prompt, lora) for c in conditions}
    return Verdict(
        "undecided",
        "no branch of the rule has all its intervals on one side",
        list(looked_at.values()),
        _more_data(loss, prompt, lora),
    )


def _branches(loss: Estimate, prompt: Estimate, lora: Estimate) -> list[tuple[str, list[Condition]]]:
    """The branches that need a loss, in the order in which they are tried."""
    delta = loss * DELTA
    prompt_above = Condition("G(prompt) > 0", prompt)
    lora_leads = Condition("G(lora) - G(prompt) > 0", lora - prompt)
    return [
        ("displaced", [prompt_above, Condition("G(prompt) - G(lora) > -delta", prompt - lora + delta)]),
        (
            "forgotten",
            [
                Condition("G(lora) > 0", lora),
                Condition("G(lora) - G(prompt) > delta", lora - prompt - delta),
                Condition("G(prompt) < delta", delta - prompt),
            ],
        ),
        ("both", [prompt_above, lora_leads]),
        (
            "unrecovered",
            [Condition("G(prompt) < delta", delta - prompt), Condition("G(lora) < delta", delta - lora)],
        ),
    ]


def _more_data(loss: Estimate, prompt: Estimate, lora: Estimate) -> str | None:
    """How many times the items would settle it, if the point estimates stayed where they are.

    An interval's half-width shrinks with the square root of the items: factor = max (half-width / distance)^2.
    """
    for word, conditions in _branches(loss, prompt, lora):
        if all(condition.contrast.point > 0 for condition in conditions):
            factor = max(
                ((c.contrast.point - c.contrast.interval()[0]) / c.contrast.point) ** 2 for c in conditions
            )
            return (
                f"if the point estimates stayed where they are, about {max(1.1, factor):.1f} times as many items "
                f"would settle it as {word}"
            )
    return "the point estimates themselves match no branch; more items alone need not settle it"

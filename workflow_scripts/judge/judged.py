"""One compressed group, or the dense model with its methods, on one metric: every estimate, and the verdict."""

from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from workflow_scripts.judge.arms import DENSE, Arm, Column, PairedItems, covered_by, detectable, replicates_of
from workflow_scripts.judge.components import Components
from workflow_scripts.judge.statistics import Estimate, finite, lost_bound, ratio
from workflow_scripts.judge.verdict import Verdict, decide, needed_support, other_reading, recovered
from workflow_scripts.plan.layout import Group

NUMBERS = {"loss": "the loss", "prompt": "what the prompt brings back", "lora": "what LoRA brings back"}


class Judged:
    """A compressed group, or the dense model with its methods, on one metric.

    Columns (an arm averaged over some of its seeds) are asked for first, so that all groups are resampled together.
    """

    def __init__(self, group: Group, sampled: PairedItems, pair: dict[str, str]):
        self.group, self.sample, self.pair = group, sampled, pair
        self.estimates: dict[Column, Estimate] = {}

    def arm(self, compressor: str, method: str) -> Arm | None:
        return self.sample.arms.get((compressor, method))

    @cached_property
    def base(self) -> Arm:
        """The group's model without a method."""
        return self.sample.arms[self.group.compressor, "none"]

    @cached_property
    def methods(self) -> list[Arm]:
        return [
            arm
            for (compressor, method), arm in self.sample.arms.items()
            if compressor == self.group.compressor and method != "none"
        ]

    @cached_property
    def lost(self) -> bool:
        """True if the group has a loss: it is compressed, and the dense model was evaluated."""
        return self.group.compressor != "dense" and DENSE in self.sample.arms

    def control(self, arm: Arm) -> Arm | None:
        """The dense model with the arm's method, if this group is compressed."""
        return self.arm("dense", arm.method) if self.lost else None

    def gain_seeds(self, arm: Arm) -> tuple[int, ...]:
        return replicates_of(arm, self.base)

    def control_seeds(self, arm: Arm) -> tuple[int, ...]:
        return replicates_of(arm, self.base, self.control(arm))

    @cached_property
    def pair_seeds(self) -> tuple[int, ...]:
        """The replicates that all six arms of the verdict have."""
        arms = [self.arm(c, m) for m in self.pair.values() for c in (self.group.compressor, "dense")]
        return replicates_of(self.base, *arms)

    @cached_property
    def columns(self) -> list[Column]:
        """Every column that the numbers below need."""
        wanted: list[Column] = [self._all(self.base)]
        if self.lost:
            wanted += self._loss(self._all(self.base)[1])
        for arm in self.methods:
            wanted += [self._all(arm), *self._gain(arm, self.gain_seeds(arm))]
            wanted += [
                *self._gain(arm, self.control_seeds(arm)),
                *self._control(arm, self.control_seeds(arm)),
            ]
            if arm.method in self.pair.values():
                wanted += [*self._gain(arm, self.pair_seeds), *self._control(arm, self.pair_seeds)]
        if self.lost:
            wanted += self._loss(self.pair_seeds)
        return list(dict.fromkeys(column for column in wanted if column[1]))

    def _all(self, arm: Arm) -> Column:
        return arm.key, arm.seeds

    def _loss(self, seeds: tuple[int, ...]) -> list[Column]:
        return [(DENSE, seeds), (self.base.key, seeds)]

    def _gain(self, arm: Arm, seeds: tuple[int, ...]) -> list[Column]:
        return [(arm.key, seeds), (self.base.key, seeds)]

    def _control(self, arm: Arm, seeds: tuple[int, ...]) -> list[Column]:
        control = self.control(arm)
        return [(control.key, seeds), (DENSE, seeds)] if control and seeds else []

    def difference(self, columns: list[Column]) -> Estimate:
        """The first column minus the second."""
        one, other = (self.estimates[column] for column in columns)
        return one - other

    def loss(self, seeds: tuple[int, ...]) -> Estimate | None:
        """L over these replicates."""
        return self.difference(self._loss(seeds)) if self.lost and seeds else None

    def gain(self, arm: Arm, seeds: tuple[int, ...]) -> Estimate:
        """g over these replicates; of a dense group h."""
        return self.difference(self._gain(arm, seeds))

    def dense_gain(self, arm: Arm, seeds: tuple[int, ...]) -> Estimate | None:
        """h over these replicates; None without a dense control."""
        columns = self._control(arm, seeds)
        return self.difference(columns) if columns else None

    def recovery(self, method: str) -> Estimate | None:
        """R over the replicates of the pair; None if an arm is missing."""
        arm = self.arm(self.group.compressor, method)
        if arm is None or not self.pair_seeds:
            return None
        control = self.dense_gain(arm, self.pair_seeds)
        return None if control is None else recovered(self.gain(arm, self.pair_seeds), control)

    def _other_recovery(self, method: str, needed: float) -> Estimate | None:
        """R draw by draw, if h is measured below 0 and may lie above."""
        arm = self.arm(self.group.compressor, method)
        control = self.dense_gain(arm, self.pair_seeds) if arm and self.pair_seeds else None
        return other_reading(self.gain(arm, self.pair_seeds), control, needed) if arm and control else None

    def to_json(self) -> dict[str, Any]:
        """The metric of a compressed group, without its verdict: dense, compressed, loss, methods."""
        loss = self.loss(self._all(self.base)[1])
        return {
            "dense": self._mean((DENSE, self.base.seeds)) if self.lost else None,
            "compressed": self._mean(self._all(self.base)),
            "loss": loss.to_json() if loss else None,
            "loss_detectable": detectable(loss) if loss else None,
            "loss_covers": covered_by(len(self.base.seeds)),
            "methods": {arm.method: self._method(arm) for arm in self.methods},
        }

    def _mean(self, column: Column) -> dict[str, Any]:
        """An arm's own mean on the metric's scale."""
        metric, mean = self.sample.metric, self.estimates[column]
        return mean.share_to_json() if metric.binary else (mean * metric.sign).to_json()

    def _method(self, arm: Arm) -> dict[str, Any]:
        """One method: its value, gain g, the dense model's h, R, and what of the loss is left."""
        seeds = self.gain_seeds(arm)
        row: dict[str, Any] = {
            "value": self._mean(self._all(arm)),
            **dict.fromkeys(("gain", "p", "detectable", "dense_gain", "recovered", "recovered_detectable")),
            **dict.fromkeys(("recovery", "residual")),
            "covers": covered_by(len(arm.seeds)),
            "gain_covers": covered_by(len(seeds)),
            "recovered_covers": None,
        }
        if not seeds:
            return row
        gain = self.gain(arm, seeds)
        row |= {"gain": gain.to_json(), "p": finite(gain.p_value()), "detectable": detectable(gain)}
        seeds = self.control_seeds(arm)
        control = self.dense_gain(arm, seeds)
        if control is None:
            return row
        back, loss = recovered(self.gain(arm, seeds), control), self.difference(self._loss(seeds))
        row |= {
            "dense_gain": control.to_json(),
            "recovered": back.to_json(),
            "recovered_detectable": detectable(back),
            "recovered_covers": covered_by(len(seeds)),
            "recovery": ratio(back, loss) if loss.interval()[0] > 0 else None,
            "residual": (loss - back).to_json(),
        }
        return row

    def verdict(self, verdicts: int) -> dict[str, Any]:
        """The word of this metric with its support, and the pair's numbers that it is made of."""
        if not self.lost:
            return Verdict(
                "unavailable", f"{self.group.model} / dense / none has not been evaluated"
            ).to_json()
        seeds = self.pair_seeds or self.base.seeds
        loss = self.loss(seeds)
        prompt, lora = (self.recovery(self.pair[role]) for role in ("prompt", "lora"))
        assert loss is not None  # both models have been evaluated
        needed = needed_support(verdicts)
        others = (
            self._other_recovery(self.pair["prompt"], needed),
            self._other_recovery(self.pair["lora"], needed),
        )
        bound = None
        if self.sample.metric.binary:
            before, after = (self.sample.by_replicate(column) for column in self._loss(seeds))
            bound = partial(lost_bound, before, after, needed)
        found = decide(loss, prompt, lora, self.sample.metric.negligible, verdicts, others, bound)
        if found.word == "unavailable":
            found = replace(found, reason=self._missing())
        replicates = len(self.pair_seeds) if prompt and lora else len(seeds)
        parts = self._components(prompt, lora)
        if found.settle and parts:
            found = replace(found, settle=f"{found.settle}; {_larger(parts)}")
        numbers = {"loss": loss, "prompt": prompt, "lora": lora}
        return replace(found, replicates=replicates, shared=self.base.shared).to_json() | {
            "numbers": {name: number.to_json() if number else None for name, number in numbers.items()},
            "retention": ratio(prompt, lora) if prompt and lora and lora.interval()[0] > 0 else None,
            "components": {name: part.to_json() for name, part in parts.items()},
        }

    def _components(self, prompt: Estimate | None, lora: Estimate | None) -> dict:
        """Variance components of L and of both R over the pair's replicates; none where a task has a single item."""
        seeds = self.pair_seeds or self.base.seeds
        signs = {"loss": [(1, (DENSE, seeds)), (-1, (self.base.key, seeds))]}
        for role, back in (("prompt", prompt), ("lora", lora)):
            if back is not None:
                method = self.pair[role]
                signs[role] = [(1, ((self.group.compressor, method), seeds)), (-1, (self.base.key, seeds))]
                arm = self.sample.arms[self.group.compressor, method]
                control = self.dense_gain(arm, seeds)
                if control is not None and control.point > 0:
                    signs[role] += [(-1, (("dense", method), seeds)), (1, (DENSE, seeds))]
        found = {name: self.sample.components(*signed) for name, signed in signs.items()}
        return {name: part for name, part in found.items() if part}

    def _missing(self) -> str:
        """Why R of the pair can't be known."""
        absent = [m for m in self.pair.values() if self.arm(self.group.compressor, m) is None]
        if absent:
            return f"{self.group} has no result for {' and '.join(dict.fromkeys(absent))}, named in the pair"
        absent = [m for m in self.pair.values() if self.arm("dense", m) is None]
        if absent:
            return (
                f"no dense control for {' and '.join(dict.fromkeys(absent))}: not run on the dense model, so recovery "
                "can't be told from what the adapter gives any model"
            )
        return "the cells of the pair have no seed and compressed copy in common"


def _larger(parts: dict[str, Components]) -> str:
    """What makes the variance of the number that is known worst: more items lessen the first share, more replicates
    the second, both the third."""
    if any(part.count < 2 for part in parts.values()):
        return "one copy shows nothing of the variance between copies, so seeds come first"
    if all(part.variance <= part.unseen for part in parts.values()):
        return "no answer changed, so nothing is known of the variance"
    name, worst = max(parts.items(), key=lambda named: named[1].variance)
    shares = (100 * part / worst.variance for part in (worst.items, worst.replicates, worst.residual))
    items, replicates, both = (f"{share:.0f} %" for share in shares)
    return f"of the variance of {NUMBERS[name]} items make {items}, replicates {replicates}, both together {both}"

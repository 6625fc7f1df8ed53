"""Held-out facts: adapters that were told half of a task's answers, on that half and on the other.

After Deeb and Roger (2024, arXiv:2410.08827). No text told the answers of the *untrained* half, so a gain there is
access. The gain in the *trained* half minus that in the other is learning. Two controls: the dense model with the same
adapters (h), and the items that the dense model never knew, which no access can bring back. Twins that were trained on
`even` and on `odd` are crossed: each item then counts once as trained and once as untrained, by another adapter. Items
that an adapter was not told, since both parts ask their question, count on no side.

A single answer of the dense model is noisy, and the copy without an adapter shares that noise: items chosen by it fall
with any adapter, however little that does. The dense model with the adapter shares the noise of the copy with it, and
errs the other way. So an item is *known* if the dense model has it right without and with an adapter that was not told
it, in every replicate, and *never known* if it has it wrong each time. Items between are in neither.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from workflow_scripts.judge.arms import (
    DENSE,
    Arm,
    Column,
    Estimates,
    Key,
    PairedItems,
    Seeds,
    covered_by,
    group_arms,
    replicates_of,
)
from workflow_scripts.judge.metrics import METRICS
from workflow_scripts.judge.results import Results, paired_items, unique
from workflow_scripts.judge.statistics import Estimate
from workflow_scripts.judge.verdict import recovered
from workflow_scripts.plan.layout import Group
from workflow_scripts.plan.parts import part_of

SIDES = ("trained", "untrained")
STRATA = ("items", "known", "never_known")


@dataclass(frozen=True)
class Family:
    """Methods of equal settings but for the part of the task that they were trained on: part -> method."""

    task: str
    methods: dict[str, str]


def families(methods: dict[str, dict]) -> list[Family]:
    """The catalogue's methods that are trained on a part of a task's items, twins together."""
    found: list[tuple[str, Family]] = []
    for name, settings in methods.items():
        text = settings.get("corpus")
        if not isinstance(text, dict) or "part" not in text:
            continue
        same = json.dumps({**settings, "corpus": text["task"]}, sort_keys=True)
        twins = (f.methods for key, f in found if key == same and text["part"] not in f.methods)
        if (twin := next(twins, None)) is None:
            found.append((same, Family(text["task"], {text["part"]: name})))
        else:
            twin[text["part"]] = name
    return [family for _, family in found]


@dataclass(frozen=True)
class HeldOutFacts:
    """One family in one group on one metric. samples: (side, stratum) -> arms `none` and the side's own, with the dense
    model's if it has them; strata without an item are left out."""

    group: Group
    family: Family
    metric: str
    seeds: Seeds
    controlled: bool
    samples: dict[tuple[str, str], PairedItems]

    def columns(self, side: str) -> list[Column]:
        """The columns of a side's samples: the compressed model with and without an adapter, then the dense one."""
        models = [self.group.compressor, *(["dense"] if self.controlled else [])]
        return [
            ((model, method), self.seeds) for model in models for method in (side, _plain(self.family, side))
        ]

    def to_json(self, estimates: dict[tuple[str, str], dict]) -> dict[str, Any]:
        """A row of verdict.json's `parts`."""
        gains = {place: self._gain(place[0], found) for place, found in estimates.items()}
        sides = {side: self._side(side, estimates, gains) for side in SIDES}
        learned = gains["trained", "items"] - gains["untrained", "items"]
        known, never = (gains.get(("untrained", stratum)) for stratum in STRATA[1:])
        told_apart = known - never if known and never else None
        return {
            **self.group._asdict(),
            "task": self.family.task,
            "methods": self.family.methods,
            "metric": self.metric,
            "seeds": list(self.seeds),
            "covers": covered_by(len(self.seeds)),
            **sides,
            "learned": learned.to_json(),
            "known_apart": told_apart.to_json() if told_apart else None,
            "shows": self._shows(sides["untrained"]["recovered"], told_apart, learned),
        }

    def _gain(self, side: str, found: dict, dense: bool = False) -> Estimate:
        one, other = self.columns(side)[2:] if dense else self.columns(side)[:2]
        return found[one] - found[other]

    def _side(self, side: str, estimates: dict, gains: dict[tuple[str, str], Estimate]) -> dict[str, Any]:
        gain, control, back = gains[side, "items"], None, None
        if self.controlled:
            control = self._gain(side, estimates[side, "items"], dense=True)
            back = recovered(gain, control)
        shown = {"gain": gain, "dense_gain": control, "recovered": back}
        shown |= {f"{stratum}_gain": gains.get((side, stratum)) for stratum in STRATA[1:]}
        counts = {stratum: self.samples.get((side, stratum)) for stratum in STRATA}
        return {stratum: sum(s.items.values()) if s else 0 for stratum, s in counts.items()} | {
            name: estimate.to_json() if estimate else None for name, estimate in shown.items()
        }

    def _shows(self, back: dict | None, apart: Estimate | None, learned: Estimate) -> str | None:
        """`access`, `learning`, `both` or `neither`, by whole intervals above 0; None without a control."""
        if back is None or apart is None:
            return None
        lows = (back["low"], apart.interval()[0], learned.interval()[0])
        if not all(low is not None and np.isfinite(low) for low in lows):
            return None
        access, learning = min(lows[0], lows[1]) > 0, lows[2] > 0
        if access:
            return "both" if learning else "access"
        return "learning" if learning else "neither"


def parts(results: Results, methods: dict[str, dict], resamples: int, seed: int) -> list[dict]:
    """verdict.json's `parts`: per compressed group, family and metric the gains on trained and untrained items.

    Intervals are the verdict's, over the items of one task. `shows` names what whole intervals above 0 show: access, if
    R of the untrained items is and their gain is larger among known items than among those never known; learning, if
    telling adds to the gain. Groups whose cells share no seed have no row.
    """
    found = [
        told
        for group in results.groups()
        for family in families(methods)
        for told in _told(results, group, family)
    ]
    wanted = [(sample, told.columns(side)) for told in found for (side, _), sample in told.samples.items()]
    estimates = iter(Estimates(wanted, resamples, seed))
    return [told.to_json({place: next(estimates) for place in told.samples}) for told in found]


def _told(results: Results, group: Group, family: Family) -> Iterator[HeldOutFacts]:
    """The family on every judged metric that its task has, as far as the group's cells share seeds and items."""
    arms = {arm.key: arm for arm in group_arms(results, group)}
    base, dense = arms.get((group.compressor, "none")), arms.get(DENSE)
    names = family.methods.items()
    adapters = {part: arms[key] for part, name in names if (key := (group.compressor, name)) in arms}
    controls = {part: arms[key] for part, arm in adapters.items() if (key := ("dense", arm.method)) in arms}
    if base is None or dense is None or not adapters:
        return
    controlled = controls.keys() == adapters.keys()
    measured = [base, dense, *adapters.values(), *(controls.values() if controlled else ())]
    seeds = replicates_of(*measured)
    if not seeds:
        return
    family = replace(family, methods={part: arm.method for part, arm in adapters.items()})
    cells = unique(cell for arm in measured for cell in arm.cells)
    answers = paired_items(results, cells, "correct").get(family.task)
    if answers is None:
        return
    answers = answers.set_axis(cells, axis=1)
    left_out = results.left_out(cells)
    pairs = [(base, adapters), *([(dense, controls)] if controlled else [])]
    for name, metric in METRICS.items():
        frame = paired_items(results, cells, metric.column).get(family.task) if metric.judged else None
        if frame is None:
            continue
        frame = metric.sign * frame.set_axis(cells, axis=1)
        frame = frame[~frame.index.get_level_values("doc_hash").isin(left_out)]
        strata = [np.full(len(frame), True)]
        if controlled:
            untold = ("untrained", _plain(family, "untrained"))
            right = _side(answers.loc[frame.index], [(dense, controls)], untold, seeds)[1]
            strata += [(right == 1).all(axis=1), (right == 0).all(axis=1)]
        samples = {}
        for side in SIDES:
            joined, values = _side(frame, pairs, (side, _plain(family, side)), seeds)
            for stratum, chosen in zip(STRATA, strata, strict=False):
                places = chosen & ~np.isnan(values).any(axis=1)
                label = f"{family.task} {stratum} {'+'.join(unique(_parts_of(frame)[places]))}"
                if places.any():
                    samples[side, stratum] = PairedItems(metric, joined, {label: values[places]})
        if all((side, "items") in samples for side in SIDES):
            yield HeldOutFacts(group, family, name, seeds, controlled, samples)


def _parts_of(frame: pd.DataFrame) -> np.ndarray:
    """The part (items,) that each item belongs to."""
    return np.array([part_of(doc_hash) for doc_hash in frame.index.get_level_values("doc_hash")])


def _plain(family: Family, side: str) -> str:
    """Name of the arm without an adapter. Arms of one name share the draws of their unseen changes: right for the two
    sides of twins, which are the same items, and wrong for two halves."""
    return "none" if len(family.methods) > 1 else f"none, {side}"


def _side(
    frame: pd.DataFrame, pairs: list[tuple[Arm, dict[str, Arm]]], names: tuple[str, str], seeds: Seeds
) -> tuple[dict[Key, Arm], np.ndarray]:
    """Arms, and their values (items, cells) side by side; nan for items that no adapter met on this side.

    frame: (items, cells). pairs: a model without an adapter, and its adapters by the part that they were trained on.
    names: of the side, and of its arm without an adapter.
    """
    side, without = names
    part, columns = _parts_of(frame), []
    arms: dict[Key, Arm] = {}
    for plain, adapters in pairs:
        of_seeds = tuple(cell for cell in plain.cells if plain.shared or cell.seed in seeds)
        columns += [frame[cell].to_numpy() for cell in of_seeds]
        met = [(arm, (part == told) == (side == "trained")) for told, arm in adapters.items()]
        for seed in seeds:
            column = np.full(len(frame), np.nan)
            for arm, items in met:
                column[items] = frame[arm.cells[arm.seeds.index(seed)]].to_numpy()[items]
            columns.append(column)
        joined = Arm(plain.compressor, side, tuple(cell for cell in met[0][0].cells if cell.seed in seeds))
        arms |= {arm.key: arm for arm in (replace(plain, method=without, cells=of_seeds), joined)}
    return arms, np.stack(columns, axis=1)

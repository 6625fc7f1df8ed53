"""Compare two results of one setting: bit for bit on one kind of processor, else their answers within a tolerance."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_scripts.files.artifacts import read_json
from workflow_scripts.plan.layout import ADAPTER, COMPRESSED, EVALUATION, SIMILARITY, Artefact, companions

TOLERANCE = 1e-4  # nats of an answer's log-likelihood; of a similarity, its cosine
# Columns of samples that must not differ at all.
ANSWERS = ("correct", "acc_norm", "prediction", "selected_prompt")
# Key of a record -> digest of what was made.
WEIGHTS = {COMPRESSED: "weights_sha256", ADAPTER: "adapter_sha256"}


@dataclass(frozen=True)
class Agreement:
    """how: bits or answers. items: what was compared. largest: largest difference (nats). differences: one each, in
    words; empty if the two agree."""

    how: str
    items: int
    largest: float = 0.0
    differences: list[str] = field(default_factory=list)


def agreement(artefact: Artefact, stored: Path, again: Path, same_machine: bool) -> Agreement:
    """Compares the result at `again` with that at `stored`, both JSON files with what was made beside them.

    same_machine: whether both were made on one kind of machine, so that every bit must agree. Weights and sources must
    agree bit for bit on any.
    """
    ours, theirs = read_json(stored), read_json(again)
    if artefact == EVALUATION:
        return _of_evaluations(stored, again, same_machine)
    if artefact == SIMILARITY:
        return _of_similarities(ours, theirs, same_machine)
    if artefact in WEIGHTS:
        key = WEIGHTS[artefact]
        return _of_digests({key: ours[key]}, {key: theirs[key]})
    return _of_digests(ours["files"], theirs["files"])


def on_one_kind_of_machine(one: dict, two: dict) -> bool:
    """True if two manifests name one kind of processor, and as many threads on it; a GPU repeats no bits."""
    if one["device"] != "cpu" or two["device"] != "cpu" or one["threads"] != two["threads"]:
        return False
    kinds = one.get("cpu"), two.get("cpu")  # manifests of 0.1.0 have none
    return kinds[0] == kinds[1] if all(kinds) else one["host"] == two["host"]


def _of_digests(ours: dict[str, str], theirs: dict[str, str]) -> Agreement:
    names = sorted({*ours, *theirs})
    differing = [
        f"{name}: {str(ours.get(name))[:12]} -> {str(theirs.get(name))[:12]}"
        for name in names
        if ours.get(name) != theirs.get(name)
    ]
    return Agreement("bits", len(names), differences=differing)


def _of_similarities(ours: dict, theirs: dict, same_machine: bool) -> Agreement:
    pairs = [
        (f"{kind}, layer {layer}", one, two)
        for kind in ("attention", "activations")
        for layer, (one, two) in enumerate(zip(ours[kind], theirs[kind], strict=True))
    ]
    most = max(abs(one - two) for _, one, two in pairs)
    bits = same_machine or not most
    limit = 0 if bits else TOLERANCE
    differing = [f"{name}: {one:.6f} -> {two:.6f}" for name, one, two in pairs if abs(one - two) > limit]
    return Agreement("bits" if bits else "answers", len(pairs), most, differing)


def _of_evaluations(stored: Path, again: Path, same_machine: bool) -> Agreement:
    ours, theirs = (pd.read_parquet(companions(str(path))[0]) for path in (stored, again))
    place = ["task", "doc_id", "doc_hash"]
    if not ours[place].equals(theirs[place]):
        return Agreement("bits", len(ours), differences=["the items are others, or in another order"])
    apart = _apart(ours, theirs)
    bits = same_machine or (not apart.any() and not _other_answers(ours, theirs).any())
    wrong = _other_answers(ours, theirs) | (apart > (0 if bits else TOLERANCE))
    differing = [
        f"{task} {doc_hash[:12]}: {one!r} -> {two!r}, gold log-likelihood {before:.6f} -> {after:.6f}"
        for task, doc_hash, one, two, before, after in zip(
            *(ours[wrong][name] for name in ("task", "doc_hash", "prediction")),
            theirs[wrong]["prediction"],
            ours[wrong]["gold_loglik"],
            theirs[wrong]["gold_loglik"],
            strict=True,
        )
    ]
    differing += _other_perplexities(read_json(stored), read_json(again), 0 if bits else TOLERANCE)
    return Agreement("bits" if bits else "answers", len(ours), float(apart.max(initial=0)), differing)


def _apart(ours: pd.DataFrame, theirs: pd.DataFrame) -> np.ndarray:
    """(items,) largest difference of an item's log-likelihoods: the gold answer's and those of its choices."""
    gold = np.abs(ours["gold_loglik"].to_numpy() - theirs["gold_loglik"].to_numpy())
    choices = [
        0.0 if one is None or two is None else float(np.max(np.abs(np.subtract(one, two)), initial=0))
        for one, two in zip(ours["choice_logliks"], theirs["choice_logliks"], strict=True)
    ]
    return np.maximum(gold, choices)


def _other_answers(ours: pd.DataFrame, theirs: pd.DataFrame) -> np.ndarray:
    """(items,) whether an answer, its mark or its prompt is another."""
    same = [(ours[name] == theirs[name]) | (ours[name].isna() & theirs[name].isna()) for name in ANSWERS]
    return ~np.logical_and.reduce([column.to_numpy(bool) for column in same])


def _other_perplexities(ours: dict, theirs: dict, limit: float) -> list[str]:
    """Perplexities per token whose logarithms (nats) differ by more than `limit`, or that one of the two lacks."""
    one, two = _perplexities(ours), _perplexities(theirs)
    return [
        f"perplexity of {name}: {one.get(name)} -> {two.get(name)}"
        for name in sorted({*one, *two})
        if name not in one or name not in two or abs(np.log(one[name] / two[name])) > limit
    ]


def _perplexities(evaluation: dict) -> dict[str, float]:
    """ "wikipedia, windowed" -> perplexity per token; an older evaluation has one figure of a corpus."""
    found = {}
    for corpus, figures in evaluation["perplexity"].items():
        if "token" in figures:
            found[corpus] = figures["token"]
        else:
            found |= {f"{corpus}, {protocol}": figure["token"] for protocol, figure in figures.items()}
    return found

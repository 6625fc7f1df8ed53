"""Compare two results of one setting: bit for bit on one kind of processor, else their answers within a tolerance."""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workflow_scripts.files.artifacts import read_json
from workflow_scripts.plan.layout import ADAPTER, COMPRESSED, EVALUATION, SIMILARITY, Artefact, companions

TOLERANCE = 1e-4  # nats of an answer's log-likelihood; of a similarity, its cosine
NEAR = 0.01  # of an error or a loss in the record of weights that another kind of machine made: its share
PLACE = ["task", "doc_id", "doc_hash"]
# Log-likelihoods in samples and of tasks, and how many of them each is a sum or difference of (bits: per byte).
LOGLIKS = {"gold_loglik": 1, "choice_logliks": 1, "margin": 2, "choice_loglik": 2, "bits_per_byte": 2}
# Keys that say how, by whom and in how much time a result was made.
UNCOMPARED = ("manifest", "seconds", "peak_memory_mb", "libraries")
# The same of a source. Note and licence are the configuration's, and no path is part of a recipe.
OF_SOURCES = ("name", "recipe", "code", "origin", "notes", "licence")
DIGESTS = ("weights_sha256", "adapter_sha256", "base_sha256")
Key = tuple[str, ...]  # of a value in a record, level by level
Limit = Callable[[Key, float], float]  # the largest difference that agrees with a number in the stored record


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
    agree bit for bit on any. Of a record all counts but times, memory, versions and manifest.
    """
    ours, theirs = read_json(stored), read_json(again)
    if artefact == EVALUATION:
        return _of_evaluations(stored, again, same_machine)
    if artefact == SIMILARITY:
        return _of_similarities(ours, theirs, same_machine)
    left_out = UNCOMPARED if artefact in (COMPRESSED, ADAPTER) else OF_SOURCES
    return Agreement("bits", len(ours.get("files", [artefact])), 0.0, _differing(ours, theirs, left_out))


def other_weights(stored: Path, again: Path) -> list[str]:
    """Differences of two records of weights, of which two kinds of machine make others: counts and settings must be the
    same, errors and losses within `NEAR`."""
    left_out = (*UNCOMPARED, *DIGESTS)
    return _differing(read_json(stored), read_json(again), left_out, lambda _, number: NEAR * abs(number))


def on_one_kind_of_machine(one: dict, two: dict) -> bool:
    """True if two manifests name one kind of processor, and as many threads on it; a GPU repeats no bits."""
    if one["device"] != "cpu" or two["device"] != "cpu" or one["threads"] != two["threads"]:
        return False
    kinds = one.get("cpu"), two.get("cpu")  # manifests of 0.1.0 have none
    return kinds[0] == kinds[1] if all(kinds) else one["host"] == two["host"]


# -------------------------------------------------------------------------------------------------- records


def _differing(
    ours: dict, theirs: dict, left_out: Collection[str], limit: Limit = lambda *_: 0.0
) -> list[str]:
    """Values of two records that differ, or that one of the two lacks, in words."""
    one, two = dict(_values(ours, left_out)), dict(_values(theirs, left_out))
    return [
        f"{', '.join(key)}: {_shown(one.get(key))} -> {_shown(two.get(key))}"
        for key in dict.fromkeys([*one, *two])
        if key not in one or key not in two or not _agree(one[key], two[key], limit, key)
    ]


def _values(record: Any, left_out: Collection[str], key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """The values of a record with their keys; of lists the place is the key. Keys that are left out are so on every
    level."""
    if not isinstance(record, dict | list):
        yield key, record
        return
    children = record.items() if isinstance(record, dict) else enumerate(record)
    for name, value in children:
        if name not in left_out:
            yield from _values(value, left_out, (*key, str(name)))


def _agree(one: Any, two: Any, limit: Limit, key: Key) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return abs(one - two) <= limit(key, one)
    return bool(one == two)


def _shown(value: object) -> str:
    return value[:12] if isinstance(value, str) else str(value)


def _of_similarities(ours: dict, theirs: dict, same_machine: bool) -> Agreement:
    one, two = dict(_values(ours, UNCOMPARED)), dict(_values(theirs, UNCOMPARED))
    cosines = [key for key in one if key[0] in ("attention", "activations") and key in two]
    most = max((abs(one[key] - two[key]) for key in cosines), default=0.0)
    bits = same_machine or not most
    differing = _differing(ours, theirs, UNCOMPARED, lambda *_: 0.0 if bits else TOLERANCE)
    return Agreement("bits" if bits else "answers", len(cosines), most, differing)


# ---------------------------------------------------------------------------------------------- evaluations


def _of_evaluations(stored: Path, again: Path, same_machine: bool) -> Agreement:
    ours, theirs = (pd.read_parquet(companions(str(path))[0]) for path in (stored, again))
    if list(ours) != list(theirs):
        return Agreement("bits", len(ours), 0.0, ["the samples have other columns"])
    if not ours[PLACE].equals(theirs[PLACE]):
        return Agreement("bits", len(ours), 0.0, ["the items are others, or in another order"])
    columns = [str(name) for name in ours if name not in PLACE]
    apart = {name: _apart(ours[name], theirs[name]) for name in columns if name in LOGLIKS}
    other = {name: ~_equal(ours[name], theirs[name]) for name in columns if name not in LOGLIKS}
    most = max((float(values.max(initial=0)) for values in apart.values()), default=0.0)
    record = read_json(stored), read_json(again)
    bits = same_machine or not (most or _differing(*record, UNCOMPARED))
    wrong = other | {
        name: values > (0 if bits else LOGLIKS[name] * TOLERANCE) for name, values in apart.items()
    }
    differing = _rows(ours, theirs, wrong)
    differing += _differing(*record, UNCOMPARED, (lambda *_: 0.0) if bits else _elsewhere(record[0]))
    return Agreement("bits" if bits else "answers", len(ours), most, differing)


def _rows(ours: pd.DataFrame, theirs: pd.DataFrame, wrong: dict[str, np.ndarray]) -> list[str]:
    """The items of which a column is wrong, in words."""
    found = []
    for row in np.flatnonzero(np.logical_or.reduce([*wrong.values()])):
        one, two = ours.iloc[row], theirs.iloc[row]
        columns = ", ".join(name for name, rows in wrong.items() if rows[row])
        found.append(
            f"{one['task']} {one['doc_hash'][:12]}: {one['prediction']!r} -> {two['prediction']!r}, gold "
            f"log-likelihood {one['gold_loglik']:.6f} -> {two['gold_loglik']:.6f} (other: {columns})"
        )
    return found


def _apart(ours: pd.Series, theirs: pd.Series) -> np.ndarray:
    """(items,) largest difference of an item's numbers; infinite if one of the two lacks them."""
    return np.array([_distance(one, two) for one, two in zip(ours, theirs, strict=True)])


def _distance(one: Any, two: Any) -> float:
    first, second = (
        np.atleast_1d(np.asarray(np.nan if value is None else value, dtype=float)) for value in (one, two)
    )
    if first.shape != second.shape or (np.isnan(first) != np.isnan(second)).any():
        return math.inf
    return float(np.max(np.nan_to_num(np.abs(first - second)), initial=0))


def _equal(ours: pd.Series, theirs: pd.Series) -> np.ndarray:
    return np.asarray((ours == theirs) | (ours.isna() & theirs.isna()), dtype=bool)


def _elsewhere(evaluation: dict) -> Limit:
    """Limits of an evaluation's numbers on another kind of machine: those of its log-likelihoods, and for a perplexity
    `TOLERANCE` nats per token; no share of answers may differ."""
    stored = dict(_values(evaluation, UNCOMPARED))

    def limit(key: Key, number: float) -> float:
        name = key[-1]
        if key[0] != "perplexity":
            return LOGLIKS.get(name, 0) * TOLERANCE
        nats = math.log(stored[*key[:-1], "token"]) or 1.0
        if name == "bits_per_byte":
            return TOLERANCE * number / nats
        per_token = math.log(number) / nats if number > 1 else 1.0  # words have more tokens than one
        return TOLERANCE * number * per_token

    return limit

"""Matrices of a checkpoint that were made of another model: some shards or parts of it, or a few layers.

A matrix resembles the dense one if their values correlate, or the signs of what is left of it (columns may be scaled),
or inner products of its rows or columns (its inputs or its outputs may be rotated). Rotated on both sides, as values
and outputs of SpinQuant's attention, it resembles nothing: so a layer is judged by all its matrices, and a single
matrix only if those of its name in most layers correlate. Queries and keys alone are never rotated at their outputs,
which positions are encoded into: each must resemble the dense one, row by row.
"""

from pathlib import Path

from workflow_scripts.compress.foreign.swapped import LIKE, Excerpt, Names, correlation, joined
from workflow_scripts.files.artifacts import ArtifactError

# Correlation of matrices of two models: below 0.03 (SmolLM2's layers; inner products: 0.07). Of a compressed matrix and
# its dense one: above 0.8, of inner products of rotated ones 0.78 (SpinQuant; scaled norms lie in them).
ALIKE = 0.1
ENCODED = ("q_proj.weight", "k_proj.weight")  # names of queries and keys
STUDENT = "a student with weights of its own wants `distilled: true`"
OTHER = f"it is a checkpoint of another model ({STUDENT})"
MIXED = f"a part or shard of it is another model's ({STUDENT})"
REORDERED = f"its rows are in another order (Meta's rotary layout?), or {MIXED}"


def refuse_unrelated(names: Names, where: Path) -> None:
    """ArtifactError for a layer of which no matrix resembles the dense model's, or a matrix that doesn't if most others
    of its name do. where: the checkpoint, as the error names it."""
    seen = {path: _seen(names, path) for path in names.modules}
    for path, found in seen.items():
        if path and found and not any(any(pair) for pair in found.values()):
            some = ", ".join(list(found)[:2])
            raise ArtifactError(
                f"{where}: {path}: none of its {len(found)} matrices ({some}, ...) resembles the dense model's: {MIXED}"
            )
    for path, found in seen.items():
        for name, pair in found.items():
            alike = [
                each[name][0] for other, each in seen.items() if bool(other) == bool(path) and name in each
            ]
            encoded = name.endswith(ENCODED)
            if not any(pair) and (encoded or not path or 2 * sum(alike) > len(alike)):
                why = REORDERED if encoded else MIXED
                raise ArtifactError(
                    f"{where}: {joined(path, name)} does not resemble the dense model's: {why}"
                )


def _seen(names: Names, path: str) -> dict[str, tuple[bool, bool]]:
    """Name of a matrix in the module at `path` -> whether it resembles the dense one by values, and by inner products;
    any dense layer's if its own isn't known. Those of which it can't be told are left out."""
    found = {}
    for name in names.modules[path]:
        mine = names.held[joined(path, name)]
        if (origin := names.origins.get(joined(path, name))) is not None:
            asked = [origin]
        else:
            asked = [joined(layer, name) for layer in names.layers]
        dense = [names.dense[each] for each in asked if each in names.dense]
        rows = name.endswith(ENCODED)
        if seen := [pair for own in dense if (pair := resembles(mine, own, rows)) is not None]:
            found[name] = (any(values for values, _ in seen), any(products for _, products in seen))
    return found


def resembles(mine: Excerpt, own: Excerpt, rows: bool = False) -> tuple[bool, bool] | None:
    """Whether a matrix resembles a dense one by its values, and by inner products of its rows or (but for `rows`) of
    its columns; None if that can't be told: of a vector, another shape, or a constant matrix, which was pruned as a
    whole."""
    if not mine.products or mine.shape != own.shape or mine.values.min() == mine.values.max():
        return None
    left = mine.values != 0
    signs = correlation(mine.values[left].sign(), own.values[left].sign())
    pairs = [*zip(mine.products, own.products, strict=True), *((mine.products[0], b) for b in own.scaled)]
    if rows:
        del pairs[1]
    by_products = any(correlation(a, b) > LIKE for a, b in pairs)
    return max(abs(correlation(mine.values, own.values)), abs(signs)) > ALIKE, by_products

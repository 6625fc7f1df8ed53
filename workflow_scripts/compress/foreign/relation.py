"""A checkpoint's weights beside the dense model's: the same base, equal tensors, the error of each linear."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from workflow_scripts.compress.decoder import decoder_layers, get_weight, layer_linears
from workflow_scripts.compress.foreign.swapped import LIKE, Excerpt, Names, correlation, equal, samples
from workflow_scripts.compress.foreign.unrelated import ALIKE, OTHER, refuse_unrelated, resembles
from workflow_scripts.compress.hessian import reconstruction_error
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.whole import record
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources.weights import require_tied

# Embeddings of a base that was rotated (SpinQuant, QuaRot) correlate as little as unrelated ones, but inner products of
# tokens survive a rotation.
ROTATED = 0.9
SAMPLE = 4096  # rows of the embeddings that are compared
PAIRED = 256  # of these, rows whose inner products are compared


@dataclass
class Relation:
    """records: of each decoder linear, as compression.json holds them. layers: the dense layer that each layer was made
    of, None if not known. equal: names of tensors that are the dense model's; compared: how many have its shape.
    embeddings: correlation with the dense model's, None for another width."""

    records: list[dict] = field(default_factory=list)
    layers: list[int] | None = None
    equal: list[str] = field(default_factory=list)
    compared: int = 0
    embeddings: float | None = None


@torch.no_grad()
def relate(dense: Skeleton, other: Skeleton, tokens: int, distilled: bool, where: Path) -> Relation:
    """Compare two models, a layer at a time. tokens: of their tokenizer. distilled: `other` need not resemble `dense`.
    where: the checkpoint, as errors name it.

    ArtifactError, with what was seen, if `other` was not made of `dense`, as a whole or in a few layers (other widths,
    unrelated embeddings or matrices), or if tensors have each other's names.
    """
    found = Relation()
    mine, theirs = decoder_layers(dense.model), decoder_layers(other.model)
    dense.load(dense.model, but=(mine,))
    other.load(other.model, but=(theirs,))
    # Compression rounds each of the two in its own way.
    require_tied(str(where), other.folder, other.model, alike=lambda a, b: correlation(a, b) > LIKE)
    found.embeddings = _embeddings(dense, other, tokens, distilled, where)
    _count_equal(found, _outside(other, theirs), _outside(dense, mine))
    names = Names()
    names.add("", other.model, "", dense.model)
    for each in (dense, other):
        each.release(each.model)
    found.layers = _origins(dense, other, distilled)
    if found.layers is None and not distilled:
        _add_layers(names, dense)
    for index, layer in enumerate(theirs):
        other.load(layer)
        origin = mine[found.layers[index]] if found.layers else None
        if origin is not None:
            dense.load(origin)
            held = {f"{other.paths[id(layer)]}.{name}": tensor for name, tensor in layer.named_parameters()}
            _count_equal(found, held, dict(zip(held, _counterparts(layer, origin))))
            names.add(other.paths[id(layer)], layer, dense.paths[id(origin)], origin)
        else:
            names.add_held(other.paths[id(layer)], layer)
        found.records += _records(index, layer, origin)
        for skeleton, loaded in ((other, layer), (dense, origin)):
            if loaded is not None:
                skeleton.release(loaded)
    if not distilled:
        names.refuse_swapped(where)
        names.refuse_disordered(where)
        refuse_unrelated(names, where)
    return found


def _add_layers(names: Names, dense: Skeleton) -> None:
    for layer in decoder_layers(dense.model):
        dense.load(layer)
        names.add_dense(dense.paths[id(layer)], layer)
        dense.release(layer)


def _outside(skeleton: Skeleton, layers: nn.ModuleList) -> dict[str, torch.Tensor]:
    """The parameters that are loaded and lie in no decoder layer, by name."""
    inside = {id(parameter) for parameter in layers.parameters()}
    return {name: p for name, p in skeleton.model.named_parameters() if id(p) not in inside}


def _counterparts(layer: nn.Module, origin: nn.Module) -> list[torch.Tensor | None]:
    """For each parameter of a layer, that of the same name in another; None if there is none."""
    dense = dict(origin.named_parameters())
    return [dense.get(name) for name, _ in layer.named_parameters()]


def _count_equal(
    found: Relation, held: Mapping[str, torch.Tensor], dense: Mapping[str, torch.Tensor | None]
) -> None:
    for name, tensor in held.items():
        asked = dense.get(name)
        if asked is not None and asked.shape == tensor.shape:
            found.compared += 1
            if equal(tensor, asked):
                found.equal.append(name)


def _embeddings(dense: Skeleton, other: Skeleton, tokens: int, distilled: bool, where: Path) -> float | None:
    """Correlation of the input embeddings over a sample of tokens; None for a student of another width."""
    mine, theirs = (each.model.get_input_embeddings().weight for each in (dense, other))
    if len(theirs) < tokens:
        raise ArtifactError(
            f"{where}: embeds {len(theirs)} tokens, its tokenizer has {tokens}; it can't be of this model"
        )
    if mine.shape[1] != theirs.shape[1]:
        if distilled:
            return None
        raise ArtifactError(
            f"{where}: its embeddings are {theirs.shape[1]} wide, those of {dense.folder} {mine.shape[1]}: "
            + OTHER
        )
    sample = torch.linspace(0, min(tokens, len(mine)) - 1, min(tokens, SAMPLE)).long()
    a, b = mine[sample].double(), theirs[sample].double()
    found = correlation(a, b)
    few = slice(None, None, max(1, len(sample) // PAIRED))
    pairs = correlation(*(rows[few] @ rows[few].T for rows in (a, b)))
    if abs(found) < ALIKE and pairs < ROTATED and not distilled:
        raise ArtifactError(
            f"{where}: its embeddings correlate {found:.3f} with those of {dense.folder}, and their inner "
            f"products {pairs:.3f}: {OTHER}"
        )
    return found


def _origins(dense: Skeleton, other: Skeleton, distilled: bool) -> list[int] | None:
    """The dense layer that each layer of `other` was made of: at equal depth that of its index, else the next
    one with equal vectors (norms, biases) and alike matrices. None if one has none, and for a student."""
    depth = len(decoder_layers(other.model))
    if distilled:
        return None
    if depth == len(decoder_layers(dense.model)):
        return list(range(depth))
    excerpts = [_excerpts(dense, layer) for layer in decoder_layers(dense.model)]
    origins: list[int] = []
    for layer in decoder_layers(other.model):
        mine = _excerpts(other, layer)
        later = range(origins[-1] + 1 if origins else 0, len(excerpts))
        alike = (index for index in later if _made_of(mine, excerpts[index]))
        if (origin := next(alike, None)) is None:
            return None
        origins.append(origin)
    return origins


def _excerpts(skeleton: Skeleton, layer: nn.Module) -> dict[str, Excerpt]:
    skeleton.load(layer)
    found = dict(samples("", layer))
    skeleton.release(layer)
    return found


def _made_of(held: dict[str, Excerpt], dense: dict[str, Excerpt]) -> bool:
    vectors = (
        {name: each.values for name, each in layer.items() if len(each.shape) == 1} for layer in (held, dense)
    )
    return _same(*vectors) and any(
        any(resembles(held[name], dense[name]) or ()) for name in held.keys() & dense.keys()
    )


def _flat(layer: nn.Module) -> dict[str, torch.Tensor]:
    """A layer's vectors: norms and biases."""
    return {name: parameter for name, parameter in layer.named_parameters() if parameter.dim() == 1}


def _same(held: dict[str, torch.Tensor], dense: dict[str, torch.Tensor]) -> bool:
    same_names = held.keys() == dense.keys() and bool(held)
    return same_names and all(
        tensor.shape == dense[name].shape and equal(tensor, dense[name]) for name, tensor in held.items()
    )


def _records(index: int, layer: nn.Module, origin: nn.Module | None) -> list[dict]:
    """One record per linear of a loaded layer: its error against the dense one, and its zeros.

    Without an error if the layer's norms are not the dense ones: scales or rotations (AWQ, SmoothQuant, SpinQuant) then
    lie in its linears, and their distance to the dense ones says nothing.
    """
    norms, dense = _flat(layer), {}
    if origin is not None and (not norms or _same(norms, _flat(origin))):
        dense = layer_linears(origin)
    records = []
    for name, linear in layer_linears(layer).items():
        weight, error = get_weight(linear), None
        if name in dense and (asked := get_weight(dense[name])).shape == weight.shape:
            error = reconstruction_error(asked, weight, None)
        records.append(record(index, name, weight, error))
    return records

"""Tensors of a checkpoint that have each other's names: they fit by shape, so that no loader notices."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.source_files import AT_SOURCE

# Correlation of weights: near 0 between two layers, above 0.8 between a weight of one bit and its dense one. The least
# of SmolLM2-135M is 0.82 (SmoothQuant in its first layer; 2:4 0.85, AWQ and NVFP4 0.99).
LIKE = 0.5
VALUES = 16384  # of each tensor that are compared
VECTORS = 64  # rows and columns of each matrix whose inner products are compared
HALVES = (torch.bfloat16, torch.float16)


@dataclass
class Excerpt:
    """Some values of a tensor, the same places in every tensor of its shape; of a matrix, inner products too: of pairs
    of its rows, which a rotation of its inputs keeps, and of its columns, which one of its outputs keeps. scaled: of
    its rows once more, if a norm of its module were taken into it, as a rotation needs."""

    shape: torch.Size
    values: torch.Tensor
    products: tuple[torch.Tensor, ...] = ()
    scaled: tuple[torch.Tensor, ...] = ()


@dataclass
class Names:
    """Samples of tensors by name, of the checkpoint and of the dense model; origins: checkpoint's name -> name of the
    dense tensor that it should hold. modules: path of each module of the checkpoint -> the names of its parameters.
    layers: paths of the dense model's layers."""

    held: dict[str, Excerpt] = field(default_factory=dict)
    dense: dict[str, Excerpt] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    modules: dict[str, list[str]] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)

    def add(self, path: str, module: nn.Module, dense_path: str, origin: nn.Module) -> None:
        """Take samples of what is loaded of a module, and of the dense module that it was made of."""
        self.add_held(path, module)
        self.dense |= dict(samples(dense_path, origin))
        self.origins |= {joined(path, name): joined(dense_path, name) for name in self.modules[path]}

    def add_held(self, path: str, module: nn.Module) -> None:
        """Take samples of what is loaded of a module whose dense one isn't known."""
        self.held |= dict(samples(path, module))
        self.modules[path] = [
            name for name, _ in module.named_parameters() if joined(path, name) in self.held
        ]

    def add_dense(self, path: str, layer: nn.Module) -> None:
        """Take samples of a loaded layer of the dense model."""
        self.dense |= dict(samples(path, layer))
        self.layers.append(path)

    def refuse_swapped(self, where: Path) -> None:
        """ArtifactError for a tensor that is not the dense model's of its name, but the one of another name. where: the
        checkpoint, as the error names it."""
        for name, mine in self.held.items():
            own = self.dense.get(self.origins.get(name, ""))
            if own is None or own.shape != mine.shape or _alike(mine, own):
                continue
            for other, theirs in self.dense.items():
                if theirs.shape == mine.shape and other != self.origins[name] and _same(mine, theirs):
                    raise ArtifactError(
                        f"{where}: {name} holds what is {other} in the dense model: tensors have each other's names; "
                        f"{AT_SOURCE}"
                    )

    def refuse_disordered(self, where: Path) -> None:
        """ArtifactError for layers of a shallower model that are the dense model's in another order."""
        unknown = [
            path
            for path, names in self.modules.items()
            if path and not any(joined(path, name) in self.origins for name in names)
        ]
        last = 0
        for path in unknown if len(unknown) <= len(self.layers) else ():
            alike = [index for index, layer in enumerate(self.layers) if self._made_of(path, layer)]
            if alike and max(alike) < last:
                raise ArtifactError(
                    f"{where}: {path} is {self.layers[max(alike)]} of the dense model and stands behind "
                    f"{self.layers[last]}: its layers are in another order; {AT_SOURCE}"
                )
            last = max(last, min(alike, default=0))

    def _made_of(self, path: str, layer: str) -> bool:
        """True if a matrix of the checkpoint's layer is surely of this dense one."""
        pairs = (
            (self.held[joined(path, name)], self.dense.get(joined(layer, name)))
            for name in self.modules[path]
        )
        return any(
            own is not None and len(own.shape) == 2 and own.shape == mine.shape and _same(mine, own)
            for mine, own in pairs
        )


def samples(path: str, module: nn.Module) -> Iterator[tuple[str, Excerpt]]:
    """(name, excerpt) of each parameter that is loaded of the module at `path`."""
    loaded = {name: tensor for name, tensor in module.named_parameters() if not tensor.is_meta}
    vectors = [tensor for tensor in loaded.values() if tensor.dim() == 1]
    for name, tensor in loaded.items():
        stride = tensor.numel() // VALUES | 1  # odd, so that it meets the columns of a width that is even
        values = tensor.flatten()[::stride].clone()
        excerpt = Excerpt(tensor.shape, values, _products(tensor), _scaled(tensor, vectors))
        yield joined(path, name), excerpt


def _scaled(tensor: torch.Tensor, vectors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Inner products of a matrix's rows behind each of the norms that fit it; some families' norms are 1 + vector."""
    if tensor.dim() != 2:
        return ()
    norms = [norm for vector in vectors if len(vector) == tensor.shape[1] for norm in (vector, vector + 1)]
    return tuple(_of_pairs(_some(tensor) * norm) for norm in norms)


def _products(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Inner products of pairs of a matrix's rows, and of its columns; a vector has none."""
    if tensor.dim() != 2:
        return ()
    return tuple(_of_pairs(_some(matrix)) for matrix in (tensor, tensor.T))


def _some(matrix: torch.Tensor) -> torch.Tensor:
    return matrix[torch.linspace(0, len(matrix) - 1, min(VECTORS, len(matrix))).long()].float()


def _of_pairs(rows: torch.Tensor) -> torch.Tensor:
    return (rows @ rows.T)[~torch.eye(len(rows), dtype=torch.bool)]


def joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _alike(mine: Excerpt, own: Excerpt) -> bool:
    """True if a tensor may have been made of the dense one of its name.

    A vector counts only if it is equal, since some compressors scale it (AWQ).
    """
    if len(mine.shape) == 1:
        return equal(mine.values, own.values)
    return abs(correlation(mine.values, own.values)) > LIKE


def _same(mine: Excerpt, theirs: Excerpt) -> bool:
    """True if a tensor is surely of this dense one; a constant vector may be of any."""
    if len(mine.shape) == 1:
        return equal(mine.values, theirs.values) and bool(mine.values.min() < mine.values.max())
    return correlation(mine.values, theirs.values) > LIKE


def equal(held: torch.Tensor, dense: torch.Tensor) -> bool:
    """True if a float32 tensor is the dense model's, as it is or rounded to half precision."""
    return any(torch.equal(held, rounded) for rounded in (dense, *(dense.to(d).float() for d in HALVES)))


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Pearson's, over all entries; 0 if one of them is constant. Cut at 1, which rounding passes."""
    a, b = a - a.mean(), b - b.mean()
    norm = a.norm() * b.norm()
    return float(((a * b).sum() / norm).clamp(-1, 1)) if norm > 0 else 0.0

"""Tensors that have each other's names, and changed ones that are still their own."""

from pathlib import Path

import pytest
import torch
from torch import nn

from workflow_scripts.compress.foreign.swapped import Names, correlation
from workflow_scripts.files.artifacts import ArtifactError


class Layer(nn.Module):
    def __init__(self, seed, **changed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in (("up", (64, 48)), ("gate", (64, 48)), ("before", (48,)), ("after", (48,))):
            tensor = torch.randn(shape, generator=generator)
            setattr(self, name, nn.Parameter(changed.get(name, lambda tensor: tensor)(tensor)))


def refused(*layers):
    """Whether a checkpoint of these layers is refused, beside a dense model whose layers have the seeds 0, 1, ..."""
    names = Names()
    with torch.no_grad():
        for index, layer in enumerate(layers):
            names.add(f"a.{index}", layer, f"b.{index}", Layer(index))
    names.refuse_swapped(Path("folder"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda tensor: tensor.sign(), id="one bit"),
        pytest.param(lambda tensor: tensor * (tensor.abs() > 2), id="one weight of twenty"),
        pytest.param(lambda tensor: tensor * torch.linspace(0.1, 4, 48), id="scaled columns"),
        pytest.param(torch.zeros_like, id="nothing"),
        pytest.param(lambda tensor: torch.randn(tensor.shape), id="of no other name"),
    ],
)
def test_what_a_compressor_changed_is_still_its_own(change):
    torch.manual_seed(5)
    refused(Layer(0, up=change), Layer(1, up=change, before=lambda tensor: tensor * 2, after=torch.ones_like))


def test_weights_of_another_layer_are_named_also_if_they_are_rounded():
    with pytest.raises(ArtifactError, match=r"folder: a\.1\.up holds what is b\.0\.up in the dense model"):
        refused(Layer(0), Layer(1, up=lambda _: Layer(0).up.detach().sign()))


def test_vectors_of_another_name_are_named_also_in_half_precision():
    with pytest.raises(ArtifactError, match=r"a\.0\.before holds what is b\.0\.after in the dense model"):
        refused(Layer(0, before=lambda _: Layer(0).after.detach().bfloat16().float()))


def test_a_large_matrix_is_known_by_values_of_all_its_columns():
    names, wide = Names(), nn.Linear(1024, 256, bias=False)
    wide.weight.data = torch.arange(256 * 1024).float().view(256, 1024)
    names.add("a", wide, "b", wide)
    (sample,) = names.held.values()
    assert len(sample.values) < 17000 and len({int(value) % 1024 for value in sample.values}) == 1024


def test_matrices_that_are_a_little_alike_are_told_from_each_other():
    """As embeddings and an untied head are."""
    dense = Layer(0)
    alike = dense.up.detach() * 0.4 + dense.gate.detach() * 0.9
    dense.gate = nn.Parameter(alike)
    swapped = Layer(0, up=lambda _: alike, gate=lambda _: dense.up.detach())
    names = Names()
    with torch.no_grad():
        names.add("", swapped, "", dense)
    with pytest.raises(ArtifactError, match=r"folder: up holds what is gate in the dense model"):
        names.refuse_swapped(Path("folder"))


def test_a_correlation_of_equal_tensors_is_never_above_1():
    """Rounding took six of these twenty past 1, and the schema of compression.json refused such a checkpoint."""
    for seed in range(20):
        tensor = torch.randn(300, 7, generator=torch.Generator().manual_seed(seed)).double()
        assert correlation(tensor, tensor) == pytest.approx(1) and correlation(tensor, tensor) <= 1
        assert correlation(tensor, -tensor) >= -1

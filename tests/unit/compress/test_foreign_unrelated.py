"""Matrices of another model among those of a checkpoint, and compressed, scaled or rotated ones, which are its own."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests import tiny_gguf
from workflow_scripts.compress.foreign.relation import relate
from workflow_scripts.compress.foreign.swapped import Names
from workflow_scripts.compress.foreign.unrelated import refuse_unrelated
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources.gguf_file import dequantise, in_one

MATRICES = {"value": (64, 96), "up": (128, 96), "down": (96, 128)}
DEPTH = 4


class Layer(nn.Module):
    """Random matrices, each changed by the function of its name, and a norm."""

    def __init__(self, seed, **changed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        for name, shape in MATRICES.items():
            tensor = torch.randn(shape, generator=generator)
            setattr(self, name, nn.Parameter(changed.get(name, lambda tensor: tensor)(tensor)))
        self.norm = nn.Parameter(torch.ones(96))


def all_by(function):
    return dict.fromkeys(MATRICES, function)


def refused(layers, outside=None, known=True):
    """Raises if a checkpoint of these layers is refused, beside a dense model whose layers have the seeds 0, 1, ..."""
    names = Names()
    with torch.no_grad():
        if outside:
            names.add("", outside, "", Layer(100))
        for index in range(DEPTH):
            if known:
                names.add(f"a.{index}", layers[index], f"b.{index}", Layer(index))
            else:
                names.add_dense(f"b.{index}", Layer(index))
        for index, layer in enumerate(() if known else layers):
            names.add_held(f"a.{index}", layer)
    refuse_unrelated(names, Path("folder"))


def two_bits(tensor):
    """Round to nearest, four steps a row."""
    scale = (tensor.amax(1, keepdim=True) - tensor.amin(1, keepdim=True)) / 3
    return (tensor / scale).round().clamp(-2, 1) * scale


def low_rank(tensor):
    u, s, v = torch.linalg.svd(tensor, full_matrices=False)
    return u[:, :4] * s[:4] @ v[:4]


def one_outlier(tensor):
    """SmoothQuant may give a column a thousand times the scale of others."""
    return tensor * torch.where(torch.arange(tensor.shape[1]) == 3, 3000.0, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(two_bits, id="two bits"),
        pytest.param(torch.sign, id="one bit"),
        pytest.param(lambda tensor: tensor * (tensor.abs() > 2.2), id="one weight of forty"),
        pytest.param(low_rank, id="four of 64 singular values"),
        pytest.param(one_outlier, id="a column that owns the norm"),
        pytest.param(lambda tensor: tensor + 2 * torch.randn(tensor.shape), id="trained far on"),
        pytest.param(lambda tensor: tensor[torch.arange(len(tensor)).flip(0)], id="neurons in another order"),
    ],
)
def test_what_a_compressor_changed_is_still_its_own(change):
    torch.manual_seed(5)
    refused([Layer(index, **all_by(change)) for index in range(DEPTH)])
    refused([Layer(index, **all_by(change)) for index in (0, 3)], known=False)


def test_parts_that_were_pruned_as_a_whole_are_no_other_model():
    refused([Layer(index, **all_by(torch.zeros_like)) for index in range(DEPTH)])


def test_rotated_matrices_are_its_own_and_another_model_among_them_is_named():
    """As SpinQuant fuses rotations: of the hidden states (96), and of values (64), which are rotated on both sides."""
    torch.manual_seed(1)
    hidden, heads = (torch.linalg.qr(torch.randn(size, size))[0] for size in (96, 64))
    turn = {
        "value": lambda tensor: two_bits(heads @ tensor @ hidden),
        "up": lambda tensor: two_bits(tensor @ hidden),
        "down": lambda tensor: two_bits(hidden.T @ tensor),
    }
    refused([Layer(index, **turn) for index in range(DEPTH)])
    with pytest.raises(
        ArtifactError, match=r"folder: a\.2: none of its 3 matrices \(value, up, \.\.\.\) resembles"
    ):
        refused([Layer(50 + index if index == 2 else index, **turn) for index in range(DEPTH)])


@pytest.mark.parametrize("known", [True, False], ids=["equal depth", "layers of unknown origin"])
def test_a_layer_of_another_model_is_named_also_if_all_its_matrices_are_compressed(known):
    layers = [Layer(50 + index if index == 3 else index, **all_by(two_bits)) for index in range(DEPTH)]
    with pytest.raises(
        ArtifactError,
        match=r"folder: a\.3: none of its 3 matrices .* a part or shard of it is another model's",
    ):
        refused(layers, known=known)


def test_one_matrix_of_another_model_is_named():
    other = Layer(50).up.detach()
    layers = [Layer(index, **({"up": lambda _: other} if index == 1 else {})) for index in range(DEPTH)]
    with pytest.raises(ArtifactError, match=r"folder: a\.1\.up does not resemble the dense model's"):
        refused(layers)


def test_a_matrix_of_another_model_outside_of_the_layers_is_named():
    layers = [Layer(index) for index in range(DEPTH)]
    refused(layers, outside=Layer(100))
    with pytest.raises(ArtifactError, match=r"folder: down does not resemble the dense model's"):
        refused(layers, outside=Layer(100, down=lambda _: Layer(50).down.detach()))


def plain(file):
    """The folder that a GGUF file in one part becomes."""
    dequantise(file, file.with_suffix(""))
    return file.with_suffix("")


def test_a_split_gguf_with_a_part_of_another_model_of_its_shape_is_named(tmp_path):
    """The parts' metadata and names agree: llama.cpp writes no model's name into any but the first."""
    for name, seed in (("tiny", 0), ("other", 1)):
        tiny_gguf.write(tmp_path / f"{name}.gguf", blocks=3, seed=seed, split_max_tensors=15)
    folders = {}
    for name in ("tiny", "other"):  # of the second part
        parts = [tmp_path / "tiny-00001-of-00002.gguf", tmp_path / f"{name}-00002-of-00002.gguf"]
        parts[1] = parts[1].rename(tmp_path / "tiny-00002-of-00002.gguf")
        in_one(parts, tmp_path / f"{name}-joined.gguf")
        folders[name] = plain(tmp_path / f"{name}-joined.gguf")
    dense = Skeleton(folders["tiny"])
    relate(dense, Skeleton(folders["tiny"]), 5, False, tmp_path)
    with pytest.raises(
        ArtifactError, match=r"model\.layers\.2: none of its 7 matrices .* a part or shard of it is"
    ):
        relate(dense, Skeleton(folders["other"]), 5, False, tmp_path)


@pytest.mark.parametrize("norm", [1.0, 1.5], ids=["norms of the dense model", "norms trained anew"])
def test_a_shallower_model_needs_layers_of_the_dense_one(norm, tmp_path):
    folders = {}
    for name, blocks, seed in (("dense", 3, 0), ("shallow", 2, 0), ("stranger", 2, 1)):
        tiny_gguf.write(tmp_path / f"{name}.gguf", blocks=blocks, seed=seed)
        folders[name] = plain(tmp_path / f"{name}.gguf")
    embeddings = load_file(folders["dense"] / "model.safetensors")["model.embed_tokens.weight"]
    for name in ("shallow", "stranger"):
        file = folders[name] / "model.safetensors"
        tensors = load_file(file) | {"model.embed_tokens.weight": embeddings}
        changed = {key: held * norm if "layernorm" in key else held for key, held in tensors.items()}
        save_file(changed, file, metadata={"format": "pt"})
    dense = Skeleton(folders["dense"])
    found = relate(dense, Skeleton(folders["shallow"]), 5, False, tmp_path)
    assert found.layers == ([0, 1] if norm == 1 else None)
    with pytest.raises(
        ArtifactError, match=r"model\.layers\.0: none of its 7 matrices .* a part or shard of it is"
    ):
        relate(dense, Skeleton(folders["stranger"]), 5, False, tmp_path)


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (
            [0, 2, 1],
            r"a\.2 is b\.1 of the dense model and stands behind b\.2: its layers are in another order",
        ),
        ([3, 2, 1, 0], r"a\.1 is b\.2 of the dense model and stands behind b\.3"),
        ([0, 1, 3], None),
        ([0, 1, 1, 2], None),  # layers that share their weights
        ([0, 1, 2, 1, 2, 3], None),  # a deeper model, merged of itself
        ([9, 8], None),  # of no dense layer
    ],
)
def test_layers_of_a_shallower_model_in_another_order_are_refused(order, said):
    names = Names()
    with torch.no_grad():
        for index in range(DEPTH):
            names.add_dense(f"b.{index}", Layer(index))
        for index, seed in enumerate(order):
            names.add_held(f"a.{index}", Layer(seed, **all_by(two_bits)))
    if said is None:
        names.refuse_disordered(Path("folder"))
        return
    with pytest.raises(ArtifactError, match=f"folder: {said}"):
        names.refuse_disordered(Path("folder"))


@pytest.mark.parametrize("offset", [0, 1])  # norms of some families are 1 + vector
def test_a_rotated_head_into_which_an_uneven_norm_was_taken_is_its_own(offset):
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(96, 96, generator=generator))[0]
    norm = (1.5 * torch.randn(96, generator=generator)).exp()

    def outside(head, norm):
        module = nn.Module()
        module.head, module.norm = nn.Parameter(head), nn.Parameter(norm - offset)
        return module

    head, other = (torch.randn(256, 96, generator=generator) for _ in range(2))
    for rows, related in ((head, True), (other, False)):
        names = Names()
        with torch.no_grad():
            names.add("", outside(rows * norm @ rotation, torch.ones(96)), "", outside(head, norm))
        if related:
            refuse_unrelated(names, Path("folder"))
        else:
            with pytest.raises(ArtifactError, match="head does not resemble the dense model's"):
                refuse_unrelated(names, Path("folder"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda q: q.view(1, 2, 32, 96).transpose(1, 2).reshape(64, 96), id="Meta's rotary layout"
        ),
        pytest.param(torch.randn_like, id="another model's"),
    ],
)
def test_queries_of_another_order_or_model_in_every_layer_are_named(change):
    def layer(index, change):
        made = Layer(index)
        made.q_proj = nn.Linear(96, 64, bias=False)
        made.q_proj.weight = nn.Parameter(change(made.value.detach()))
        return made

    names = Names()
    with torch.no_grad():
        for index in range(DEPTH):
            names.add(f"a.{index}", layer(index, change), f"b.{index}", layer(index, lambda tensor: tensor))
    with pytest.raises(
        ArtifactError, match=r"a\.0\.q_proj\.weight does not resemble .* rows are in another order"
    ):
        refuse_unrelated(names, Path("folder"))

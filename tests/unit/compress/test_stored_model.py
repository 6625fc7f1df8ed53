"""What is stored, what is rebuilt from it, and what a load refuses."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_copies import CALIBRATION, compressed
from tests.unit.compress.stored import GPTQ, SETTINGS
from workflow_scripts.compress.bit_packing import from_stored, pack_bits, to_stored, unpack_bits
from workflow_scripts.compress.decoder import decoder_layers, get_weight, layer_linears
from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.solver import solve
from workflow_scripts.compress.stored_model import join, load_compressed
from workflow_scripts.compress.task import Machine
from workflow_scripts.files import artifacts
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.sources import models


def test_calibration_beyond_the_models_positions_is_refused(sources, here):
    with pytest.raises(ValueError, match=r"calibration\.length: 513 tokens exceed the model's 512 positions"):
        compressed(sources / "model", here, GPTQ, {"windows": 1, "length": 513})


@pytest.mark.parametrize("shape", [(5, 29), (1, 8), (5, 64), (3, 1), (300, 1000)])
@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_planes_hold_every_code(bits, shape):
    codes = torch.randint(
        0, 2**bits, shape[::-1], dtype=torch.uint8
    ).T  # as the solver leaves them, transposed
    planes = pack_bits(codes, bits)
    by_numpy = [np.packbits(codes.numpy() >> bit & 1, axis=1, bitorder="little") for bit in range(bits)]
    assert np.array_equal(planes.numpy(), np.stack(by_numpy))
    assert torch.equal(unpack_bits(planes, shape[1]), codes)


@pytest.mark.parametrize("static_groups", [True, False])
def test_packing_returns_the_solved_weight_bit_by_bit(static_groups):
    draw = torch.Generator().manual_seed(0)
    W, X = torch.randn(8, 50, generator=draw), torch.randn(50, 300, generator=draw)
    settings = CompressorSettings(**GPTQ | {"static_groups": static_groups})
    solved = solve([W], X @ X.T, settings, half=True).linears[0]
    stored = to_stored(solved, settings)
    assert stored["scale"].dtype == torch.float16
    assert ("group" in stored) == (not static_groups)  # static groups follow the column order
    assert torch.equal(from_stored(stored, 50, settings).weight, solved.weight)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_compressed_model_comes_back_as_it_was_evaluated(name, sources, here, monkeypatch):
    evaluated = models.load_dense(
        sources / "model"
    ).state_dict()  # by the layers' names: as the walk left them
    real = Skeleton.release

    def watched(self, module):
        path = self.paths[id(module)]
        if path:
            evaluated.update({f"{path}.{name}": value for name, value in module.state_dict().items()})
        real(self, module)

    monkeypatch.setattr(Skeleton, "release", watched)
    folder = compressed(sources / "model", here / name, SETTINGS[name])
    model = load_compressed(sources / "model", folder)
    assert all(torch.equal(value, evaluated[key]) for key, value in model.state_dict().items())
    assert not model.training
    half = load_compressed(sources / "model", folder, dtype=torch.bfloat16)
    assert all(torch.equal(v, evaluated[k].to(torch.bfloat16)) for k, v in half.state_dict().items())


def test_the_proof_says_what_is_stored(sources, here):
    folder = compressed(sources / "model", here / "gptq", SETTINGS["gptq"])
    proof = artifacts.read_json(folder / "compression.json", schema="compression")
    model = load_compressed(sources / "model", folder)
    linears = [m for layer in decoder_layers(model) for m in layer_linears(layer).values()]
    assert len(proof["layers"]) == len(linears) == 14
    assert proof["calibration"] == CALIBRATION | {
        "corpus": "corpus",
        "tokens": 256,
        "add_bos": False,
        "seed": 0,
    }
    count = sum(get_weight(linear).numel() for linear in linears)
    tensors = load_file(folder / "weights.safetensors")
    assert proof["bytes_on_disk"] == sum(t.numel() * t.element_size() for t in tensors.values())
    assert proof["effective_bits"] == pytest.approx(8 * proof["bytes_on_disk"] / count)
    # 3 bits, and float16 scale + 8-bit zero per group of 24 (32 inputs: 2 groups, 64 inputs: 3)
    rows = {32: 2 * (32 + 16 + 16 + 32 + 64 + 64), 64: 2 * 32}
    overhead = 24 * (2 * rows[32] + 3 * rows[64])
    assert proof["effective_bits"] == pytest.approx(3 + overhead / count)
    assert proof["weights_sha256"] == artifacts.sha256_file(folder / "weights.safetensors")
    for record, linear in zip(proof["layers"], linears, strict=True):
        weight = get_weight(linear)
        assert record["shape"] == list(weight.shape)
        distinct = max(len(row.unique()) for row in weight[:, :24])
        assert distinct <= record["levels"] <= 8
        assert record["sparsity"] == pytest.approx((weight == 0).float().mean().item())


def test_the_seed_draws_the_copy(sources, here):
    """Copy 0 has the windows and bits of a compression without a seed; each other seed has its own."""
    weights = {}
    for seed in (None, 0, 1, 2):
        made = Provenance("r", "c", seed=seed)
        folder = compressed(sources / "model", here / f"seed-{seed}", SETTINGS["gptq"], made=made)
        proof = artifacts.read_json(folder / "compression.json", schema="compression")
        assert proof["calibration"]["seed"] == proof["manifest"]["seed"] == (seed or 0)
        weights[seed] = proof["weights_sha256"]
    assert weights[None] == weights[0] and len(set(weights.values())) == 3


def test_dense_stores_no_tensor(sources, here):
    folder = compressed(sources / "model", here / "dense", SETTINGS["dense"])
    proof = artifacts.read_json(folder / "compression.json", schema="compression")
    assert load_file(folder / "weights.safetensors") == {} and proof["layers"] == []
    assert proof["effective_bits"] == 32 and proof["calibration"] is None


def test_parts_are_joined_as_the_library_would_write_them_in_one(tmp_path):
    draw = torch.Generator().manual_seed(0)
    kinds = {"codes": torch.uint8, "scale": torch.float16, "wide": torch.float32, "group": torch.int32}
    tensors = [
        {
            f"{layer}.{linear}.{part}": torch.randint(0, 99, (3, 5 + layer), generator=draw).to(dtype)
            for linear in ("mlp.up", "attn.q")
            for part, dtype in kinds.items()
        }
        for layer in (0, 1, 2, 10)
    ]
    tensors[1]["1.mlp.up.values"] = torch.zeros(0, dtype=torch.float16)  # all pruned
    parts = [tmp_path / f"part-{index}" for index in range(4)]
    for part, held in zip(parts, tensors, strict=True):
        save_file(held, part, metadata={"records": "[]"})
    together = {name: value for held in tensors for name, value in held.items()}
    save_file(together, tmp_path / "expected")
    size = join(parts, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == (tmp_path / "expected").read_bytes()
    assert size == sum(value.nbytes for value in together.values())
    assert join([], tmp_path / "none") == 0 and load_file(tmp_path / "none") == {}


def test_where_activations_lie_changes_no_weight_and_no_recipe(sources, here):
    held = compressed(sources / "model", here / "held", SETTINGS["gptq"])
    machine = Machine(activation_memory=0)
    filed = compressed(sources / "model", here / "filed", SETTINGS["gptq"], machine=machine)
    assert (held / "weights.safetensors").read_bytes() == (filed / "weights.safetensors").read_bytes()
    proofs = [artifacts.read_json(path / "compression.json")["manifest"] for path in (held, filed)]
    assert proofs[0]["config"] == proofs[1]["config"] and proofs[0]["recipe"] == proofs[1]["recipe"]


def test_a_text_that_is_too_short_is_refused(sources, here):
    with pytest.raises(artifacts.ArtifactError, match="windows of 512 tokens"):
        compressed(sources / "model", here / "gptq", SETTINGS["gptq"], {"windows": 4096, "length": 512})

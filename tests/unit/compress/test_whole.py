"""Compressors that delete for sure, against brute force: layers left out, and truncated SVD."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import tiny_copies
from tests.tiny_copies import fetch_model
from tests.unit.compress.walked import tiny
from workflow_scripts.compress.decoder import decoder_layers, get_weight, layer_linears
from workflow_scripts.compress.engines.svd import rank_of, truncate
from workflow_scripts.compress.settings import CompressionError, CompressorSettings
from workflow_scripts.compress.stored_model import load_compressed
from workflow_scripts.files.artifacts import read_json
from workflow_scripts.sources import corpora, models

CALIBRATION = {"windows": 12, "length": 32}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
FAMILIES = {"llama": {}, "opt": {}, "gpt2": {"n_layer": 4}, "gemma3_text": {"layer_types": SLIDING}}


@pytest.fixture
def dense(request, sources, here):
    """A fetched model of four layers with large, different weights, so that layers differ in influence."""
    family = getattr(request, "param", "llama")
    model = tiny(family, vocab_size=384, num_hidden_layers=4, **FAMILIES[family])
    with torch.no_grad():
        for index, layer in enumerate(decoder_layers(model)):
            for parameter in layer.parameters():
                parameter.mul_(1 + 2 * [3, 0, 2, 1][index]) if parameter.dim() > 1 else None
    folder = here / "local"
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(sources / "local-model" / name, folder / name)
    fetch_model(folder, here / "dense")
    (here / "corpus").symlink_to(sources / "corpus")
    return here / "dense"


def compressed(dense, settings, here):
    return tiny_copies.compressed(dense, here / "compressed", settings, CALIBRATION)


def logits(model):
    with torch.no_grad():
        return model(torch.arange(3, 40)[None], use_cache=False).logits


@pytest.mark.parametrize("dense", FAMILIES, indirect=True)
def test_named_layers_are_left_out_as_if_they_were_deleted_by_hand(dense, sources, here):
    folder = compressed(dense, {"algorithm": "drop-layers", "layers": [2, 1]}, here)
    by_hand = AutoModelForCausalLM.from_pretrained(here / "local")
    layers = decoder_layers(by_hand)
    per_layer = sum(get_weight(linear).numel() for linear in layer_linears(layers[0]).values())
    del layers[1:3]
    if "layer_types" in (types := by_hand.config.to_dict()) and types["layer_types"] == SLIDING:
        by_hand.config.layer_types = [SLIDING[0], SLIDING[3]]
    found = load_compressed(dense, folder)
    assert len(decoder_layers(found)) == 2
    assert torch.equal(logits(found), logits(by_hand))
    assert not torch.equal(logits(found), logits(AutoModelForCausalLM.from_pretrained(here / "local")))
    proof = read_json(folder / "compression.json", schema="compression")
    assert proof["whole"] == {"layers": [0, 3]} and proof["calibration"] is None
    assert proof["bytes_on_disk"] == 2 * 4 * per_layer and proof["effective_bits"] == 16  # half of 32


def test_the_layers_of_least_influence_go(dense, sources, here):
    folder = compressed(dense, {"algorithm": "drop-layers", "count": 2}, here)
    tokenizer = models.load_tokenizer(dense)
    windows = corpora.token_windows(
        corpora.read_documents(sources / "corpus", "train"), tokenizer, 32, 12, 0, models.adds_bos(tokenizer)
    )
    model, cosines = models.load_dense(dense), {}
    for index, layer in enumerate(decoder_layers(model)):

        def after(module, args, output, index=index):
            x, y = args[0], output[0] if isinstance(output, tuple) else output
            cosines[index] = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))

        layer.register_forward_hook(after)
    with torch.no_grad():
        model(windows)
    influence = [1 - cosines[index].mean().item() for index in range(4)]
    proof = read_json(folder / "compression.json", schema="compression")
    assert proof["whole"]["influence"] == pytest.approx(influence, rel=1e-4, abs=1e-6)
    kept = sorted(sorted(range(4), key=lambda index: -influence[index])[:2])
    assert proof["whole"]["layers"] == kept and kept != [0, 1]
    assert proof["calibration"]["tokens"] == windows.numel()
    named = [index for index in range(4) if index not in kept]
    expected = logits(load_compressed(dense, folder))
    again = compressed(dense, {"algorithm": "drop-layers", "layers": named}, here)
    assert torch.equal(logits(load_compressed(dense, again)), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": [4]}, r"layers: 4 is not allowed; the model has the layers 0 to 3"),
        ({"count": 4}, r"4 layers can't be left out: the model has 4"),
        ({}, "give either count or layers"),
    ],
)
def test_layers_that_the_model_lacks_are_refused(dense, sources, here, settings, message):
    with pytest.raises(CompressionError, match=message):
        compressed(dense, {"algorithm": "drop-layers", **settings}, here)


# -------------------------------------------------------------------------------------------------- SVD


def test_a_truncated_weight_is_the_best_of_its_rank():
    """Eckart and Young: the error is the root of the sum of the squared singular values that are left out."""
    weight = torch.randn(24, 40, generator=torch.Generator().manual_seed(0))
    found = truncate(weight, 5)
    values = torch.linalg.svdvals(weight)
    assert torch.linalg.matrix_rank(found) == 5
    assert (weight - found).norm().item() == pytest.approx(values[5:].norm().item(), rel=1e-5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):  # no other of that rank, near or far, is better
        other = found + 0.01 * torch.randn(24, 5, generator=generator) @ torch.randn(
            5, 40, generator=generator
        )
        left, sizes, right = torch.linalg.svd(other, full_matrices=False)
        other = (left[:, :5] * sizes[:5]) @ right[:5]
        assert (weight - other).norm() > (weight - found).norm()


@pytest.mark.parametrize(
    ("settings", "rank"),
    [
        ({"rank": 3}, 3),
        ({"rank": 21}, 21),  # 21 x 96 weights in place of 2048
        ({"rank": 22}, None),
        ({"ratio": 0.5}, 10),
        ({"ratio": 0.01}, 1),
        ({"ratio": 0.999}, 21),
    ],
)
def test_a_linear_of_32_x_64_has_two_factors_if_these_are_smaller(settings, rank):
    assert rank_of(32, 64, CompressorSettings("svd", **settings)) == rank


@pytest.mark.parametrize("dense", FAMILIES, indirect=True)
def test_every_linear_is_truncated_and_nothing_else_changes(dense, sources, here):
    settings = CompressorSettings("svd", ratio=0.4)
    folder = compressed(dense, {"algorithm": "svd", "ratio": 0.4}, here)
    found, by_hand = load_compressed(dense, folder), AutoModelForCausalLM.from_pretrained(here / "local")
    size = weights = 0
    truncated = set()
    for layer in decoder_layers(by_hand):
        for linear in layer_linears(layer).values():
            truncated.add(id(linear))
            weight = get_weight(linear)
            rank = rank_of(*weight.shape, settings)
            left, values, right = torch.linalg.svd(weight.double())
            with torch.no_grad():
                weight.copy_(left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank])
            size += rank * sum(weight.shape)
            weights += weight.numel()
    torch.testing.assert_close(logits(found), logits(by_hand), rtol=1e-4, atol=1e-4)
    held, expected = found.state_dict(), by_hand.state_dict()
    linears = {f"{name}.weight" for name, module in by_hand.named_modules() if id(module) in truncated}
    assert held.keys() == expected.keys() and len(linears) == len(truncated)
    assert all(torch.equal(held[name], expected[name]) for name in expected.keys() - linears)
    proof = read_json(folder / "compression.json", schema="compression")
    assert proof["bytes_on_disk"] == 4 * size and proof["effective_bits"] == pytest.approx(
        32 * size / weights
    )
    assert all(0 < record["error"] < 1 for record in proof["layers"])


def test_a_truncation_that_was_killed_continues_to_the_same_bits(dense, sources, here, monkeypatch):
    from workflow_scripts.compress.engines import svd

    settings = {"algorithm": "svd", "rank": 4}
    whole = (compressed(dense, settings, here) / "weights.safetensors").read_bytes()
    (here / "compressed" / "compression.json").unlink()
    truncated, calls = svd._truncate_layer, []

    def killed(index, *arguments):
        calls.append(index)
        if index == 2 and calls.count(2) == 1:
            raise KeyboardInterrupt
        return truncated(index, *arguments)

    monkeypatch.setattr(svd, "_truncate_layer", killed)
    with pytest.raises(KeyboardInterrupt):
        compressed(dense, settings, here)
    folder = compressed(dense, settings, here)
    assert calls == [0, 1, 2, 2, 3]
    assert (folder / "weights.safetensors").read_bytes() == whole
    assert json.loads((folder / "config.json").read_text())["transformers_weights"] == "weights.safetensors"

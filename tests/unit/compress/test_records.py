"""What a walk records of each linear: dead inputs, seconds, an error that is a number."""

from types import SimpleNamespace

import pytest
import torch

from tests.unit.compress.walked import HALF, W3, tiny, walked
from workflow_scripts.compress import walk
from workflow_scripts.compress.decoder import decoder_layers
from workflow_scripts.compress.settings import CompressionError, CompressorSettings


@pytest.mark.parametrize(
    "settings", [W3, HALF, CompressorSettings("wanda", sparsity=0.5)], ids=lambda settings: settings.algorithm
)
def test_inputs_that_were_always_zero_are_counted(settings, tmp_path):
    model = tiny()
    for layer in decoder_layers(model):
        layer.input_layernorm.weight.data[[3, 8]] = 0
        layer.post_attention_layernorm.weight.data[5] = 0
    _, records = walked(model, tmp_path, settings)
    expected = {
        "q_proj": 2,
        "k_proj": 2,
        "v_proj": 2,
        "o_proj": 0,
        "gate_proj": 1,
        "up_proj": 1,
        "down_proj": 0,
    }
    assert len(records) == 14
    for record in records:
        assert record["dead_columns"] == expected[record["linear"].split(".")[-1]], record


def test_linears_that_were_solved_together_share_their_seconds(tmp_path, monkeypatch):
    ticks = iter(range(10**6))
    monkeypatch.setattr(walk, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    _, records = walked(tiny(), tmp_path, W3)
    seconds = {record["linear"].split(".")[-1]: record["seconds"] for record in records}
    assert seconds == {
        "q_proj": 0.333,
        "k_proj": 0.333,
        "v_proj": 0.333,
        "o_proj": 1,
        "gate_proj": 0.5,
        "up_proj": 0.5,
        "down_proj": 1,
    }


@pytest.mark.parametrize("found", [float("nan"), float("inf")])
def test_an_error_that_is_no_number_ends_the_walk_before_the_layer_is_kept(found, tmp_path, monkeypatch):
    real = walk.reconstruction_error

    def error(weight, Q, H):
        return found if tuple(weight.shape) == (32, 64) else real(weight, Q, H)

    monkeypatch.setattr(walk, "reconstruction_error", error)
    with pytest.raises(CompressionError, match=f"layer 0, linear mlp.down_proj: its error is {found}; check"):
        walked(tiny(), tmp_path, W3)
    assert not list(tmp_path.glob("layer-*"))


def test_too_few_tokens_are_refused_before_the_first_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(walk, "compress_layer", lambda *arguments: pytest.fail("a layer was compressed"))
    text = torch.ones(2, 24, dtype=torch.int64)
    with pytest.raises(
        CompressionError, match=r"layer 0, linear mlp\.down_proj: 48 calibration tokens for 64"
    ):
        walked(tiny(), tmp_path, W3, text)


def test_an_order_of_columns_and_a_pattern_exclude_each_other():
    with pytest.raises(CompressionError, match="act_order scatters the m columns of a pattern"):
        CompressorSettings("sparsegpt", pattern="2:4", act_order=True)


def test_the_error_is_that_of_the_stored_weight(tmp_path):
    model = tiny()
    dense = {name: weight.clone() for name, weight in model.state_dict().items()}
    stored, records = walked(model, tmp_path, CompressorSettings("magnitude", sparsity=0.5))
    for record in records:
        W = dense[f"model.layers.{record['layer']}.{record['linear']}.weight"].double()
        values = stored[f"{record['layer']}.{record['linear']}.values"]
        kept = W.abs() > W.abs().flatten().kthvalue(W.numel() - len(values)).values
        off = torch.where(kept, W - W.half(), W)  # kept ones are stored in float16
        expected, unrounded = ((part.square().sum() / W.square().sum()).item() for part in (off, W * ~kept))
        assert record["error"] == pytest.approx(expected, rel=1e-6)
        assert abs(expected - unrounded) > 1e-8 * expected

"""Formats that pack each linear on its own: every packing of ours, real layouts of others, and what is refused."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from workflow_scripts.compress.export_formats import to_bitmask, to_gptq, to_words
from workflow_scripts.compress.foreign.packed import LAYOUTS, unpacked
from workflow_scripts.compress.foreign.reading import read_folder
from workflow_scripts.compress.quantizer import Quantized
from workflow_scripts.files.artifacts import ArtifactError

REAL = Path(__file__).with_name("awq")
AUTOROUND = Path(__file__).with_name("autoround")
TYPES = {torch.float8_e4m3fn: "F8_E4M3", torch.float32: "F32", torch.float16: "F16", torch.int32: "I32"}


def read(tensors, form, config=None):
    headers = {name: {"dtype": TYPES.get(tensor.dtype, "U8")} for name, tensor in tensors.items()}
    return dict(unpacked(headers, tensors.__getitem__, form, config or {}))


def wanted(biases):
    """An architecture without a place for any bias."""
    return set(biases)


def quantised(bits, group, rows=64, seed=0):
    """A weight (rows, columns) on random grids; group (columns,) of each column."""
    draw = torch.Generator().manual_seed(seed)
    groups = int(group.max()) + 1
    codes = torch.randint(0, 2**bits, (rows, len(group)), dtype=torch.uint8, generator=draw)
    scale = (torch.rand(rows, groups, generator=draw) + 0.1).half().float()
    zero = torch.randint(1, 2**bits, (rows, groups), generator=draw).float()
    return Quantized(codes, scale, zero, group, bits)


GROUPS = {
    "row": torch.zeros(96, dtype=torch.int64),
    "ragged": torch.arange(96) // 64,
    "order": (torch.arange(96) // 32)[torch.randperm(96, generator=torch.Generator().manual_seed(1))],
}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", [1, 2])
def test_gptq_is_read_back_to_the_bit(version, bits, group):
    weight = quantised(bits, GROUPS[group])
    tensors = {f"layer.fc.{part}": tensor for part, tensor in to_gptq(weight, version).items()}
    others = {"layer.fc.bias": torch.ones(64), "layer.norm.weight": torch.full((96,), 2.0)}
    found = read(tensors | others, "gptq_v2" if version == 2 else "gptq")
    assert found.keys() == {"layer.fc.weight", *others}
    assert torch.equal(found["layer.fc.weight"], weight.dequantize())
    assert all(torch.equal(found[name], tensor) for name, tensor in others.items())


@pytest.mark.parametrize(
    ("bias", "without_place", "left"),
    [(0.0, wanted, False), (0.0, lambda biases: set(), True), (1.0, wanted, True)],
    ids=["AutoGPTQ's", "of the architecture", "not 0"],
)
def test_a_bias_without_a_place_is_left_out_if_it_is_0(bias, without_place, left):
    """AutoGPTQ gave every linear a bias; programs that load such files pass over it."""
    tensors = GPTQ | {"fc.bias": torch.full((64,), bias), "norm.bias": torch.zeros(3)}
    headers = {name: {"dtype": "I32"} for name in tensors}
    found = dict(unpacked(headers, tensors.__getitem__, "gptq_v2", {}, without_place))
    assert found.keys() == {"fc.weight", "norm.bias"} | ({"fc.bias"} if left else set())


def test_a_stored_zero_point_of_version_1_wraps_round():
    """What GPTQModel writes for a zero point of 0: 2^bits - 1, as if 1 were taken off with the carry dropped."""
    weight = quantised(4, GROUPS["row"])
    weight.zero[3] = 0
    tensors = to_gptq(weight, 2)
    tensors["qzeros"] = to_words((weight.zero.T - 1) % 16, 4)
    found = read({f"fc.{part}": tensor for part, tensor in tensors.items()}, "gptq")
    assert torch.equal(found["fc.weight"], weight.dequantize())


def pack_awq(values):
    """(n, 8 m) codes of 4 bits -> (n, m) int32: eight columns in the order 0 2 4 6 1 3 5 7, the first lowest."""
    words = torch.zeros(values.shape[0], values.shape[1] // 8, dtype=torch.int64)
    for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        words |= values[:, column::8].long() << 4 * place
    return words.to(torch.int32)


def awq(columns=64, rows=48, size=32):
    """The tensors of a linear in AWQ's layout, and its weight (rows, columns)."""
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 16, (columns, rows), generator=draw)
    zeros = torch.randint(0, 16, (columns // size, rows), generator=draw)
    scales = (torch.rand(columns // size, rows, generator=draw) + 0.1).half()
    weight = torch.empty(rows, columns)
    for row in range(rows):
        for column in range(columns):
            group = column // size
            weight[row, column] = (codes[column, row] - zeros[group, row]) * scales[group, row].float()
    return {"fc.qweight": pack_awq(codes), "fc.qzeros": pack_awq(zeros), "fc.scales": scales}, weight


def test_awq_is_read_with_its_order_of_columns():
    tensors, weight = awq()
    assert torch.equal(read(tensors, "awq")["fc.weight"], weight)


def test_a_file_of_autoround_is_what_gptqmodel_unpacks(tmp_path):
    """Made by one library, unpacked by another: awq/README.md."""
    record = read_folder(REAL, tmp_path)
    assert (record["format"], record["runtime_quantisation"]) == ("awq", None)
    found = load_file(tmp_path / "model.safetensors")
    expected = json.loads((REAL / "expected.json").read_text())
    assert len(expected) == 7
    for name, digest in expected.items():
        assert hashlib.sha256(found[f"{name}.weight"].numpy().tobytes()).hexdigest() == digest, name


@pytest.mark.parametrize("name", ["symmetric-4", "symmetric-3", "asymmetric-2"])
def test_files_in_autorounds_own_format_are_what_its_own_module_multiplies_with(name, tmp_path):
    """autoround/README.md; without g_idx."""
    record = read_folder(AUTOROUND / name, tmp_path)
    assert record["format"] == "auto-round-gptq"
    found = load_file(tmp_path / "model.safetensors")
    expected = json.loads((AUTOROUND / name / "expected.json").read_text())
    assert len(expected) == 7
    for linear, digest in expected.items():
        weight = found[f"{linear}.weight"] + 0.0  # no -0
        assert hashlib.sha256(weight.numpy().tobytes()).hexdigest() == digest, linear


def test_a_stored_zero_point_of_autoround_does_not_wrap_round():
    """Its own module adds 1 to the stored number, as it is: `zeros += 1` in qlinear_torch_zp."""
    weight = quantised(2, GROUPS["row"])
    weight.zero[3] = 4
    tensors = to_gptq(weight, 2)
    tensors["qzeros"] = to_words(weight.zero.T - 1, 2)
    found = read({f"fc.{part}": tensor for part, tensor in tensors.items()}, "auto-round-gptq")
    assert torch.equal(found["fc.weight"], weight.dequantize())


def test_autorounds_other_packings_are_gptqs_second_version_and_awq():
    """The first without the groups, whose size may be another linear's (`extra_config`)."""
    weight = quantised(4, torch.arange(96) // 32)
    tensors = {f"fc.{part}": tensor for part, tensor in to_gptq(weight, 2).items() if part != "g_idx"}
    for config in ({"group_size": 32, "bits": 4}, {"group_size": 128, "bits": 4, "extra_config": {"fc": {}}}):
        assert torch.equal(read(tensors, "auto-round-gptq_v2", config)["fc.weight"], weight.dequantize())
    with pytest.raises(
        ArtifactError, match=r"fc: config\.json says groups of 128, which are 1; its tensors hold 3"
    ):
        read(tensors, "auto-round-gptq_v2", {"group_size": 128})
    with pytest.raises(ArtifactError, match="fc has no qzeros, which auto-round-gptq needs"):
        read({name: tensor for name, tensor in tensors.items() if "qzeros" not in name}, "auto-round-gptq")
    packed, expected = awq()
    assert torch.equal(read(packed, "auto-round-awq")["fc.weight"], expected)


def test_fp8_blocks_are_scaled_also_where_the_last_is_cut_short():
    draw = torch.Generator().manual_seed(0)
    stored = torch.randn(192, 160, generator=draw).to(torch.float8_e4m3fn)
    scale = torch.rand(2, 2, generator=draw) * 3
    expected = stored.float()
    for row in range(192):
        for column in range(160):
            expected[row, column] *= scale[row // 128, column // 128]
    tensors = {"fc.weight": stored, "fc.weight_scale_inv": scale, "norm.weight": torch.ones(4)}
    found = read(tensors, "fp8", {"weight_block_size": [128, 128]})
    assert found.keys() == {"fc.weight", "norm.weight"}
    assert torch.equal(found["fc.weight"], expected)


@pytest.mark.parametrize(
    ("scale", "factor"),
    [(torch.tensor(0.5), 0.5), (torch.tensor([[3.0]]), 3.0), (torch.tensor([[128]], dtype=torch.uint8), 2.0)],
    ids=["scalar", "one", "exponent"],
)
def test_fp8_with_one_scale(scale, factor):
    stored = torch.randn(8, 16).to(torch.float8_e4m3fn)
    tensors = {"fc.weight": stored, "fc.weight_scale_inv": scale, "fc.activation_scale": torch.tensor(1.0)}
    tensors |= {f"attn.{part}_scale": torch.tensor(1.0) for part in ("k", "v", "kv")}  # of a cache in FP8
    found = read(tensors, "fp8")
    assert found.keys() == {"fc.weight"} and torch.equal(found["fc.weight"], stored.float() * factor)


def without(tensors, name):
    return {key: tensor for key, tensor in tensors.items() if key != name}


GPTQ = {f"fc.{part}": tensor for part, tensor in to_gptq(quantised(4, GROUPS["row"]), 2).items()}
FP8 = {"fc.weight": torch.zeros(192, 160).to(torch.float8_e4m3fn), "fc.weight_scale_inv": torch.ones(1, 2)}


def cut(tensors, part, change):
    return tensors | {f"fc.{part}": change(tensors[f"fc.{part}"])}


def narrower(tensor):
    return tensor[..., :-1]


GROUPED = {f"fc.{part}": tensor for part, tensor in to_gptq(quantised(4, GROUPS["ragged"]), 2).items()}


@pytest.mark.parametrize(
    ("tensors", "form", "words"),
    [
        (cut(GROUPED, "g_idx", torch.zeros_like), "gptq", "g_idx names 1 of 2 groups"),
        (
            cut(GROUPED, "g_idx", torch.Tensor.float),
            "gptq",
            r"g_idx is torch.float32 \(96,\); \(n\) integers",
        ),
        (
            cut(GROUPED, "g_idx", lambda tensor: tensor[:0]),
            "gptq",
            r"g_idx is torch.int32 \(0,\); \(n\) integers",
        ),
        (
            cut(GROUPED, "scales", torch.Tensor.int),
            "gptq",
            r"scales is torch.int32 \(2, 64\); \(n, n\) floats",
        ),
        (cut(GROUPED, "scales", torch.zeros_like), "gptq", r"scales \(2, 64\) are all 0"),
        (cut(awq()[0], "scales", torch.zeros_like), "awq", r"scales \(2, 48\) are all 0"),
        (cut(GROUPED, "scales", narrower), "gptq", r"qweight is .* \(12, 64\); \(n, 63\) integers"),
        (cut(GROUPED, "scales", lambda tensor: tensor[:, :1]), "gptq", r"qweight is .*; \(n, 1\) integers"),
        (cut(GROUPED, "qzeros", narrower), "gptq_v2", r"qzeros is torch.int32 \(2, 7\); \(2, 8\) integers"),
        (
            cut(GROUPED, "qzeros", lambda tensor: tensor[:1]),
            "gptq",
            r"qzeros is .* \(1, 8\); \(2, 8\) integers",
        ),
        (cut(awq()[0], "qzeros", narrower), "awq", r"qzeros is torch.int32 \(2, 5\); \(2, 6\) integers"),
        (cut(awq()[0], "scales", lambda tensor: tensor[0]), "awq", r"scales is .* \(48,\); \(n, n\) floats"),
        (
            cut(awq()[0], "qweight", lambda tensor: tensor[0]),
            "awq",
            r"qweight is .* \(6,\); \(n, n\) integers",
        ),
        (
            {f"fc.{part}": tensor for part, tensor in to_bitmask(torch.eye(8)).items()}
            | {"fc.compressed": torch.ones(7)},
            "sparse-bitmask",
            r"bitmask .*, compressed \(7,\), .* don't fit together",
        ),
    ],
)
def test_tensors_of_another_shape_or_type_are_named(tensors, form, words):
    with pytest.raises(ArtifactError, match=f"fc: {words}"):
        read(tensors, form)


def test_a_linear_that_config_json_gives_other_bits_is_read_by_its_tensors():
    said = {"bits": 8, "group_size": 32, "dynamic": {"+:.*fc": {"bits": 4, "group_size": -1}}}
    assert read(GPTQ, "gptq_v2", said)["fc.weight"].shape == (64, 96)


@pytest.mark.parametrize("form", LAYOUTS)
def test_plain_weights_under_a_quantisation_that_config_json_names_are_refused(form):
    with pytest.raises(
        ArtifactError, match=rf"says {form}, and no linear is packed so .*remove `quantization_c"
    ):
        read({"fc.weight": torch.eye(8)}, form, {"bits": 4})


@pytest.mark.parametrize(
    ("tensors", "form", "config", "words"),
    [
        (without(GPTQ, "fc.g_idx"), "gptq", {}, "fc has no g_idx, which gptq needs"),
        (without(GPTQ, "fc.scales"), "gptq_v2", {}, "fc has no scales, which gptq_v2 needs"),
        (
            GPTQ | {"fc.g_idx": torch.arange(7)},
            "gptq",
            {},
            r"fc: qweight .* for 7 values is no packing of 2, 3, 4, 8 bits",
        ),
        (GPTQ, "gptq_v2", {"bits": 3, "group_size": -1}, "fc: config.json says 3 bits, its tensors hold 4"),
        (
            GPTQ,
            "gptq",
            {"bits": 4, "group_size": 32},
            "fc: config.json says groups of 32, which are 3; .* hold 1",
        ),
        (GPTQ | {"fc.g_idx": GPTQ["fc.g_idx"] + 1}, "gptq", {}, "fc: g_idx names groups from 1 to 1 of 1"),
        (awq()[0], "awq", {"bits": 8, "group_size": 32}, "fc: config.json says 8 bits, its tensors hold 4"),
        (
            awq()[0],
            "awq",
            {"bits": 4, "group_size": 16},
            "fc: config.json says groups of 16, .* tensors hold 2",
        ),
        (without(awq()[0], "fc.qzeros"), "awq", {}, "fc has no qzeros, which awq needs"),
        (
            awq(columns=60, size=20)[0]
            | {"fc.scales": torch.ones(7, 48).half(), "fc.qzeros": torch.zeros(7, 6, dtype=torch.int32)},
            "awq",
            {},
            "fc: 60 columns in 7 groups",
        ),
        (without(FP8, "fc.weight_scale_inv"), "fp8", {}, "fc has no weight_scale, which fp8 needs"),
        (
            FP8,
            "fp8",
            {"weight_block_size": [128, 128]},
            r"fc: scales \(1, 2\) of a weight \(192, 160\) are not one per block",
        ),
    ],
)
def test_what_is_incomplete_or_of_another_layout_is_named(tensors, form, config, words):
    with pytest.raises(ArtifactError, match=words):
        read(tensors, form, config)

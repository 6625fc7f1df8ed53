"""How a reader's account of quantised inputs becomes an entry of config.json, and what can't be simulated."""

import json

import pytest

from workflow_scripts.compress.foreign.activations import read_activations
from workflow_scripts.compress.foreign.formats import can_be_simulated
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.kernels.activations import Scheme

TOKEN = {
    "type": "int",
    "num_bits": 8,
    "strategy": "token",
    "dynamic": True,
    "symmetric": True,
    "group_size": None,
    "scale_dtype": None,
}
NVFP4 = TOKEN | {
    "type": "float",
    "num_bits": 4,
    "strategy": "tensor_group",
    "dynamic": "local",
    "group_size": 16,
}
NVFP4 |= {"scale_dtype": "torch.float8_e4m3fn"}
WHOLE_BATCH = TOKEN | {"strategy": "tensor"}


def read(tmp_path, **linears):
    file = tmp_path / "activations.json"
    file.write_text(json.dumps({name.replace("_", "."): said for name, said in linears.items()}))
    return read_activations(file)


def test_linears_of_one_scheme_share_it_and_keep_their_own_scales(tmp_path):
    entry, outside = read(
        tmp_path,
        layers_0_q={"arguments": TOKEN},
        layers_0_k={"arguments": NVFP4, "global_scale": 3.5},
        layers_1_q={"arguments": TOKEN},
        layers_1_k={"arguments": WHOLE_BATCH},
        head={"arguments": TOKEN},
    )
    assert entry == {
        "schemes": [
            {"type": "int", "bits": 8, "group_size": None, "symmetric": True, "scale_type": "float"},
            {"type": "float", "bits": 4, "group_size": 16, "symmetric": True, "scale_type": "float8"},
        ],
        "linears": {
            "layers.0.q": {"scheme": 0},
            "layers.0.k": {"scheme": 1, "global_scale": 3.5},
            "layers.1.q": {"scheme": 0},
        },
    }
    assert outside == ["head"]
    assert [Scheme(**scheme).bits for scheme in entry["schemes"]] == [8, 4]


def test_a_checkpoint_without_any_has_no_entry(tmp_path):
    assert read_activations(tmp_path / "activations.json") == (None, [])
    assert read(tmp_path, head={"arguments": TOKEN}) == (None, ["head"])


def test_scales_of_an_unknown_type_are_named(tmp_path):
    with pytest.raises(
        ArtifactError, match=r"layers\.0\.q: scales of its inputs are torch\.float16; known: "
    ):
        read(tmp_path, layers_0_q={"arguments": TOKEN | {"scale_dtype": "torch.float16"}})


@pytest.mark.parametrize(
    ("arguments", "can"),
    [
        (TOKEN, True),
        (NVFP4, True),
        (WHOLE_BATCH, False),
        (WHOLE_BATCH | {"dynamic": False}, True),
        (TOKEN | {"dynamic": False}, False),
        (TOKEN | {"strategy": "channel"}, False),
        (TOKEN | {"type": "float", "num_bits": 6}, False),
        ({"type": "int", "num_bits": 8, "dynamic": True, "group_size": 32}, True),
        ({"type": "int", "num_bits": 8, "dynamic": True}, False),
    ],
)
def test_a_token_must_not_depend_on_its_batch(arguments, can):
    assert can_be_simulated(arguments) is can

"""A compressed model that is not as its proof says is refused."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_copies import compressed
from tests.unit.compress.stored import SETTINGS
from workflow_scripts.compress.bit_packing import from_stored, pack_bits
from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.compress.stored_model import load_compressed
from workflow_scripts.files import artifacts


def rewritten(folder, change, rehash=True, size=True):
    """Change the stored tensors and the proof; `rehash` makes the file's hash right again, `size` its size."""
    tensors, proof = (
        load_file(folder / "weights.safetensors"),
        json.loads((folder / "compression.json").read_text()),
    )
    change(tensors, proof)
    save_file(tensors, folder / "weights.safetensors")
    if size:
        held = sum(tensor.nbytes for tensor in tensors.values())
        weights = sum(math.prod(record["shape"]) for record in proof["layers"])
        proof |= {"bytes_on_disk": held, "effective_bits": 8 * held / weights}
    if rehash:
        proof["weights_sha256"] = artifacts.sha256_file(folder / "weights.safetensors")
    artifacts.write_json(folder / "compression.json", proof)  # sealed: it would be refused for the seal alone


def unpruned(tensors, proof):
    """A dense weight in the place of a pruned one, claimed honestly."""
    tensors["1.mlp.up_proj.mask"] = torch.full_like(tensors["1.mlp.up_proj.mask"], 255)
    tensors["1.mlp.up_proj.values"] = torch.ones(64 * 32, dtype=torch.float16)
    next(r for r in proof["layers"] if r["layer"] == 1 and r["linear"] == "mlp.up_proj")["sparsity"] = 0.0


def group_made_dense(tensors, proof):
    """Four weights in the place of two of the first four columns of a row, claimed honestly."""
    tensors["1.mlp.up_proj.mask"][0, 0, 0] |= 15
    values = tensors["1.mlp.up_proj.values"]
    tensors["1.mlp.up_proj.values"] = torch.cat([values, torch.ones(2, dtype=torch.float16)])
    record = next(r for r in proof["layers"] if r["layer"] == 1 and r["linear"] == "mlp.up_proj")
    record["sparsity"] = (64 * 32 / 2 - 2) / (64 * 32)


def other_settings(**changes):
    return lambda tensors, proof: proof["compressor"].update(changes)


def more_levels(tensors, proof):
    """Eight-bit codes in the place of three-bit ones, claimed honestly."""
    codes = torch.arange(32 * 64).remainder(24).view(32, 64).to(torch.uint8)
    tensors["0.mlp.down_proj.codes"] = pack_bits(codes, 8)
    record = next(r for r in proof["layers"] if r["layer"] == 0 and r["linear"] == "mlp.down_proj")
    settings = CompressorSettings(**proof["compressor"])
    parts = {part: tensors[f"0.mlp.down_proj.{part}"] for part in ("codes", "scale", "zero")}
    record["levels"], record["sparsity"] = (
        24,
        (from_stored(parts, 64, settings).weight == 0).float().mean().item(),
    )


def more_grids(tensors, proof):
    """A grid for each column in the place of one for 24: any weight would have few levels then."""
    for part in ("scale", "zero"):
        tensors[f"0.mlp.down_proj.{part}"] = (
            tensors[f"0.mlp.down_proj.{part}"].repeat_interleave(24, 1)[:, :64].clone()
        )
    tensors["0.mlp.down_proj.group"] = torch.arange(64, dtype=torch.int32)
    record = next(r for r in proof["layers"] if r["layer"] == 0 and r["linear"] == "mlp.down_proj")
    record["levels"] = 1


def swapped(tensors, proof):
    """Two layers' weights in each other's place."""
    for key in [key for key in tensors if key.startswith("0.")]:
        other = f"1.{key.removeprefix('0.')}"
        tensors[key], tensors[other] = tensors[other], tensors[key]


def not_a_number(tensors, proof):
    tensors["0.mlp.up_proj.scale"][5, 0] = float("nan")


def part(name, change):
    """Another tensor in the place of the stored one of this name."""
    return lambda tensors, proof: tensors.update({name: change(tensors[name]).contiguous()})


UP, MASKED = "0.mlp.up_proj.", "1.mlp.up_proj."
NOT_THE_FORM = [
    (
        "gptq",
        part(f"{UP}codes", lambda t: t[:0]),
        "codes is torch.uint8 (0, 64, 4), not torch.uint8 (1, 64, 4)",
    ),
    ("gptq", part(f"{UP}codes", lambda t: t.repeat(11, 1, 1)), "codes is torch.uint8 (33, 64, 4)"),
    ("gptq", part(f"{UP}codes", lambda t: t.float()), "codes is torch.float32"),
    ("gptq", part(f"{UP}codes", lambda t: t.repeat(1, 1, 2)), "codes is torch.uint8 (3, 64, 8)"),
    ("gptq", part(f"{UP}scale", lambda t: t[:1]), "scale is torch.float16 (1, 2), not torch.float16 (64, 2)"),
    ("gptq", part(f"{UP}scale", lambda t: t.double()), "scale is torch.float64 (64, 2), not torch.float32"),
    ("gptq", part(f"{UP}zero", lambda t: t[:, :1]), "zero is torch.uint8 (64, 1), not torch.uint8 (64, 2)"),
    ("gptq", part(f"{UP}scale", lambda t: -t), "a scale is not positive"),
    (
        "gptq",
        lambda t, p: t.update({f"{UP}group": torch.arange(32, dtype=torch.int32)}),
        "none of the 2 stored",
    ),
    ("sparsegpt", part(f"{MASKED}mask", lambda t: t.repeat(2, 1, 1)), "mask is torch.uint8 (2, 64, 4)"),
    (
        "sparsegpt",
        part(f"{MASKED}values", lambda t: t[:1]),
        "values is torch.float16 (1,), not torch.float16 (1023,)",
    ),
    (
        "gptq",
        lambda t, p: t.update({"odd": torch.zeros(1)}),
        "layer odd, linear : in only one of model and weights",
    ),
    (
        "gptq",
        lambda t, p: t.update({"2.mlp.up_proj.codes": t[f"{UP}codes"] + 0}),
        "layer 2, linear mlp.up_proj: in",
    ),
    ("gptq", lambda t, p: p["layers"].append(p["layers"][0]), "records 15 linears, the model has 14"),
    ("gptq", other_settings(algorithm="dense"), "dense beside 14 stored linears"),
    ("gptq", other_settings(algorithm="magic"), "magic is none of gptq, sparsegpt"),
    ("gptq", other_settings(magic=1), "unexpected keyword argument 'magic'"),
    ("gptq", other_settings(bits=None), "gptq: bits is missing"),
]


def claim(key, value):
    return lambda tensors, proof: proof["layers"][3].update({key: value})


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("gptq", claim("levels", 7), "layer 0, linear self_attn.o_proj: levels 8, but 7 is claimed"),
        ("sparsegpt", claim("sparsity", 0.6), "layer 0, linear self_attn.o_proj: sparsity 0.5"),
        ("gptq", more_levels, "layer 0, linear mlp.down_proj: 24 levels are no 3-bit weight"),
        ("sparsegpt", unpruned, "layer 1, linear mlp.up_proj: sparsity 0.0000 is below the 0.5 asked for"),
        ("sparsegpt-2of4", group_made_dense, "layer 1, linear mlp.up_proj: not 2 zeros in each 4 columns"),
        ("gptq", other_settings(bits=4), "linear self_attn.q_proj: codes of 3 bits are no 4-bit weight"),
        ("gptq", other_settings(symmetric=True), "a zero point is not 4: the grids aren't symmetric"),
        ("gptq", more_grids, "layer 0, linear mlp.down_proj: 64 grids a row are not one for each 24 columns"),
        ("gptq", swapped, "layer 0, linear self_attn.q_proj: sparsity 0."),
        ("gptq", not_a_number, "layer 0, linear mlp.up_proj: it holds NaN or infinite values"),
        (
            "gptq",
            lambda t, p: t.pop("1.mlp.up_proj.scale"),
            "layer 1, linear mlp.up_proj: the stored tensors",
        ),
        ("gptq", lambda t, p: p["layers"].pop(9), "layer 1, linear self_attn.v_proj: in only one of"),
        (
            "gptq",
            lambda t, p: p["model"].update(weights_sha256="0" * 64),
            "made from dense weights 000000000000",
        ),
        ("gptq", lambda t, p: p["layers"][0].pop("error"), "'error' is a required property"),
    ],
    ids=[
        "levels",
        "sparsity",
        "more-levels",
        "unpruned",
        "pattern",
        "bits",
        "symmetric",
        "more-grids",
        "swapped",
        "nan",
        "missing",
        "unlisted",
        "model",
        "schema",
    ],
)
def test_a_load_refuses(name, change, said, sources, here):
    folder = compressed(sources / "model", here / name, SETTINGS[name])
    rewritten(folder, change)
    with pytest.raises(artifacts.ArtifactError, match=re.escape(said)):
        load_compressed(sources / "model", folder)


@pytest.mark.parametrize(("name", "change", "said"), NOT_THE_FORM, ids=[said for _, _, said in NOT_THE_FORM])
def test_a_load_refuses_what_is_not_the_stored_form(name, change, said, sources, here):
    folder = compressed(sources / "model", here / name, SETTINGS[name])
    rewritten(folder, change)
    with pytest.raises(artifacts.ArtifactError, match=re.escape(said)):
        load_compressed(sources / "model", folder)


@pytest.mark.parametrize("key", ["bytes_on_disk", "effective_bits"])
def test_a_load_refuses_another_size_than_the_file_has(key, sources, here):
    folder = compressed(sources / "model", here / "gptq", SETTINGS["gptq"])
    rewritten(folder, lambda tensors, proof: proof.update({key: proof[key] - 1}), size=False)
    with pytest.raises(
        artifacts.ArtifactError, match=rf"compression.json: {key} .* but weights.safetensors holds"
    ):
        load_compressed(sources / "model", folder)


def test_a_load_refuses_changed_weights(sources, here):
    folder = compressed(sources / "model", here / "gptq", SETTINGS["gptq"])
    rewritten(folder, lambda tensors, proof: tensors["0.mlp.up_proj.zero"].add_(1), rehash=False)
    with pytest.raises(artifacts.ArtifactError, match=r"not the file that compression.json describes"):
        load_compressed(sources / "model", folder)

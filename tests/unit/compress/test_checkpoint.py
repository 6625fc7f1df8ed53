"""What is stored, what is rebuilt from it, and what a load refuses."""

import json
import math
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from workflow_scripts.compress.bit_packing import from_stored, pack_bits, to_stored, unpack_bits
from workflow_scripts.compress.checkpoint import join, load_compressed
from workflow_scripts.compress.decoder import decoder_layers, get_weight, layer_linears
from workflow_scripts.compress.settings import Compressor
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.solver import solve
from workflow_scripts.compress.task import Machine
from workflow_scripts.files import artifacts
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import compress_model
from workflow_scripts.sources import corpora, models

GPTQ = {
    "algorithm": "gptq",
    "bits": 3,
    "group_size": 24,
    "symmetric": False,
    "act_order": True,
    "static_groups": True,
    "clip": "none",
    "damping": 0.01,
    "block_size": 128,
    "true_sequential": False,
}
HALF = {
    "algorithm": "sparsegpt",
    "sparsity": 0.5,
    "pattern": None,
    "bits": None,
    "damping": 0.01,
    "block_size": 128,
    "true_sequential": False,
}
SETTINGS = {
    "dense": {"algorithm": "dense"},
    "gptq": GPTQ,
    "gptq-moving-groups": GPTQ | {"static_groups": False},
    "gptq-w8": GPTQ | {"bits": 8, "group_size": None},
    "sparsegpt": HALF,
    "sparsegpt-2of4": HALF | {"sparsity": None, "pattern": "2:4"},
    "sparsegpt-2of4-w4": HALF | {"pattern": "2:4", "bits": 4},
    "wanda": {"algorithm": "wanda", "sparsity": 0.5, "pattern": None},
    "magnitude": {"algorithm": "magnitude", "sparsity": 0.5, "pattern": None},
    "rtn": {"algorithm": "rtn", "bits": 3, "group_size": None, "symmetric": False, "clip": "none"},
}
CALIBRATION = {"windows": 8, "length": 32}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders of a tiny model and corpus, fetched as local sources."""
    root = tmp_path_factory.mktemp("sources")
    model, corpus = tiny.write_model(root / "local-model"), tiny.write_corpus(root / "text.jsonl")
    models.fetch("tiny", {"source": "local", "path": str(model)}, root / "model", root, recipe="r", code="c")
    corpora.fetch(
        "words", {"source": "local", "path": str(corpus)}, root / "corpus", root, recipe="r", code="c"
    )
    return root


def compressed(sources, folder, settings, calibration=CALIBRATION):
    corpus = sources / "corpus" if Compressor(**settings).calibrated else None
    compress_model.main(
        sources / "model",
        corpus,
        folder / "compression.json",
        compressor=settings,
        calibration=calibration if corpus else None,
        made=Provenance("r", "c"),
    )
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory of its own: checkpoints lie in work/."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_calibration_beyond_the_models_positions_is_refused(sources, here):
    with pytest.raises(ValueError, match=r"calibration\.length: 513 tokens exceed the model's 512 positions"):
        compressed(sources, here, GPTQ, {"windows": 1, "length": 513})


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
    settings = Compressor(**GPTQ | {"static_groups": static_groups})
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

    def watched(self, module, but=()):
        path = self.paths[id(module)]
        if path:
            evaluated.update({f"{path}.{name}": value for name, value in module.state_dict().items()})
        real(self, module, but)

    monkeypatch.setattr(Skeleton, "release", watched)
    folder = compressed(sources, here / name, SETTINGS[name])
    model = load_compressed(sources / "model", folder)
    assert all(torch.equal(value, evaluated[key]) for key, value in model.state_dict().items())
    assert not model.training
    half = load_compressed(sources / "model", folder, dtype=torch.bfloat16)
    assert all(torch.equal(v, evaluated[k].to(torch.bfloat16)) for k, v in half.state_dict().items())


def test_the_proof_says_what_is_stored(sources, here):
    folder = compressed(sources, here / "gptq", SETTINGS["gptq"])
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


def test_dense_stores_no_tensor(sources, here):
    folder = compressed(sources, here / "dense", SETTINGS["dense"])
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
    settings = Compressor(**proof["compressor"])
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
    folder = compressed(sources, here / name, SETTINGS[name])
    rewritten(folder, change)
    with pytest.raises(artifacts.ArtifactError, match=re.escape(said)):
        load_compressed(sources / "model", folder)


@pytest.mark.parametrize(("name", "change", "said"), NOT_THE_FORM, ids=[said for _, _, said in NOT_THE_FORM])
def test_a_load_refuses_what_is_not_the_stored_form(name, change, said, sources, here):
    folder = compressed(sources, here / name, SETTINGS[name])
    rewritten(folder, change)
    with pytest.raises(artifacts.ArtifactError, match=re.escape(said)):
        load_compressed(sources / "model", folder)


@pytest.mark.parametrize("key", ["bytes_on_disk", "effective_bits"])
def test_a_load_refuses_another_size_than_the_file_has(key, sources, here):
    folder = compressed(sources, here / "gptq", SETTINGS["gptq"])
    rewritten(folder, lambda tensors, proof: proof.update({key: proof[key] - 1}), size=False)
    with pytest.raises(
        artifacts.ArtifactError, match=rf"compression.json: {key} .* but weights.safetensors holds"
    ):
        load_compressed(sources / "model", folder)


def test_a_load_refuses_changed_weights(sources, here):
    folder = compressed(sources, here / "gptq", SETTINGS["gptq"])
    rewritten(folder, lambda tensors, proof: tensors["0.mlp.up_proj.zero"].add_(1), rehash=False)
    with pytest.raises(artifacts.ArtifactError, match=r"not the file that compression.json describes"):
        load_compressed(sources / "model", folder)


def test_where_activations_lie_changes_no_weight_and_no_recipe(sources, here):
    held = compressed(sources, here / "held", SETTINGS["gptq"])
    compress_model.main(
        sources / "model",
        sources / "corpus",
        here / "filed" / "compression.json",
        compressor=SETTINGS["gptq"],
        calibration=CALIBRATION,
        made=Provenance("r", "c"),
        machine=Machine(activation_memory=0),
    )
    assert (held / "weights.safetensors").read_bytes() == (
        here / "filed" / "weights.safetensors"
    ).read_bytes()
    proofs = [artifacts.read_json(path / "compression.json")["manifest"] for path in (held, here / "filed")]
    assert proofs[0]["config"] == proofs[1]["config"] and proofs[0]["recipe"] == proofs[1]["recipe"]


def test_a_text_that_is_too_short_is_refused(sources, here):
    with pytest.raises(artifacts.ArtifactError, match="windows of 512 tokens"):
        compressed(sources, here / "gptq", SETTINGS["gptq"], {"windows": 4096, "length": 512})
    with pytest.raises(ValueError, match="length: 4096 tokens exceed the model's 512 positions"):
        compressed(sources, here / "gptq", SETTINGS["gptq"], {"windows": 512, "length": 4096})

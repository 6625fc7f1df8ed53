"""Exported folders, read back without this package's code: the weights that were evaluated, to the last bit."""

import functools
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import tiny, tiny_copies
from tests.tiny_copies import fetch_corpus, fetch_model
from tests.tiny_settings import GPTQ, RTN
from workflow_scripts.compress.decoder import decoder_layers, get_weight, layer_linears
from workflow_scripts.compress.export_formats import from_words, to_words
from workflow_scripts.compress.foreign.reading import read_folder
from workflow_scripts.compress.settings import CompressionError
from workflow_scripts.compress.stored_model import load_compressed
from workflow_scripts.files import artifacts
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import export_model

HALF = {"algorithm": "magnitude", "sparsity": 0.5, "pattern": None}
SETTINGS = {
    "w4": RTN,
    "w4-symmetric": RTN | {"symmetric": True},
    "w2-g16": RTN | {"bits": 2, "group_size": 16},
    "w8": RTN | {"bits": 8},
    "w3-moving": GPTQ,
    "w3-static": GPTQ | {"static_groups": True},
    "w5": RTN | {"bits": 5},
    "w4-g24": RTN | {"group_size": 24},
    "half": HALF,
    "2of4": HALF | {"sparsity": None, "pattern": "2:4"},
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A tiny OPT with one row of positive weights in each linear (their zero point is 0), a tiny Llama, a corpus."""
    root = tmp_path_factory.mktemp("sources")
    for family in ("opt", "llama"):
        folder = tiny.write_model(root / f"local-{family}", family)
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            for layer in decoder_layers(model):
                for linear in layer_linears(layer).values():
                    get_weight(linear)[3].abs_()
        model.save_pretrained(folder)
        fetch_model(folder, root / family)
    fetch_corpus(root / "corpus")
    return root


@pytest.fixture(scope="module")
def compressed(sources, tmp_path_factory):
    """(settings' name, family) -> folder of the compressed model, made once."""
    root = tmp_path_factory.mktemp("compressed")

    @functools.cache
    def make(name, family):
        return tiny_copies.compressed(sources / family, root / f"{family}-{name}", SETTINGS[name])

    return lambda name, family="opt": make(name, family)


def exported(sources, compressed, name, form, folder, family="opt"):
    export_model.main(
        sources / family,
        compressed(name, family),
        folder / "export.json",
        form=form,
        made=Provenance("r", "c"),
    )
    return load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())


def evaluated(sources, compressed, name):
    """{linear's full name: weight that was evaluated}, float32."""
    model = load_compressed(sources / "opt", compressed(name))
    layers = decoder_layers(model)
    prefix = next(key for key, module in model.named_modules() if module is layers)
    return {
        f"{prefix}.{index}.{key}": get_weight(linear)
        for index, layer in enumerate(layers)
        for key, linear in layer_linears(layer).items()
    }


# ------------------------------------------------------------------- the formats, read by another way


def bits_of(words, bits, count):
    """Rows of int32 words as one long number each, cut into `count` values from the lowest bit on."""
    rows = []
    for row in words.tolist():
        number = sum((word & 0xFFFFFFFF) << 32 * place for place, word in enumerate(row))
        rows.append([number >> bits * i & 2**bits - 1 for i in range(count)])
    return torch.tensor(rows, dtype=torch.float32)


def read_gptq(tensors, name, config):
    part = {key: tensors[f"{name}.{key}"] for key in ("qweight", "qzeros", "scales", "g_idx")}
    bits, group = config["bits"], part["g_idx"].long()
    assert part["scales"].dtype == torch.float16
    codes = bits_of(part["qweight"].T, bits, len(group))  # (out, in)
    zeros = bits_of(part["qzeros"], bits, part["scales"].shape[1])  # (groups, out)
    zeros += config["checkpoint_format"] == "gptq"
    return (part["scales"].float()[group] * (codes.T - zeros[group])).T


def read_packed(tensors, name, config):
    weights = config["config_groups"]["group_0"]["weights"]
    bits = weights["num_bits"]
    rows, columns = tensors[f"{name}.weight_shape"].tolist()
    scale = tensors[f"{name}.weight_scale"].float()
    group = torch.arange(columns) // (columns // scale.shape[1])
    zeros = torch.full(scale.shape, 2.0 ** (bits - 1))
    if not weights["symmetric"]:
        zeros = bits_of(tensors[f"{name}.weight_zero_point"].T, bits, rows).T
    codes = bits_of(tensors[f"{name}.weight_packed"], bits, columns)
    return scale[:, group] * (codes - zeros[:, group])


def read_bitmask(tensors, name, config):
    part = {key: tensors[f"{name}.{key}"] for key in ("compressed", "bitmask", "row_offsets", "shape")}
    rows, columns = part["shape"].tolist()
    weight, values = torch.zeros(rows, columns), part["compressed"].tolist()
    for row in range(rows):
        position = part["row_offsets"][row].item()
        for column in range(columns):
            if part["bitmask"][row, column // 8].item() >> column % 8 & 1:
                weight[row, column], position = values[position], position + 1
    return weight


CASES = [
    ("w4-symmetric", "gptq", read_gptq),
    ("w4", "gptq_v2", read_gptq),
    ("w2-g16", "gptq_v2", read_gptq),
    ("w8", "gptq_v2", read_gptq),
    ("w3-moving", "gptq_v2", read_gptq),
    ("w3-static", "gptq_v2", read_gptq),
    ("w4-symmetric", "compressed-tensors", read_packed),
    ("w2-g16", "compressed-tensors", read_packed),
    ("w3-static", "compressed-tensors", read_packed),
    ("w5", "compressed-tensors", read_packed),
    ("half", "compressed-tensors", read_bitmask),
    ("2of4", "compressed-tensors", read_bitmask),
]


@pytest.mark.parametrize(("name", "form", "read"), CASES)
def test_an_exported_weight_is_the_evaluated_one(name, form, read, sources, compressed, tmp_path):
    tensors, config = exported(sources, compressed, name, form, tmp_path / form)
    for linear, weight in evaluated(sources, compressed, name).items():
        assert f"{linear}.weight" not in tensors
        assert torch.equal(read(tensors, linear, config["quantization_config"]), weight), linear
        assert f"{linear}.bias" in tensors  # OPT has biases; they stay as they are


@pytest.mark.parametrize(("name", "form"), [case[:2] for case in CASES if case[2] is not read_packed])
def test_an_export_is_read_back_as_a_foreign_checkpoint(name, form, sources, compressed, tmp_path):
    folder, plain = tmp_path / form, tmp_path / "plain"
    exported(sources, compressed, name, form, folder)
    plain.mkdir()
    record = read_folder(folder, plain)
    assert record["format"] == (form if form != "compressed-tensors" else "sparse-bitmask")
    assert record["runtime_quantisation"] is None
    expected = load_compressed(sources / "opt", compressed(name)).state_dict()
    found = AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    packed = sum(entry.nbytes for entry in load_file(folder / "model.safetensors").values())
    assert record["bytes_on_disk"] == packed
    assert record["bits_per_weight"] == 8 * packed / sum(
        t.numel() for t in load_file(plain / "model.safetensors").values()
    )
    linears = evaluated(sources, compressed, name)
    assert linears.keys() <= record["modules"].keys()


def test_zero_points_of_zero_are_in_the_test(sources, compressed, tmp_path):
    tensors, _ = exported(sources, compressed, "w4", "gptq_v2", tmp_path / "v2")
    zeros = bits_of(tensors["model.decoder.layers.0.fc1.qzeros"], 4, 64)
    assert (zeros == 0).sum() == 1 and zeros[0, 3] == 0


def test_the_configuration_says_how_columns_are_grouped(sources, compressed, tmp_path):
    def config(name, form):
        return exported(sources, compressed, name, form, tmp_path / name / form)[1]["quantization_config"]

    moving, static = config("w3-moving", "gptq_v2"), config("w3-static", "gptq_v2")
    assert (moving["desc_act"], static["desc_act"]) == (True, False)
    assert (moving["group_size"], moving["bits"], moving["sym"]) == (16, 3, False)
    assert config("w4-symmetric", "gptq")["sym"] is True
    assert config("w4-symmetric", "gptq")["group_size"] == -1
    assert config("w4", "compressed-tensors")["ignore"] == ["lm_head"]
    assert config("2of4", "compressed-tensors")["sparsity_config"]["sparsity_structure"] == "2:4"


@pytest.mark.parametrize("name", ["w4-g24", "half", "w3-moving"])
def test_the_plain_folder_is_the_model_itself(name, sources, compressed, tmp_path):
    folder = tmp_path / "plain"
    exported(sources, compressed, name, "plain", folder)
    expected = load_compressed(sources / "opt", compressed(name)).state_dict()
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_the_folder_has_a_tokenizer_and_says_what_it_holds(sources, compressed, tmp_path):
    folder = tmp_path / "plain"
    exported(sources, compressed, "w4", "plain", folder)
    record = artifacts.read_json(folder / "export.json", schema="export")
    assert record["format"] == "plain" and record["compressor"] == RTN
    assert record["files"] == {
        path.name: artifacts.sha256_file(path) for path in folder.iterdir() if path.name != "export.json"
    }
    assert AutoTokenizer.from_pretrained(folder).decode(
        AutoTokenizer.from_pretrained(folder)("river")["input_ids"]
    )


@pytest.mark.parametrize(
    ("name", "form", "family", "words"),
    [
        ("w4", "gptq", "opt", r"model\.decoder\.layers\.0\.\S+: 1 zero points are 0.*export gptq_v2"),
        ("w5", "gptq_v2", "opt", r"5 bits: GPTQ's readers know 2, 3, 4, 8"),
        ("w4-g24", "gptq_v2", "opt", r"group_size 24: .*16, 32"),
        ("w4-g24", "compressed-tensors", "opt", r"32 columns in groups of 24: .*equal groups"),
        ("w3-moving", "compressed-tensors", "opt", r"groups in the order of processing: .*gptq_v2"),
        ("half", "gptq", "opt", r"magnitude without bits is no gptq; export plain"),
        ("w4", "gptq_v2", "llama", r"k_proj: shape \(16, 32\): GPTQ needs multiples of 32"),
    ],
)
def test_what_a_format_cannot_carry_is_refused(name, form, family, words, sources, compressed, tmp_path):
    with pytest.raises(CompressionError, match=words):
        exported(sources, compressed, name, form, tmp_path / "refused", family)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("bits", range(1, 9))
def test_words_hold_every_value(bits):
    values = torch.randint(0, 2**bits, (5, 71), dtype=torch.uint8)
    words = to_words(values, bits)
    assert words.dtype == torch.int32 and words.shape == (5, -(-71 * bits // 32))
    assert torch.equal(bits_of(words, bits, 71), values.float())
    assert torch.equal(from_words(words, bits, 71), values)

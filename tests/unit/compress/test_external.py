"""Checkpoints that somebody else compressed: read, checked against the dense model, stored whole, loaded with proof."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.tiny import change_json
from tests.unit.compress.stored import change
from workflow_scripts.compress.engines import external
from workflow_scripts.compress.export_formats import to_gptq
from workflow_scripts.compress.foreign.reading import read_folder
from workflow_scripts.compress.quantizer import Quantized
from workflow_scripts.compress.stored_model import load_compressed
from workflow_scripts.compress.task import Sources
from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import compress_model, export_model
from workflow_scripts.kernels.activations import attached
from workflow_scripts.sources import checkpoints

EXTERNAL = {"algorithm": "external", "distilled": False}


def judged(sources, folder, here, **settings):
    """The compressed folder that the checkpoint in `folder` becomes."""
    spec = {"source": "local", "path": str(folder)}
    checkpoints.fetch("small", spec, here / "fetched", here, recipe="r", code="c")
    compress_model.main(
        Sources(sources / "model", checkpoint=here / "fetched"),
        here / "compressed" / "compression.json",
        compressor=EXTERNAL | settings,
        made=Provenance("r", "c"),
    )
    return here / "compressed"


def logits(model):
    with torch.no_grad():
        return model(torch.arange(3, 40)[None]).logits


def test_a_checkpoint_loads_to_the_bit_and_its_record_says_what_it_is(sources, made, here):
    folder = judged(sources, made, here)
    model = load_compressed(sources / "model", folder)
    expected = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    assert torch.equal(logits(model), logits(expected))
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(expected))
    proof = read_json(folder / "compression.json", schema="compression")
    assert proof["whole"] == {"layers": [0, 1]} and proof["calibration"] is None
    about = proof["checkpoint"]
    assert about["format"] == "plain" and about["bits"] == "bfloat16" and about["bits_per_weight"] == 16
    assert about["source"] == "local" and about["origin"] == {"path": str(made)}
    names = load_file(made / "model.safetensors").keys()
    assert about["compared"] == len(names)
    assert set(names) - set(about["equal"]) == {"model.layers.0.self_attn.q_proj.weight"}
    assert about["embeddings"] > 0.999 and about["other_settings"] == []
    linears = sum(rows * columns for rows, columns in (record["shape"] for record in proof["layers"]))
    assert len(proof["layers"]) == 14
    assert proof["bytes_on_disk"] == 2 * linears and proof["effective_bits"] == 16
    errors = {(record["layer"], record["linear"]): record["error"] for record in proof["layers"]}
    dense = AutoModelForCausalLM.from_pretrained(sources / "local-model", dtype=torch.float32)
    weights = [m.model.layers[0].self_attn.q_proj.weight for m in (dense, expected)]
    exact = ((weights[0] - weights[1]).square().sum() / weights[0].square().sum()).item()
    assert errors.pop((0, "self_attn.q_proj")) == pytest.approx(exact, rel=1e-4)
    assert 1e-3 < exact < 1 and max(errors.values()) < 1e-4  # of bfloat16


def test_inputs_that_its_makers_round_are_rounded_wherever_it_is_loaded(sources, made, here, monkeypatch):
    said = {"schemes": [{"type": "int", "bits": 4}], "linears": {"model.layers.0.mlp.up_proj": {"scheme": 0}}}

    def read(source, destination, python=""):
        """As compressed-tensors' reader leaves a folder and its record."""
        record = read_folder(source, destination, python)
        change_json(destination / "config.json", activation_quantisation=said)
        return record | {"simulated": "activations 4-bit int, one scale per token, dynamic"}

    change_json(made / "config.json", activation_quantisation={"a plain checkpoint": "can't ask for it"})
    plain = load_compressed(sources / "model", judged(sources, made, here))
    assert not attached(plain)
    monkeypatch.setattr(external, "read_folder", read)
    folder = judged(sources, made, here)
    proof = read_json(folder / "compression.json", schema="compression")
    assert proof["checkpoint"]["simulated"] == "activations 4-bit int, one scale per token, dynamic"
    model = load_compressed(sources / "model", folder)
    assert attached(model) and not torch.equal(logits(model), logits(plain))
    timed = load_compressed(sources / "model", folder, activations=False)
    assert torch.equal(logits(timed), logits(plain))
    change_json(folder / "config.json", activation_quantisation={"schemes": [], "linears": {}})
    with pytest.raises(ArtifactError, match=r"config\.json: not the one that weights\.safetensors names"):
        load_compressed(sources / "model", folder)
    folder = judged(sources, made, here)
    output = here / "exported" / "plain" / "export.json"
    export_model.main(sources / "model", folder, output, form="plain", made=Provenance("r", "c"))
    assert "activation_quantisation" not in json.loads((output.parent / "config.json").read_text())


def test_a_shallower_checkpoint_keeps_its_depth_and_says_where_its_layers_are_from(sources, made, here):
    def without_first(tensors):
        norm = "model.layers.{}.input_layernorm.weight"
        tensors[norm.format(1)] = tensors[norm.format(1)] * 2  # the norms of a fresh model are all alike
        kept = {name: tensor for name, tensor in tensors.items() if ".layers.0." not in name}
        return {name.replace(".layers.1.", ".layers.0."): tensor for name, tensor in kept.items()}

    change(made, without_first)
    change_json(made / "config.json", num_hidden_layers=1)
    folder = judged(sources, made, here)
    assert len(load_compressed(sources / "model", folder).model.layers) == 1
    proof = read_json(folder / "compression.json")
    assert proof["whole"] == {"layers": None} and proof["effective_bits"] == 8  # per dense weight
    assert {record["error"] for record in proof["layers"]} == {None}
    change(
        made,
        lambda tensors: (
            tensors | {"model.layers.0.input_layernorm.weight": torch.ones(32, dtype=torch.bfloat16)}
        ),
    )
    assert read_json(judged(sources, made, here) / "compression.json")["whole"] == {"layers": [1]}


def test_what_was_changed_after_it_was_stored_is_refused(sources, made, here):
    folder = judged(sources, made, here)
    config = (folder / "config.json").read_text()
    change_json(folder / "config.json", rms_norm_eps=0.5)
    with pytest.raises(ArtifactError, match=r"config\.json: not the one that weights\.safetensors names"):
        load_compressed(sources / "model", folder)
    (folder / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"config\.json: can't be read"):
        load_compressed(sources / "model", folder)
    (folder / "config.json").write_text(config)
    load_compressed(sources / "model", folder)
    weights = bytearray((folder / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(weights)
    with pytest.raises(
        ArtifactError, match=r"weights\.safetensors: not the file that compression\.json describes"
    ):
        load_compressed(sources / "model", folder)


def as_autogptq(name, tensor):
    """The tensors that AutoGPTQ keeps of a linear whose shape it packs: always with a bias. The weight that they make
    of it stands beside them."""
    weight = Quantized(
        (tensor.float() * 64).round().clamp(-8, 7).add(8).to(torch.uint8),
        torch.full((len(tensor), 1), 2.0**-6),
        torch.full((len(tensor), 1), 8.0),
        torch.zeros(tensor.shape[1], dtype=torch.int64),
        4,
    )
    parts = to_gptq(weight, 1) | {"bias": torch.zeros(len(tensor), dtype=torch.float16)}
    linear = name.removesuffix(".weight")
    return {f"{linear}.{part}": packed for part, packed in parts.items()}, weight.dequantize()


def test_a_file_of_autogptq_is_read_without_the_biases_that_the_architecture_lacks(sources, made, here):
    tensors, expected = {}, {}
    for name, tensor in load_file(made / "model.safetensors").items():
        if ".mlp." in name:
            packed, expected[name] = as_autogptq(name, tensor)
            tensors |= packed
        else:
            tensors[name] = tensor
    change(made, lambda _: tensors)
    said = {"quant_method": "gptq", "bits": 4, "group_size": -1, "desc_act": False, "is_marlin_format": False}
    change_json(made / "config.json", quantization_config=said)
    state = load_compressed(sources / "model", judged(sources, made, here)).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    bias = "model.layers.0.mlp.up_proj.bias"
    change(made, lambda tensors: tensors | {bias: torch.ones(64)})
    with pytest.raises(
        ArtifactError, match=rf"hold {bias}, for which config\.json's architecture has no place"
    ):
        judged(sources, made, here)


# --------------------------------------------------------------------- what never gets to a number


def another_vocabulary(folder):
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    state = json.loads(tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    a, b = [token for token, index in vocabulary.items() if index in (300, 301)]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (folder / "tokenizer.json").write_text(json.dumps(state))


def other_merges(folder):
    state = json.loads((folder / "tokenizer.json").read_text())
    state["model"]["merges"][0], state["model"]["merges"][1] = state["model"]["merges"][1::-1]
    (folder / "tokenizer.json").write_text(json.dumps(state))


def no_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model": {"type": "none"}}')


def another_end(folder):
    change_json(folder / "tokenizer_config.json", eos_token="<pad>")


def lower_case(folder):
    change_json(folder / "tokenizer.json", normalizer={"type": "Lowercase"})


def misnamed(folder):
    change(
        folder, lambda tensors: {name.replace("up_proj", "up"): tensor for name, tensor in tensors.items()}
    )


def misshapen(folder):
    name = "model.layers.1.mlp.up_proj.weight"
    change(folder, lambda tensors: tensors | {name: tensors[name][:, :-1]})


def not_finite(folder):
    name = "model.layers.1.mlp.up_proj.weight"
    change(folder, lambda tensors: tensors | {name: tensors[name] / 0})


def fresh(folder, **sizes):
    torch.manual_seed(7)
    config = LlamaConfig.from_pretrained(folder, **sizes)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def swapped(folder, a, b):
    change(folder, lambda tensors: tensors | {a: tensors[b], b: tensors[a]})


def two_layers_swapped(folder):
    swapped(folder, *(f"model.layers.{index}.self_attn.q_proj.weight" for index in (0, 1)))


def two_of_a_layer_swapped(folder):
    swapped(folder, *(f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up")))


def another_head(folder):
    head = torch.randn(384, 32, generator=torch.Generator().manual_seed(3)).bfloat16()
    change(folder, lambda tensors: tensors | {"lm_head.weight": head})


def narrower(folder):
    fresh(folder, hidden_size=16)


def fewer_tokens(folder):
    fresh(folder, vocab_size=300)


def without_zeros(folder):
    name = "model.layers.0.mlp.up_proj.weight"

    def pack(tensors):
        packed, _ = as_autogptq(name, tensors.pop(name))
        return tensors | {key: tensor for key, tensor in packed.items() if "qzeros" not in key}

    change(folder, pack)
    change_json(folder / "config.json", quantization_config={"quant_method": "gptq"})


def unknown_format(folder):
    change_json(folder / "config.json", quantization_config={"quant_method": "mystery"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (another_vocabulary, r"tokenizer is not the dense model's: token '.*' has the id 301, and 300 in"),
        (other_merges, r"tokenizer is not the dense model's: its merges differ from number 0 on"),
        (no_tokenizer, r"its tokenizer can't be loaded \("),
        (another_end, r"tokenizer is not the dense model's: eos_token_id is 2, and 1 in the dense"),
        (lower_case, r"tokenizer is not the dense model's: it encodes 'The capital of France"),
        (
            misnamed,
            r"fetched: its weights lack model\.layers\.0\.mlp\.up_proj\.weight \(and 1 more\).*holds .*\.up\.w",
        ),
        (misshapen, r"model\.layers\.1\.mlp\.up_proj\.weight has the shape \[64, 31\]"),
        (not_finite, r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN or infinite values"),
        (
            fresh,
            r"embeddings correlate -?0\.0\d\d with .*, and their inner products .*a checkpoint of another model",
        ),
        (
            two_layers_swapped,
            r"layers\.0\.self_attn\.q_proj\.weight holds what is model\.layers\.1\.self_attn\.q_proj\.weight in the",
        ),
        (
            two_of_a_layer_swapped,
            r"layers\.1\.mlp\.gate_proj\.weight holds what is model\.layers\.1\.mlp\.up_proj\.weight in the",
        ),
        (
            another_head,
            r"fetched: config\.json ties the head .*model\.embed_tokens\.weight and lm_head\.weight differ",
        ),
        (narrower, r"its embeddings are 16 wide, those of .* 32: it is a checkpoint of another model"),
        (fewer_tokens, r"embeds 300 tokens, its tokenizer has 384"),
        (
            without_zeros,
            r"fetched: model\.layers\.0\.mlp\.up_proj has no qzeros, which gptq needs",
        ),
        (unknown_format, r"'mystery' is a format that nothing here reads"),
    ],
)
def test_a_checkpoint_that_is_not_one_of_the_model_never_gets_to_a_number(
    sources, made, here, spoil, message
):
    spoil(made)
    with pytest.raises(ArtifactError, match=message):
        judged(sources, made, here)
    assert not (here / "compressed" / "compression.json").exists()


def test_another_setting_that_no_shape_shows_is_recorded(sources, made, here):
    theta = {"rope_theta": 5e5, "rope_type": "default"}
    change_json(made / "config.json", rope_parameters=theta, rms_norm_eps=1.0000001e-6, sliding_window=16)
    about = read_json(judged(sources, made, here) / "compression.json", schema="compression")["checkpoint"]
    assert about["other_settings"] == ["rope_parameters", "sliding_window"]


def test_a_rotated_checkpoint_is_of_the_same_base(sources, made, here):
    """A rotation of the hidden states, fused into the weights, changes every embedding and no answer (QuaRot)."""
    torch.manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(32, 32))[0]

    def rotate(tensors):
        turned = {}
        for name, tensor in tensors.items():
            into = name.endswith(("o_proj.weight", "down_proj.weight"))
            if "norm" not in name:
                tensor = rotation.T @ tensor.float() if into else tensor.float() @ rotation
            turned[name] = tensor
        return turned

    change(made, rotate)
    folder = judged(sources, made, here)
    about = read_json(folder / "compression.json")["checkpoint"]
    assert abs(about["embeddings"]) < 0.2
    expected = AutoModelForCausalLM.from_pretrained(made, dtype=torch.float32)
    assert torch.equal(logits(load_compressed(sources / "model", folder)), logits(expected))


def test_a_student_may_have_other_widths_if_the_entry_says_so(sources, made, here):
    narrower(made)
    folder = judged(sources, made, here, distilled=True)
    proof = read_json(folder / "compression.json", schema="compression")
    assert proof["checkpoint"]["embeddings"] is None and proof["checkpoint"]["distilled"]
    assert proof["whole"] == {"layers": None}
    assert load_compressed(sources / "model", folder).config.hidden_size == 16


def test_a_whole_model_is_exported_as_plain_and_as_nothing_else(sources, made, here):
    folder = judged(sources, made, here)
    output = here / "exported" / "plain" / "export.json"
    export_model.main(sources / "model", folder, output, form="plain", made=Provenance("r", "c"))
    out = AutoModelForCausalLM.from_pretrained(output.parent, dtype=torch.float32)
    assert torch.equal(logits(out), logits(load_compressed(sources / "model", folder)))
    assert "transformers_weights" not in json.loads((output.parent / "config.json").read_text())
    with pytest.raises(Exception, match="stored whole is no gptq; export plain"):
        export_model.main(
            sources / "model", folder, here / "x" / "export.json", form="gptq", made=Provenance("r", "c")
        )

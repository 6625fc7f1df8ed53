"""Models: local and hub folders checked and placed whole, BOS as the harness does it."""

import json

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tiny import change_json
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources import models as sources

MADE = {"recipe": "r", "code": "c"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_tokenizer(bos: bool, eos: bool = False) -> PreTrainedTokenizerFast:
    """A word tokenizer of 100 words (w0, w1, ...) and Llama's special tokens, with or without a BOS before text."""
    words = ["<unk>", "<s>", "</s>", "The", *(f"w{number}" for number in range(96))]
    backend = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos or eos:
        template = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
        backend.post_processor = processors.TemplateProcessing(
            template, special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def make_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / "given"
    make_llama().save_pretrained(folder)
    make_tokenizer(bos=True).save_pretrained(folder)
    return folder


# ------------------------------------------------------------------------------------------------ BOS


@pytest.mark.parametrize("bos", [True, False])
def test_bos_agrees_with_the_harness(model_folder, bos):
    tokenizer = make_tokenizer(bos)
    harness = HFLM(pretrained=make_llama(), tokenizer=tokenizer, batch_size=1)
    encoded = harness.tok_encode("The w1 w2")
    assert sources.adds_bos(tokenizer) is bos
    assert (encoded[0] == tokenizer.bos_token_id) is bos and len(encoded) == 3 + bos


def test_tokenizer_that_adds_an_end_token_is_refused():
    with pytest.raises(ArtifactError, match="more than one BOS"):
        sources.adds_bos(make_tokenizer(bos=True, eos=True))


# -------------------------------------------------------------------------------------------- local


def renamed(tensors):
    return {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()}


def without(tensors):
    return {name: tensor for name, tensor in tensors.items() if "layers.1.mlp.up_proj" not in name}


def misshapen(tensors):
    return tensors | {"model.layers.1.mlp.up_proj.weight": torch.zeros(3, 3)}


def with_bias(tensors):
    return tensors | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)}


def same(tensors):
    return tensors


INCOMPLETE = [
    (
        renamed,
        {},
        r"lack lm_head\.weight \(and 20 more\).*it holds _orig_mod\.lm_head\.weight \(and 20 more\)",
    ),
    (
        without,
        {},
        r"weights lack model\.layers\.1\.mlp\.up_proj\.weight, which config\.json's architecture has;",
    ),
    (misshapen, {}, r"model\.layers\.1\.mlp\.up_proj\.weight has the shape \[3, 3\].*asks for \[64, 32\]"),
    (with_bias, {}, r"hold model\.layers\.0\.self_attn\.q_proj\.bias, for which .* has no place"),
    (
        same,
        {"num_hidden_layers": 1},
        r"hold model\.layers\.1\.input_layernorm\.weight \(and 8 more\), for which",
    ),
    (same, {"num_hidden_layers": 3}, r"lack model\.layers\.2\.input_layernorm\.weight \(and 8 more\)"),
]


@pytest.mark.parametrize(("change", "config", "message"), INCOMPLETE)
def test_weights_that_are_not_the_architecture_are_refused_at_fetch_and_at_load(
    tmp_path, model_folder, change, config, message
):
    spec, out = {"source": "local", "path": str(model_folder)}, tmp_path / "out"
    whole = load_file(model_folder / "model.safetensors")
    save_file(change(whole), model_folder / "model.safetensors")
    change_json(model_folder / "config.json", **config)
    with pytest.raises(ArtifactError, match=f"tiny: {model_folder}: .*{message}"):
        sources.fetch("tiny", spec, out, tmp_path, **MADE)
    assert not out.exists()
    with pytest.raises(ArtifactError, match=message):
        sources.load_whole(model_folder)


def test_a_head_that_is_neither_there_nor_tied_is_refused(tmp_path, model_folder):
    spec = {"source": "local", "path": str(model_folder)}
    tensors = load_file(model_folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, model_folder / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"weights lack lm_head\.weight, which"):
        sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)
    change_json(model_folder / "config.json", tie_word_embeddings=True)
    sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)


def test_a_head_of_its_own_that_config_json_ties_to_the_embeddings_is_refused(tmp_path, model_folder):
    """transformers would use it, other programs the embeddings."""
    spec = {"source": "local", "path": str(model_folder)}
    change_json(model_folder / "config.json", tie_word_embeddings=True)
    names = r"model\.embed_tokens\.weight and lm_head\.weight differ"
    with pytest.raises(ArtifactError, match=rf"tiny: {model_folder}: config\.json ties the head .*{names}"):
        sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)
    tensors = load_file(model_folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, model_folder / "model.safetensors")
    sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.complex64])
def test_codes_without_their_scales_are_no_weights(tmp_path, model_folder, dtype):
    tensors = load_file(model_folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: (tensors[name] * 100).to(dtype)}, model_folder / "model.safetensors")
    with pytest.raises(
        ArtifactError, match=rf"tiny: .*{name} is of type [IUC]\d+, no weight of a dense model"
    ):
        spec = {"source": "local", "path": str(model_folder)}
        sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)


# Factors of other lengths than half a head's.
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64}
LONG_ROPE |= {"short_factor": [1.0] * 3, "long_factor": [1.0] * 3}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"hidden_act": "zelu"}, "KeyError: 'zelu'"),
        ({"num_hidden_layers": "2"}, "Field 'num_hidden_layers' expected int, got str"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"pad_token_id": 10**6}, "Padding_idx must be within num_embeddings"),
        ({"model_type": "nope"}, "model type `nope`"),
        ({"model_type": "t5"}, "Unrecognized configuration class"),
        ({"rope_parameters": {"rope_type": "zzz", "rope_theta": 1e4}}, "KeyError: 'zzz'"),
        ({"rope_parameters": LONG_ROPE}, "broadcast"),
    ],
)
def test_a_value_of_config_json_that_builds_no_model_is_told_in_one_line(
    tmp_path, model_folder, config, said
):
    change_json(model_folder / "config.json", **config)
    with pytest.raises(
        ArtifactError, match=rf"tiny: {model_folder}: config\.json is of no model .*{said}"
    ) as told:
        sources.fetch(
            "tiny", {"source": "local", "path": str(model_folder)}, tmp_path / "out", tmp_path, **MADE
        )
    assert "\n" not in str(told.value)


def test_local_model_is_linked_verified_and_loaded(tmp_path, model_folder):
    out = tmp_path / "out"
    spec = {"source": "local", "path": str(model_folder)}
    manifest = sources.fetch("tiny", spec, out, tmp_path, **MADE)
    assert manifest["architecture"] == "llama" and manifest["remote_code"] is False
    assert (out / "model.safetensors").is_symlink() and not (out / "config.json").is_symlink()
    model = sources.load_dense(out)
    assert not model.training and next(model.parameters()).dtype == torch.float32
    assert sources.load_dense(out, torch.bfloat16).dtype == torch.bfloat16
    ids = torch.tensor([sources.load_tokenizer(out).encode("The w1 w2")])
    assert torch.equal(model(ids).logits, make_llama().eval()(ids).logits)


def test_weights_that_are_quantised_already_are_no_dense_model(tmp_path, model_folder):
    change_json(model_folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})
    spec = {"source": "local", "path": str(model_folder)}
    with pytest.raises(
        ArtifactError, match=r"given: config\.json has `quantization_config`: .*`algorithm: external`"
    ):
        sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)
    assert not (tmp_path / "out").exists()


def test_weights_changed_after_the_fetch_are_refused(tmp_path, model_folder):
    sources.fetch("tiny", {"source": "local", "path": str(model_folder)}, tmp_path / "out", tmp_path, **MADE)
    content = bytearray((model_folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model_folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.safetensors: SHA-256 is .*manifest\.json says"):
        sources.load_dense(tmp_path / "out")


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("config.json", r"config\.json is missing"),
        ("model.safetensors", r"missing \*\.safetensors"),
        ("tokenizer.json", r"missing tokenizer\.json \(or tokenizer\.model"),
    ],
)
def test_missing_files_are_named_and_nothing_is_left(tmp_path, model_folder, removed, message):
    (model_folder / removed).unlink()
    with pytest.raises(ArtifactError, match=message):
        sources.fetch(
            "tiny", {"source": "local", "path": str(model_folder)}, tmp_path / "out", tmp_path, **MADE
        )
    assert not (tmp_path / "out").exists()


def test_missing_shard_is_named(tmp_path, model_folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (model_folder / "model.safetensors").rename(model_folder / "model-00001-of-00002.safetensors")
    with pytest.raises(ArtifactError, match=r"missing model-00002-of-00002\.safetensors"):
        sources.fetch(
            "tiny", {"source": "local", "path": str(model_folder)}, tmp_path / "out", tmp_path, **MADE
        )


def test_a_local_folder_with_pickles_only_is_refused_with_the_way_out(tmp_path, model_folder):
    (model_folder / "model.safetensors").rename(model_folder / "pytorch_model.bin")
    spec = {"source": "local", "path": str(model_folder)}
    with pytest.raises(ArtifactError, match=r"tiny: .*given has pickled weights .* `save_pretrained`"):
        sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)
    assert not (tmp_path / "out").exists()


def test_local_weights_that_are_cut_short_are_named(tmp_path, model_folder):
    weights = model_folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    spec = {"source": "local", "path": str(model_folder)}
    with pytest.raises(ArtifactError, match=r"given/model\.safetensors: cut short"):
        sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)
    assert not (tmp_path / "out").exists()


def test_remote_code_is_refused_unless_allowed(tmp_path, model_folder):
    change_json(model_folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.OwnModel"})
    (model_folder / "modeling_own.py").write_text("raise SystemExit('this ran')\n")
    spec = {"source": "local", "path": str(model_folder)}
    with pytest.raises(ArtifactError, match=r"has `auto_map`.*add 'tiny' to `trusted_code`"):
        sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)
    manifest = sources.fetch("tiny", spec | {"allow_remote_code": True}, tmp_path / "out", tmp_path, **MADE)
    assert manifest["remote_code"] is True and "modeling_own.py" in manifest["files"]


# ---------------------------------------------------------------------------------------------- hub


@pytest.fixture
def hub_cache(tmp_path, monkeypatch, model_folder):
    """A hub cache that holds own/er at one commit, and no network (HF_HUB_OFFLINE=1)."""
    from huggingface_hub import constants

    repository = tmp_path / "hub" / "models--own--er"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    model_folder.rename(repository / "snapshots" / COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return repository / "snapshots" / COMMIT


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_hub_model_from_the_cache_records_the_commit(tmp_path, hub_cache, revision):
    (hub_cache / "README.md").write_text("not needed")
    (hub_cache / "consolidated.safetensors").write_bytes(b"the weights once more")
    spec = {"source": "hub", "repo": "own/er", "revision": revision}
    manifest = sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)
    assert manifest["revision"] == COMMIT and manifest["origin"]["requested"] == revision
    assert not {"README.md", "consolidated.safetensors"} & set(manifest["files"])
    assert sources.load_dense(tmp_path / "out").config.num_hidden_layers == 2


def test_hub_pickle_is_refused_or_converted_on_request(tmp_path, hub_cache):
    weights = load_file(hub_cache / "model.safetensors")
    torch.save(weights, hub_cache / "pytorch_model.bin")
    (hub_cache / "model.safetensors").unlink()
    spec = {"source": "hub", "repo": "own/er", "revision": COMMIT}
    with pytest.raises(ArtifactError, match=r"own/er@0123.* has no \*\.safetensors; pickled weights"):
        sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)
    assert not (tmp_path / "out").exists()
    manifest = sources.fetch("tiny", spec | {"convert_pickle": True}, tmp_path / "out", tmp_path, **MADE)
    assert manifest["origin"]["converted_from_pickle"] and "pytorch_model.bin" not in manifest["files"]
    for name, value in sources.load_dense(tmp_path / "out").state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_pickle_that_lacks_a_tensor_is_not_filled_up(tmp_path, hub_cache):
    weights = without(load_file(hub_cache / "model.safetensors"))
    torch.save(weights, hub_cache / "pytorch_model.bin")
    (hub_cache / "model.safetensors").unlink()
    spec = {"source": "hub", "repo": "own/er", "revision": COMMIT, "convert_pickle": True}
    with pytest.raises(ArtifactError, match=r"its weights lack model\.layers\.1\.mlp\.up_proj\.weight"):
        sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)


def test_harmful_pickle_does_not_run(tmp_path, hub_cache):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harmed"), "w"))

    torch.save({"model.norm.weight": Harm()}, hub_cache / "pytorch_model.bin")
    (hub_cache / "model.safetensors").unlink()
    spec = {"source": "hub", "repo": "own/er", "revision": COMMIT, "convert_pickle": True}
    with pytest.raises(Exception, match=r"(?i)weights.only"):
        sources.fetch("tiny", spec, tmp_path / "out", tmp_path, **MADE)
    assert not (tmp_path / "harmed").exists() and not (tmp_path / "out").exists()


def test_hub_model_that_is_not_cached_says_so(tmp_path, hub_cache):
    with pytest.raises(
        ArtifactError, match=r"else/where@main: can't be fetched from the hub: not in the local cache"
    ):
        sources.fetch(
            "tiny",
            {"source": "hub", "repo": "else/where", "revision": "main"},
            tmp_path / "out",
            tmp_path,
            **MADE,
        )


def test_a_refused_connection_says_what_to_do():
    import httpx2

    from workflow_scripts.sources import hub

    with (
        pytest.raises(ArtifactError, match=r"own/er@main: .* the hub can't be reached"),
        hub._explained("own/er@main"),
    ):
        raise httpx2.ConnectError("Connection refused")

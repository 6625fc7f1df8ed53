"""A model that reads its weights module by module holds what a load gives, and names what is missing."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.unit.compress.walked import W3, silent, stored, tiny, windows
from workflow_scripts.compress.decoder import decoder_layers
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.walk import FinishedLayers, walk
from workflow_scripts.files.artifacts import ArtifactError


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("shards", [False, True])
def test_a_skeleton_is_filled_with_what_a_load_gives(family, shards, tmp_path):
    skeleton = stored(tiny(family), tmp_path, shards)
    assert (len(skeleton.files) > 2) == shards
    whole = AutoModelForCausalLM.from_pretrained(skeleton.folder, dtype=torch.float32)
    assert all(parameter.is_meta for parameter in skeleton.model.parameters())
    skeleton.load(skeleton.model)
    expected = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    found = {**dict(skeleton.model.named_parameters()), **dict(skeleton.model.named_buffers())}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with torch.no_grad():
        assert torch.equal(skeleton.model(windows()).logits, whole(windows()).logits)


def test_a_skeleton_takes_half_precision_and_a_tied_weight_under_either_name(tmp_path):
    model = tiny().to(torch.bfloat16)
    skeleton = stored(model, tmp_path)
    file = skeleton.folder / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, file)
    skeleton = Skeleton(skeleton.folder)
    skeleton.load(skeleton.model, but=(decoder_layers(skeleton.model), skeleton.model.lm_head))
    assert torch.equal(skeleton.model.model.embed_tokens.weight, model.lm_head.weight.float())


def test_a_head_that_is_not_the_embeddings_is_not_tied_to_them_whatever_the_configuration_says(tmp_path):
    skeleton = stored(tiny(), tmp_path)
    file = skeleton.folder / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, file)
    whole = AutoModelForCausalLM.from_pretrained(skeleton.folder, dtype=torch.float32)
    skeleton = Skeleton(skeleton.folder)
    skeleton.load(skeleton.model)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(skeleton.model.get_parameter(name), whole.get_parameter(name))


def test_a_skeleton_names_the_weight_that_is_missing(tmp_path):
    skeleton = stored(tiny(), tmp_path)
    file = skeleton.folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.zeros(3, 3)
    save_file(tensors, file)
    finished = FinishedLayers(tmp_path)
    with pytest.raises(
        ArtifactError, match=r"model.layers.1.mlp.up_proj.weight is missing .*or of another shape"
    ):
        walk(Skeleton(skeleton.folder), windows(), W3, finished, log=silent)
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, file)
    with pytest.raises(ArtifactError, match=r"model.embed_tokens.weight is missing"):
        walk(Skeleton(skeleton.folder), windows(), W3, finished, log=silent)


def test_a_quantised_model_is_refused(tmp_path):
    folder = stored(tiny(), tmp_path).folder
    config = json.loads((folder / "config.json").read_text()) | {
        "quantization_config": {"quant_method": "gptq"}
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="its weights are quantised already"):
        Skeleton(folder)

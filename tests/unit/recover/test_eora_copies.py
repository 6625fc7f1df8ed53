"""Which copies EoRA repairs: those that are the dense model but for the weights of the decoder's linears."""

import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.unit.recover import copies
from tests.unit.recover.copies import EORA, files_of, windows_of
from workflow_scripts.compress import stored_model
from workflow_scripts.compress.task import Sources
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import compress_model
from workflow_scripts.recover import eora
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.sources import checkpoints


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copies.written(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda layer: layer.input_layernorm.weight.data.mul_(1.5),
            "layer 1, input_layernorm.weight: differs",
        ),
        (
            lambda layer: setattr(layer.mlp, "up_proj", torch.nn.Linear(32, 48, bias=False)),
            r"\(48, 32\).*\(64, 32\)",
        ),
    ],
)
def test_a_copy_whose_error_is_not_its_weights_difference_is_refused(
    project, monkeypatch, tmp_path, change, said
):
    monkeypatch.chdir(project)

    def changed(*folders):
        model = stored_model.load_compressed(*folders)
        change(model.model.layers[1])
        return model

    monkeypatch.setattr(eora, "load_compressed", changed)
    monkeypatch.setattr(eora.Activations, "advance", lambda self, index, layer: None)
    with pytest.raises(ArtifactError, match=said):
        eora.repair(files_of("llama", "gptq"), windows_of("llama"), EORA, "cpu", tmp_path)


def test_a_copy_of_fewer_layers_is_refused(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    with pytest.raises(ArtifactError, match="shorter: 1 layers cannot be repaired after the dense model's 2"):
        eora.repair(files_of("llama", "shorter"), windows_of("llama"), EORA, "cpu", tmp_path)


def external(family, name, root, change, dtype=torch.float32):
    """A checkpoint of the family's model whose linears are rounded, after a further change of the model."""
    model = AutoModelForCausalLM.from_pretrained(root / "made" / family, dtype=torch.float32)
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if "layers" in key and weight.dim() == 2:
                weight.copy_((weight * 8 / weight.abs().max()).round() * weight.abs().max() / 8)
        change(model)
    folder, fetched = root / "external" / name, root / "fetched" / name
    shutil.copytree(root / "made" / family, folder)
    model.to(dtype).save_pretrained(folder)
    source = {"source": "local", "path": str(folder)}
    checkpoints.fetch(name, source, fetched, root / "cache", recipe="r", code="c")
    files = ModelFiles(root / "resources/models" / family, root / "compressed" / family / name)
    settings = {"algorithm": "external", "distilled": False}
    sources, output = Sources(files.model, checkpoint=fetched), str(files.compressed / "compression.json")
    compress_model.main(sources, output, settings, Provenance("r", "c"))
    return files


def shifted(name):
    return lambda model: model.get_parameter(name).add_(0.3)


def scaled(name, factor):
    return lambda model: model.get_parameter(name).mul_(factor)


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("opt", shifted("model.decoder.layers.1.fc1.bias"), "layer 1, fc1.bias: differs"),
        ("opt", shifted("model.decoder.layers.0.self_attn.q_proj.bias"), "layer 0, self_attn.q_proj.bias: d"),
        (
            "opt",
            shifted("model.decoder.final_layer_norm.bias"),
            "model.decoder.final_layer_norm.bias: differs",
        ),
        ("opt", scaled("model.decoder.embed_positions.weight", 2.0), "embed_positions.weight: differs"),
        ("llama", scaled("model.embed_tokens.weight", 1.7), ": model.embed_tokens.weight: differs"),
        ("llama", scaled("model.norm.weight", 3.0), ": model.norm.weight: differs"),
    ],
)
def test_a_checkpoint_with_other_weights_beside_its_linears_is_refused_by_tensor(
    project, monkeypatch, tmp_path, family, change, said
):
    monkeypatch.chdir(project)
    files = external(family, tmp_path.name, project, change)
    with pytest.raises(ArtifactError, match=f"{said}.*EoRA can't repair this copy"):
        eora.repair(files, windows_of(family), EORA, "cpu", tmp_path)


def quantised(model):
    """Embedding and tied head on a grid of 8 levels a row, as of a GGUF file."""
    weight = model.get_input_embeddings().weight
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-6) / 3.5
    weight.copy_(((weight / scale - 0.5).round() + 0.5) * scale)


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize(
    ("change", "dtype"),
    [
        (lambda model: None, torch.float32),
        (lambda model: None, torch.float16),
        (lambda model: None, torch.bfloat16),
        (quantised, torch.float32),
    ],
    ids=["float32", "float16", "bfloat16", "quantised embedding"],
)
def test_a_checkpoint_that_is_stored_otherwise_is_repaired(
    project, monkeypatch, tmp_path, family, change, dtype
):
    monkeypatch.chdir(project)
    files = external(family, tmp_path.name, project, change, dtype)
    found = eora.repair(files, windows_of(family), EORA, "cpu", tmp_path)
    assert found.records and all(record["after"] < record["before"] for record in found.records)

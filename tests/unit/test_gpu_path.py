"""The whole path on a GPU, the machine's own or one that only pretends: no entry mixes devices, and each gives the
CPU's numbers (on a real one but for float32's rounding)."""

import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate import dispatch_model
from peft.utils import load_peft_weights
from safetensors.torch import load_file

from tests.equivalence import scorer_folders
from tests.pretend_gpus import REAL, gpu, pretend_gpus
from tests.tiny_models import FAMILIES
from tests.unit.sources.test_spread_models import LORA, PREFIX, results
from workflow_scripts.compress.task import Machine, Sources
from workflow_scripts.evaluate import latency
from workflow_scripts.evaluate.settings import CellSettings, EvaluationData, HeldoutText, LatencyShape
from workflow_scripts.files import artifacts
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import (
    compress_model,
    evaluate_cell,
    measure_latency,
    measure_similarity,
    train_adapter,
)
from workflow_scripts.recover.model_files import ModelFiles

GPU = "cuda:0"
EVALUATION = {
    "items": 2,
    "generation_tokens": 6,
    "precision": "fp32",
    "perplexity": {"corpora": ["made-up"], "windows": 3, "length": 32},
}
TASKS = ("arc_easy", "lambada_openai", "triviaqa", "winogrande")  # one of each kind
PLACE = {
    "grid": "test",
    "model": "tiny",
    "compressor": "dense",
    "corpus": "made-up",
    "method": "m",
    "seed": 0,
}
MEMBERS = scorer_folders.IDP["members"]
METHODS = {
    "none": ({"kind": "none"}, []),
    "prompt": (scorer_folders.PROMPT, ["prompt-5"]),
    "idp": (scorer_folders.IDP | {"calibrated": True}, ["prompt-5", "prompt-7"]),
    "concat": ({"kind": "concat", "members": MEMBERS}, ["prompt-5", "prompt-7"]),
    "text": ({"kind": "text", "text": "Answer the question."}, []),
    "lora": (LORA, ["lora"]),
    "prefix": (PREFIX | {"init": "text"}, ["prefix"]),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root, before = tmp_path_factory.mktemp("project"), Path.cwd()
    os.chdir(root)  # work/ lies in the working directory
    folders = scorer_folders.project(root)
    folders["benchmarks"] = [f for f in folders["benchmarks"] if f.name in TASKS]
    for kind in ("lora", "prefix"):
        folders[kind] = root / "adapters" / kind / "seed-0"
        train(folders, METHODS[kind][0], folders[kind], "cpu")
    yield folders
    os.chdir(before)


def train(project, method, folder, device, **settings):
    output, training = folder / "training.json", scorer_folders.TRAINING | settings
    files, made = ModelFiles(project["model"], project["compressed"]), Provenance("r", "c", 0, device)
    train_adapter.main(files, train_adapter.Texts(project["corpus"]), output, method, training, 10, made)
    return artifacts.read_json(output), load_file(folder / "adapter_model.safetensors")


def cell(project, method):
    settings, members = METHODS[method]
    adapters = [project[name] for name in members]
    return ModelFiles(project["model"], project["compressed"], adapters, project["corpus"]), settings


@pytest.mark.skipif(REAL, reason="a real GPU's refusals are torch's own")
def test_what_a_gpu_refuses_is_refused(monkeypatch):
    with pretend_gpus(monkeypatch):
        there, here = torch.ones(3, device=GPU), torch.ones(3)
        assert (there + torch.tensor(1.0)).device == torch.device(GPU) and there[
            torch.tensor([0, 2])
        ].tolist() == [1, 1]
        for mixed in (
            lambda: there + here,
            lambda: here[torch.tensor([0], device=GPU)],
            lambda: torch.cat([here, there]),
            lambda: there.to("cuda:1") @ there,
            lambda: torch.nn.Linear(3, 2).to(GPU)(here),
        ):
            with pytest.raises(RuntimeError, match="tensors on c"):
                mixed()
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            there.numpy()


@pytest.mark.parametrize("method", ["prompt", "prefix", "lora"])
def test_training(project, method, tmp_path, monkeypatch):
    settings = METHODS[method][0]
    on_cpu, weights = train(project, settings, tmp_path / "cpu", "cpu")
    with gpu(monkeypatch):
        on_gpu, same = train(project, settings, tmp_path / "gpu", GPU)
        train(project, settings, tmp_path / "bf16", GPU, precision="bf16")
    assert on_gpu["manifest"]["device"] == GPU
    assert on_gpu["heldout_loss"] == pytest.approx(on_cpu["heldout_loss"], abs=1e-4 if REAL else 1e-6)
    for name, tensor in weights.items():
        if REAL:  # Adam makes whole steps of gradients that are next to nothing
            assert torch.cosine_similarity(same[name].flatten(), tensor.flatten(), dim=0) > 0.9999
        else:
            torch.testing.assert_close(same[name], tensor, atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "concat"])
def test_evaluation(project, method, tmp_path, monkeypatch):
    files, settings = cell(project, method)
    data = EvaluationData(project["benchmarks"], [project["corpus"]], "")
    tasks = {f.name: {"task": None, "num_fewshot": None, "domain": "world"} for f in project["benchmarks"]}

    def run(device, precision="fp32"):
        output = tmp_path / f"{device[:3]}-{precision}.json"
        asked = CellSettings(settings, tasks, EVALUATION | {"precision": precision})
        made = Provenance("r", "c", 0, device)
        evaluate_cell.main(files, data, asked, PLACE, made, output, output.with_suffix(".parquet"))
        return artifacts.read_json(output, "evaluation"), pd.read_parquet(output.with_suffix(".parquet"))

    on_cpu, rows = run("cpu")
    with gpu(monkeypatch):
        on_gpu, same = run(GPU)
        run(GPU, "bf16")
    assert on_gpu["manifest"]["device"] == GPU
    assert (rows["prediction"] == same["prediction"]).all()
    assert (rows["gold_loglik"] - same["gold_loglik"]).abs().max() < 1e-4
    ours, theirs = (record["perplexity"]["made-up"]["windowed"] for record in (on_gpu, on_cpu))
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert on_gpu["selection"] == on_cpu["selection"]


@pytest.mark.parametrize("method", ["idp", "lora"])
def test_similarity(project, method, tmp_path, monkeypatch):
    files, settings = cell(project, method)
    text = HeldoutText(project["corpus"], windows=2, length=24)

    def run(device):
        output = tmp_path / f"{device[:3]}.json"
        measure_similarity.main(files, text, output, PLACE, settings, Provenance("r", "c", 0, device))
        return artifacts.read_json(output, "similarity")

    on_cpu = run("cpu")
    with gpu(monkeypatch):
        on_gpu = run(GPU)
    for key in ("attention", "activations"):
        assert on_gpu[key] == pytest.approx(on_cpu[key], abs=1e-5 if REAL else 1e-6)


def test_latency(project, tmp_path, monkeypatch):
    methods = {
        "prompt-5": scorer_folders.PROMPT,
        "prompt-7": scorer_folders.PROMPT | {"tokens": 7},
        "prefix": PREFIX,
        "idp": scorer_folders.IDP,
        "concat": METHODS["concat"][0],
        "lora": LORA,
    }

    def load(folder, device):  # safetensors would ask for a real GPU
        return {name: tensor.to(device) for name, tensor in load_peft_weights(folder, device="cpu").items()}

    if not REAL:
        monkeypatch.setattr(latency, "load_peft_weights", load)
    with gpu(monkeypatch):
        files = ModelFiles(project["model"], project["compressed"])
        shape = LatencyShape(batch=3, sequence=12, generate=2, repeats=3, precision="bf16")
        made = Provenance("r", "c", 0, GPU)
        measure_latency.main(files, tmp_path / "l.json", PLACE, methods, shape, made)
    assert len(artifacts.read_json(tmp_path / "l.json", "latency")["latencies"]) == 11


@pytest.mark.parametrize(
    "compressor",
    [
        {"algorithm": "gptq", "bits": 3, "group_size": 16, "act_order": True, "static_groups": True},
        {"algorithm": "sparsegpt", "sparsity": 0.5},
        {"algorithm": "rtn", "bits": 4, "group_size": None, "symmetric": False, "clip": "none"},
        {"algorithm": "wanda", "sparsity": 0.5},
    ],
    ids=lambda compressor: compressor["algorithm"],
)
@pytest.mark.parametrize("activation_memory", [1, 0], ids=["memory", "file"])
def test_compression(project, compressor, activation_memory, tmp_path, monkeypatch):
    def run(device):
        compress_model.main(
            Sources(project["model"], project["corpus"]),
            tmp_path / device[:3] / "compression.json",
            compressor,
            Provenance("r", "c", device=device),
            {"windows": 4, "length": 32},
            Machine(activation_memory),
        )
        proof = artifacts.read_json(tmp_path / device[:3] / "compression.json", "compression")
        errors = [record["error"] for record in proof["layers"]]
        return load_file(tmp_path / device[:3] / "weights.safetensors"), errors

    on_cpu, errors = run("cpu")
    with gpu(monkeypatch):
        on_gpu, same = run(GPU)
    if REAL:  # a rounding that falls the other way changes the columns that follow it, not the error
        assert same == pytest.approx(errors, rel=0.01)
    else:
        assert all(torch.equal(on_gpu[name], tensor) for name, tensor in on_cpu.items())


@pytest.mark.skipif(REAL, reason="pretended GPUs stay on the CPU; test_spread_models.py takes what there is")
@pytest.mark.parametrize("family", ["llama-gqa", "opt"])
def test_layers_on_two_gpus(family, monkeypatch):
    """As accelerate spreads them: the embeddings and one layer, then the other layer and the head."""
    expected = results(FAMILIES[family]())
    with pretend_gpus(monkeypatch):
        model = FAMILIES[family]()
        dispatch_model(model, halves(model), skip_keys=model._skip_keys_device_placement)
        found = results(model)
        found = [one.cpu() if isinstance(one, torch.Tensor) else one for one in found]
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def halves(model) -> dict[str, str]:
    """A device map: the first layer and what comes before it on one GPU, the rest on the other."""
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    late = ("layers.1", "norm", "final_layer_norm")
    modules = [name for name, _ in model.get_decoder().named_children() if name != "layers"]
    places = {
        f"{decoder}.{name}": "cuda:1" if name in late else "cuda:0"
        for name in (*modules, "layers.0", "layers.1")
    }
    return places | {"lm_head": "cuda:0" if model.config.tie_word_embeddings else "cuda:1"}

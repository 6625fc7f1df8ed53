"""With optimum's environment (`make optimum`): its engine inside the pipeline, and our exports in its loader."""

import os
import subprocess

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.equivalence.optimum import MARKS, PYTHON
from tests.tiny_copies import compressed, fetch_corpus, fetch_model
from tests.tiny_settings import GPTQ, RTN
from workflow_scripts.compress.stored_model import load_compressed
from workflow_scripts.compress.task import Machine
from workflow_scripts.files.artifacts import read_json
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import export_model

pytestmark = MARKS
CALIBRATION = {"windows": 8, "length": 64}
LOAD = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPTQConfig
folder, tokens, output = sys.argv[1:]
bits = AutoConfig.from_pretrained(folder).quantization_config["bits"]
plain = GPTQConfig(bits=bits, backend="gptq_torch")  # its own choice for 4 bits per row is wrong: docs/howto/export.md
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, quantization_config=plain).eval()
linears = {name: m for name, m in model.named_modules() if hasattr(m, "qweight")}
with torch.inference_mode():  # weights first: some kernels rearrange them at their first use
    found = {name: m.dequantize_weight().T.float().contiguous() for name, m in linears.items()}
    found["logits"] = model(load_file(tokens)["tokens"]).logits.float()
save_file(found, output)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A tiny OPT (all dimensions are multiples of 32) with a row of zero point 0 in each linear, and a corpus."""
    root = tmp_path_factory.mktemp("sources")
    from transformers import AutoModelForCausalLM

    folder = tiny.write_model(root / "local", "opt")
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name, parameter in model.named_parameters():
        if ".layers." in name and parameter.dim() == 2:
            parameter.data[3].abs_()
    model.save_pretrained(folder)
    fetch_model(folder, root / "model")
    fetch_corpus(root / "corpus")
    return root


@pytest.mark.parametrize(
    "settings",
    [
        GPTQ,
        GPTQ | {"group_size": None},
        GPTQ | {"act_order": False, "bits": 4, "symmetric": True},
        GPTQ | {"true_sequential": True},
    ],
    ids=["w3-g16", "w3", "w4-g16-symmetric", "w3-g16-true-sequential"],
)
def test_both_engines_leave_the_same_files_and_come_close(settings, sources, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = compressed(sources / "model", tmp_path / "own", settings)
    machine = Machine(optimum_python=str(PYTHON))
    by_optimum = settings | {"engine": "optimum"}
    other = compressed(sources / "model", tmp_path / "optimum", by_optimum, machine=machine)
    load_compressed(sources / "model", other)  # refuses what is not as its proof says
    ours, theirs = (read_json(folder / "compression.json", schema="compression") for folder in (own, other))
    assert theirs["compressor"] == ours["compressor"] and theirs["calibration"] == ours["calibration"]
    assert theirs["effective_bits"] == pytest.approx(ours["effective_bits"], rel=0.01)
    assert theirs["manifest"]["libraries"]["optimum's gptqmodel"] == "7.6.0"
    for a, b in zip(ours["layers"], theirs["layers"], strict=True):
        assert (b["layer"], b["linear"], b["shape"]) == (a["layer"], a["linear"], a["shape"])
        assert b["damping"] == a["damping"] == 0.01
        assert 0.8 < b["error"] / a["error"] < 1.25, b["linear"]
    assert not list((tmp_path / "work").rglob("packed.safetensors"))


@pytest.mark.parametrize(
    ("settings", "form"),
    [
        (RTN | {"symmetric": True}, "gptq"),
        (RTN, "gptq_v2"),
        (RTN | {"bits": 2, "group_size": 16}, "gptq_v2"),
        (RTN | {"bits": 8}, "gptq_v2"),
        (GPTQ, "gptq_v2"),
    ],
    ids=["w4-symmetric-v1", "w4-v2", "w2-g16-v2", "w8-v2", "w3-moving-v2"],
)
def test_transformers_loads_the_export_with_gptqmodel(settings, form, sources, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compressed(sources / "model", tmp_path / "compressed", settings)
    folder = tmp_path / "exported"
    export_model.main(
        sources / "model",
        tmp_path / "compressed",
        folder / "export.json",
        form=form,
        made=Provenance("r", "c"),
    )
    tokens = torch.randint(3, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    save_file({"tokens": tokens}, tmp_path / "tokens.safetensors")
    subprocess.run(
        [PYTHON, "-P", "-c", LOAD, folder, tmp_path / "tokens.safetensors", tmp_path / "found.safetensors"],
        check=True,
        env=os.environ | {"TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1"},
    )
    found, model = (
        load_file(tmp_path / "found.safetensors"),
        load_compressed(sources / "model", tmp_path / "compressed"),
    )
    with torch.inference_mode():
        logits = model(tokens).logits
    assert torch.allclose(found.pop("logits"), logits, atol=0.01, rtol=0.01)
    assert len(found) == 12
    for name, weight in found.items():
        assert torch.equal(weight, model.get_submodule(name).weight.half().float()), name

"""Exports in other programs: read by one that is there, the others named, and wrong weights are found."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks import export_peers, exports
from tests import tiny

SHAPE = "--layers 1 --width 128 --intermediate 256 --heads 4 --rows 2 --length 16 --repeats 1"


@pytest.fixture
def called(tmp_path, monkeypatch, capsys):
    tokenizer = tiny.write_model(tmp_path / "tiny")

    def call(*words):
        here = [*SHAPE.split(), "--tokenizer", str(tokenizer), "--python", sys.executable, *words]
        monkeypatch.setattr(sys, "argv", ["exports", *here])
        with pytest.raises(SystemExit) as ended:
            exports.main()
        return ended.value.code, capsys.readouterr().out.splitlines()

    return call


def test_every_format_has_its_packages():
    assert set(exports.PACKAGES) == set(exports.EXPORTS)


def test_a_form_is_read_or_what_it_lacks_is_named(called, monkeypatch, tmp_path):
    real = exports.versions
    lacking = ("vllm", "gptqmodel", "optimum")
    monkeypatch.setattr(
        exports, "versions", lambda python: {k: v for k, v in real(python).items() if k not in lacking}
    )
    status, lines = called("--forms", "plain", "gptq", "--output", str(tmp_path / "rows"))
    assert status == 0
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [f"{row['mean_nats']:.5f}" for row in (rows[0], rows[2])] == [
        line.split()[1] for line in (lines[-5], lines[-3])
    ]
    assert rows[-1]["outcome"] == "not to be had: gptqmodel, optimum not installed"
    assert lines[-4].split() == "plain vllm not to be had: vllm not installed".split()
    assert (
        lines[-3].startswith("plain") and float(lines[-3].split()[1]) < 0.01 and "transformers" in lines[-3]
    )
    assert lines[-1].split() == "gptq transformers not to be had: gptqmodel, optimum not installed".split()


def test_wrong_weights_and_a_reader_that_fails_end_with_1(called, monkeypatch):
    real = exports.read

    def spoilt(python, program, exported, *rest):
        file = exported / "model.safetensors"
        tensors = load_file(file)
        name = "model.layers.0.mlp.down_proj.weight"
        save_file(tensors | {name: -tensors[name]}, file, metadata={"format": "pt"})
        return real(python, program, exported, *rest)

    monkeypatch.setattr(exports, "read", spoilt)
    status, lines = called("--forms", "plain")
    assert status == 1 and float(lines[-1].split()[1]) > exports.TOLERANCE

    def broken(python, program, exported, *rest):
        Path(exported, "config.json").write_text("{}")
        return real(python, program, exported, *rest)

    monkeypatch.setattr(exports, "read", broken)
    status, lines = called("--forms", "plain")
    assert status == 1 and "failed (" in lines[-1]


def test_a_reading_has_a_time(called):
    status, lines = called("--forms", "plain", "--seconds", "0")
    assert status == 1 and "out of time after 0 s" in lines[-1]


def test_the_environment_that_has_all_is_taken():
    installed = {"a": {"optimum": "2"}, "b": {"optimum": "2", "gptqmodel": "7"}}
    assert exports.having(installed, ("gptqmodel", "optimum")) == ("b", [])
    assert exports.having(installed, ("vllm",)) == ("a", ["vllm"])


@pytest.mark.parametrize(
    ("torch_version", "there"), [("2.13.0+cpu", False), ("2.13.0+cu130", True), ("2.13.0", True)]
)
def test_an_environment_for_processors_is_no_environment_for_a_gpu(torch_version, there, tmp_path):
    python = tmp_path / "python"
    python.write_text(f"""#!/bin/sh\necho '{{"torch": "{torch_version}"}}'\n""")
    python.chmod(0o755)
    lacking = [] if there else [exports.CUDA]
    assert exports.having({"it": exports.versions(str(python))}, ("torch", exports.CUDA)) == ("it", lacking)


def test_losses_are_those_of_each_next_token():
    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def forward(self, input_ids, use_cache, logits_to_keep=0):
            logits = torch.zeros(*input_ids.shape, 4)
            logits[..., 2] = 1.0
            return type("Found", (), {"logits": logits})

    found = export_peers.by_model(Model(), torch.tensor([[0, 2, 1]]), 1)["losses"]
    total = torch.tensor([0.0, 0.0, 1.0, 0.0]).logsumexp(0)
    torch.testing.assert_close(found, torch.stack([1 - total, -total])[None])

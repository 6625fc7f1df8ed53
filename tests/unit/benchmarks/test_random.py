"""The benchmarks on random models: a folder that loads, and a line for each variant of a method."""

import sys

import pytest
import torch

from benchmarks import latency, random_llama
from tests import tiny
from workflow_scripts.sources.models import load_dense, load_tokenizer


def called(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_a_random_model_is_a_fetched_one(tmp_path, monkeypatch, capsys):
    tokenizer, folder = tiny.write_model(tmp_path / "tiny"), tmp_path / "new" / "random"
    asked = (
        folder,
        "--tokenizer",
        tokenizer,
        "--layers",
        2,
        "--width",
        32,
        "--intermediate",
        48,
        "--heads",
        4,
    )
    called(random_llama, monkeypatch, *asked)
    model = load_dense(folder)  # checked against its manifest
    assert model.config.num_hidden_layers == 2 and len(load_tokenizer(folder)) == model.config.vocab_size
    assert model.model.layers[1].mlp.up_proj.weight.std().item() == pytest.approx(32**-0.5, rel=0.1)
    with torch.no_grad():
        assert model(torch.tensor([[1, 2]])).logits.isfinite().all()
    for words, said in (
        (asked, "is there already"),
        ((tmp_path / "x", "--tokenizer", tmp_path), "no tokenizer.json"),
    ):
        with pytest.raises(SystemExit):
            called(random_llama, monkeypatch, *words)
        assert said in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["llama-7b", "opt-6.7b"])
def test_every_variant_has_a_line(name, monkeypatch, capsys):
    family, _ = latency.SIZES[name]
    small = {"hidden_size": 32, "num_attention_heads": 4, "vocab_size": 97, "max_position_embeddings": 256}
    small |= {"intermediate_size": 48} if family == "Llama" else {"ffn_dim": 48, "word_embed_proj_dim": 32}
    monkeypatch.setitem(latency.SIZES, name, (family, small))
    shape = ("--layers", 1, "--batch", 3, "--sequence", 8, "--repeats", 2, "--generate", 1)
    called(latency, monkeypatch, "--device", "cpu", "--model", name, *shape)
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith(f"{name}, 1 layers, bf16, 3 x 8 tokens")
    found = {tuple(line.split()[:2]) for line in lines}
    assert (
        len(lines) == 11
        and {("none", "none"), ("lora-r4", "lora_merged"), ("idp-50-100", "idp_mixed")} <= found
    )
    assert all(float(line.split()[2]) > 0 and line.count(" ms") == 1 for line in lines)

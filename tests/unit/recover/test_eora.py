"""EoRA: the best low-rank repair of a weight under calibration inputs, layer by layer, as a LoRA that PEFT loads."""

import math
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tests.tiny_models import tiny_llama
from tests.unit.recover import copies
from tests.unit.recover.copies import CORPUS, EORA, GRID, files_of, windows_of
from workflow_scripts.compress import stored_model
from workflow_scripts.evaluate import latency
from workflow_scripts.files.artifacts import read_json
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import train_adapter
from workflow_scripts.recover import eora
from workflow_scripts.recover.adapters import attach
from workflow_scripts.recover.windows import heldout_windows
from workflow_scripts.sources.models import load_dense, load_tokenizer

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-optimum" / "bin" / "python"
LIBRARY = """
import sys, torch
from safetensors.torch import load_file, save_file
from gptqmodel.eora.eora import eora_compute_lora
given = load_file(sys.argv[1])
A, B = eora_compute_lora(given["error"], "linear", given["H"], 4, torch.float32, torch.device("cpu"))
save_file({"A": A.contiguous(), "B": B.contiguous()}, sys.argv[2])
"""


def problem(rows, columns, tokens=400, seed=0):
    """An error (rows, columns) of a weight, and H of inputs with a spectrum that falls by two orders."""
    draw = torch.Generator().manual_seed(seed)
    X = torch.randn(columns, tokens, generator=draw) * torch.logspace(0, -1, columns)[:, None]
    mixed = torch.linalg.qr(torch.randn(columns, columns, generator=draw))[0] @ X
    return torch.randn(rows, columns, generator=draw), 2 * mixed @ mixed.T


def output_error(error, H, A, B):
    left = (error - B @ A).double()
    return torch.trace(left @ H.double() @ left.T).item()


def as_published(error, H, rank):
    """The published steps: eigen-decomposition of H, SVD of the scaled error, the inverse scale at the end."""
    values, Q = torch.linalg.eigh(H.double())
    root, inverse = Q * values.sqrt(), (Q / values.sqrt()).T
    U, s, V = torch.linalg.svd(error.double() @ root, full_matrices=False)
    return s[:rank].sqrt()[:, None] * (V[:rank] @ inverse), U[:, :rank] * s[:rank].sqrt()


@pytest.mark.parametrize("rank", [2, 4, 16])
@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_factors_are_the_published_ones(shape, rank):
    error, H = problem(*shape)
    A, B, gone, lost = eora.factors(error, H, rank)
    theirs_A, theirs_B = as_published(error, H, rank)
    assert A.shape == (rank, shape[1]) and B.shape == (shape[0], rank) and A.dtype == torch.float32
    torch.testing.assert_close((B @ A).double(), theirs_B @ theirs_A, atol=1e-5, rtol=0)
    torch.testing.assert_close(B.norm(dim=0).double(), theirs_B.norm(dim=0), atol=1e-4, rtol=1e-5)
    whole, left = (output_error(error, H, a, b) for a, b in ((0 * A, B), (A, B)))
    assert gone == pytest.approx(1 - left / whole, abs=1e-5) and lost == pytest.approx(float(whole))


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON.exists(), reason="optimum's environment is not there: make optimum")
@pytest.mark.parametrize("shape", [(24, 40), (40, 24)])
def test_factors_are_those_of_gptqmodel(shape, tmp_path):
    error, H = problem(*shape)
    save_file({"error": error, "H": H}, tmp_path / "given")
    command = [str(PYTHON), "-c", LIBRARY, str(tmp_path / "given"), str(tmp_path / "found")]
    subprocess.run(command, check=True, capture_output=True)
    theirs = load_file(tmp_path / "found")
    A, B, *_ = eora.factors(error, H, 4)
    torch.testing.assert_close(B @ A, theirs["B"] @ theirs["A"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(5, 7), (7, 5)])
def test_no_other_matrix_of_that_rank_has_a_smaller_output_error(shape):
    """From many starts, alternating least squares (each step exact) ends no lower; nor does any small change."""
    error, H = problem(*shape)
    A, B, *_ = eora.factors(error, H, 2)
    best = output_error(error, H, A, B)
    E, K, draw = error.double(), H.double(), torch.Generator().manual_seed(1)
    for _ in range(20):
        other = torch.randn(2, shape[1], generator=draw, dtype=torch.float64)
        for _ in range(200):
            left = torch.linalg.solve(other @ K @ other.T, other @ K @ E.T).T
            other = torch.linalg.lstsq(left, E).solution
        assert output_error(error, H, other, left) >= best * (1 - 1e-6)
        change = 1e-3 * torch.randn(A.shape, generator=draw)
        assert output_error(error, H, A + change, B) > best


@pytest.mark.parametrize("shape", [(6, 20), (20, 12)])
def test_inputs_that_span_few_directions_divide_by_nothing(shape):
    """H of three tokens has three eigenvalues above zero; of none, no direction counts at all."""
    error, _ = problem(*shape)
    X = torch.randn(shape[1], 3, generator=torch.Generator().manual_seed(2))
    H = 2 * X @ X.T
    s = torch.linalg.svdvals(error.double() @ X.double())
    for rank, left in ((2, 2 * s[2] ** 2), (4, 0.0)):
        A, B, *_ = eora.factors(error, H, rank)
        assert A.isfinite().all() and B.isfinite().all()
        assert output_error(error, H, A, B) == pytest.approx(float(left), rel=1e-4, abs=1e-5)
    A, B, *_ = eora.factors(error, torch.zeros_like(H), 4)
    assert not A.any() and not B.any()


def test_an_error_of_lower_rank_is_repaired_whole_and_none_by_zeros():
    draw = torch.Generator().manual_seed(3)
    error = torch.randn(20, 2, generator=draw) @ torch.randn(2, 30, generator=draw)
    _, H = problem(20, 30)
    A, B, *_ = eora.factors(error, H, 6)
    torch.testing.assert_close(B @ A, error, atol=1e-4, rtol=0)
    assert not A[2:].any() and not B[:, 2:].any()
    A, B, *_ = eora.factors(torch.zeros(20, 30), H, 6)
    assert not A.any() and not B.any()


# ------------------------------------------------------------------------------------------ whole models

LORA = {
    "kind": "lora",
    "rank": 4,
    "alpha": 8,
    "dropout": 0.0,
    "targets": {"default": ["q_proj", "down_proj"]},
    "layers": [1],
    "start": "eora",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copies.written(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize("compressor", ["rtn", "gptq", "sparsegpt", "svd"])
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_each_linear_is_repaired_on_what_the_repaired_layers_before_it_give(
    project, monkeypatch, tmp_path, family, compressor
):
    """By brute force: inputs of dense linears, in a model whose earlier layers hold What + B A."""
    monkeypatch.chdir(project)
    files, windows = files_of(family, compressor), windows_of(family)
    found = eora.repair(files, windows, EORA, "cpu", tmp_path)
    dense, compressed = load_dense(files.model), stored_model.load_compressed(files.model, files.compressed)
    mixed = load_dense(files.model)
    linears = [
        name for name, m in dense.named_modules() if isinstance(m, torch.nn.Linear) and "layers" in name
    ]
    assert sorted(found.factors) == sorted(linears)
    for layer in range(2):
        mine, inputs, hooks = [name for name in linears if f"layers.{layer}." in name], {}, []
        for name in mine:

            def keep(module, args, name=name, inputs=inputs):
                inputs[name] = args[0].double().flatten(0, -2)

            hooks.append(mixed.get_submodule(name).register_forward_pre_hook(keep))
        with torch.no_grad():
            mixed(input_ids=windows)
        for hook in hooks:
            hook.remove()
        for name in mine:
            H = 2 / len(windows) * inputs[name].T @ inputs[name]
            What = compressed.get_submodule(name).weight.data
            error = dense.get_submodule(name).weight.data - What
            A, B = found.factors[name]
            expected = as_published(error, H, 4)
            assert output_error(error, H, A, B) == pytest.approx(output_error(error, H, *expected), rel=1e-4)
            mixed.get_submodule(name).weight.data = What + B @ A
    assert all(record["after"] < record["before"] for record in found.records)
    assert 0 < found.hessian_seconds < found.seconds


def test_of_the_dense_model_nothing_is_repaired_and_no_hessian_computed(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    monkeypatch.setattr(eora, "Activations", None)  # a call would fail
    found = eora.repair(files_of("llama", "dense"), windows_of("llama"), EORA, "cpu", tmp_path)
    assert len(found.factors) == 14 and not any(A.any() or B.any() for A, B in found.factors.values())


def test_a_killed_repair_goes_on_after_its_last_layer_and_ends_in_the_same_bits(
    project, monkeypatch, tmp_path
):
    monkeypatch.chdir(project)
    files, windows = files_of("llama", "gptq"), windows_of("llama")
    whole = eora.repair(files, windows, EORA, "cpu", tmp_path / "whole")
    layer_of = eora._repair_layer

    def killed(index, *arguments):
        if index:
            raise KeyboardInterrupt
        return layer_of(index, *arguments)

    monkeypatch.setattr(eora, "_repair_layer", killed)
    with pytest.raises(KeyboardInterrupt):
        eora.repair(files, windows, EORA, "cpu", tmp_path / "killed")
    done = []
    monkeypatch.setattr(eora, "_repair_layer", lambda index, *a: (done.append(index), layer_of(index, *a))[1])
    again = eora.repair(files, windows, EORA, "cpu", tmp_path / "killed")
    assert done == [1] and again.records == whole.records
    for name, pair in whole.factors.items():
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(pair, again.factors[name], strict=True))


def test_activations_beyond_their_memory_lie_in_a_file_and_change_no_bit(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    held, _ = made("gptq", EORA, SETTINGS)
    folders, opened = [], tempfile.TemporaryFile
    monkeypatch.setattr(
        tempfile, "TemporaryFile", lambda dir: (folders.append(Path(dir)), opened(dir=dir))[1]
    )
    in_memory = (held / "adapter_model.safetensors").read_bytes()
    filed, _ = made("gptq", EORA, SETTINGS, activation_memory=0)
    assert (filed / "adapter_model.safetensors").read_bytes() == in_memory
    assert len(folders) == 1 and folders[0].is_relative_to("work")


SETTINGS = {"sequence_length": 32, "micro_batch": 4, "precision": "fp32", "heldout_windows": 4}
TRAINING = SETTINGS | {
    "tokens": 1024,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "warmup": 0.0,
    "schedule": "constant",
    "weight_decay": 1e-5,
}


def made(compressor, method, training, seed=1, text=CORPUS, activation_memory=math.inf):
    output = f"adapters/{compressor}/{method['kind']}/seed-{seed}/training.json"
    shutil.rmtree(Path(output).parent, ignore_errors=True)
    texts = train_adapter.Texts(
        text, calibration_text=CORPUS, calibration=GRID, activation_memory=activation_memory
    )
    provenance = Provenance("r", "c", seed=seed, device="cpu")
    train_adapter.main(files_of("llama", compressor), texts, output, method, training, 10, provenance)
    return Path(output).parent, read_json(output, "training")


def test_the_job_writes_a_lora_of_alpha_rank_and_says_that_nothing_was_trained(project, monkeypatch):
    monkeypatch.chdir(project)
    folder, record = made("gptq", EORA, SETTINGS)
    config = read_json(folder / "adapter_config.json")
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 4, 4)
    assert record["tokens_seen"] == record["steps"] == 0 and record["loss_curve"] == []
    repair = record["repair"]
    assert repair["calibration"] == read_json("compressed/llama/gptq/compression.json")["calibration"]
    assert repair["linears"] == 14 and repair["output_error"]["after"] < repair["output_error"]["before"]
    assert record["heldout_loss"]["before"] != record["heldout_loss"]["base"]
    files = files_of("llama", "gptq")
    model = PeftModel.from_pretrained(
        stored_model.load_compressed(files.model, files.compressed), str(folder)
    )
    found = eora.repair(files, windows_of("llama"), EORA, "cpu", project / "again")
    for name, (A, B) in found.factors.items():
        layer = model.base_model.model.get_submodule(name)
        torch.testing.assert_close(layer.get_delta_weight("default"), B @ A, atol=1e-6, rtol=0)


def test_a_copy_that_nothing_calibrated_is_repaired_on_the_grids_windows_by_the_cells_seed(
    project, monkeypatch
):
    monkeypatch.chdir(project)
    records = [made("rtn", EORA, SETTINGS, seed)[1] for seed in (1, 2)]
    assert [record["repair"]["calibration"]["seed"] for record in records] == [1, 2]
    assert records[0]["repair"]["calibration"]["windows"] == GRID["windows"]
    assert records[0]["adapter_sha256"] != records[1]["adapter_sha256"]


def test_the_dense_control_of_a_repair_changes_nothing_at_all(project, monkeypatch):
    monkeypatch.chdir(project)
    records = [made("dense", EORA, SETTINGS, seed)[1] for seed in (1, 2)]
    assert records[0]["heldout_loss"]["after"] == records[0]["heldout_loss"]["base"]
    assert records[0]["repair"]["linears"] == 0
    assert records[0]["adapter_sha256"] == records[1]["adapter_sha256"]


def test_a_lora_that_starts_from_the_repair_starts_where_the_repair_ends(project, monkeypatch, tmp_path):
    """Of its own targets and layers alone, whatever its alpha."""
    monkeypatch.chdir(project)
    _, record = made("gptq", LORA, TRAINING)
    files = files_of("llama", "gptq")
    found = eora.repair(files, windows_of("llama"), LORA, "cpu", tmp_path)
    assert sorted(found.factors) == ["model.layers.1.mlp.down_proj", "model.layers.1.self_attn.q_proj"]
    model = stored_model.load_compressed(files.model, files.compressed)
    for name, (A, B) in found.factors.items():
        model.get_submodule(name).weight.data += B @ A
    tokenizer = load_tokenizer(files.model)
    heldout = heldout_windows(CORPUS, tokenizer, TRAINING)
    with torch.no_grad():
        repaired = model(input_ids=heldout, labels=heldout).loss.item()
    assert record["heldout_loss"]["before"] == pytest.approx(repaired, abs=1e-4)
    assert record["heldout_loss"]["after"] < record["heldout_loss"]["before"]


def test_on_the_dense_model_such_a_lora_starts_as_any_other_and_learns(project, monkeypatch):
    monkeypatch.chdir(project)
    _, record = made("dense", LORA, TRAINING)
    assert record["heldout_loss"]["before"] == pytest.approx(record["heldout_loss"]["base"], abs=1e-6)
    assert record["heldout_loss"]["after"] < record["heldout_loss"]["before"]


def test_a_cell_counts_the_repair_as_added_and_not_as_trained(project, monkeypatch):
    monkeypatch.chdir(project)
    folder, record = made("sparsegpt", EORA, SETTINGS)
    files = files_of("llama", "sparsegpt")
    recovered = attach(stored_model.load_compressed(files.model, files.compressed), None, EORA, [folder])
    added = record["parameters"]["trainable"]
    assert (recovered.parameters["trainable"], recovered.parameters["effective"]) == (0, added)


def test_a_repair_is_timed_beside_the_weights_and_merged(tmp_path):
    methods = {"none": {"kind": "none"}, "eora-r4": EORA}
    timed = latency.variants(tiny_llama(), None, methods, tmp_path, 2, 8)
    assert set(timed) == {("none", "none"), ("eora-r4", "eora"), ("eora-r4", "eora_merged")}
    state = timed["eora-r4", "eora"]()
    assert state.tokens.shape == (2, 1)

"""Our solvers against the reference implementations' figures, and the check against what it must refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from tests.golden import compress as golden
from tests.golden.__main__ import main
from tests.golden.compress import check, parse
from tests.pretend_gpus import gpu

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "golden" / "compress"


@pytest.mark.parametrize("name", ["random_64x128.npz", "random_64x128_dead.npz"])
def test_figures_and_outputs_of_the_references(name):
    rows = check(DATA / name)
    assert len(rows) == 32
    assert not [row for row in rows if not row.passed]


class DividesAsGpus(TorchFunctionMode):
    """A tensor over a plain number is, on a GPU, the tensor times that number's rounded reciprocal."""

    met = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        divides = function in (torch.Tensor.div, torch.Tensor.div_, torch.Tensor.__truediv__, torch.div)
        if divides and not isinstance(args[1], torch.Tensor):
            self.met += 1
            return (args[0].mul_ if function is torch.Tensor.div_ else args[0].mul)(1 / args[1])
        return function(*args, **(kwargs or {}))


def test_no_solver_divides_by_a_plain_number():
    """Of two neighbouring levels the last bit of a grid's step chooses, if a weight lies half-way between them."""
    with DividesAsGpus() as mode:
        assert (
            torch.tensor(5.0, dtype=torch.float64) / 49 != torch.tensor(5.0 / 49, dtype=torch.float64)
        ).item()
        rows = check(DATA / "random_64x128.npz")
    assert mode.met == 1  # by the line above
    assert not [row for row in rows if not row.passed]


def pruned(folder, change):
    """A golden file with SparseGPT at 50 % alone, its figures and its mask passed through `change`."""
    with np.load(DATA / "random_64x128.npz") as data:
        W, H = torch.from_numpy(data["W"]), torch.from_numpy(data["H"])
        figures = {"sparsegpt_s0.5": json.loads(str(data["errors_json"]))["sparsegpt_s0.5"]}
    mask = (golden.run(W, H, parse("sparsegpt_s0.5")).weight != 0).numpy()
    change(figures["sparsegpt_s0.5"], mask)
    arrays = {"W": W.numpy(), "H": H.numpy(), "sparsegpt_s0.5__mask": np.packbits(mask)}
    np.savez(folder / "pruned.npz", errors_json=json.dumps(figures), **arrays)
    return folder / "pruned.npz"


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (lambda said, mask: None, True),
        (lambda said, mask: said.update(sparsity=said["sparsity"] + 1e-3), False),
        (lambda said, mask: said.update(sparsity=float("nan")), False),
        (lambda said, mask: mask.__setitem__((0, 0), ~mask[0, 0]), False),
    ],
    ids=["as-it-is", "sparsity", "not-a-number", "mask"],
)
def test_masks_and_sparsities_are_compared(change, passes, tmp_path):
    (row,) = check(pruned(tmp_path, change))
    assert row.passed == passes


@pytest.mark.parametrize(("slip", "passes"), [(1.0, True), (1.03, False)])
def test_the_float32_run_is_compared_too(slip, passes, tmp_path, monkeypatch):
    run = golden.run

    def slipping(W, H, settings, device):
        solved = run(W, H, settings, device)
        if W.dtype == torch.float32:
            solved.weight = W + slip * (solved.weight - W)
        return solved

    file = pruned(tmp_path, lambda said, mask: None)
    monkeypatch.setattr(golden, "run", slipping)
    assert check(file)[0].passed == passes


def test_a_zero_half_way_between_two_levels_is_not_compared_in_float32(tmp_path, monkeypatch):
    """Rows of which the largest weight is minus the smallest; the last bit of the grid's step chooses their zero."""
    settings = parse("gptq_b3_row_asym")
    with np.load(DATA / "random_64x128.npz") as data:
        W, H = torch.from_numpy(data["W"]), torch.from_numpy(data["H"])
    largest = (1.01 * W[:8].abs().amax(1)).half().double()
    W[:8, 0], W[:8, 1] = largest, -largest
    W[:8] *= 16  # so that these rows are most of the figure
    solved, single = (golden.run(W.to(kind), H.to(kind), settings) for kind in (torch.float64, torch.float32))
    other = (solved.quantized.zero != single.quantized.zero).flatten()
    assert other[:8].any() and not other[8:].any()
    assert golden.tied_zeros(W, solved.quantized).flatten().tolist() == [True] * 8 + [False] * 56
    figures = {"gptq_b3_row_asym": {"rel_err": golden.reconstruction_error(W, solved.weight, H)}}
    np.savez(tmp_path / "tied.npz", errors_json=json.dumps(figures), W=W.numpy(), H=H.numpy())
    assert check(tmp_path / "tied.npz")[0].passed
    monkeypatch.setattr(golden, "tied_zeros", lambda W, grid: torch.zeros(len(W), 1, dtype=torch.bool))
    assert not check(tmp_path / "tied.npz")[0].passed


def test_the_device_that_is_asked_for_computes(tmp_path, monkeypatch):
    run, places = golden.run, []

    def watched(W, H, settings, device="cpu"):
        places.append(str(W.device))
        return run(W, H, settings, device)

    file = pruned(tmp_path, lambda said, mask: None)
    monkeypatch.setattr(golden, "run", watched)
    with gpu(monkeypatch):
        (row,) = check(file, "cuda:0")
    assert row.passed and places.count("cuda:0") == 2  # in float64 and in float32


def test_figures_and_outputs_on_a_gpu(monkeypatch):
    with gpu(monkeypatch):
        rows = check(DATA / "random_64x128.npz", "cuda:0")
    assert len(rows) == 32
    assert not [row for row in rows if not row.passed]


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the larger golden files lie outside the repository")
def test_layers_of_a_real_model():
    rows = [row for path in sorted(SHARED.glob("*.npz")) for row in check(path)]
    assert len(rows) == 126
    assert not [row for row in rows if not row.passed]


def test_names_say_the_settings():
    settings = parse("gptq_b3_g32_asym_actorder_static")
    assert (settings.bits, settings.group_size, settings.symmetric) == (3, 32, False)
    assert settings.act_order and settings.static_groups and settings.block_size == 128
    # Grids fitted on the way: the reference's block is the group.
    assert parse("gptq_b2_g48_sym").block_size == 48
    assert parse("gptq_b2_g48_sym_bs128").block_size == 128
    joint = parse("sparsegpt_4of8_b4_bs32")
    assert joint.n_of_m == (4, 8) and joint.bits == 4 and joint.block_size == 32
    for name in ("gptq_b3_row_asym_magic", "awq_b4_row_asym", "wanda_s1.5", "gptq_b9_row", "rtn_b3_g0"):
        with pytest.raises(ValueError, match="unknown"):
            parse(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wanda_s0.5_b4", "'b4': wanda takes no bits"),
        ("rtn_b3_row_actorder", "'actorder': rtn takes no act_order"),
        ("gptq_b3_s0.5", "'s0.5': gptq takes no sparsity"),
        ("gptq_b3_row_g32", "'g32': group_size is named twice"),
    ],
)
def test_a_part_that_would_be_passed_over_is_refused(name, said):
    with pytest.raises(ValueError, match=said):
        parse(name)


def _rewritten(folder, change):
    """A copy of a golden file with its figures and arrays passed through `change`."""
    with np.load(DATA / "random_64x128.npz") as data:
        arrays = {key: data[key] for key in ("W", "H", "rtn_b4_row_asym__Wq")}
        figures = {"rtn_b4_row_asym": json.loads(str(data["errors_json"]))["rtn_b4_row_asym"]}
    change(arrays, figures)
    np.savez(folder / "changed.npz", errors_json=json.dumps(figures), **arrays)
    return folder


def test_command_passes_and_prints_a_line_per_method(tmp_path, capsys):
    rows = tmp_path / "rows"
    assert main([_rewritten(tmp_path, lambda arrays, figures: None)], output=rows) == 0
    row = json.loads(rows.read_text())
    assert row.pop("largest_deviation_of_those_that_hold") < 1e-6
    assert row == {"file": "changed.npz", "figures": 1, "failed": 0}
    line, summary = capsys.readouterr().out.splitlines()
    assert line.startswith("ok") and "rtn_b4_row_asym" in line and "0.015935041" in line
    assert summary == "1 figures in 1 files, 0 failed"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays, figures: figures["rtn_b4_row_asym"].update(rel_err=0.0159351), "deviation 3.7e-06"),
        (lambda arrays, figures: arrays["rtn_b4_row_asym__Wq"].__imul__(1.0001), "Wq 1.0e-04"),
        (
            lambda arrays, figures: arrays["rtn_b4_row_asym__Wq"].fill(np.nan),
            "Wq holds values that are not finite",
        ),
        (
            lambda arrays, figures: figures.update(awq_b4_row=figures["rtn_b4_row_asym"]),
            "unknown algorithm 'awq'",
        ),
        (lambda arrays, figures: arrays.update(rtn_b4_row_asym__codes=arrays["W"]), "unknown output"),
        (lambda arrays, figures: arrays.update(rtn_b8_row_asym__Wq=arrays["W"]), "output without a figure"),
        (lambda arrays, figures: arrays.pop("H"), "the array X is missing; it holds"),
        (
            lambda arrays, figures: arrays.update(H=arrays["H"][:50]),
            "H: shape (50, 128) instead of (128, 128)",
        ),
        (lambda arrays, figures: arrays.update(W=arrays["W"][0]), "W: shape (128,) instead of (out, in)"),
        (
            lambda arrays, figures: arrays.update(W_f16=arrays.pop("W"), H_upper_f32=np.zeros(8255)),
            "H_upper_f32: shape (8255,) instead of (8256)",
        ),
        (
            lambda arrays, figures: arrays.update(rtn_b4_row_asym__zero=np.zeros((64, 2))),
            "rtn_b4_row_asym__zero: shape (64, 1) instead of (64, 2)",
        ),
        (
            lambda arrays, figures: (
                figures.update({"wanda_s0.5": {"rel_err": 0.1}}),
                arrays.update({"wanda_s0.5__scale": np.ones((64, 1))}),
            ),
            "unknown output 'wanda_s0.5__scale' of a pruner",
        ),
        (lambda arrays, figures: figures.update(rtn_b8_row={"sparsity": 0}), "KeyError('rel_err')"),
    ],
    ids=[
        "figure",
        "output",
        "not-a-number",
        "method",
        "kind",
        "unlisted",
        "no-problem",
        "shape",
        "one-dimension",
        "triangle",
        "output-shape",
        "grid-of-a-pruner",
        "no-figure",
    ],
)
def test_command_fails_on(tmp_path, capsys, change, said):
    assert main([_rewritten(tmp_path, change)]) == 1
    output = capsys.readouterr().out
    assert "FAILED" in output and said in output


def test_command_fails_on_unknown_formats_and_empty_folders(tmp_path, capsys):
    assert main([tmp_path]) == 1
    (tmp_path / "figures.csv").write_text("method,figure\n")
    assert main([tmp_path]) == 1
    assert "unknown format" in capsys.readouterr().out


def test_a_file_that_was_cut_short_fails_by_its_name(tmp_path, capsys):
    whole = (DATA / "random_64x128.npz").read_bytes()
    (tmp_path / "short.npz").write_bytes(whole[: len(whole) // 2])
    assert main([tmp_path]) == 1
    assert "short.npz" in (output := capsys.readouterr().out) and "can't be read as golden data" in output


def test_some_rows_of_an_output_are_compared(tmp_path, capsys):
    def some_rows(arrays, figures):
        arrays["rtn_b4_row_asym__Wq_rows8_16"] = arrays.pop("rtn_b4_row_asym__Wq")[8:16]

    assert main([_rewritten(tmp_path, some_rows)]) == 0
    assert "Wq_rows8_16 " in capsys.readouterr().out

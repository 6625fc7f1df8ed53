"""Our solvers against the reference implementations' figures, and the check against what it must refuse."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.golden.__main__ import main
from tests.golden.compress import check, parse

DATA = Path(__file__).parent / "data"
SHARED = Path(__file__).resolve().parents[3] / "shared" / "golden" / "compress"


@pytest.mark.parametrize("name", ["random_64x128.npz", "random_64x128_dead.npz"])
def test_figures_and_outputs_of_the_references(name):
    rows = check(DATA / name)
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
    assert (
        parse("gptq_b2_g48_sym").block_size == 48
    )  # grids fitted on the way: the reference's block is the group
    assert parse("gptq_b2_g48_sym_bs128").block_size == 128
    joint = parse("sparsegpt_4of8_b4_bs32")
    assert joint.n_of_m == (4, 8) and joint.bits == 4 and joint.block_size == 32
    for name in ("gptq_b3_row_asym_magic", "awq_b4_row_asym", "wanda_s1.5"):
        with pytest.raises(ValueError, match="unknown"):
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
    assert main([_rewritten(tmp_path, lambda arrays, figures: None)]) == 0
    line, summary = capsys.readouterr().out.splitlines()
    assert line.startswith("ok") and "rtn_b4_row_asym" in line and "0.015935041" in line
    assert summary == "1 figures in 1 files, 0 failed"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays, figures: figures["rtn_b4_row_asym"].update(rel_err=0.0159351), "deviation 3.7e-06"),
        (lambda arrays, figures: arrays["rtn_b4_row_asym__Wq"].__imul__(1.0001), "Wq 1.0e-04"),
        (
            lambda arrays, figures: figures.update(awq_b4_row=figures["rtn_b4_row_asym"]),
            "unknown algorithm 'awq'",
        ),
        (lambda arrays, figures: arrays.update(rtn_b4_row_asym__codes=arrays["W"]), "unknown output"),
        (lambda arrays, figures: arrays.update(rtn_b8_row_asym__Wq=arrays["W"]), "output without a figure"),
        (lambda arrays, figures: arrays.pop("H"), "can't be read as golden data"),
    ],
    ids=["figure", "output", "method", "kind", "unlisted", "problem"],
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

"""Check files of layer-wise compression problems (NPZ) against the figures and outputs stored in them.

A file holds a problem, W (out, in) with H (or X), or W_f16 with H_upper_f32, and `errors_json`: method name ->
{rel_err, sparsity}. Optional outputs: NAME__Wq, NAME__Wq_rows0_8, NAME__scale, NAME__zero, NAME__mask. The
method's name says its settings (`gptq_b3_g32_asym_actorder_static`, `sparsegpt_s0.5_b4`, `wanda_2of4`).
"""

import json
import re
from pathlib import Path

import numpy as np
import torch

from tests.golden import Row
from workflow_scripts.compress import baselines
from workflow_scripts.compress.hessian import reconstruction_error
from workflow_scripts.compress.quantizer import Quantized
from workflow_scripts.compress.settings import Compressor
from workflow_scripts.compress.solver import Solved, solve

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
TOKENS = {
    r"b(\d+)": lambda bits: {"bits": int(bits)},
    r"row": dict,
    r"g(\d+)": lambda size: {"group_size": int(size)},
    r"asym": lambda: {"symmetric": False},
    r"sym": lambda: {"symmetric": True},
    r"mse": lambda: {"clip": "mse"},
    r"actorder": lambda: {"act_order": True},
    r"static": lambda: {"static_groups": True},
    r"damp([\d.]+(?:e-?\d+)?)": lambda damping: {"damping": float(damping)},
    r"bs(\d+)": lambda size: {"block_size": int(size)},
    r"s(0?\.\d+)": lambda sparsity: {"sparsity": float(sparsity)},
    r"(\d+)of(\d+)": lambda n, m: {"pattern": f"{n}:{m}"},
}


def parse(name: str) -> Compressor:
    """Settings that a method's name stands for; ValueError for a name with an unknown part."""
    algorithm, *tokens = name.split("_")
    if algorithm not in ("rtn", "gptq", "sparsegpt", "wanda", "magnitude"):
        raise ValueError(f"unknown algorithm {algorithm!r}")
    found = {"damping": 0.01, "block_size": 128}
    for token in tokens:
        match = next((hit for pattern in TOKENS if (hit := re.fullmatch(pattern, token))), None)
        if match is None:
            raise ValueError(f"unknown part {token!r}")
        found |= TOKENS[match.re.pattern](*match.groups())
    moving = found.get("group_size") and not found.get("static_groups")
    if algorithm == "gptq" and moving and not any(token.startswith("bs") for token in tokens):
        found["block_size"] = found["group_size"]  # the reference's rule for grids that are fitted on the way
    return Compressor(algorithm, **found)


def run(W: torch.Tensor, H: torch.Tensor, settings: Compressor) -> Solved:
    """Compress one linear with the product's own functions."""
    if settings.algorithm == "rtn":
        return baselines.round_to_nearest(W, settings)
    if settings.algorithm == "magnitude":
        return baselines.magnitude(W, settings)
    if settings.algorithm == "wanda":
        return baselines.wanda(W, H.diagonal(), settings)
    return solve([W], H, settings).linears[0]


def problem(data) -> tuple[torch.Tensor, torch.Tensor]:
    """W (out, in) and H (in, in), float64."""
    if "W_f16" in data:
        W = torch.from_numpy(data["W_f16"].astype(np.float64))
        H = torch.zeros(W.shape[1], W.shape[1], dtype=torch.float64)
        upper = np.triu_indices(W.shape[1])
        H[upper] = torch.from_numpy(data["H_upper_f32"].astype(np.float64))
        return W, torch.triu(H) + torch.triu(H, 1).T
    W = torch.from_numpy(data["W"].astype(np.float64))
    if "H" in data:
        return W, torch.from_numpy(data["H"].astype(np.float64))
    X = torch.from_numpy(data["X"].astype(np.float64))
    return W, 2 * X @ X.T


def outputs_deviation(name: str, data, solved: Solved) -> tuple[float, list[str]]:
    """Largest relative deviation from the stored outputs of a method, and the names of those compared."""
    Q, grid = solved.weight, solved.quantized
    made = {
        "Wq": lambda: Q.numpy(),
        "Wq_rows0_8": lambda: Q[:8].numpy(),
        "scale": lambda: grid.scale.numpy(),
        "zero": lambda: grid.zero.numpy(),
        "mask": lambda: np.packbits(Q.numpy().astype(bool)),
    }
    worst, compared = 0.0, []
    for key in data.files:
        if not key.startswith(f"{name}__"):
            continue
        kind = key.removeprefix(f"{name}__")
        if kind not in made:
            raise ValueError(f"unknown output {key!r}")
        ours, theirs = made[kind](), data[key]
        if ours.shape != theirs.shape:
            raise ValueError(f"{key}: shape {ours.shape} instead of {theirs.shape}")
        compared.append(kind)
        if kind == "mask":
            worst = max(worst, float(np.unpackbits(ours ^ theirs).mean()))
        else:
            worst = max(worst, float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-300)))
    return worst, compared


def ties(W: torch.Tensor, grid: Quantized) -> torch.Tensor:
    """Weights half-way between two levels, where the last bit decides (a symmetric grid's extremes always are)."""
    steps = W / grid.scale[:, grid.group]
    return (steps - steps.floor() - 0.5).abs() < 1e-5


def check(path) -> list[Row]:
    """A row per method of an NPZ file: float64 figure and outputs to 1e-6, float32 figure to 1e-2."""
    path = Path(path)
    with np.load(path, allow_pickle=False) as data:
        figures = json.loads(str(data["errors_json"]))
        W, H = problem(data)
        stored = {key.split("__")[0] for key in data.files if "__" in key}
        rows = [
            _failure(path, name, np.nan, "output without a figure") for name in sorted(stored - set(figures))
        ]
        for name, reference in figures.items():
            try:
                rows.append(_check_method(path, name, reference["rel_err"], W, H, data))
            except (ValueError, RuntimeError) as error:
                rows.append(_failure(path, name, reference["rel_err"], str(error)))
        return rows


def _failure(path: Path, name: str, reference: float, note: str) -> Row:
    return Row(path.name, name, np.nan, reference, np.nan, False, note)


def _check_method(path: Path, name: str, reference: float, W: torch.Tensor, H: torch.Tensor, data) -> Row:
    settings = parse(name)
    solved = run(W, H, settings)
    figure = reconstruction_error(W, solved.weight, H)
    deviation = abs(figure - reference) / reference
    outputs, compared = outputs_deviation(name, data, solved)
    single = run(W.float(), H.float(), settings).weight.double()
    if settings.algorithm == "rtn":
        single = torch.where(ties(W, solved.quantized), solved.weight, single)
    single_deviation = abs(reconstruction_error(W, single, H) - reference) / reference
    worst = max(deviation, outputs)
    passed = worst <= TOLERANCE[torch.float64] and single_deviation <= TOLERANCE[torch.float32]
    note = f"float32 {single_deviation:.1e}" + (f", {'/'.join(compared)} {outputs:.1e}" if compared else "")
    return Row(path.name, name, figure, reference, worst, passed, note)

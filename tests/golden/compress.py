"""Check files of layer-wise compression problems (NPZ) against the figures and outputs stored in them.

A file holds a problem, W (out, in) with H (or X), or W_f16 with H_upper_f32, and `errors_json`: method name ->
{rel_err, sparsity}. Optional outputs: NAME__Wq, NAME__Wq_rowsA_B, NAME__scale, NAME__zero, NAME__mask. The
method's name says its settings (`gptq_b3_g32_asym_actorder_static`, `sparsegpt_s0.5_b4`, `wanda_2of4`).

Not to be checked: symmetric groups whose grids are fitted on the way (`gptq_b3_g32_sym`, without `static`). Such a
grid puts its group's largest weight half-way between two levels, so that the last bit of float64 decides there, and
with it all columns that follow; two right implementations differ by as much as a step.
"""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import torch

from tests.golden import Row
from workflow_scripts.compress import baselines
from workflow_scripts.compress.hessian import reconstruction_error
from workflow_scripts.compress.quantizer import Quantized
from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.compress.solver import SolvedLinear, solve

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-2}
TOKENS = {
    r"b([2-8])": lambda bits: {"bits": int(bits)},
    r"row": lambda: {"group_size": None},
    r"g([1-9]\d*)": lambda size: {"group_size": int(size)},
    r"asym": lambda: {"symmetric": False},
    r"sym": lambda: {"symmetric": True},
    r"mse": lambda: {"clip": "mse"},
    r"actorder": lambda: {"act_order": True},
    r"static": lambda: {"static_groups": True},
    r"damp([\d.]+(?:e-?\d+)?)": lambda damping: {"damping": float(damping)},
    r"bs([1-9]\d*)": lambda size: {"block_size": int(size)},
    r"s(0?\.\d+)": lambda sparsity: {"sparsity": float(sparsity)},
    r"(\d+)of(\d+)": lambda n, m: {"pattern": f"{n}:{m}"},
}
GRID, SWEEP, SHARE = (
    {"bits", "group_size", "symmetric", "clip"},
    {"act_order", "damping", "block_size"},
    {"sparsity", "pattern"},
)
# Settings that an algorithm's name may hold.
TAKEN = {
    "rtn": GRID,
    "gptq": GRID | SWEEP | {"static_groups"},
    "sparsegpt": GRID | SWEEP | {"static_groups"} | SHARE,
    "wanda": SHARE,
    "magnitude": SHARE,
}


def parse(name: str) -> CompressorSettings:
    """Settings that a method's name stands for; ValueError for a name with an unknown part."""
    algorithm, *tokens = name.split("_")
    if algorithm not in TAKEN:
        raise ValueError(f"unknown algorithm {algorithm!r}")
    said = {}
    for token in tokens:
        match = next((hit for pattern in TOKENS if (hit := re.fullmatch(pattern, token))), None)
        if match is None:
            raise ValueError(f"unknown part {token!r}")
        [(key, value)] = TOKENS[match.re.pattern](*match.groups()).items()
        if key not in TAKEN[algorithm]:
            raise ValueError(f"unknown part {token!r}: {algorithm} takes no {key}")
        if key in said:
            raise ValueError(f"part {token!r}: {key} is named twice")
        said[key] = value
    found = {"damping": 0.01, "block_size": 128} | said
    moving = said.get("group_size") and not said.get("static_groups")
    if moving and "block_size" not in said:
        found["block_size"] = said["group_size"]  # the reference's rule for grids that are fitted on the way
    return CompressorSettings(algorithm, **found)


def run(W: torch.Tensor, H: torch.Tensor, settings: CompressorSettings, device: str = "cpu") -> SolvedLinear:
    """Compress one linear with the product's own functions, on a device; the result lies on the CPU."""
    if device != "cpu":
        return _to_cpu(run(W.to(device), H.to(device), settings))
    if settings.algorithm == "rtn":
        return baselines.round_to_nearest(W, settings)
    if settings.algorithm == "magnitude":
        return baselines.magnitude(W, settings)
    if settings.algorithm == "wanda":
        return baselines.wanda(W, H.diagonal(), settings)
    return solve([W], H, settings).linears[0]


def _to_cpu(solved: SolvedLinear) -> SolvedLinear:
    grid = solved.quantized
    if grid is not None:
        moved = {field.name: getattr(grid, field.name) for field in dataclasses.fields(grid)}
        moved = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in moved.items()}
        grid = dataclasses.replace(grid, **moved)
    return SolvedLinear(solved.weight.cpu(), grid)


def problem(data) -> tuple[torch.Tensor, torch.Tensor]:
    """W (out, in) and H (in, in), float64; ValueError names the array that is missing or of another shape."""
    W = _array(data, "W_f16" if "W_f16" in data else "W", ("out", "in"))
    columns = W.shape[1]
    if "H_upper_f32" in data:
        H = torch.zeros(columns, columns, dtype=torch.float64)
        H[np.triu_indices(columns)] = _array(data, "H_upper_f32", (columns * (columns + 1) // 2,))
        return W, torch.triu(H) + torch.triu(H, 1).T
    if "H" in data:
        return W, _array(data, "H", (columns, columns))
    X = _array(data, "X", (columns, "samples"))
    return W, 2 * X @ X.T


def _array(data, name: str, shape: tuple) -> torch.Tensor:
    """An array in float64; a size of `shape` that is a word may be any."""
    if name not in data:
        raise ValueError(f"the array {name} is missing; it holds {', '.join(data.files)}")
    found = data[name].shape
    if len(found) != len(shape) or any(isinstance(n, int) and n != m for n, m in zip(shape, found)):
        raise ValueError(f"{name}: shape {found} instead of ({', '.join(map(str, shape))})")
    return torch.from_numpy(data[name].astype(np.float64))


def outputs_deviation(name: str, data, solved: SolvedLinear) -> tuple[float, list[str]]:
    """Largest relative deviation from the stored outputs of a method, and the names of those compared."""
    Q, grid = solved.weight, solved.quantized
    made = {"Wq": lambda: Q.numpy(), "mask": lambda: np.packbits(Q.numpy().astype(bool))}
    if grid:
        made |= {"scale": lambda: grid.scale.numpy(), "zero": lambda: grid.zero.numpy()}
    worst, compared = 0.0, []
    for key in data.files:
        if not key.startswith(f"{name}__"):
            continue
        kind = key.removeprefix(f"{name}__")
        if rows := re.fullmatch(r"Wq_rows(\d+)_(\d+)", kind):
            made[kind] = Q[int(rows[1]) : int(rows[2])].numpy
        if kind not in made:
            raise ValueError(f"unknown output {key!r} of {'a quantiser' if grid else 'a pruner'}")
        ours, theirs = made[kind](), data[key]
        if ours.shape != theirs.shape:
            raise ValueError(f"{key}: shape {ours.shape} instead of {theirs.shape}")
        compared.append(kind)
        for whose, values in (("", theirs), ("our ", ours)):
            if not np.isfinite(values).all():
                raise ValueError(f"{whose}{key} holds values that are not finite")
        if kind == "mask":
            worst = max(worst, float(np.unpackbits(ours ^ theirs).mean()))
        else:
            worst = max(worst, float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-300)))
    return worst, compared


def ties(W: torch.Tensor, grid: Quantized) -> torch.Tensor:
    """Weights half-way between two levels, where the last bit decides (a symmetric grid's extremes always are)."""
    steps = W / grid.scale[:, grid.group]
    return (steps - steps.floor() - 0.5).abs() < 1e-5


def tied_zeros(W: torch.Tensor, grid: Quantized) -> torch.Tensor:
    """Rows (rows, 1) whose zero lies half-way between two levels: 2^b - 1 steps from a smallest weight to its negative.

    The last bit decides at which end a level is missing.
    """
    return ties(W, grid).gather(1, W.argmin(1, keepdim=True)) & (W.amin(1, keepdim=True) < 0)


def check(path, device: str = "cpu") -> list[Row]:
    """A row per method of an NPZ file: float64 figure and outputs to 1e-6, float32 figure to 1e-2."""
    path = Path(path)
    with np.load(path, allow_pickle=False) as data:
        if "errors_json" not in data:
            raise ValueError("the array errors_json is missing")
        figures = json.loads(str(data["errors_json"]))
        W, H = problem(data)
        stored = {key.split("__")[0] for key in data.files if "__" in key}
        rows = [
            _failure(path, name, np.nan, "output without a figure") for name in sorted(stored - set(figures))
        ]
        for name, said in figures.items():
            try:
                rows.append(_check_method(path, name, said, W, H, data, device))
            except (ValueError, RuntimeError) as error:
                rows.append(_failure(path, name, float(said["rel_err"]), str(error)))
        return rows


def _failure(path: Path, name: str, reference: float, note: str) -> Row:
    return Row(path.name, name, np.nan, reference, np.nan, False, note)


def _check_method(
    path: Path, name: str, said: dict, W: torch.Tensor, H: torch.Tensor, data, device: str
) -> Row:
    settings, reference = parse(name), float(said["rel_err"])
    solved = run(W, H, settings, device)
    figure = reconstruction_error(W, solved.weight, H)
    scale = abs(reference) or 1  # a lossless method's figure is 0
    deviation = abs(figure - reference) / scale
    outputs, compared = outputs_deviation(name, data, solved)
    single = run(W.float(), H.float(), settings, device).weight.double()
    if settings.algorithm == "rtn":
        single = torch.where(ties(W, solved.quantized), solved.weight, single)
    elif settings.bits and not settings.symmetric and not settings.group_size:
        single = torch.where(tied_zeros(W, solved.quantized), solved.weight, single)
    single_deviation = abs(reconstruction_error(W, single, H) - reference) / scale
    note = f"float32 {single_deviation:.1e}" + (f", {'/'.join(compared)} {outputs:.1e}" if compared else "")
    worst = max(deviation, outputs)
    if "sparsity" in said:
        zeros = (solved.weight == 0).double().mean().item()
        worst = float(np.max([worst, abs(zeros - said["sparsity"])]))  # of which one that is no number stays
        note += f", sparsity {zeros:.6g}"
    passed = worst <= TOLERANCE[torch.float64] and single_deviation <= TOLERANCE[torch.float32]
    return Row(path.name, name, figure, reference, worst, passed, note)

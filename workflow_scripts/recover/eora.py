"""EoRA: a low-rank repair of compressed linears from their weights and calibration text; nothing is trained.

Source: Liu et al. (2024, arXiv:2410.21271). W (out, in) is a dense weight, What its compressed one, H = 2 X X^T over
calibration tokens, S a root of it: H = S S^T, as Q diag(sqrt(l)) of H = Q diag(l) Q^T. The B A of rank r with the
smallest ||(W - What - B A) X|| comes from the r largest singular values s of (W - What) S = U diag(s) V^T:

  B = U_r diag(sqrt(s)),  A = diag(sqrt(s)) V_r^T S^-1 = diag(1 / sqrt(s)) U_r^T (W - What)

The second form of A divides by no eigenvalue of H, of which many may be zero. H is not damped. QERA's closed form
(Zhang et al., 2024, arXiv:2410.06040) is the same B A.

As in the authors' code, the inputs X of a layer come from the layers before it with their repair, and inside the layer
from its dense linears.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from scipy.linalg import eigh
from torch import Tensor, nn
from transformers import PreTrainedModel

from workflow_scripts.compress.decoder import (
    Activations,
    decoder_layers,
    get_weight,
    layer_linears,
    set_weight,
)
from workflow_scripts.compress.hessian import output_square
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.stored_model import load_compressed
from workflow_scripts.compress.walk import FinishedLayers
from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.files.job import log
from workflow_scripts.files.members import COMPRESSION
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.sources.models import verify

STORED = (torch.float32, torch.float16, torch.bfloat16)  # types in which checkpoints store weights
# Of embeddings and head in a copy, as GGUF files quantise them: most that the error is of the dense one (codes of two
# bits: 0.3), and that its scale by least squares is off 1.
QUANTISED, OFF_SCALE = 0.4, 0.1
INPUTS = "of the repaired layers before; inside a layer, of the dense linears"


@dataclass(frozen=True)
class Repair:
    """factors: name of a module of the model -> A (r, in) and B (out, r). records: one per linear that was repaired,
    {layer, linear, before, after}, shares of ||W X||^2 that the error makes. seconds: of all, and of the Hessians and
    the activations alone. calibration: how their text was drawn."""

    factors: dict[str, tuple[Tensor, Tensor]]
    records: list[dict]
    seconds: float
    hessian_seconds: float
    calibration: dict | None = None

    def summary(self) -> dict:
        """`repair` of training.json."""
        count = len(self.records)
        error = {key: sum(r[key] for r in self.records) / max(1, count) for key in ("before", "after")}
        seconds = {"total": round(self.seconds, 2), "hessians": round(self.hessian_seconds, 2)}
        found = {"calibration": self.calibration, "inputs": INPUTS, "linears": count}
        return found | {"output_error": error, "seconds": seconds}

    def put(self, adapted: PeftModel, trained_on: bool = False) -> None:
        """Write the factors into a new LoRA, whose own scale alpha / r is divided out.

        trained_on: a linear without error then keeps the LoRA's own start, since no gradient reaches two zero factors.
        """
        adapter = adapted.active_adapter
        for name, module in adapted.get_base_model().named_modules():
            if isinstance(module, LoraLayer) and name in self.factors:
                A, B = self.factors[name]
                if trained_on and not B.any():
                    continue
                module.lora_A[adapter].get_parameter("weight").data.copy_(A)
                module.lora_B[adapter].get_parameter("weight").data.copy_(B / module.scaling[adapter])


def eora_config(method: dict, model: PreTrainedModel) -> LoraConfig:
    """PEFT's configuration of a repair of all decoder linears; alpha = rank, so that the update is B A itself."""
    names = {name for layer in decoder_layers(model) for name in layer_linears(layer)}
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method["rank"],
        lora_alpha=method["rank"],
        lora_dropout=0.0,
        target_modules=sorted(names),
        bias="none",
    )


@torch.no_grad()
def factors(error: Tensor, H: Tensor, rank: int) -> tuple[Tensor, Tensor, float, float]:
    """A (rank, in) and B (out, rank), float32, with the smallest tr((error - B A) H (error - B A)^T), the share of
    tr(error H error^T) that is then gone: sum of the s^2 used over sum of all, and tr(error H error^T) itself.

    error: W - What (out, in). H (in, in). Rows of A and columns of B beyond the rank of error H are zero. The
    eigen-decomposition, of the smaller of the two Gram matrices of error S, is in float64.
    """
    error, H = error.double(), H.double()
    rows, columns = error.shape
    found = min(rank, rows, columns)
    if rows <= columns:
        gram = error @ H @ error.T
        squares, U = _largest(gram, found)
    else:
        scaled = error @ _root(H)
        gram = scaled.T @ scaled
        squares, V = _largest(gram, found)
        U = scaled @ V
    there = squares > squares[0].clamp(min=0) * min(rows, columns) * torch.finfo(torch.float64).eps
    s = torch.where(there, squares, 1).sqrt()
    U = U * (there if rows <= columns else there / s)
    A, B = error.new_zeros(rank, columns), error.new_zeros(rows, rank)
    B[:, :found] = U * s.sqrt()
    A[:found] = (U / s.sqrt()).T @ error
    lost = gram.trace().clamp(min=0)
    gone = (squares[there].sum() / lost).clamp(max=1).item() if lost > 0 else 0.0
    return A.float(), B.float(), gone, lost.item()


def _root(H: Tensor) -> Tensor:
    """S with S S^T = H: Cholesky's factor; of a singular H, by eigenvalues, which rounding may make negative."""
    L, failed = torch.linalg.cholesky_ex(H)
    if not failed:
        return L
    values, Q = torch.linalg.eigh(H)
    return Q * values.clamp(min=0).sqrt()


def _largest(M: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest eigenvalues of a symmetric M (n, n), falling, and their vectors (n, count)."""
    if M.device.type == "cpu":  # LAPACK computes no more of them than asked
        n = len(M)
        values, vectors = map(torch.from_numpy, eigh(M.numpy(), subset_by_index=[n - count, n - 1]))
    else:
        values, vectors = torch.linalg.eigh(M)
    return values[-count:].flip(0), vectors[:, -count:].flip(1)


@torch.no_grad()
def repair(
    files: ModelFiles,
    windows: Tensor,
    method: dict,
    device: torch.device | str,
    kept: Path,
    activation_memory: float = math.inf,
) -> Repair:
    """Factors for the linears that a method of kind eora or lora adapts.

    windows: calibration token ids (count, length). kept: folder of the finished layers, from which a killed run goes
    on. activation_memory: GiB of activations that stay in memory, more lie in a file in `kept`. All factors of the
    dense model itself are zero, and no Hessian is computed. ArtifactError for a copy of another shape, or with other
    weights beside those of its linears (norms, biases, embeddings, head), of whose linears W - What is not the error.
    """
    started = time.monotonic()
    proof = read_json(files.compressed / COMPRESSION, "compression")
    skeleton = Skeleton(files.model, verify(files.model)["remote_code"])
    chosen = _chosen(skeleton.model, method)
    if proof["compressor"]["algorithm"] == "dense":
        zeros = {name: _zeros(skeleton.model.get_submodule(name), method["rank"]) for name in chosen}
        return Repair(zeros, [], time.monotonic() - started, 0.0)
    model = load_compressed(files.model, files.compressed)
    layers, dense_layers = decoder_layers(model), decoder_layers(skeleton.model)
    if len(layers) != len(dense_layers):
        raise ArtifactError(
            f"{files.compressed}: {len(layers)} layers cannot be repaired after the dense model's {len(dense_layers)}"
        )
    _require_its_frame(skeleton, model, files.compressed)
    clock = time.monotonic()
    activations = Activations(model, layers, windows, device, activation_memory * 2**30, kept)
    embedding_seconds = time.monotonic() - clock
    layer_by_layer = _repair_layers(
        skeleton, model, chosen, activations, method["rank"], kept, files.compressed
    )
    found, records, hessian_seconds = layer_by_layer
    return Repair(found, records, time.monotonic() - started, embedding_seconds + hessian_seconds)


def _repair_layers(
    skeleton: Skeleton,
    model: PreTrainedModel,
    chosen: set[str],
    activations: Activations,
    rank: int,
    kept: Path,
    where: Path,
) -> tuple[dict[str, tuple[Tensor, Tensor]], list[dict], float]:
    """Factors of the chosen linears, their records, and the seconds of Hessians and activations; each layer is repaired
    in place before the next is looked at. where: the model's folder, for errors."""
    paths = {id(module): name for name, module in model.named_modules()}
    layers, finished, device = decoder_layers(model), FinishedLayers(kept), activations.device
    started, hessian_seconds = time.monotonic(), 0.0
    found: dict[str, tuple[Tensor, Tensor]] = {}
    records: list[dict] = []
    for index, (layer, dense) in enumerate(zip(layers, decoder_layers(skeleton.model), strict=True)):
        skeleton.load(dense)
        dense.to(device)
        layer.to(device)
        prefix = f"{paths[id(layer)]}."
        names = [name for name in layer_linears(layer) if prefix + name in chosen]
        _require_its_copy(dense, layer, f"{where}: layer {index}")
        if (stored := finished.load(index)) is None:
            stored, seconds = _repair_layer(index, dense, layer, names, activations, rank)
            hessian_seconds += seconds
            finished.save(index, *stored)
        for name in names:
            A, B = stored[0][f"{name}.A"], stored[0][f"{name}.B"]
            found[prefix + name] = A, B
            linear = layer.get_submodule(name)
            set_weight(linear, get_weight(linear) + (B @ A).to(device))
        clock = time.monotonic()
        if index + 1 < len(layers):
            activations.advance(index, layer)
        hessian_seconds += time.monotonic() - clock
        skeleton.release(dense)
        layer.to("cpu")
        records += stored[1]
        log(f"[eora] layer {index + 1}/{len(layers)}, {time.monotonic() - started:.0f} s")
    return found, records, hessian_seconds


def _repair_layer(
    index: int, dense: nn.Module, layer: nn.Module, names: list[str], activations: Activations, rank: int
) -> tuple[tuple[dict[str, Tensor], list[dict]], float]:
    """A and B of the named linears of a layer with their records, and the seconds of the Hessians."""
    linears = {name: dense.get_submodule(name) for name in names}
    tensors: dict[str, Tensor] = {}
    records = []
    clock = time.monotonic()
    groups = activations.hessians(index, dense, linears) if names else {}
    seconds = time.monotonic() - clock
    for together in list(groups):
        H = groups.pop(together).matrix()
        for name in together:
            W, compressed = get_weight(linears[name]), get_weight(layer.get_submodule(name))
            A, B, gone, lost = factors(W - compressed, H, rank)
            whole = output_square(W, H).item()
            before = lost / whole if whole > 0 else float(lost > 0)
            records.append({"layer": index, "linear": name, "before": before, "after": before * (1 - gone)})
            tensors |= {f"{name}.A": A.cpu(), f"{name}.B": B.cpu()}
    return (tensors, records), seconds


def _chosen(model: PreTrainedModel, method: dict) -> set[str]:
    """Names of the decoder linears that the method adapts."""
    if method["kind"] == "eora":
        config = eora_config(method, model)
    else:
        from workflow_scripts.recover.lora import lora_config

        config = lora_config(method, model)
    paths = {id(module): name for name, module in model.named_modules()}
    linears = [linear for layer in decoder_layers(model) for linear in layer_linears(layer).values()]
    return {name for linear in linears if check_target_module_exists(config, name := paths[id(linear)])}


def _zeros(linear: nn.Module, rank: int) -> tuple[Tensor, Tensor]:
    rows, columns = get_weight(linear).shape
    return torch.zeros(rank, columns), torch.zeros(rows, rank)


def _require_its_copy(dense: nn.Module, layer: nn.Module, where: str) -> None:
    """ArtifactError if a compressed layer has linears of another shape, or other weights beside theirs."""
    mine, theirs = layer_linears(layer), layer_linears(dense)
    for name, linear in theirs.items():
        shape = tuple(get_weight(linear).shape)
        there = tuple(get_weight(mine[name]).shape) if name in mine else None
        if shape != there:
            raise ArtifactError(
                f"{where}, {name}: the copy's weight is {there}, the dense one {shape}; EoRA repairs equal shapes only"
            )
    repaired = {f"{name}.weight" for name in theirs}
    beside, others = dict(layer.named_parameters()), dict(dense.named_parameters())
    for name, parameter in others.items():
        if name not in repaired and not _is_stored(parameter, beside.get(name)):
            raise ArtifactError(_differs(f"{where}, {name}"))
    for name in beside.keys() - others.keys():
        if beside[name].any():  # a bias of zeros, as some libraries write it, adds nothing
            raise ArtifactError(_differs(f"{where}, {name}"))


def _require_its_frame(skeleton: Skeleton, model: PreTrainedModel, where: Path) -> None:
    """ArtifactError if a copy has other weights outside of its layers; embeddings and head may be quantised."""
    inside = {id(module) for layer in decoder_layers(skeleton.model) for module in layer.modules()}
    there = dict(model.named_parameters(remove_duplicate=False))
    for path, module in skeleton.model.named_modules():
        if id(module) in inside or not module._parameters:
            continue
        skeleton.load(module, but=tuple(module.children()))
        for name, parameter in module.named_parameters(prefix=path, recurse=False):
            other = there.get(name)
            if not _is_stored(parameter, other) and not _is_quantised(parameter, other):
                raise ArtifactError(_differs(f"{where}: {name}"))
    skeleton.release(skeleton.model)


def _differs(what: str) -> str:
    return (
        f"{what}: differs from the dense model's, so a linear's W - What is not its error; "
        "EoRA can't repair this copy"
    )


def _is_stored(dense: Tensor, other: Tensor | None) -> bool:
    """True if a copy's tensor is the dense one, or that in a type in which checkpoints store it."""
    if other is None or dense.shape != other.shape:
        return False
    return any(torch.equal(dense.to(dtype).to(other.dtype), other) for dtype in STORED)


def _is_quantised(dense: Tensor, other: Tensor | None) -> bool:
    """True if a copy's matrix is the dense one on a coarse grid, not on another scale. Vocabularies may be padded."""
    if other is None or dense.dim() != 2 or other.dim() != 2 or dense.shape[1] != other.shape[1]:
        return False
    rows = min(len(dense), len(other))
    mine, theirs = dense[:rows], other[:rows].float()
    scale, error = (mine * theirs).sum() / mine.square().sum(), (theirs - mine).norm() / mine.norm()
    return bool((scale - 1).abs() < OFF_SCALE and error < QUANTISED)

"""A decoder-only transformers model seen as a chain of layers: their linears, and the activations between them.

No table of model families: the decoder layers are the model's ModuleList of `num_hidden_layers` members, their
linears the Linear and Conv1D modules inside, and the arguments of each layer are recorded from the model itself.
"""

import io
import math
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from workflow_scripts.compress.hessian import Hessian
from workflow_scripts.compress.settings import CompressionError, CompressorSettings

if TYPE_CHECKING:
    from peft import PeftModel
from workflow_scripts.kernels.packed_linears import PackedLinears

# Tokens per forward pass of a layer: so many activations stay in a CPU's cache.
BATCH_TOKENS = 2048
LOCKED = 2**30  # bytes of page-locked memory that are asked for at a time


Call = tuple[tuple, dict]  # of a decoder layer: its arguments beside the hidden states


class _Stop(Exception):
    """Ends a forward pass whose rest isn't needed."""


def decoder_layers(model: "PreTrainedModel | PeftModel") -> nn.ModuleList:
    """The decoder layers, in order. Raises CompressionError if there is no such single list."""
    count = model.config.get_text_config(decoder=True).num_hidden_layers
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and any(map(linears_of, module))
    ]
    outermost = [
        (name, module)
        for name, module in found
        if not any(name.startswith(f"{other}.") for other, _ in found)
    ]
    if len(outermost) != 1:
        raise CompressionError(
            f"{type(model).__name__}: {len(outermost)} lists of {count} layers with linears ("
            f"{', '.join(name for name, _ in outermost) or 'none'}); exactly one is needed to know the decoder"
        )
    return outermost[0][1]


def layer_linears(layer: nn.Module) -> dict[str, nn.Module]:
    """Name -> Linear or Conv1D of a decoder layer. Refuses weight matrices that lie in neither (fused experts)."""
    linears = linears_of(layer)
    known = {id(module.weight) for module in linears.values()}
    others = [(n, p) for n, p in layer.named_parameters() if p.dim() > 1 and id(p) not in known]
    if others:
        name, largest = max(others, key=lambda other: other[1].numel())
        raise CompressionError(
            f"{name}: a weight of shape {tuple(largest.shape)} outside nn.Linear and Conv1D "
            f"({type(layer).__name__}); such layers can't be compressed"
        )
    return linears


def refuse_what_cannot_be(
    layers: nn.ModuleList, settings: CompressorSettings, tokens: float = math.inf
) -> None:
    """CompressionError with layer and linear, before any work, for what `layer_linears` or an n:m pattern refuses, and
    for fewer calibration `tokens` than a linear has inputs."""
    for index, layer in enumerate(layers):
        try:
            linears = layer_linears(layer)
        except CompressionError as error:
            raise CompressionError(f"layer {index}, {error}") from None
        for name, linear in linears.items():
            columns = get_weight(linear).shape[1]
            try:
                settings.refuse_columns(columns)
                settings.refuse_tokens(tokens, columns)
            except CompressionError as error:
                raise CompressionError(f"layer {index}, linear {name}: {error}") from None


def linears_of(layer: nn.Module) -> dict[str, nn.Module]:
    """Name inside the layer -> Linear or Conv1D, in the order of the layer's modules."""
    return {name: module for name, module in layer.named_modules() if isinstance(module, nn.Linear | Conv1D)}


def get_weight(linear: nn.Module) -> torch.Tensor:
    """The weight as (out_features, in_features); a transposed view for Conv1D."""
    weight = linear.get_parameter("weight").data
    return weight.T if isinstance(linear, Conv1D) else weight


def count_weights(layers: nn.ModuleList) -> int:
    """Weights of all linears of these decoder layers."""
    return sum(get_weight(linear).numel() for layer in layers for linear in layer_linears(layer).values())


def set_weight(linear: nn.Module, weight: torch.Tensor) -> None:
    """Write a weight (out_features, in_features) in the linear's own dtype and place."""
    get_weight(linear).copy_(weight)


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Convert a module's parameters in place, those on the meta device left out; buffers keep their precision."""
    for parameter in module.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.to(dtype)


class Batches:
    """Tensors of one dtype in order: in memory, or in a file if those of all windows would take more than `memory`.

    Indexed like a list. windows: calibration windows in all; memory: bytes; folder: where the file lies, nameless, so
    that it is gone with the process however that ends.
    """

    def __init__(self, windows: int, memory: float, folder: Path | None):
        self.windows, self.memory, self.folder = windows, memory, folder
        self.file: io.BufferedRandom | None = None
        self.held: list = []  # the tensors, or (offset in the file, shape, dtype)
        self.end = 0
        self.locked: torch.Tensor | None = None  # the rest of the last piece of page-locked memory
        self.unlocked = windows  # windows that have no place in it yet

    def append(self, batch: torch.Tensor) -> None:
        if not self.held and batch[0].nbytes * self.windows > self.memory:
            self.file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 (lives as long as this)
        self.held.append((self.end, batch.shape, batch.dtype))
        self.end += batch.nbytes
        self[len(self.held) - 1] = batch

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.file is None:
            return self.held[index]
        offset, shape, dtype = self.held[index]
        batch = torch.empty(shape, dtype=dtype)
        self.file.seek(offset)
        self.file.readinto(_bytes(batch))
        return batch

    def __setitem__(self, index: int, batch: torch.Tensor) -> None:
        """From a GPU into page-locked memory, in the order of its queue: nobody waits for the copy.

        It must have the shape and type of the former batch: a file has no room for another.
        """
        held = self.held[index]
        before = (held.shape, held.dtype) if isinstance(held, torch.Tensor) else held[1:]
        if before != (batch.shape, batch.dtype):
            raise CompressionError(
                f"a layer turns hidden states {before[1]} {tuple(before[0])} into {batch.dtype} {tuple(batch.shape)}; "
                "the walk can't follow"
            )
        if self.file is None and batch.device.type == "cpu":
            self.held[index] = batch
            return
        if self.file is None:
            if not (isinstance(held, torch.Tensor) and held.is_pinned()):
                self.held[index] = self._lock(batch)
            self.held[index].copy_(batch, non_blocking=True)
            return
        batch = batch.cpu()
        try:
            self.file.seek(self.held[index][0])
            self.file.write(_bytes(batch))
            self.file.flush()
        except OSError as error:
            raise CompressionError(
                f"{self.folder}: {batch[0].nbytes * self.windows / 2**30:.1f} GiB of calibration activations can't be "
                f"written ({error.strerror}); make room, or raise `activation_memory` in config.yaml"
            ) from error

    def _lock(self, batch: torch.Tensor) -> torch.Tensor:
        """Page-locked memory for a batch, cut from pieces of LOCKED bytes: torch rounds each up to a power of two."""
        count = batch.numel()
        if self.locked is None or len(self.locked) < count:
            left = max(len(batch), self.unlocked) * batch[0].numel()
            size = max(count, min(left, LOCKED // batch.itemsize))
            self.locked = torch.empty(size, dtype=batch.dtype, pin_memory=torch.cuda.is_available())
        place, self.locked = self.locked[:count].view(batch.shape), self.locked[count:]
        self.unlocked -= len(batch)
        return place


def _bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's memory as a writable buffer; a copy if the tensor isn't contiguous."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


class Activations:
    """Hidden states that enter the current layer for all calibration windows, and how each layer is called.

    hidden: batches (windows, tokens, d_model) in the model's dtype, on the CPU or in a file, see Batches.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: nn.ModuleList,
        windows: torch.Tensor,
        device: torch.device | str = "cpu",
        memory: float = math.inf,
        folder: Path | None = None,
    ):
        """windows: token ids (count, length). Only the embedding and the first layer of the model are run."""
        self.device = device
        self.hidden = Batches(len(windows), memory, folder)
        self.calls: list[list[Call]] = []  # [batch][layer] -> further args, kwargs
        as_tuple = _returns_tuple(model, layers[0], windows[:1])
        for batch in windows.split(max(1, BATCH_TOKENS // windows.shape[1])):
            hidden, calls = _record_calls(model, layers, batch, as_tuple)
            self.hidden.append(hidden)
            if self.calls:
                calls = [_intern(call, old) for call, old in zip(calls, self.calls[-1], strict=True)]
            self.calls.append(calls)

    def run(self, index: int, layer: nn.Module, batch: int) -> torch.Tensor:
        """Output of decoder layer `index` for one batch."""
        args, kwargs = _to(self.calls[batch][index], self.device)
        hidden = self.hidden[batch].to(self.device, non_blocking=True)
        return _first(layer(hidden, *args, **kwargs))

    def advance(self, index: int, layer: nn.Module) -> None:
        """Replace the hidden states by the layer's outputs."""
        with PackedLinears(layer).in_use():
            for batch in range(len(self.hidden)):
                self.hidden[batch] = self.run(index, layer, batch)

    def hessians(self, index: int, layer: nn.Module, linears: dict) -> dict[tuple[str, ...], Hessian]:
        """Names of linears that share an input -> that input's Hessian, in the order of their calls; one pass."""
        leader_of: dict[str, str] = {}  # linear -> the first linear that took the same tensor
        hessians: dict[str, Hessian] = {}
        waiting: set[str] = set()
        seen: list[tuple[torch.Tensor, str]] = []

        def collect(name: str) -> Callable[[nn.Module, tuple], None]:
            def before(module: nn.Module, args: tuple) -> None:
                leader = next((owner for tensor, owner in seen if tensor is args[0]), name)
                if leader_of.setdefault(name, leader) != leader:
                    raise CompressionError(
                        f"layer {index}, linear {name}: shares its input in some batches only"
                    )
                if leader == name:
                    seen.append((args[0], name))
                    if name not in hessians:
                        hessians[name] = Hessian(get_weight(module).shape[1], self.device)
                    hessians[name].add_batch(args[0])
                waiting.discard(name)
                if not waiting:
                    raise _Stop

            return before

        hooks = [module.register_forward_pre_hook(collect(name)) for name, module in linears.items()]
        try:
            with PackedLinears(layer).in_use():
                for batch in range(len(self.hidden)):
                    waiting |= set(linears)
                    with suppress(_Stop):
                        self.run(index, layer, batch)
                    seen.clear()
                    if waiting:
                        raise CompressionError(
                            f"layer {index}: no calibration token reached {', '.join(sorted(waiting))}"
                        )
        finally:
            for hook in hooks:
                hook.remove()
        return {tuple(n for n in leader_of if leader_of[n] == leader): H for leader, H in hessians.items()}


def _returns_tuple(model: nn.Module, first_layer: nn.Module, window: torch.Tensor) -> bool:
    """True if decoder layers return a tuple (or list), seen from the first one's output."""
    found = False

    def after(module: nn.Module, args: tuple, output: Any) -> None:
        nonlocal found
        found = isinstance(output, tuple | list)
        raise _Stop

    hook = first_layer.register_forward_hook(after)
    try:
        with suppress(_Stop):
            model(input_ids=window, use_cache=False)
    finally:
        hook.remove()
    return found


def _record_calls(
    model: nn.Module, layers: nn.ModuleList, batch: torch.Tensor, as_tuple: bool
) -> tuple[torch.Tensor, list[Call]]:
    """Embed a batch: hidden states that enter layer 0, and each layer's further arguments.

    No layer is run: each hands on what it got. CompressionError if the next one gets anything else: work that a decoder
    does between its layers would be lost in the walk.
    """
    calls: list[Call] = []
    embedded: torch.Tensor | None = None

    def record(*args: Any, **kwargs: Any) -> torch.Tensor | tuple[torch.Tensor]:
        nonlocal embedded
        hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        if calls and hidden is not embedded:
            raise CompressionError(
                f"{type(model).__name__}: its decoder changes hidden states between layers; the walk can't follow"
            )
        embedded = hidden
        calls.append((args, kwargs))
        if len(calls) == len(layers):
            raise _Stop
        return (hidden,) if as_tuple else hidden

    for layer in layers:
        layer.forward = record
    try:
        with suppress(_Stop):
            model(input_ids=batch, use_cache=False)
    finally:
        for layer in layers:
            del layer.forward
    assert embedded is not None  # by the first layer
    return embedded, calls


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple | list) else output


def _to(value: Any, device: torch.device | str) -> Any:
    """Move all tensors in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(item, device) for key, item in value.items()}
    return type(value)(_to(item, device) for item in value) if type(value) in (tuple, list) else value


def _intern(value: Any, old: Any) -> Any:
    """`value` with every tensor that equals its counterpart in `old` replaced by that one, so that masks and
    position embeddings are kept once and not per batch."""
    if isinstance(value, torch.Tensor) and isinstance(old, torch.Tensor):
        return old if value.shape == old.shape and torch.equal(value, old) else value
    if isinstance(value, dict) and isinstance(old, dict):
        return {key: _intern(item, old.get(key)) for key, item in value.items()}
    if type(value) in (tuple, list) and type(old) is type(value) and len(old) == len(value):
        return type(value)(_intern(item, before) for item, before in zip(value, old, strict=True))
    return value

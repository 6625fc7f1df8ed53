"""GPUs that this machine hasn't: tensors that say they lie on "cuda:0" or "cuda:1", and are the CPU's in truth.

Refused is what torch refuses on a GPU, at each call that Python code makes: tensors of two devices in one operation (a
CPU tensor without dimensions, and a CPU index, may meet a GPU's tensor; assignments copy), and `numpy()`. Backward
passes run unwatched: they follow the forward pass. What needs a GPU stays open: kernels, their rounding, memory, speed.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
MOVING = {torch.Tensor.to, torch.Tensor.copy_, torch.Tensor.__setitem__}
BACKWARD = {torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad}


class Placed(torch.Tensor):
    """A tensor that says where it lies."""

    place: torch.device

    @property
    def device(self) -> torch.device:
        return self.place

    @property
    def is_cuda(self) -> bool:
        return True

    def __deepcopy__(self, memo):
        found = self.detach().clone().requires_grad_(self.requires_grad)
        found._is_param = getattr(self, "_is_param", False)
        return found

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        """Only met where nobody watches: in a backward pass."""
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


def _device(name) -> torch.device:
    device = torch.device(f"cuda:{name}") if isinstance(name, int) else torch.device(name)
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def _put(found, device: torch.device):
    """`found` with its tensors at `device`, those that have a place already as they are."""

    def put(leaf):
        if not isinstance(leaf, torch.Tensor) or isinstance(leaf, Placed) or device == CPU:
            return leaf
        with torch._C.DisableTorchFunctionSubclass():
            placed = leaf.as_subclass(Placed)
        placed.place = device
        return placed

    return tree_map(put, found)


def _bare(tensor: torch.Tensor) -> torch.Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(torch.Tensor)


def _moved(args: tuple, kwargs: dict) -> torch.device | None:
    """Where `tensor.to(...)` goes; None where it only changes the type."""
    for value in (kwargs.get("device"), *args[1:2]):
        if isinstance(value, str | int | torch.device) and not isinstance(value, bool):
            return _device(value)
    other = kwargs.get("other", args[1] if len(args) > 1 else None)
    return _device(other.device) if isinstance(other, torch.Tensor) else None


class _Watch(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if function in BACKWARD:
            return self._run(function, args, kwargs)
        if function is torch.Tensor.cpu:
            function, kwargs = torch.Tensor.to, {"device": CPU}
        if function is torch.Tensor.to and (target := _moved(args, kwargs)):
            types = [value for value in (*args[1:], *kwargs.values()) if isinstance(value, torch.dtype)]
            found = self._run(function, (tensors[0], *(types or [tensors[0].dtype])), {})
            return found if _device(found.device) == target else _put(_bare(found), target)
        if function is torch.Tensor.numpy and isinstance(args[0], Placed):
            raise TypeError(f"can't convert {args[0].device} device type tensor to numpy")
        if function is torch.Tensor.__getitem__ and isinstance(args[0], Placed):
            tensors = [args[0]] + [index for index in tensors if isinstance(index, Placed)]
        places = {_device(tensor.device) for tensor in tensors if tensor.ndim or isinstance(tensor, Placed)}
        if function is torch._has_compatible_shallow_copy_type:  # Module.to asks: may data be exchanged?
            return len(places) == 1
        if len(places) > 1 and function not in MOVING:
            raise RuntimeError(f"{function.__name__}: tensors on {' and '.join(sorted(map(str, places)))}")
        place = _device(tensors[0].device) if function in MOVING else next(iter(places), CPU)
        if kwargs.get("device") is not None:
            place, kwargs = _device(kwargs["device"]), kwargs | {"device": CPU}
        return _put(self._run(function, args, kwargs), place)

    def _run(self, function, args, kwargs):
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **kwargs)


class Counts(TorchDispatchMode):
    """launches: operations that compute, in forward and backward passes, each a kernel or a few. waits: places at which
    the host reads a GPU's value, so that it can queue no further work before the GPU is done.

    Enter it inside `pretend_gpus`. Operations are the CPU's: a GPU fuses some and splits others.
    """

    READING = frozenset(("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"))
    OF_SIZE = frozenset(
        ("nonzero", "masked_select", "_unique2", "equal")
    )  # their result, or its shape, is data

    def __init__(self):
        super().__init__()
        self.launches = self.waits = 0

    def __enter__(self):
        self._reading = _Reading(self)
        super().__enter__()
        self._reading.__enter__()
        return self

    def __exit__(self, *error):
        self._reading.__exit__(*error)
        return super().__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masks = [index for index in tree_leaves(args[1:2]) if getattr(index, "dtype", None) == torch.bool]
        self.waits += name in self.OF_SIZE or (name in ("index", "index_put_") and bool(masks))
        self.launches += not func.is_view and name != "_local_scalar_dense"
        return func(*args, **(kwargs or {}))


class _Reading(TorchFunctionMode):
    """Counts the reading of values that lie on a pretended GPU."""

    def __init__(self, counts: Counts):
        super().__init__()
        self.counts = counts

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if args and isinstance(args[0], Placed):
            moved = function is torch.Tensor.to and _moved(args, kwargs) == CPU
            self.counts.waits += moved or getattr(function, "__name__", "") in Counts.READING
        return function(*args, **kwargs)


class Graph:
    """A CUDA graph: it keeps the operations with the very tensors that they met, and repeats them there.

    What the host computed between them, it does not compute again. A replay is one launch, whatever it holds.
    """

    def __init__(self):
        self.steps = []

    def replay(self):
        torch.zeros(())  # counted
        with _disable_current_modes(), torch._C.DisableTorchFunction():
            for operation, args, kwargs, found in self.steps:
                tree_map(lambda old, new: old.copy_(new), found, operation(*args, **kwargs))


class _Recording(TorchDispatchMode):
    """Takes down what is launched inside; what the host would have to wait for ends it, as on a GPU."""

    def __init__(self, graph: Graph, capture_error_mode: str = "global"):
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ == "_local_scalar_dense":
            raise RuntimeError("operation not permitted when stream is capturing")
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.graph.steps.append((func, args, kwargs or {}, found))
        return found


REAL = torch.cuda.is_available()


@contextmanager
def gpu(monkeypatch):
    """Inside, "cuda:0" is there: the machine's own GPU if it has one, else a pretended one."""
    if REAL:
        yield
    else:
        with pretend_gpus(monkeypatch):
            yield


@contextmanager
def pretend_gpus(monkeypatch, free: int = 2**33):
    """Inside, "cuda:0" and "cuda:1" are there, with `free` bytes of memory each."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (free, free))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: None)
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", _Recording)
    with torch.library._scoped_library("aten", "IMPL") as library, _Watch():
        library.impl("mm.dtype", lambda one, other, dtype: one.to(dtype) @ other.to(dtype), "CPU")
        yield

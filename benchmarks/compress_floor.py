"""The least floating-point work of a calibrated compression, and its seconds at the rate of this machine's products."""

import time
from pathlib import Path

BATCH_TOKENS = 4096  # per forward pass of a peer, and of the product whose rate is measured


def shapes(model: Path) -> tuple[list[tuple[int, int]], int, int]:
    """(rows, columns) of a layer's linears by shared input, in the order of their calls; heads' width; layers."""
    import torch

    from workflow_scripts.compress.decoder import Activations, decoder_layers, get_weight, layer_linears
    from workflow_scripts.compress.skeleton import Skeleton

    skeleton = Skeleton(model)
    layers = decoder_layers(skeleton.model)
    skeleton.load(skeleton.model, but=tuple(layers[1:]))
    with torch.no_grad():
        activations = Activations(skeleton.model, layers, torch.arange(8)[None])
        linears = layer_linears(layers[0])
        found = activations.hessians(0, layers[0], linears)
    groups = [
        (sum(len(get_weight(linears[name])) for name in names), len(hessian.total))
        for names, hessian in found.items()
    ]
    config = skeleton.model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return groups, head * config.num_attention_heads, len(layers)


def flops(groups, width: int, layers: int, windows: int, length: int) -> dict[str, float]:
    """Least floating-point operations of a calibrated OBS compression, by part.

    forward: per layer, a pass that stops before the product of the last input's linears, and a whole pass on the
    compressed weights, which the last layer doesn't need; attention to what comes before (2 T length width).
    hessian: the upper half of X X^T (T n^2). solve: Cholesky factor and triangular inverse (n^3 / 3 each), and rows n^2
    for the updates of the columns that follow.
    """
    tokens = windows * length
    products = [2 * tokens * rows * columns for rows, columns in groups]
    attention = 2 * tokens * length * width
    first, second = sum(products[:-1]) + attention, sum(products) + attention
    return {
        "forward": layers * first + (layers - 1) * second,
        "hessian": layers * sum(tokens * columns**2 for _, columns in groups),
        "solve": layers * sum(2 / 3 * columns**3 + rows * columns**2 for rows, columns in groups),
    }


def rate(groups, threads: int, dtype) -> float:
    """FLOP/s at which this machine multiplies activations (BATCH_TOKENS, columns) by the largest weight."""
    import torch

    torch.set_num_threads(threads)
    rows, columns = max(groups, key=lambda shape: shape[0] * shape[1])
    x, weight = torch.randn(BATCH_TOKENS, columns).to(dtype), torch.randn(rows, columns).to(dtype)
    best = float("inf")
    for _ in range(8):
        begin = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        best = min(best, time.perf_counter() - begin)
    return 2 * BATCH_TOKENS * rows * columns / best


def floor_seconds(groups, width: int, layers: int, algorithm: str, args) -> float:
    """Seconds of the floor's work at the rates that the machine has now; wanda solves nothing."""
    import torch

    parts = flops(groups, width, layers, args.windows, args.length)
    if algorithm == "wanda":
        parts["solve"] = 0
    single = rate(groups, args.threads, torch.float32)
    forward = rate(groups, args.threads, torch.bfloat16) if args.precision == "bf16" else single
    return parts["forward"] / forward + (parts["hessian"] + parts["solve"]) / single

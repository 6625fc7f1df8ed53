"""Peak memory and time of a compression against the model's depth, on random Llama layers of any width.

    python -m benchmarks.memory [--layers 1 2 4] [--width 4096 --intermediate 11008] [--tokens 11264] [--device cuda]

The default is LLaMA-7B's width. Every depth is a process of its own, which reads a model that another process wrote
layer by layer (float16) and compresses it with 3-bit GPTQ on random tokens; activations beyond --activation-memory GiB
lie in a file. The Hessian of the widest input is singular with fewer tokens than it has columns, and the engine refuses
that: so at least --intermediate tokens. Printed: peak resident memory (and what of it the imports took), a GPU's peak
beside it, seconds per layer, apart for what grows with the tokens (reading, passes, Hessians) and what doesn't (solve,
packing).

Below a width of about 2900 the largest blocks stay under glibc's limit of 32 MiB for blocks of their own, and fragments
of its heap blur the peak; MALLOC_MMAP_THRESHOLD_=1048576 in the environment shows it without them.

Then the 32 layers of a 7B with 128 x 2048 tokens, extrapolated: for this machine from the seconds above, and for an
A100 by formula, not measured: passes and Hessians in float32 at 40 % of the printed 19.5 TFLOP/s, factorisations and
updates at 20 %, and per column LAUNCHES kernels of LAUNCH seconds. Exit status 1 if from the second depth to the last
the peak grows by more than a tenth of a layer's weights per layer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.rows import add_output, keep

LAYERS, WINDOWS, LENGTH = 32, 128, 2048  # of the extrapolation
A100, PASSES, SOLVE, LAUNCHES, LAUNCH = 19.5e12, 0.4, 0.2, 12, 5e-6


def main() -> None:
    args = arguments()
    if args.write or args.compress:
        task = json.loads(args.write or args.compress)
        print(json.dumps((write if args.write else compress)(task)))
        return
    peaks = {}
    print(
        f"{'layers':>6} {'peak MB':>8} {'imports MB':>10} {'GPU MB':>7} {'s per layer':>12} {'passes':>8} {'solve':>8} "
        f"{'total s':>8}",
        flush=True,
    )
    for layers in args.layers:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            own = ("write", "compress", "output")
            task = {key: value for key, value in vars(args).items() if key not in own}
            task |= {"layers": layers, "folder": folder}
            start("--write", task)
            found = start("--compress", task)
        peaks[layers] = found["peak_mb"]
        each = found["passes"] + found["solve"]
        print(
            f"{layers:6} {found['peak_mb']:8} {found['imports_mb']:10} {found['gpu_mb']:7} {each:12.1f} "
            f"{found['passes']:8.1f} {found['solve']:8.1f} {found['seconds']:8.1f}",
            flush=True,
        )
        sizes = {"peak_MB": found["peak_mb"], "imports_MB": found["imports_mb"], "GPU_MB": found["gpu_mb"]}
        seconds = {"s_per_layer": each, "passes_s": found["passes"], "solve_s": found["solve"]}
        keep(args.output, layers=layers, **sizes, **seconds, total_s=found["seconds"])
    layer_mb = 4 * (4 * args.width**2 + 3 * args.width * args.intermediate) / 2**20
    print(f"a layer's weights in float32: {layer_mb:.0f} MB")
    extrapolate(args, found)
    if len(peaks) > 1:
        first, last = args.layers[-2] if len(peaks) > 2 else args.layers[0], args.layers[-1]
        growth = (peaks[last] - peaks[first]) / (last - first)
        print(f"from {first} to {last} layers the peak grows by {growth:.1f} MB per layer")
        sys.exit(growth > layer_mb / 10)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--intermediate", type=int, default=11008)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument(
        "--tokens", type=int, help="of calibration (default: the intermediate width, rounded up)"
    )
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--activation-memory", type=float, default=0, help="GiB; 0: all in a file")
    parser.add_argument("--forward", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where layers are worked on")
    parser.add_argument("--folder", help="where the models are written (default: the system's)")
    add_output(parser)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--compress", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.windows = -(-(args.tokens or args.intermediate) // args.length)
    return args


def start(step: str, task: dict) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": str(task["threads"])}
    command = [sys.executable, "-m", "benchmarks.memory", step, json.dumps(task)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def write(task: dict) -> dict:
    """A random Llama, a file per layer, never whole in memory."""
    from benchmarks import random_llama

    shape = (task[key] for key in ("layers", "width", "intermediate", "heads", "vocabulary"))
    random_llama.write(Path(task["folder"]), *shape)
    return {}


def compress(task: dict) -> dict:
    """Compress it: {peak_mb, imports_mb, gpu_mb, seconds, passes, solve (seconds per layer)}."""
    import torch

    from benchmarks.compress_peers import peak_mb
    from workflow_scripts.compress.settings import CompressorSettings
    from workflow_scripts.compress.skeleton import Skeleton
    from workflow_scripts.compress.stored_model import join
    from workflow_scripts.compress.walk import FinishedLayers, walk

    torch.set_num_threads(task["threads"])
    imports = peak_mb()
    folder, layers = Path(task["folder"]), task["layers"]
    settings = CompressorSettings(
        "gptq", bits=3, act_order=True, static_groups=True, damping=0.01, forward=task["forward"]
    )
    draw = torch.Generator().manual_seed(0)
    windows = torch.randint(task["vocabulary"], (task["windows"], task["length"]), generator=draw)
    work = folder / "work"
    work.mkdir()
    begin, finished, memory = time.perf_counter(), FinishedLayers(work), task["activation_memory"] * 2**30
    records = walk(
        Skeleton(folder), windows, settings, finished, task["device"], memory, log=lambda line: None
    )
    join([finished.path(index) for index in range(layers)], work / "weights.safetensors")
    seconds, solve = time.perf_counter() - begin, sum(record["seconds"] for record in records)
    on_gpu = task["device"] == "cuda"
    return {
        "peak_mb": peak_mb(),
        "imports_mb": imports,
        "seconds": seconds,
        "gpu_mb": torch.cuda.max_memory_allocated() >> 20 if on_gpu else 0,
        "where": torch.cuda.get_device_name() if on_gpu else f"this machine ({task['threads']} threads)",
        "passes": (seconds - solve) / layers,
        "solve": solve / layers,
    }


def extrapolate(args: argparse.Namespace, found: dict) -> None:
    """LAYERS layers of this width with WINDOWS x LENGTH tokens: on this machine, and on an A100 by formula."""
    from benchmarks.compress_floor import flops

    d, f, tokens = args.width, args.intermediate, args.windows * args.length
    groups = [(3 * d, d), (d, d), (2 * f, d), (d, f)]
    here = LAYERS * (found["solve"] + found["passes"] * WINDOWS * LENGTH / tokens)
    parts = flops(groups, d, LAYERS, WINDOWS, LENGTH)
    columns = LAYERS * sum(columns for _, columns in groups)
    there = (parts["forward"] + parts["hessian"]) / (PASSES * A100) + parts["solve"] / (SOLVE * A100)
    there += columns * LAUNCHES * LAUNCH
    total = sum(parts.values())
    print(
        f"{LAYERS} layers of this width, {WINDOWS} x {LENGTH} tokens ({total:.2e} FLOP): {here / 3600:.2f} h on "
        f"{found['where']} by these seconds, {there / 3600:.2f} h on an A100 by formula"
    )


if __name__ == "__main__":
    main()

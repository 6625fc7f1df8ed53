"""EoRA's time beside that of its Hessians, which any calibrated compressor takes too.

    python -m benchmarks.repair [--rank R] [--windows N] [--length T] [--clock cpu] [--threads 1]

The model is rounded to 3 bits in groups of 64 (rtn), then repaired. Printed: seconds of all, of the Hessians and their
activations alone, the ratio, and the mean output error before and after. --clock cpu counts processor time, for a
machine that others use too (with --threads 1). Exit status 1 if the whole takes more than 1.2 times its Hessians. The
eigen-decompositions depend on the model alone, so few windows make the ratio larger.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

MOST = 1.2  # times the Hessians' seconds that the repair may take
RTN = {"algorithm": "rtn", "bits": 3, "group_size": 64, "symmetric": False, "clip": "none"}


def main() -> None:
    args = arguments()
    import torch

    from workflow_scripts.compress.task import Sources, calibration_windows
    from workflow_scripts.files.provenance import Provenance
    from workflow_scripts.jobs import compress_model
    from workflow_scripts.kernels.allocator import keep_memory
    from workflow_scripts.recover import eora
    from workflow_scripts.recover.model_files import ModelFiles

    keep_memory()
    torch.set_num_threads(args.threads)
    model, corpus = args.model.resolve(), args.corpus.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # checkpoints lie under work/
        made = Provenance("benchmark", "benchmark", seed=0, threads=args.threads, device="cpu")
        compress_model.main(Sources(model), "compressed/compression.json", RTN, made)
        windows, _ = calibration_windows(model, corpus, {"windows": args.windows, "length": args.length}, 0)
        if args.clock == "cpu":
            eora.time = SimpleNamespace(monotonic=time.process_time)
        method = {"kind": "eora", "rank": args.rank}
        found = eora.repair(ModelFiles(model, Path("compressed")), windows, method, "cpu", Path("work"))
        os.chdir("/")
    error, ratio = found.summary()["output_error"], found.seconds / found.hessian_seconds
    print(f"{'rank':>4} {'text':>8} {'all':>7} {'Hessians':>8} {'ratio':>6}  output error before, after")
    print(
        f"{args.rank:4} {args.windows}x{args.length:<5} {found.seconds:7.1f} {found.hessian_seconds:8.1f} "
        f"{ratio:5.2f}x  {error['before']:.4f} {error['after']:.4f}"
    )
    sys.exit(ratio > MOST)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--model", type=Path, default=Path("resources/models/smollm2-135m"))
    parser.add_argument("--corpus", type=Path, default=Path("resources/corpora/wikipedia"))
    return parser.parse_args()


if __name__ == "__main__":
    main()

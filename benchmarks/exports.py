"""Exported models in the programs that run them: vLLM, and transformers with the kernels of GPTQModel or its like.

    python -m benchmarks.exports [--forms gptq compressed-tensors] [--device cuda] [--python .venv-optimum/bin/python]

A random Llama is rounded to 4 bits (symmetric, groups of 128: vLLM runs these in GPTQ's format), exported, and read by
every program that an environment of --python has (default: this one, and that of `make optimum`); a package that none
has is named. Printed: the difference of each token's log-likelihood to this package's model in float32 (mean and
largest, nats), and the seconds of a prefill, all in float16, beside this package's own with dense weights. A reading
that fails or takes longer than --seconds says so. Exit status 1 if a reading that began failed, or differs by more than
0.05 nats in the mean (wrong codes or zero points: about 1; rounding: about 0.01).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.rows import add_output, keep
from workflow_scripts.plan.layout import EXPORTS

ROOT = Path(__file__).resolve().parents[1]
OPTIMUM = ROOT / ".venv-optimum" / "bin" / "python"
PACKAGES = {
    "plain": (),
    "gptq": ("gptqmodel", "optimum"),
    "gptq_v2": ("gptqmodel", "optimum"),
    "compressed-tensors": ("compressed-tensors",),
}
COMPRESSOR = {"algorithm": "rtn", "bits": 4, "group_size": 128, "symmetric": True, "clip": "none"}
CUDA = "PyTorch with CUDA"
TOLERANCE = 0.05  # nats, of the mean
LISTED = (
    "import json; from importlib.metadata import distributions as d; "
    "print(json.dumps({x.name.lower().replace('_', '-'): x.version for x in d()}))"
)


def main() -> None:
    args = arguments()
    installed = {python: versions(python) for python in args.python}
    wrong = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        own = make(args, folder)
        print(
            f"random Llama, {args.layers} layers of width {args.width}, 4 bits, {args.rows} x {args.length} tokens, "
            f"{args.device}\n{'form':19}{'mean nats':>9} {'largest':>8} {'prefill s':>9}  program"
        )
        plain = "this package, float16, dense weights"
        print(line("-", own, own["reference"], plain), flush=True)
        keep(args.output, **figures("-", plain, own, own["reference"]))
        for form in args.forms:
            for program, packages in {"vllm": ("vllm",), "transformers": PACKAGES[form]}.items():
                needed = (*packages, "transformers", *([CUDA] if args.device == "cuda" else []))
                python, missing = having(installed, needed)
                if missing:
                    why = f"not to be had: {', '.join(missing)} not installed"
                    print(f"{form:19}{program} {why}", flush=True)
                    keep(args.output, **figures(form, program, why))
                    continue
                found = read(python, program, folder / form, folder, args)
                named = {name: installed[python][name] for name in (program, *packages)}
                about = ", ".join(f"{name} {number}" for name, number in named.items())
                keep(args.output, **figures(form, about, found, own["reference"]))
                if isinstance(found, str):
                    print(f"{form:19}{found}: {about}", flush=True)
                    wrong = True
                else:
                    print(line(form, found, own["reference"], about), flush=True)
                    wrong |= mean_difference(found, own["reference"]) > TOLERANCE
    sys.exit(wrong)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forms", nargs="+", choices=EXPORTS, default=["gptq", "compressed-tensors"])
    here = [sys.executable, *([str(OPTIMUM)] if OPTIMUM.exists() else [])]
    parser.add_argument(
        "--python", nargs="+", default=here, help="of environments that may have the programs"
    )
    parser.add_argument("--tokenizer", type=Path, default=Path("resources/models/smollm2-135m"))
    sizes = {"layers": 2, "width": 1024, "intermediate": 2816, "heads": 8, "rows": 4, "length": 512}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=120, help="of one reading")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    add_output(parser)
    return parser.parse_args()


def versions(python: str) -> dict[str, str]:
    """{package: version} of an environment; CUDA is among them unless PyTorch is the build for processors."""
    there = json.loads(subprocess.run([python, "-c", LISTED], capture_output=True, check=True).stdout)
    torch = there.get("torch", "+cpu")
    return there if torch.endswith("+cpu") else there | {CUDA: torch}


def having(installed: dict[str, dict], packages: tuple[str, ...]) -> tuple[str, list[str]]:
    """The first environment with all packages, or that which lacks fewest, and the packages that it lacks."""
    lacks = {python: [name for name in packages if name not in there] for python, there in installed.items()}
    return min(lacks.items(), key=lambda pair: len(pair[1]))


def make(args: argparse.Namespace, folder: Path) -> dict:
    """Write the model, its compressed copy and an export per form; {losses, seconds, reference: losses in float32}."""
    import torch
    from safetensors.torch import save_file

    from benchmarks import random_llama
    from benchmarks.export_peers import by_model
    from workflow_scripts.compress.stored_model import load_compressed
    from workflow_scripts.compress.task import Sources
    from workflow_scripts.files.provenance import Provenance
    from workflow_scripts.jobs import compress_model, export_model

    dense, compressed = folder / "dense", folder / "compressed"
    random_llama.make(dense, args.tokenizer, args.layers, args.width, args.intermediate, args.heads)
    made = Provenance("benchmark", "benchmark", device=args.device)
    compress_model.main(Sources(dense), compressed / "compression.json", COMPRESSOR, made)
    for form in args.forms:
        export_model.main(dense, compressed, folder / form / "export.json", form, made)
    draw = torch.Generator().manual_seed(0)
    model = load_compressed(dense, compressed, device=args.device)
    tokens = torch.randint(model.config.vocab_size, (args.rows, args.length), generator=draw)
    save_file({"tokens": tokens}, folder / "tokens.safetensors")
    reference = by_model(model, tokens, 1)["losses"]
    return by_model(model.half(), tokens, args.repeats) | {"reference": reference}


def read(python: str, program: str, exported: Path, folder: Path, args: argparse.Namespace) -> dict | str:
    """{losses, seconds} of an exported folder by a program of another environment, or why there is none."""
    task = {"program": program, "folder": str(exported), "tokens": str(folder / "tokens.safetensors")}
    task |= {"device": args.device, "repeats": args.repeats, "output": str(folder / "found.safetensors")}
    # vLLM in this one process, so that it ends with it; nothing is compiled where a processor would take minutes
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    if args.device == "cpu":
        environment["TORCHDYNAMO_DISABLE"] = "1"
    command = [python, "-P", str(ROOT / "benchmarks" / "export_peers.py"), json.dumps(task)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=args.seconds
        )
    except subprocess.TimeoutExpired:
        return f"out of time after {args.seconds} s"
    if done.returncode:
        return f"failed ({(done.stderr.strip().splitlines() or ['no message'])[-1]})"
    from safetensors.torch import load_file

    return {"seconds": json.loads(done.stdout.splitlines()[-1])["seconds"], **load_file(task["output"])}


def mean_difference(found: dict, reference) -> float:
    return (found["losses"] - reference).abs().mean().item()


def largest_difference(found: dict, reference) -> float:
    return (found["losses"] - reference).abs().max().item()


def line(form: str, found: dict, reference, about: str) -> str:
    mean, largest = mean_difference(found, reference), largest_difference(found, reference)
    return f"{form:19}{mean:9.5f} {largest:8.5f} {found['seconds']:9.4f}  {about}"


def figures(form: str, program: str, found: dict | str, reference=None) -> dict:
    """A reading, or why there is none, as a row of --output."""
    row = {"form": form, "program": program}
    if isinstance(found, str):
        return row | {"mean_nats": None, "largest_nats": None, "prefill_s": None, "outcome": found}
    nats = {
        "mean_nats": mean_difference(found, reference),
        "largest_nats": largest_difference(found, reference),
    }
    return row | nats | {"prefill_s": found["seconds"], "outcome": "read"}


if __name__ == "__main__":
    main()

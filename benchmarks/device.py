"""The forecast's constants for this machine: what its jobs compute per second, as an entry of plan/devices.yaml.

    python -m benchmarks.device [--model FOLDER] [--threads N] [--items N] [--clock cpu] [--parts score train ...]
    python -m benchmarks.device --device cuda --precision bf16 --at-once 1 --parts score train compress load

Each part is a process of its own that does a small piece of a job's work with the code of that job: the scorer on
`items` documents of each task, steps of training, compression of a few layers on two amounts of text, reading the
weights, and jobs with next to nothing to do for what each costs beside that. No finished run is read, so forecasts by
these constants can be checked against the manifests of any run. Every part runs --at-once times side by side, as jobs
do, and the mean counts. The formulas that the constants belong to are in plan/forecast.py; what is divided here is
what is multiplied there. --clock cpu counts processor time, for a machine that others use too (with --threads 1:
waiting threads burn processor time); it does not see waiting for a disk.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from workflow_scripts.compress.task import Sources
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.plan import config
from workflow_scripts.plan.devices import device_table
from workflow_scripts.plan.forecast import width
from workflow_scripts.plan.layout import BENCHMARK, CORPUS, MODEL

ROOT = Path(__file__).resolve().parents[1]
CAP = 16  # new tokens of a generation
WINDOWS = (8, 24)  # calibration windows of the two compressions, whose difference is what tokens cost


def main() -> None:
    args = arguments()
    if args.part:
        print(json.dumps((PARTS | INSIDE)[args.part](args)))
        return
    found = {}
    for name in args.parts:
        found |= measured(name, args)
        print(f"# {name}: {', '.join(f'{key} {value:.3g}' for key, value in found.items())}", file=sys.stderr)
    if {"evaluating", "overhead"} <= found.keys():
        found["harness"] = max(0.0, found.pop("evaluating") - found["overhead"])
    if {"load", "overhead"} <= found.keys():  # the small jobs read the weights too
        weights = 4 * small_plan()[0].config.models["smollm2-135m"].parameters
        found["overhead"] = max(0.0, found["overhead"] - weights / found["load"])
    jobs = f"{args.at_once} jobs of {args.threads} thread(s), {args.clock} clock"
    source = f"benchmarks/device.py, {jobs}, {args.precision}, on {processor(args.device)}"
    entry = {"source": source} | {key: float(f"{value:.2g}") for key, value in found.items()}
    print(yaml.safe_dump({"this-machine": entry}, sort_keys=False, width=120), end="")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("resources/models/smollm2-135m"))
    parser.add_argument("--data", type=Path, default=Path("resources/benchmarks/pypi"))
    parser.add_argument("--corpus", type=Path, default=Path("resources/corpora/wikipedia"))
    parser.add_argument("--threads", type=int, default=1, help="of a job")
    parser.add_argument("--at-once", type=int, default=2, help="jobs side by side")
    parser.add_argument("--items", type=int, default=30, help="documents per task")
    parser.add_argument("--layers", type=int, default=4, help="decoder layers that are compressed")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="of scoring and training"
    )
    parser.add_argument("--shape", default="8x256", help="rows x tokens of a training step")
    parser.add_argument("--length", type=int, default=512, help="tokens of a calibration window")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(part: str, args: argparse.Namespace) -> dict[str, float]:
    """A part's constants, from a process of its own; the mean over `at_once` of them side by side."""
    names = [
        "model",
        "data",
        "corpus",
        "threads",
        "items",
        "layers",
        "clock",
        "device",
        "precision",
        "shape",
        "length",
    ]
    options = [f"--{name}={getattr(args, name)}" for name in names]
    command = [sys.executable, "-m", "benchmarks.device", "--part", part, *options]
    with ThreadPoolExecutor(args.at_once) as pool:
        found = list(
            pool.map(lambda _: json.loads(output(command, args).splitlines()[-1]), range(args.at_once))
        )
    return {name: statistics.mean(each[name] for each in found) for name in found[0]}


def output(command: list[str], args: argparse.Namespace) -> str:
    """What a command prints, run offline with the jobs' threads; SystemExit with its complaint if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def clock(args: argparse.Namespace):
    return time.perf_counter if args.clock == "wall" else time.process_time


def command_seconds(command: list[str], args: argparse.Namespace) -> float:
    """Seconds of a command, the lower of two runs: the first may wait for the disk."""

    def now() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter() if args.clock == "wall" else used.ru_utime + used.ru_stime

    seconds = []
    for _ in range(2):
        begin = now()
        output(command, args)
        seconds.append(now() - begin)
    return min(seconds)


def processor(device: str) -> str:
    """The GPU's name, or the processor's, as Linux tells it."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


# ------------------------------------------------------------------------------------------------ parts


def score(args: argparse.Namespace) -> dict[str, float]:
    """forward: 2 P FLOP for each of a task's tokens (devices.yaml) over the seconds; generate: new tokens a second,
    times P in billions, in what a generating task takes beyond its contexts."""
    import torch

    from workflow_scripts.evaluate.forward import float32_head
    from workflow_scripts.evaluate.scorer import Scorer
    from workflow_scripts.evaluate.tasks import load_task
    from workflow_scripts.kernels.allocator import keep_memory
    from workflow_scripts.kernels.dtypes import DTYPES
    from workflow_scripts.sources.models import load_dense, load_tokenizer, parameters_of

    keep_memory()
    torch.set_num_threads(args.threads)
    now, sizes = clock(args), device_table()["tasks"]
    model, tokenizer = load_dense(args.model, DTYPES[args.precision], args.device), load_tokenizer(args.model)
    p = parameters_of(args.model)
    if args.precision == "bf16":
        float32_head(model)
    scorer = Scorer(model, tokenizer)
    tokens, seconds, generated, generating, contexts = 0, 0.0, 0, 0.0, 0
    for name, size in sizes.items():
        if not (args.data / name).is_dir():  # the default, and tasks of other benchmarks
            continue
        task = load_task(name, args.data / name / "data.jsonl", args.items, CAP, tokenizer)
        task.task.build_all_requests()
        requests, items = task.task.instances, len({request.doc_id for request in task.task.instances})
        begin = now()
        getattr(scorer, requests[0].request_type)(requests)
        if "generated" in size:
            generating, generated = generating + now() - begin, generated + items * CAP
            contexts += items * size["tokens"]
        else:
            seconds, tokens = seconds + now() - begin, tokens + items * size["tokens"]
    forward = 2 * p * tokens / seconds
    return {
        "forward": forward,
        "generate": generated * p / 1e9 / max(1e-9, generating - 2 * p * contexts / forward),
    }


def train(args: argparse.Namespace) -> dict[str, float]:
    """train: 4 P FLOP a token over the seconds of a step, the mean of LoRA and of a prompt."""
    from benchmarks import train as steps
    from workflow_scripts.sources.models import parameters_of

    p = parameters_of(args.model)
    job = {
        "who": "ours",
        "keep_memory": True,
        "shape": args.shape,
        "steps": 2,
        "threads": args.threads,
        "clock": args.clock,
        "precision": args.precision,
        "device": args.device,
        "model": str(args.model),
        "corpus": str(args.corpus),
    }
    speeds = [steps.start(job | {"method": method})["speed"] for method in ("lora-r2", "prompt-100")]
    return {"train": 4 * p * 2 / sum(1 / speed for speed in speeds)}


def compress(args: argparse.Namespace) -> dict[str, float]:
    """compress: 6 P FLOP a token over the seconds that more calibration text costs; solve: P times the width over what
    is left of the seconds. Of a model cut to its first layers, with that share of P."""
    import torch
    from transformers import AutoConfig

    from benchmarks.compress import truncated
    from workflow_scripts.compress.settings import CompressorSettings
    from workflow_scripts.compress.skeleton import Skeleton
    from workflow_scripts.compress.walk import FinishedLayers, walk
    from workflow_scripts.kernels.allocator import keep_memory
    from workflow_scripts.plan.recipes import Plan
    from workflow_scripts.sources.corpora import read_documents, token_windows
    from workflow_scripts.sources.models import adds_bos, load_tokenizer, parameters_of

    keep_memory()
    torch.set_num_threads(args.threads)
    now, tokenizer = clock(args), load_tokenizer(args.model)
    p = parameters_of(args.model)
    share = p * args.layers / AutoConfig.from_pretrained(args.model).num_hidden_layers
    settings = CompressorSettings(
        **Plan(config.load(config.read(*config.files(root=ROOT)))).compressor("gptq-w3-g64")
    )
    documents = read_documents(args.corpus, "train")
    seconds = []
    with tempfile.TemporaryDirectory() as scratch:
        model = truncated(args.model, args.layers, Path(scratch) / "model")
        for count in WINDOWS:
            windows = token_windows(documents, tokenizer, args.length, count, 0, adds_bos(tokenizer))
            begin = now()
            walk(
                Skeleton(model),
                windows,
                settings,
                FinishedLayers(Path(scratch, str(count))),
                args.device,
                log=lambda line: None,
            )
            seconds.append(now() - begin)
    each = (seconds[1] - seconds[0]) / ((WINDOWS[1] - WINDOWS[0]) * args.length)  # seconds a token
    solving = seconds[0] - each * WINDOWS[0] * args.length
    return {"compress": 6 * share / each, "solve": share * width(p) / max(1e-9, solving)}


def load(args: argparse.Namespace) -> dict[str, float]:
    """load: bytes of float32 weights a second: files checked by SHA-256, read, and every weight touched once."""
    from workflow_scripts.sources.models import load_dense, parameters_of

    now = clock(args)
    begin = now()
    model = load_dense(args.model, device=args.device)
    sum(parameter.double().sum() for parameter in model.parameters()).item()
    return {"load": 4 * parameters_of(args.model) / (now() - begin)}


def jobs(args: argparse.Namespace) -> dict[str, float]:
    """overhead: seconds of an adapter's job with next to nothing to train; evaluating: of a cell's job with an item a
    task; startup: of a Snakemake that parses the workflow, as every job does, and of the imports before a manifest."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "resources").symlink_to(args.model.resolve().parents[1])
        run = [
            sys.executable,
            "-m",
            "benchmarks.device",
            "--inside",
            folder,
            f"--clock={args.clock}",
            "--part",
        ]
        output([*run, "compressing"], args)
        found = {}
        for part in ("training", "evaluating"):
            found |= json.loads(output([*run, part], args).splitlines()[-1])
    parsing = command_seconds([sys.executable, "-m", "snakemake", "--list-rules", "--quiet"], args)
    imports = command_seconds([sys.executable, "-c", "import workflow_scripts.jobs.train_adapter"], args)
    return found | {"startup": parsing + imports}


def small_plan():
    """The shipped configuration with a grid `small` of next to no work, and its two cells: dense alone, and LoRA."""
    from workflow_scripts.plan.layout import Cell
    from workflow_scripts.plan.recipes import Plan

    shipped = config.read(*config.files(root=ROOT))
    shipped["training"]["small"] = {
        "tokens": 32,
        "batch_size": 1,
        "micro_batch": 1,
        "sequence_length": 32,
        "heldout_windows": 1,
        **{kind: {"learning_rate": 1e-3} for kind in ("lora", "prompt", "prefix")},
    }
    shipped["grids"]["small"] = {
        "description": "",
        "benchmarks": "pypi",
        "tasks": shipped["grids"]["smoke"]["tasks"],
        "training": "small",
        "calibration": {"windows": 1, "length": 32},
        "evaluation": {
            "items": 1,
            "generation_tokens": 1,
            "perplexity": {"corpora": ["wikipedia"], "windows": 1, "length": 32},
        },
        "pair": {"prompt": "prompt-50", "lora": "lora-r2"},
        "blocks": {
            "all": {
                "models": ["smollm2-135m"],
                "compressors": ["dense"],
                "corpora": ["wikipedia"],
                "methods": ["none", "lora-r2"],
            }
        },
    }
    place = ("small", "smollm2-135m", "dense")
    cells = Cell(*place, "none", "none", 0), Cell(*place, "wikipedia", "lora-r2", 0)
    return Plan(config.load(shipped)), *cells


def split(parameters: dict) -> tuple[dict, Provenance]:
    """A rule's parameters without recipe and code, and these two."""
    settings = {key: value for key, value in parameters.items() if key not in ("recipe", "code")}
    return settings, Provenance(parameters["recipe"], parameters["code"], seed=0)


def compressing(args: argparse.Namespace) -> dict[str, float]:
    from workflow_scripts.jobs import compress_model

    plan, cell, _ = small_plan()
    os.chdir(args.inside)
    settings, made = split(plan.compress("small", cell.model, "dense", "none", "0"))
    compress_model.main(
        Sources(Path(MODEL.path(model=cell.model)).parent), plan.compression(cell), **settings, made=made
    )
    return {}


def training(args: argparse.Namespace) -> dict[str, float]:
    from workflow_scripts.jobs import train_adapter
    from workflow_scripts.recover.model_files import ModelFiles

    plan, dense, cell = small_plan()
    os.chdir(args.inside)
    now, compressed = clock(args), Path(plan.compression(dense)).parent
    files = ModelFiles(Path(MODEL.path(model=cell.model)).parent, compressed)
    corpus = Path(CORPUS.path(corpus=cell.corpus)).parent
    settings, made = split(plan.train(cell))
    begin = now()
    train_adapter.main(
        files, train_adapter.Texts(corpus), cell.training, **settings, checkpoint_minutes=60, made=made
    )
    return {"overhead": now() - begin}


def evaluating(args: argparse.Namespace) -> dict[str, float]:
    from workflow_scripts.evaluate.settings import CellSettings, EvaluationData
    from workflow_scripts.jobs import evaluate_cell
    from workflow_scripts.recover.model_files import ModelFiles

    plan, cell, _ = small_plan()
    os.chdir(args.inside)
    now, files = (
        clock(args),
        ModelFiles(Path(MODEL.path(model=cell.model)).parent, Path(plan.compression(cell)).parent),
    )
    benchmarks = [Path(BENCHMARK.path(benchmarks="pypi", task=task)).parent for task in plan.tasks("small")]
    data = EvaluationData(benchmarks, [Path("resources/corpora/wikipedia")], "")
    settings, made = split(plan.evaluate(cell))
    begin = now()
    evaluate_cell.main(files, data, CellSettings(**settings), cell._asdict(), made, cell.json, cell.samples)
    return {"evaluating": now() - begin}


PARTS = {"score": score, "train": train, "compress": compress, "load": load, "jobs": jobs}
INSIDE = {"compressing": compressing, "training": training, "evaluating": evaluating}


if __name__ == "__main__":
    main()

"""The training loop against PEFT with transformers' Trainer: the same loss curve, and how much sooner.

    python -m benchmarks.train [--methods prompt-100 ...] [--shapes 8x256 ...] [--steps N] [--allocator equal shipped]

Every run is a process of its own; ours and theirs take turns, on the same windows, batch, precision, seed and AdamW
settings. `equal`: both with the allocator settings of `keep_memory`; `shipped`: PEFT with glibc's. PEFT has its best
settings: transformers' SDPA, fused AdamW, and with --compile-seconds a second run with torch.compile of each layer; a
compiled run that fails, compiles nothing or takes longer says so. Printed: tokens per second (median step after the
first), ours over the faster of PEFT's, ours over the floor (twice the forward pass of the text alone, which is what
frozen weights cost, and the head), and the final losses. --clock cpu counts processor time, for a machine that others
use too (with --threads 1: waiting threads burn processor time). --precision bf16 also prints the cosine of our gradient
to float32's on the same (bfloat16) weights, over the whole adapter, moved a little from its start. --distil compares
ours with itself towards the dense model's distribution (kl_dense) instead. Exit status 1 if final losses differ by more
than 0.5 %, in bf16 if a cosine is below 0.99, with --distil if it takes more than 1.6 times as long.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.rows import add_output, keep

ATTENTION_AND_MLP = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
METHODS = {
    "prompt-100": {"kind": "prompt", "tokens": 100, "init": "vocabulary"},
    **{f"ptune-{n}": {"kind": "prefix", "tokens": n, "init": "text"} for n in (50, 100)},
    **{
        f"lora-r{rank}": {
            "kind": "lora",
            "rank": rank,
            "alpha": 2 * rank,
            "dropout": 0.0,
            "layers": None,
            "targets": {"default": ATTENTION_AND_MLP},
        }
        for rank in (2, 4)
    },
}
STANDARD = ("prompt-100", "ptune-50", "lora-r2")
RATES = {"prompt": 1e-2, "prefix": 1e-3, "lora": 1e-3}
TOLERANCE = 0.005  # of the final loss
COSINE = 0.99
NAMES = {"ours": "ours", "peft": "PEFT", "compiled": "PEFT_compiled"}
DISTILLED = 1.6  # times the plain loop's time that distillation may take


def main() -> None:
    args = arguments()
    if args.worker:
        print(json.dumps(worker(json.loads(args.worker))))
        return
    if args.distil:
        sys.exit(distil(args))
    print(
        f"{'method':11} {'shape':7} {'allocator':9} {'ours':>6} {'PEFT':>6} {'compiled':>8} {'ratio':>6} {'floor':>6}  "
        "final loss"
    )
    differ = False
    for name in args.methods:
        job = {"method": name, "model": str(args.model), "corpus": str(args.corpus)}
        job |= {key: getattr(args, key) for key in ("steps", "threads", "clock", "precision", "device")}
        for shape, allocator in itertools.product(args.shapes, args.allocator):
            differ |= compare(args, job | {"shape": shape}, allocator)
    if args.precision == "bf16":  # of all methods in one process
        shape = args.shapes[-1]
        job |= {"shape": shape, "who": "gradient", "keep_memory": True, "methods": args.methods}
        for name, found in start(job).items():
            differ |= found < COSINE
            print(f"{name:11} {shape:7} cosine of the gradient to float32's: {found:.4f}", flush=True)
            keep(args.output, method=name, shape=shape, cosine_of_the_gradient_to_float32=found)
    sys.exit(differ)


def compare(args: argparse.Namespace, job: dict, allocator: str) -> bool:
    """Print the line of one method, shape and allocator; whether final losses differ."""
    runs: dict[str, list[dict]] = {"ours": [], "peft": [], "compiled": []}
    limits, why = {"ours": None, "peft": None}, None
    if args.compile_seconds:
        limits["compiled"] = args.compile_seconds
    for _ in range(args.repeats):
        for who, limit in list(limits.items()):
            asked = job | {"who": who, "keep_memory": who == "ours" or allocator == "equal"}
            found = start(asked) if limit is None else compiled(asked, limit)
            if isinstance(found, str):  # it is not tried again
                why = found
                del limits[who]
            else:
                runs[who].append(found)
    speeds = {who: statistics.median(run["speed"] for run in found) for who, found in runs.items() if found}
    floor = statistics.median(run["floor"] for run in runs["ours"])
    losses = [found[0]["loss"] for found in runs.values() if found]
    best = max(speed for who, speed in speeds.items() if who != "ours")
    faster = f"{speeds['compiled']:8.0f}" if "compiled" in speeds else f"{'-':>8}"
    print(
        f"{job['method']:11} {job['shape']:7} {allocator:9} {speeds['ours']:6.0f} {speeds['peft']:6.0f} {faster} "
        f"{speeds['ours'] / best:5.2f}x {speeds['ours'] / floor:6.2f}  {' '.join(f'{x:.4f}' for x in losses)}",
        flush=True,
    )
    about = why or (f"{runs['compiled'][0]['graphs']} graphs" if runs["compiled"] else "not asked for")
    print(f"{'':11} PEFT: attention {runs['peft'][0]['attention']}, torch.compile: {about}", flush=True)
    row = {key: job[key] for key in ("method", "shape")} | {"allocator": allocator}
    row |= {f"{name}_tokens/s": speeds.get(who) for who, name in NAMES.items()}
    row |= {"ours_/_faster_PEFT": speeds["ours"] / best, "ours_/_floor": speeds["ours"] / floor}
    keep(args.output, **row, final_losses=losses, PEFT_attention=runs["peft"][0]["attention"], compiled=about)
    return any(abs(losses[0] - loss) > TOLERANCE * loss for loss in losses[1:])


def compiled(job: dict, seconds: int) -> dict | str:
    """The compiled peer's run, or why there is none: PyTorch compiles on some machines alone, and it takes minutes."""
    try:
        done = process(job, seconds)
    except subprocess.TimeoutExpired:
        return f"out of time after {seconds} s"
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"
    found = json.loads(done.stdout.splitlines()[-1])
    return found if found["graphs"] else "failed: no graph was compiled"


def distil(args: argparse.Namespace) -> bool:
    """Print tokens per second without and with distillation; whether it takes too long."""
    slow = False
    print(f"{'method':11} {'shape':7} {'text':>6} {'kl':>6} {'ratio':>6}")
    for name, shape in itertools.product(args.methods, args.shapes):
        job = {"method": name, "shape": shape, "model": str(args.model), "corpus": str(args.corpus)}
        job |= {key: getattr(args, key) for key in ("steps", "threads", "clock", "precision", "device")}
        runs = {"ours": [], "distilled": []}
        for _ in range(args.repeats):
            for who, speeds in runs.items():
                speeds.append(start(job | {"who": who, "keep_memory": True})["speed"])
        text, kl = map(statistics.median, runs.values())
        slow |= text / kl > DISTILLED
        print(f"{name:11} {shape:7} {text:6.0f} {kl:6.0f} {text / kl:5.2f}x", flush=True)
        keep(args.output, method=name, shape=shape, **{"text_tokens/s": text, "kl_tokens/s": kl})
    return slow


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=STANDARD, choices=METHODS)
    parser.add_argument("--shapes", nargs="+", default=["8x256", "2x1024"], help="rows x tokens")
    parser.add_argument("--allocator", nargs="+", default=["equal", "shipped"], choices=["equal", "shipped"])
    parser.add_argument("--steps", type=int, default=4, help="optimiser steps; the first is not timed")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--compile-seconds", type=int, default=0, help="of a run of PEFT compiled (default: no such run)"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", type=Path, default=Path("resources/models/smollm2-135m"))
    parser.add_argument("--corpus", type=Path, default=Path("resources/corpora/wikipedia"))
    parser.add_argument("--distil", action="store_true", help="ours with kl_dense beside ours without")
    add_output(parser)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def start(job: dict) -> dict:
    done = process(job)
    if done.returncode:
        raise SystemExit(f"{' '.join(done.args)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def process(job: dict, seconds: int | None = None) -> subprocess.CompletedProcess:
    """`worker` in a process of its own; TimeoutExpired, with the process ended, after `seconds`."""
    environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"])}
    command = [sys.executable, "-m", "benchmarks.train", "--worker", json.dumps(job)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=seconds
    )


def worker(job: dict) -> dict:
    """One run: {speed (tokens per second), loss (of the last step), floor, attention, graphs (that were compiled)};
    of "gradient": {method: cosine}."""
    import torch

    from workflow_scripts.kernels.allocator import keep_memory
    from workflow_scripts.recover.adapters import create
    from workflow_scripts.recover.distillation import Teacher
    from workflow_scripts.sources.corpora import read_documents, token_windows
    from workflow_scripts.sources.models import adds_bos, load_dense, load_tokenizer

    if job["keep_memory"]:
        keep_memory()
    torch.set_num_threads(job["threads"])
    clock = wall(job["device"]) if job["clock"] == "wall" else time.process_time
    rows, length = map(int, job["shape"].split("x"))
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job["precision"]]
    model = load_dense(job["model"], dtype=dtype, device=job["device"])
    tokenizer = load_tokenizer(job["model"])
    documents = read_documents(job["corpus"], "train")
    windows = token_windows(documents, tokenizer, length, rows * job["steps"], 0, adds_bos(tokenizer))
    if job["who"] == "gradient":
        return {name: cosine(job, dtype, METHODS[name], windows[:rows]) for name in job["methods"]}
    method = METHODS[job["method"]]
    adapted = create(model, method, 0, windows[0])
    times = [clock()]
    run = {"ours": ours, "peft": peft, "compiled": peft}.get(job["who"])
    if job["who"] == "compiled":
        compile_layers(adapted, job.get("backend", "inductor"))
    if job["who"] == "distilled":
        run = partial(ours, teacher=Teacher(load_dense(job["model"], dtype=dtype, device=job["device"]), {}))
    losses = run(adapted, windows, rows, RATES[method["kind"]], lambda: times.append(clock()))
    seconds = statistics.median(later - earlier for earlier, later in itertools.pairwise(times[1:]))
    floor = None
    if job["who"] == "ours":
        floor = rows * length / floor_seconds(model, windows[:rows].to(model.device), clock)
    return {
        "speed": rows * length / seconds,
        "loss": losses[-1],
        "floor": floor,
        "attention": model.config._attn_implementation,
        "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"],
    }


def wall(device: str):
    """A wall clock that waits for what a GPU has been asked to do."""
    import torch

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return now


def cosine(job: dict, dtype, method: dict, rows) -> float:
    """Of our gradient in `dtype` to that in float32, on the same weights."""
    import torch

    from workflow_scripts.sources.models import load_dense

    models = [load_dense(job["model"], dtype=dtype, device=job["device"]) for _ in range(2)]
    directions = [gradient(model, method, rows) for model in (models[0], models[1].float())]
    return torch.cosine_similarity(*directions, dim=0).item()


def gradient(model, method: dict, rows):
    """Our gradient (all parameters,) on rows (B, T), every parameter moved by a hundredth of its spread."""
    import torch

    from workflow_scripts.recover.adapters import create
    from workflow_scripts.recover.learner import Learner

    adapted = create(model, method, 0, rows[0])
    learner = Learner(adapted)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in learner.parameters:  # LoRA's B starts at zero, where A has no gradient
            parameter += 0.01 * (parameter.std() or 0.1) * torch.randn_like(parameter)
    learner.accumulate(rows.to(model.device), len(rows))
    return torch.cat([parameter.grad.flatten() for parameter in learner.parameters])


def ours(adapted, windows, rows: int, rate: float, tick, teacher=None) -> list[float]:
    from workflow_scripts.recover import training
    from workflow_scripts.recover.learner import Learner

    settings = {
        "batch_size": rows,
        "micro_batch": rows,
        "learning_rate": rate,
        "warmup": 0.0,
        "schedule": "constant",
        "weight_decay": 1e-5,
        "checkpoint_minutes": 1e6,
    }
    show = training.Progress.show
    training.Progress.show = lambda self, state: (tick(), show(self, state))  # called once a step
    with tempfile.TemporaryDirectory() as folder:
        return training.train(Learner(adapted, teacher), settings, windows, 0, Path(folder)).losses


def peft(adapted, windows, rows: int, rate: float, tick) -> list[float]:
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Tick(TrainerCallback):
        def on_step_end(self, *arguments, **options):
            tick()

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            folder,
            per_device_train_batch_size=rows,
            num_train_epochs=1,
            learning_rate=rate,
            weight_decay=1e-5,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            optim="adamw_torch_fused",
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            use_cpu=adapted.device.type == "cpu",
            disable_tqdm=True,
            train_sampling_strategy="sequential",
        )
        labels = windows.clone()
        labels[
            :, 0
        ] = -100  # as in our loss: the prompt's last position must not be trained on the first token
        data = [{"input_ids": ids, "labels": label} for ids, label in zip(windows, labels, strict=True)]
        trainer = Trainer(model=adapted, args=settings, train_dataset=data, callbacks=[Tick()])
        trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def compile_layers(adapted, backend: str) -> None:
    """Each decoder layer in its place: equal layers share their code, where the model as a whole compiles for minutes.

    Trainer's own torch_compile compiles the whole; accelerate's regional compilation fails on PEFT's prompts (1.15)."""
    import torch

    from workflow_scripts.compress.decoder import decoder_layers

    layers = decoder_layers(adapted)
    # a prefix's cache is indexed by the layer's number, so each layer has a graph of its own; never eager in silence
    torch._dynamo.config.recompile_limit = 2 * len(layers)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for layer in layers:
        layer.compile(backend=backend)


def floor_seconds(model, rows, clock) -> float:
    """Twice the forward pass of the text without any adapter, and the head forward and back."""
    import torch

    from workflow_scripts.kernels.losses import linear_cross_entropy, output_head

    head = output_head(model)
    best = float("inf")
    for _ in range(2):
        begin = clock()
        with torch.no_grad():
            hidden = model.get_decoder()(input_ids=rows, use_cache=False).last_hidden_state
        body = clock() - begin
        begin = clock()
        linear_cross_entropy(hidden[:, :-1], head, rows[:, 1:])
        best = min(best, 2 * body + clock() - begin)
    return best


if __name__ == "__main__":
    main()

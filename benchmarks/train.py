"""The training loop against PEFT with transformers' Trainer: the same loss curve, and how much sooner.

    python -m benchmarks.train [--methods prompt-100 ...] [--shapes 8x256 ...] [--steps N] [--allocator equal shipped]

Every run is a process of its own; ours and theirs take turns, on the same windows, batch, precision, seed and AdamW
settings. `equal`: both with the allocator settings of `keep_memory`; `shipped`: PEFT with glibc's. Printed: tokens per
second (median step after the first), their ratio, ours over the floor (twice the forward pass of the text alone, which
is what frozen weights cost, and the head), and the final losses. --clock cpu counts processor time, for a machine that
others use too (with --threads 1: waiting threads burn processor time). --precision bf16 also prints the cosine of our
gradient to float32's on the same (bfloat16) weights, over the whole adapter, moved a little from its start. --distil
compares ours with itself towards the dense model's distribution (kl_dense) instead. Exit status 1 if final losses
differ by more than 0.5 %, in bf16 if a cosine is below 0.99, with --distil if it takes more than 1.6 times as long.
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
DISTILLED = 1.6  # times the plain loop's time that distillation may take


def main() -> None:
    args = arguments()
    if args.worker:
        print(json.dumps(worker(json.loads(args.worker))))
        return
    if args.distil:
        sys.exit(distil(args))
    print(
        f"{'method':11} {'shape':7} {'allocator':9} {'ours':>6} {'PEFT':>6} {'ratio':>6} {'floor':>6}  final loss"
    )
    differ = False
    for name in args.methods:
        for shape in args.shapes:
            for allocator in args.allocator:
                job = {"method": name, "shape": shape, "model": str(args.model), "corpus": str(args.corpus)}
                job |= {
                    "steps": args.steps,
                    "threads": args.threads,
                    "clock": args.clock,
                    "precision": args.precision,
                    "device": args.device,
                }
                runs = {"ours": [], "peft": []}
                for _ in range(args.repeats):
                    for who, results in runs.items():
                        keep = who == "ours" or allocator == "equal"
                        results.append(start(job | {"who": who, "keep_memory": keep}))
                ours, theirs = (statistics.median(r["speed"] for r in runs[who]) for who in ("ours", "peft"))
                floor = statistics.median(run["floor"] for run in runs["ours"])
                losses = [runs[who][0]["loss"] for who in ("ours", "peft")]
                differ |= abs(losses[0] - losses[1]) > TOLERANCE * losses[1]
                print(
                    f"{name:11} {shape:7} {allocator:9} {ours:6.0f} {theirs:6.0f} {ours / theirs:5.2f}x "
                    f"{ours / floor:6.2f}  {losses[0]:.4f} {losses[1]:.4f}",
                    flush=True,
                )
        if args.precision == "bf16":
            cosine = start(job | {"who": "gradient", "keep_memory": True})["cosine"]
            differ |= cosine < COSINE
            print(
                f"{name:11} {args.shapes[-1]:7} cosine of the gradient to float32's: {cosine:.4f}", flush=True
            )
    sys.exit(differ)


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
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", type=Path, default=Path("resources/models/smollm2-135m"))
    parser.add_argument("--corpus", type=Path, default=Path("resources/corpora/wikipedia"))
    parser.add_argument("--distil", action="store_true", help="ours with kl_dense beside ours without")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def start(job: dict) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": str(job["threads"])}
    command = [sys.executable, "-m", "benchmarks.train", "--worker", json.dumps(job)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def worker(job: dict) -> dict:
    """One run: {speed (tokens per second), loss (of the last step), floor}; of "gradient": {cosine}."""
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
    method = METHODS[job["method"]]
    if job["who"] == "gradient":
        models = (model, load_dense(job["model"], dtype=dtype, device=job["device"]).float())
        directions = [gradient(model, method, windows[:rows]) for model in models]
        return {"cosine": torch.cosine_similarity(*directions, dim=0).item()}
    adapted = create(model, method, 0, windows[0])
    times = [clock()]
    run = {"ours": ours, "peft": peft}.get(job["who"])
    if job["who"] == "distilled":
        run = partial(ours, teacher=Teacher(load_dense(job["model"], dtype=dtype, device=job["device"]), {}))
    losses = run(adapted, windows, rows, RATES[method["kind"]], lambda: times.append(clock()))
    seconds = statistics.median(later - earlier for earlier, later in itertools.pairwise(times[1:]))
    floor = None
    if job["who"] == "ours":
        floor = rows * length / floor_seconds(model, windows[:rows].to(model.device), clock)
    return {"speed": rows * length / seconds, "loss": losses[-1], "floor": floor}


def wall(device: str):
    """A wall clock that waits for what a GPU has been asked to do."""
    import torch

    def now() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return now


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
            optim="adamw_torch",
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


def floor_seconds(model, rows, clock) -> float:
    """Twice the forward pass of the text without any adapter, and the head forward and back."""
    import torch

    from workflow_scripts.kernels.losses import linear_cross_entropy, plain_head

    best = float("inf")
    for _ in range(2):
        begin = clock()
        with torch.no_grad():
            hidden = model.get_decoder()(input_ids=rows, use_cache=False).last_hidden_state
        body = clock() - begin
        begin = clock()
        linear_cross_entropy(hidden[:, :-1], plain_head(model), rows[:, 1:])
        best = min(best, 2 * body + clock() - begin)
    return best


if __name__ == "__main__":
    main()

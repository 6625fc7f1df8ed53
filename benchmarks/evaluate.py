"""The scorer against the harness's HFLM: the same answers, and how much sooner.

    python -m benchmarks.evaluate [--data FOLDER] [--items N] [--methods none prompt-100 ...] [--tasks ...]

Both score the same documents in one process, in turn, with the same threads; HFLM as the harness ships it (with PEFT
for a method's adapter, which is untrained: neither speed nor identity depends on its values). Printed per task:
identity (largest difference of a log-likelihood in nats, predictions and greedy flags that differ, generated strings
that differ), seconds of both, their ratio, and ours over the floor: the least floating-point work for these documents
(each distinct token once, the head where a score is needed, attention to what is visible) at the rate at which this
machine multiplies the model's own matrices, measured in between. Seconds are wall clock; --clock cpu counts processor
time instead, for a machine that others use too (with --threads 1: waiting threads burn processor time).
A generation is compared up to our cap; HFLM runs to the harness's own, 256 tokens. With an adapter HFLM generates row
by row: PEFT is wrong for left-padded batches. Exit status 1 if an answer differs.
"""

import argparse
import copy
import json
import sys
import tempfile
import time
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from workflow_scripts.allocator import keep_memory
from workflow_scripts.evaluate.forward import float32_head
from workflow_scripts.evaluate.packing import Row
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.tasks import DEFINITIONS, EvaluationTask, load_task
from workflow_scripts.recover.adapters import attach, create, save
from workflow_scripts.sources.models import load_dense, load_tokenizer

TOLERANCE = 1e-3  # nats
CAP = 32  # new tokens of a generation
ATTENTION = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]
METHODS = {
    "none": {"kind": "none"},
    "lora-r4": {
        "kind": "lora",
        "rank": 4,
        "alpha": 8,
        "dropout": 0.0,
        "layers": None,
        "targets": {"default": ATTENTION},
    },
    "prompt-50": {"kind": "prompt", "tokens": 50, "init": "vocabulary", "trained": True},
    "prompt-100": {"kind": "prompt", "tokens": 100, "init": "vocabulary", "trained": True},
    "ptune-50": {"kind": "prefix", "tokens": 50, "init": "random"},
}


def main() -> None:
    args = arguments()
    if args.allocator == "kept":
        keep_memory()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    tokenizer, dense = load_tokenizer(args.model), load_dense(args.model)
    records, differing = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for name in args.methods:
            harness, ours = contestants(dense, tokenizer, name, Path(folder), args)
            for task in args.tasks:
                record = compare(harness, ours, load(task, args, tokenizer), name, clock, args.repeats)
                records.append(record)
                differing += record["differing"]
                print(line(record), flush=True)
            total = [r for r in records if r["method"] == name]
            sums = {key: sum(r[key] for r in total) for key in ("harness", "ours", "floor", "items")}
            print(line({"method": name, "task": "all", "difference": max(r["difference"] for r in total),
                        "differing": sum(r["differing"] for r in total), **sums}), flush=True)  # fmt: skip
    if args.output:
        args.output.write_text(
            json.dumps(
                {"arguments": {k: str(v) for k, v in vars(args).items()}, "records": records}, indent=1
            )
        )
    sys.exit(1 if differing and args.precision == "fp32" else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("resources/benchmarks/pypi"),
        help="<task>.jsonl or <task>/data.jsonl",
    )
    parser.add_argument("--model", type=Path, default=Path("resources/models/smollm2-135m"))
    parser.add_argument("--items", type=int, default=100, help="documents per task")
    parser.add_argument(
        "--tasks", nargs="+", default=sorted(path.stem for path in DEFINITIONS.glob("*.yaml"))
    )
    parser.add_argument("--methods", nargs="+", default=["none"], choices=METHODS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="rounds; the fastest of each counts")
    parser.add_argument("--batch", type=int, default=8, help="HFLM's batch size")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="ours; HFLM always runs in fp32"
    )
    parser.add_argument("--row-tokens", type=int, default=Scorer.row_tokens)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument(
        "--allocator", choices=["kept", "shipped"], default="kept", help="kept: as evaluate_cell runs"
    )
    parser.add_argument("--output", type=Path, help="JSON of all records")
    return parser.parse_args()


def contestants(dense, tokenizer, name: str, folder: Path, args) -> tuple[HFLM, Scorer]:
    method = METHODS[name]
    theirs, adapters = dense, []
    if method["kind"] != "none":
        theirs = create(copy.deepcopy(dense), method, seed=0).eval()
        save(theirs, folder / name, "untrained")
        adapters = [folder / name]
    own = copy.deepcopy(dense).to(torch.bfloat16 if args.precision == "bf16" else torch.float32)
    recovered = attach(own, tokenizer, method, adapters)
    if args.precision == "bf16":
        float32_head(recovered.model)
    harness = HFLM(pretrained=theirs, tokenizer=tokenizer, batch_size=args.batch)
    return harness, Scorer(recovered.model, tokenizer, recovered.bank, row_tokens=args.row_tokens)


def load(task: str, args, tokenizer) -> EvaluationTask:
    data = args.data / f"{task}.jsonl"
    data = data if data.exists() else args.data / task / "data.jsonl"
    return load_task(task, data, args.items, CAP, tokenizer)


def compare(harness: HFLM, ours: Scorer, task: EvaluationTask, method: str, clock, repeats: int) -> dict:
    """One task by both: identity, and the fastest round of each."""
    task.task.build_all_requests()
    requests = task.task.instances
    kind = requests[0].request_type
    theirs = requests
    if kind == "generate_until":
        theirs = [
            Instance(kind, r.doc, (r.args[0], r.args[1] | {"max_gen_toks": 256}), 0, r.metadata)
            for r in requests
        ]
        harness.batch_size_per_gpu = harness.batch_size_per_gpu if method in ("none", "lora-r4") else 1
    seconds = {"harness": [], "ours": [], "floor": []}
    for _ in range(repeats):
        start = clock()
        expected = getattr(harness, kind)(theirs, disable_tqdm=True)
        seconds["harness"].append(clock() - start)
        start = clock()
        found = getattr(ours, kind)(requests)
        seconds["ours"].append(clock() - start)
        seconds["floor"].append(floor_seconds(ours, requests, kind, clock, found))
    if kind == "generate_until":
        difference, differing = 0.0, 0
        for request, mine, reference in zip(requests, found, expected, strict=True):
            cut = (request.task_name, request.doc_id) in ours.cut_off
            differing += not (reference.startswith(mine) if cut else reference == mine)
    else:
        difference = max(abs(a - b) for (a, _), (b, _) in zip(found, expected, strict=True))
        differing = sum(a[1] != b[1] for a, b in zip(found, expected, strict=True))
        differing += predictions(requests, found) != predictions(requests, expected)
        differing += difference > TOLERANCE
    return {"method": method, "task": task.name, "items": len(task.lines), "difference": difference,
            "differing": int(differing), **{key: min(values) for key, values in seconds.items()}}  # fmt: skip


def predictions(requests: list[Instance], answers: list[tuple[float, bool]]) -> list[int]:
    """Index of the likeliest request of every document."""
    documents: dict[int, list[float]] = {}
    for request, (loglik, _) in zip(requests, answers, strict=True):
        documents.setdefault(request.doc_id, []).append(loglik)
    return [values.index(max(values)) for values in documents.values()]


def floor_seconds(ours: Scorer, requests: list[Instance], kind: str, clock, answers) -> float:
    """Least work for these requests at the measured rate of this model's matrix products.

    Body: 2 FLOP per linear weight and distinct token (each document's trie). Head: likewise, at scored positions.
    Attention: 4 d FLOP per token, layer and visible position, a cached prompt's included. Generation: the prompt, and
    each new token.
    """
    model, config = ours.model, ours.model.config.get_text_config()
    head = model.get_output_embeddings().weight.numel()
    linears = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)) - head
    prefix = ours.bank.prefixes[0].length if ours.bank else 0
    tokens = scored = visible = 0
    if kind == "generate_until":
        prompts = ours.encode(request.args[0] for request in requests)
        for request, answer in zip(requests, answers, strict=True):
            new = len(ours.tokenizer(answer)["input_ids"]) + 1
            length = len(prompts[request.args[0]]) + new - 1
            tokens, scored, visible = (
                tokens + length,
                scored + new,
                visible + length * (length + 1) // 2 + length * prefix,
            )
    else:
        documents: dict[int, Row] = {}
        for request, pair in zip(requests, ours.encode_pairs([r.args for r in requests]), strict=True):
            documents.setdefault(request.doc_id, Row()).add(ours.sequence(*pair), 0)
        for row in documents.values():
            tokens += len(row)
            scored += len({node for path in row.scored for node in path})
            visible += sum(row.depths) + len(row) * (1 + prefix)
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    flop = 2 * linears * tokens + 2 * head * scored + 4 * width * config.num_hidden_layers * visible
    return flop / gemm_rate(model, clock)


def gemm_rate(model, clock, rows: int = 512) -> float:
    """FLOP per second of one decoder layer's linears over `rows` tokens, the best of 5 passes over different layers."""
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    linears = [m for m in linears if m is not model.get_output_embeddings()][:35]
    inputs = {m.in_features: torch.randn(rows, m.in_features, dtype=m.weight.dtype) for m in linears}
    best = 0.0
    with torch.inference_mode():
        for _ in range(5):
            start = clock()
            for m in linears:
                m(inputs[m.in_features])
            best = max(best, 2 * rows * sum(m.weight.numel() for m in linears) / (clock() - start))
    return best


def line(r: dict) -> str:
    identity = f"|dloglik| {r['difference']:.1e}  differing {r['differing']}"
    speed = f"HFLM {r['harness']:8.2f} s  ours {r['ours']:8.2f} s  {r['harness'] / r['ours']:6.2f} x"
    place = f"{r['method']:>10} {r['task']:>15} {r['items']:5d} items"
    return f"{place}  {identity}  {speed}  {r['ours'] / r['floor']:5.2f} x floor"


if __name__ == "__main__":
    main()

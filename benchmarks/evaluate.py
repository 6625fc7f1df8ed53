"""The scorer against the harness's HFLM: the same answers, and how much sooner.

    python -m benchmarks.evaluate [--data FOLDER] [--items N] [--methods none prompt-100 ...] [--tasks ...]

Two processes score the same documents in turn, task by task, with the same threads and the same settings of the memory
allocator (allocator.py; --harness-allocator shipped leaves HFLM to the system's, slower where fresh memory is dear):
HFLM (with PEFT for a method's adapter, which is untrained: neither speed nor identity depends on its values), and the
scorer as evaluate_cell runs it. While one works the other waits. Printed per task:
identity (largest difference of a log-likelihood in nats; documents whose prediction, greedy flag or generated string
differs), seconds of both, their ratio, and ours over the floor: the least floating-point work for these documents (each
distinct token once, the head where a score is needed, attention to what is visible) at the rate at which this machine
multiplies the model's own matrices, measured in between. Seconds are wall clock; --clock cpu counts processor time
instead, for a machine that others use too (with --threads 1: waiting threads burn processor time).

A generation is compared up to our cap; HFLM runs to the harness's own, 256 tokens. With a soft prompt HFLM generates
row by row: PEFT is wrong for left-padded batches. Exit status 1 if an answer differs (fp32).
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import PeftModel

from benchmarks.rows import add_output, keep
from workflow_scripts.evaluate.forward import float32_head
from workflow_scripts.evaluate.row_packing import PackedRow
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.tasks import DEFINITIONS, EvaluationTask, load_task
from workflow_scripts.kernels.allocator import keep_memory
from workflow_scripts.kernels.dtypes import DTYPES
from workflow_scripts.recover.adapters import attach, create, save
from workflow_scripts.recover.lora import merge
from workflow_scripts.sources.models import load_dense, load_tokenizer

TOLERANCE = 1e-3  # nats
CAP, HARNESS_CAP = 32, 256  # new tokens of a generation
LORA = {
    "kind": "lora",
    "rank": 4,
    "alpha": 8,
    "dropout": 0.0,
    "layers": None,
    "targets": {"default": ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj"]},
}
MOST_TOKENS = 100  # of a prefix
METHODS = {
    "none": {"kind": "none"},
    "lora-r4": LORA,
    "prompt-50": {"kind": "prompt", "tokens": 50, "init": "vocabulary", "trained": True},
    "prompt-100": {"kind": "prompt", "tokens": 100, "init": "vocabulary", "trained": True},
    "ptune-50": {"kind": "prefix", "tokens": 50, "init": "text"},
}


def main() -> None:
    args = arguments()
    records = []
    with tempfile.TemporaryDirectory() as folder:
        dense = load_dense(args.model)
        # a prefix starts from keys and values of tokens, as in training; N(0, 1), PEFT's start, lies far from any
        window = torch.randint(
            dense.config.vocab_size, (MOST_TOKENS,), generator=torch.Generator().manual_seed(0)
        )
        for name in args.methods:
            if METHODS[name]["kind"] != "none":
                save(create(dense, METHODS[name], 0, window), Path(folder) / name, "untrained")
                dense = load_dense(args.model)  # PEFT puts a LoRA into the model itself
        del dense
        harness, ours = Contestant(Harness, args, folder), Contestant(Ours, args, folder)
        for name in args.methods:
            mine = []
            for task in args.tasks:
                mine.append(compare(name, task, harness, ours, args))
                keep(args.output, **figures(mine[-1]))
            print(line(total(mine)), flush=True)
            keep(args.output, **figures(total(mine)))
            records += mine
        harness.dismiss()
        ours.dismiss()
    exact = (args.precision, args.harness_precision) == ("fp32", "fp32")
    sys.exit(1 if exact and any(map(differs, records)) else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    own, model = Path("resources/benchmarks/pypi"), Path("resources/models/smollm2-135m")
    defined = sorted(path.stem for path in DEFINITIONS.glob("*.yaml"))
    everything = [name for name in defined if (own / name).is_dir()] or defined  # those that a run fetched
    parser.add_argument("--data", type=Path, default=own, help="<task>.jsonl or <task>/data.jsonl")
    parser.add_argument("--model", type=Path, default=model)
    parser.add_argument("--items", type=int, default=100, help="documents per task")
    parser.add_argument("--tasks", nargs="+", default=everything)
    parser.add_argument("--methods", nargs="+", default=["none"], choices=METHODS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=1, help="rounds; the fastest of each counts")
    parser.add_argument("--batch", type=int, default=8, help="HFLM's batch size")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="ours")
    parser.add_argument("--harness-precision", choices=["fp32", "bf16"], default="fp32", help="HFLM's")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--row-tokens", type=int, help="ours: tokens per forward pass")
    parser.add_argument("--harness-allocator", choices=["kept", "shipped"], default="kept")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    add_output(parser)
    return parser.parse_args()


class Harness:
    """HFLM around the model, with PEFT for an adapter."""

    def __init__(self, method: str, folder: Path, args: argparse.Namespace):
        model = load_dense(args.model, DTYPES[args.harness_precision], args.device)
        if METHODS[method]["kind"] != "none":
            model = PeftModel.from_pretrained(model, str(folder / method)).eval()
        self.by_row = METHODS[method]["kind"] in ("prompt", "prefix")
        self.lm = HFLM(pretrained=model, tokenizer=load_tokenizer(args.model), batch_size=args.batch)

    def answer(self, task: EvaluationTask, clock) -> tuple[float, list]:
        """Seconds and answers."""
        requests, kind = task.task.instances, task.task.instances[0].request_type
        if kind == "generate_until":
            requests = [
                Instance(kind, r.doc, (r.args[0], r.args[1] | {"max_gen_toks": HARNESS_CAP}), 0, r.metadata)
                for r in requests
            ]
            self.lm.batch_size_per_gpu = 1 if self.by_row else self.lm.batch_size_per_gpu
        start = clock()
        answers = getattr(self.lm, kind)(requests, disable_tqdm=True)
        return clock() - start, answers


class Ours:
    """The scorer, its answers with what the floor and the cap say of them."""

    def __init__(self, method: str, folder: Path, args: argparse.Namespace):
        tokenizer, adapters = load_tokenizer(args.model), [folder / method]
        model = load_dense(args.model, DTYPES[args.precision], args.device)
        recovered = attach(model, tokenizer, METHODS[method], adapters if method != "none" else [])
        if args.precision == "bf16":
            float32_head(recovered.model)
        lora = METHODS[method]["kind"] == "lora" and args.precision == "fp32"
        model = merge(recovered.model) if lora else recovered.model
        self.lm = Scorer(model, tokenizer, recovered.bank, row_tokens=args.row_tokens)

    def answer(self, task: EvaluationTask, clock) -> tuple[float, list, float, set]:
        """Seconds, answers, floor in seconds, numbers of the documents whose generation met the cap."""
        requests, kind = task.task.instances, task.task.instances[0].request_type
        start = clock()
        answers = getattr(self.lm, kind)(requests)
        seconds = clock() - start
        cut_off = {doc_id for name, doc_id in self.lm.cut_off if name == task.name}
        return seconds, answers, floor_seconds(self.lm, requests, kind, clock, answers), cut_off


class Contestant:
    """A process with Harness or Ours in it; it works only while it is asked."""

    def __init__(self, kind: type, args: argparse.Namespace, folder: str):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(kind, args, Path(folder), theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that a process that dies ends the conversation: EOFError below its own traceback

    def ask(self, method: str, task: str) -> tuple:
        self.pipe.send((method, task))
        return self.pipe.recv()

    def dismiss(self) -> None:
        self.pipe.send(None)
        self.process.join()


def _work(kind: type, args: argparse.Namespace, folder: Path, pipe) -> None:
    if kind is Ours or args.harness_allocator == "kept":
        keep_memory()
    torch.set_num_threads(args.threads)
    clock = time.perf_counter if args.clock == "wall" else time.process_time
    tokenizer, prepared, worker = load_tokenizer(args.model), None, None
    while (asked := pipe.recv()) is not None:
        method, name = asked
        if method != prepared:
            worker = None  # frees the last one's model
            worker, prepared = kind(method, folder, args), method
        data = args.data / f"{name}.jsonl"
        data = data if data.exists() else args.data / name / "data.jsonl"
        task = load_task(name, data, args.items, CAP, tokenizer)
        task.task.build_all_requests()
        pipe.send(worker.answer(task, clock))


def compare(method: str, name: str, harness: Contestant, ours: Contestant, args: argparse.Namespace) -> dict:
    """One task by both, printed: identity, and the fastest round of each."""
    theirs, mine, floors = [], [], []
    for _ in range(args.repeats):
        seconds, expected = harness.ask(method, name)
        theirs.append(seconds)
        seconds, found, floor, cut_off = ours.ask(method, name)
        mine.append(seconds)
        floors.append(floor)
    record = {"method": method, "task": name, "harness": min(theirs), "ours": min(mine), "floor": min(floors)}
    data = args.data / f"{name}.jsonl"
    task = load_task(name, data if data.exists() else args.data / name / "data.jsonl", args.items, CAP)
    task.task.build_all_requests()
    record |= identity(task, found, expected, cut_off)
    print(line(record), flush=True)
    return record


def identity(task: EvaluationTask, found: list, expected: list, cut_off: set) -> dict:
    """Documents, largest difference (nats), documents with another prediction or string, other greedy flags."""
    requests = task.task.instances
    if requests[0].request_type == "generate_until":
        other = sum(
            not (reference.startswith(text) if request.doc_id in cut_off else reference == text)
            for request, text, reference in zip(requests, found, expected, strict=True)
        )
        return {"items": len(requests), "difference": 0.0, "predictions": other, "flags": 0}
    pairs = list(zip(predictions(requests, found), predictions(requests, expected), strict=True))
    return {
        "items": len(pairs),
        "difference": max(abs(a - b) for (a, _), (b, _) in zip(found, expected, strict=True)),
        "predictions": sum(a != b for a, b in pairs),
        "flags": sum(a != b for (_, a), (_, b) in zip(found, expected, strict=True)),
    }


def differs(record: dict) -> bool:
    return bool(record["predictions"] or record["flags"] or record["difference"] > TOLERANCE)


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
            tokens += length
            scored += new
            visible += length * (length + 1) // 2 + length * prefix
    else:
        documents: dict[int, PackedRow] = {}
        for request, pair in zip(requests, ours.encode_pairs([r.args for r in requests]), strict=True):
            documents.setdefault(request.doc_id, PackedRow()).add(ours.sequence(*pair), 0)
        for row in documents.values():
            tokens += len(row)
            scored += len({node for path in row.scored for node in path})
            visible += sum(row.depths) + len(row) * (1 + prefix)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = 4 * config.num_attention_heads * size * config.num_hidden_layers * visible
    return (2 * linears * tokens + 2 * head * scored + attention) / gemm_rate(model, clock)


def gemm_rate(model, clock, rows: int = 512) -> float:
    """FLOP per second of the decoder's first linears over `rows` tokens, the best of 5 passes over them."""
    linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    linears = [m for m in linears if m is not model.get_output_embeddings()][:35]
    if model.device.type == "cuda":  # what a GPU's products need to reach their rate, and to be waited for
        rows = 8192
    inputs = {
        m.in_features: torch.randn(rows, m.in_features, dtype=m.weight.dtype, device=model.device)
        for m in linears
    }
    best = 0.0
    with torch.inference_mode():
        for _ in range(5):
            start = clock()
            for m in linears:
                torch.nn.functional.linear(inputs[m.in_features], m.weight)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * rows * sum(m.weight.numel() for m in linears) / (clock() - start))
    return best


def total(records: list[dict]) -> dict:
    sums = {
        key: sum(r[key] for r in records)
        for key in ("harness", "ours", "floor", "items", "predictions", "flags")
    }
    return sums | {
        "method": records[0]["method"],
        "task": "all",
        "difference": max(r["difference"] for r in records),
    }


def figures(r: dict) -> dict:
    """A record as a row of --output."""
    return {
        "method": r["method"],
        "task": r["task"],
        "items": r["items"],
        "largest_difference_nats": r["difference"],
        "other_predictions": r["predictions"],
        "other_flags": r["flags"],
        "HFLM_s": r["harness"],
        "ours_s": r["ours"],
        "HFLM_/_ours": r["harness"] / r["ours"],
        "ours_/_floor": r["ours"] / r["floor"],
    }


def line(r: dict) -> str:
    same = f"|dloglik| {r['difference']:.1e}  other predictions {r['predictions']}, flags {r['flags']}"
    speed = f"HFLM {r['harness']:8.2f} s  ours {r['ours']:8.2f} s  {r['harness'] / r['ours']:6.2f} x"
    place = f"{r['method']:>10} {r['task']:>15} {r['items']:5d} items"
    return f"{place}  {same}  {speed}  {r['ours'] / r['floor']:5.2f} x floor"


if __name__ == "__main__":
    main()

"""Checkpoints that other libraries made, read by this package, against these libraries running them themselves.

    python -m benchmarks.foreign --dense FOLDER --text FILE.jsonl --items FILE.jsonl --work FOLDER [--gguf FILE]

Each maker compresses the dense model in its own environment (`make optimum`, `make llmcompressor`; for GGUF an
interpreter with llama-cpp-python, torch and safetensors, --llama) and scores its checkpoint there in float32: nats per
token on windows of the text, and the likeliest choice of each item (JSON Lines of arc_easy). The checkpoint is then
read by `read_folder` and scored as a plain model. A checkpoint that quantises activations is scored twice by its maker,
with and without; and here too, if they are simulated. Exit status 1 if a reading is further than 1e-3 nats from its
maker, or chooses otherwise. What --work holds already is not made or scored again.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from workflow_scripts.compress.foreign.formats import identify
from workflow_scripts.compress.foreign.reading import read_folder

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "foreign_peers.py"
# GPTQModel asks for two workers at least.
VARIABLES = {"GPTQMODEL_CPU_WORKERS": "2", "TORCHDYNAMO_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
TOLERANCE = 1e-3  # nats per token
INT4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 64}


def recipe(**modifiers: dict) -> dict:
    return {"make_stage": {"make_modifiers": modifiers}}


def linears(**settings: object) -> dict:
    return {"targets": ["Linear"], "ignore": ["lm_head"], **settings}


GROUPS = {"ignore": ["lm_head"], "config_groups": {"linears": {"targets": ["Linear"], "weights": INT4}}}
THERE = ("llmcompressor", "autoround-awq")  # makers in llm-compressor's environment
CASES: dict[str, tuple[str, dict | None]] = {  # name -> maker and, of llm-compressor, the recipe
    "gptqmodel GPTQ": ("gptqmodel-gptq", None),
    # GPTQModel 7.6 packs AWQ on a GPU alone; it runs AutoRound's files on a CPU.
    "AutoRound AWQ": ("autoround-awq", None),
    "llm-compressor AWQ": ("llmcompressor", recipe(AWQModifier={}, QuantizationModifier=GROUPS)),
    "llm-compressor NVFP4": ("llmcompressor", recipe(QuantizationModifier=linears(scheme="NVFP4"))),
    "llm-compressor FP8": ("llmcompressor", recipe(QuantizationModifier=linears(scheme="FP8_DYNAMIC"))),
    "llm-compressor W8A8": (
        "llmcompressor",
        recipe(SmoothQuantModifier={"smoothing_strength": 0.8}, QuantizationModifier=linears(scheme="W8A8")),
    ),
    "llm-compressor 2:4": (
        "llmcompressor",
        recipe(SparseGPTModifier=linears(sparsity=0.5, mask_structure="2:4")),
    ),
    "bitsandbytes NF4": ("bitsandbytes", None),
    "GGUF as shipped": ("gguf", None),
}


def main() -> None:
    args = arguments()
    args.work.mkdir(parents=True, exist_ok=True)
    tokens, items = prepared(args)
    rows = []
    for name in args.cases:
        row = compared(name, args, tokens, items)
        rows.append(row)
        print(json.dumps(row), flush=True)
    print(table(rows))
    scores = [
        score for row in rows for score in (row["weights"], row["running"]) if score and "ours" in score
    ]
    sys.exit(any(score["difference"] > TOLERANCE or score["other"] for score in scores))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dense", type=Path, required=True, help="folder of the dense model")
    parser.add_argument("--text", type=Path, required=True, help="JSON Lines with the key text")
    parser.add_argument("--items", type=Path, required=True, help="JSON Lines of arc_easy")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, help="a GGUF file of the same model")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES), metavar="CASE")
    for key, default in (
        ("windows", 16),
        ("length", 512),
        ("calibration", 32),
        ("count", 200),
        ("threads", 1),
    ):
        parser.add_argument(f"--{key}", type=int, default=default)
    parser.add_argument("--optimum", default=".venv-optimum/bin/python")
    parser.add_argument("--llmcompressor", default=".venv-llmcompressor/bin/python")
    parser.add_argument("--llama", default=".venv-llama/bin/python", help="Python with llama-cpp-python")
    return parser.parse_args()


def prepared(args: argparse.Namespace) -> tuple[Path, list]:
    """The file of token windows, and the token ids of the items' choices."""
    tokenizer = AutoTokenizer.from_pretrained(args.dense)
    text = "\n\n".join(json.loads(line)["text"] for line in args.text.read_text().splitlines())
    length, count = args.length, args.windows + args.calibration
    ids = torch.tensor(tokenizer(text[: 12 * length * count])["input_ids"])
    if len(ids) < length * count:
        sys.exit(f"{args.text}: holds {len(ids)} tokens, {length * count} are asked for")
    windows = ids[: length * count].view(count, length)
    save_file(
        {"windows": windows[: args.windows].clone(), "calibration": windows[args.windows :].clone()},
        args.work / "tokens.safetensors",
    )
    items = []
    for line in args.items.read_text().splitlines()[: args.count]:
        item = json.loads(line)
        context = tokenizer(f"Question: {item['question']}\nAnswer:")["input_ids"]
        rests = [tokenizer(f" {choice}")["input_ids"] for choice in item["choices"]["text"]]
        items.append([[context, rest] for rest in rests])
    return args.work / "tokens.safetensors", items


def compared(name: str, args: argparse.Namespace, tokens: Path, items: list) -> dict:
    """One row of the table: the maker's scores and those of this package's reading."""
    maker, steps = CASES[name]
    work = args.work / name.replace(" ", "-").replace(":", "of")
    made, plain = work / "made", work / "plain"
    work.mkdir(exist_ok=True)
    task = {
        "maker": maker,
        "recipe": steps,
        "dense": str(args.dense.resolve()),
        "folder": str(made.resolve()),
        "tokens": str(tokens.resolve()),
        "items": items,
        "threads": args.threads,
        "runtime": True,
    }
    python = args.llama if maker == "gguf" else args.llmcompressor if steps else args.optimum
    if maker == "gguf":
        made.mkdir(exist_ok=True)
        if not any(made.iterdir()):
            (made / args.gguf.name).symlink_to(args.gguf.resolve())
    else:
        run(args.llmcompressor if maker in THERE else python, work / "make.json", task | {"action": "make"})
    quantised = identify(made).runtime or identify(made).simulated or maker == "bitsandbytes"
    theirs = run(python, work / "runtime.json", task | {"action": "score"})
    exact = theirs
    if quantised:
        exact = run(python, work / "theirs.json", task | {"action": "score", "runtime": False})
    if not plain.exists():
        plain.mkdir()
        (work / "record.json").write_text(json.dumps(read_folder(made, plain, args.optimum)))
    record = json.loads((work / "record.json").read_text())
    plainly = task | {
        "action": "score",
        "maker": "plain",
        "folder": str(plain.resolve()),
        "package": str(ROOT),
    }
    ours = run(sys.executable, work / "ours.json", plainly | {"runtime": False})
    running = run(sys.executable, work / "simulated.json", plainly) if record["simulated"] else None
    return {
        "checkpoint": name,
        "versions": exact["versions"],
        "format": record["format"],
        "bits": record["bits_per_weight"],
        "items": len(items),
        "weights": both(exact, ours),
        "running": both(theirs, running) if running else {"maker": theirs["nll"]} if quantised else None,
    }


def both(maker: dict, ours: dict) -> dict:
    """Two scores of one checkpoint beside each other."""
    return {
        "maker": maker["nll"],
        "ours": ours["nll"],
        "difference": abs(maker["nll"] - ours["nll"]),
        "other": sum(a != b for a, b in zip(maker["answers"], ours["answers"], strict=True)),
    }


def run(python: str, output: Path, task: dict) -> dict:
    """The peers' program on a task in the interpreter `python`; its answer, kept in `output`."""
    if not output.exists():
        order = output.with_suffix(".task")
        order.write_text(json.dumps(task | {"output": str(output.resolve())}))
        with output.with_suffix(".log").open("w") as log:
            command = [python, "-P", str(PEERS), str(order)]
            variables = os.environ | VARIABLES
            if subprocess.run(command, stdout=log, stderr=log, env=variables, check=False).returncode:
                sys.exit(f"{task['maker']} failed to {task['action']}: {log.name}")
    return json.loads(output.read_text())


def table(rows: list[dict]) -> str:
    head = ["checkpoint", "format", "bits"]
    head += [
        f"{what}{column}" for what in ("", "activations: ") for column in ("maker", "here", "apart", "other")
    ]
    lines = [f"| {' | '.join(head)} |", f"|---|---|{'--:|' * (len(head) - 2)}"]
    for row in rows:
        cells = [row["checkpoint"], row["format"], f"{row['bits']:.2f}"]
        for score in (row["weights"], row["running"] or {}):
            cells += [f"{score[name]:.5f}" if name in score else "" for name in ("maker", "ours")]
            cells += (
                [f"{score['difference']:.1e}", f"{score['other']} of {row['items']}"]
                if "ours" in score
                else ["", ""]
            )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""A day of a GPU in nine minutes: every measurement of this repository that wants one, part by part, into one JSON.

    benchmarks/gpu_day.sh [FOLDER]                                      # = python -m benchmarks.gpu_day --folder FOLDER
    python -m benchmarks.gpu_day --folder FOLDER --page docs/explanation/gpu.md

Each part is a command with a time of its own; its output is kept as soon as it ends. A part that was done in FOLDER is
not run again, a part that failed or ran out of time is. Seconds that a part leaves over go to those after it; no part
begins that would end after --seconds. --parts names those to run. Nothing is downloaded: the model, items and text of
grid `bench` must lie in resources/ (carry the folder there). --rehearse runs the same parts on the processor, on
small shapes. --page writes the JSON's figures between the marks of a page.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MODEL = "resources/models/smollm2-135m"
TASKS = ("arc_easy", "hellaswag", "lambada_openai", "triviaqa")
NEEDED = (
    f"{MODEL}/manifest.json",
    "resources/corpora/wikipedia/manifest.json",
    *(f"resources/benchmarks/pypi/{task}/manifest.json" for task in TASKS),
)
MARKS = ("<!-- gpu_day.json -->", "<!-- end of gpu_day.json -->")
LIBRARIES = ("torch", "transformers", "peft", "lm_eval")
KEPT = 60  # last lines of a part's output


class Part(NamedTuple):
    """seconds: after which it is ended. words: of `python -m`, on a GPU; rehearsed: those that replace them here."""

    seconds: int
    title: str
    words: tuple[str, ...]
    rehearsed: tuple[str, ...]


def _split(seconds: int, title: str, common: str, on_gpu: str, here: str) -> Part:
    return Part(seconds, title, (*common.split(), *on_gpu.split()), (*common.split(), *here.split()))


SCORER = f"benchmarks.evaluate --model {MODEL} --tasks {' '.join(TASKS)} --methods none prompt-100"
TRAINING = "benchmarks.train --precision bf16 --allocator equal --methods prompt-100 lora-r4 ptune-100"
TINY = "--layers 1 --width 256 --intermediate 512 --heads 4 --rows 2 --length 64 --repeats 1"
FLOAT = "--items 1 --threads 1"
BF16 = "--precision bf16 --harness-precision bf16"
CUDA = "--device cuda --items 50 --batch 16 --repeats 3"
WIDE = "--layers 1 --threads 8 --device cuda --tokens 262144 --length 2048 --activation-memory 64"
NARROW = (
    "--layers 1 --threads 1 --width 64 --intermediate 128 --heads 4 --vocabulary 64 --tokens 256 --length 64"
)
PARTS = {
    "path": _split(
        105, "Every entry, against the processor", "pytest -q tests/unit/test_gpu_path.py", "", ""
    ),
    "golden": _split(
        35, "Published solvers' figures", "tests.golden tests/golden/data", "--device cuda", "--device cpu"
    ),
    "compress": _split(50, "One layer of LLaMA-7B's width, 3-bit GPTQ", "benchmarks.memory", WIDE, NARROW),
    "latency": _split(
        45,
        "Inference, 8 layers of that width",
        "benchmarks.latency",
        "--layers 8 --repeats 3 --generate 4",
        "--device cpu --layers 1 --repeats 1 --generate 1 --batch 1 --sequence 8",
    ),
    "score-fp32": _split(70, "Scorer beside HFLM, float32", SCORER, CUDA, FLOAT),
    "score-bf16": _split(45, "Scorer beside HFLM, bfloat16", f"{SCORER} {BF16}", CUDA, FLOAT),
    "train": _split(
        135,
        "Training beside PEFT with Trainer, compiled too",
        TRAINING,
        "--device cuda --shapes 16x1024 --compile-seconds 25",
        "--shapes 1x128 --steps 2 --threads 1 --compile-seconds 25",
    ),
    "exports": _split(
        50,
        "Exports in vLLM, GPTQModel and compressed-tensors",
        "benchmarks.exports",
        "--device cuda --seconds 40",
        TINY,
    ),
}


def main() -> int:
    arguments = _arguments()
    record = arguments.folder / "gpu_day.json"
    if arguments.page:
        arguments.page.write_text(in_page(arguments.page.read_text(), json.loads(record.read_text())))
        return 0
    if missing := [path for path in NEEDED if not (ROOT / path).exists()]:
        print(f"Not there: {', '.join(missing)}. Carry resources/ of grid bench here.", file=sys.stderr)
        return 1
    found = day(arguments.folder, arguments.seconds, arguments.rehearse, arguments.parts)
    record.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{record}: {len(found['parts'])} of {len(PARTS)} parts")
    asked = [found["parts"].get(name) for name in arguments.parts]
    return 0 if all(one and not one["status"] for one in asked) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("gpu-day"))
    parser.add_argument("--seconds", type=int, default=535, help="of all parts (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--rehearse", action="store_true", help="small shapes, on the processor")
    parser.add_argument("--page", type=Path, help="write the figures into this page, run nothing")
    return parser.parse_args()


def day(
    folder: Path,
    seconds: float,
    rehearse: bool,
    names: Collection[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> dict:
    """Run the parts of `names` (None: all) that are not done; {where, parts: {name: its record}} of all that ended."""
    folder.mkdir(parents=True, exist_ok=True)
    end, parts = clock() + seconds, {}
    for name in PARTS:
        file = folder / f"{name}.json"
        if file.exists():
            parts[name] = json.loads(file.read_text())
    waiting = [name for name in names or PARTS if name not in parts or parts[name]["status"]]
    while waiting:
        part, left = PARTS[name := waiting.pop(0)], end - clock()
        if left < part.seconds:
            print(f"{name}: not begun, {left:.0f} s are left of {part.seconds}", flush=True)
            continue
        limit = max(part.seconds, left - sum(PARTS[later].seconds for later in waiting))
        done = parts[name] = run(part, None if rehearse else limit)
        (folder / f"{name}.json").write_text(json.dumps(done))
        print(f"{name}: status {done['status']}, {done['seconds']:.0f} s", flush=True)
    return {"where": where(), "parts": {name: parts[name] for name in PARTS if name in parts}}


def run(part: Part, limit: float | None) -> dict:
    """A part's record: command, status (124: out of time), seconds, last lines of its output. limit: seconds, None in
    a rehearsal."""
    words, begin = part.rehearsed if limit is None else part.words, time.monotonic()
    # a session of its own, so that what the part started ends with it and leaves the GPU to the next
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        output, status = process.communicate(timeout=limit)[0], process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, status = process.communicate()[0], 124
    lines = output.decode(errors="replace").replace("\r", "\n").splitlines()[-KEPT:]
    return {
        "command": " ".join(("python -m", *words)),
        "status": status,
        "seconds": time.monotonic() - begin,
        "output": lines,
    }


def where() -> dict:
    """The GPU, the libraries and the code."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    versions = {library: metadata.version(library) for library in LIBRARIES}
    return {
        "gpu": gpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
        "libraries": versions,
        "commit": git.stdout.strip() or None,
        "time": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def in_page(text: str, found: dict) -> str:
    """The page with the day's figures between its marks, at its end if it has none."""
    begin, end = MARKS
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2] if rest else ""
    return before.rstrip("\n") + "\n\n" + "\n".join([begin, *_figures(found), end]) + (after or "\n")


def _figures(found: dict) -> list[str]:
    about = found["where"]
    versions = ", ".join(f"{name} {number}" for name, number in about["libraries"].items())
    lines = [
        f"## {about['gpu']}, {about['time']}",
        "",
        f"Commit {about['commit']}, {versions}, CUDA {about['cuda']}.",
    ]
    for name, part in found["parts"].items():
        outcome = "ended well" if part["status"] == 0 else f"ended with status {part['status']}"
        lines += [
            "",
            f"### {PARTS[name].title}",
            "",
            f"`{part['command']}` {outcome} after {part['seconds']:.0f} s.",
            "",
        ]
        lines += ["```text", *part["output"], "```"]
    return lines


if __name__ == "__main__":
    sys.exit(main())

"""A day of a GPU in nine minutes: every measurement of this repository that wants one, part by part, into one JSON.

    benchmarks/gpu_day.sh [FOLDER]                                      # = python -m benchmarks.gpu_day [FOLDER]
    python -m benchmarks.gpu_day FOLDER --page docs/explanation/gpu.md

Each part is a command with a time of its own. FOLDER/gpu_day.json is written as soon as a part ends: its figures, the
last lines that it printed, and the place where it ran (machine, libraries, commit, digest of the code, rehearsed or
not). A part that ended well in this very place is not run again; one that failed, ran out of time or ran elsewhere is.
Records of other places stay beside it. Seconds that a part leaves over go to those after it; no part begins that would
end after --seconds. --parts names those to run. Nothing is downloaded: the model, items and text of grid `bench` must
lie in resources/ (carry the folder there). --rehearse runs the same parts on the processor, on small shapes. --page
writes the JSON's figures between the marks of a page, under the place where each was measured, without rehearsals.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from workflow_scripts.files.artifacts import atomic_path, digest, sha256_file

ROOT = Path(__file__).resolve().parents[1]
MODEL = "resources/models/smollm2-135m"
TASKS = ("arc_easy", "hellaswag", "lambada_openai", "triviaqa")
ITEMS = tuple(f"resources/benchmarks/pypi/{task}" for task in TASKS)
NEEDED = {
    "score-fp32": (MODEL, *ITEMS),
    "score-bf16": (MODEL, *ITEMS),
    "train": (MODEL, "resources/corpora/wikipedia"),
    "exports": (MODEL,),
}
MARKS = ("<!-- gpu_day.json -->", "<!-- end of gpu_day.json -->")
LIBRARIES = ("torch", "transformers", "peft", "lm_eval")
CODE = ("workflow_scripts", "benchmarks", "tests", "config", "config.yaml")  # what the parts run
OTHERS = ("skipped", "failures", "errors")  # of tests that did not pass, as pytest's XML has them
KEPT, SHOWN = 60, 5  # last lines of a part's output: in the record, and on the page if it failed
GPU = """import json, torch
there = torch.cuda.is_available()
print(json.dumps([torch.cuda.get_device_name() if there else None, torch.version.cuda]))"""


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
    try:
        if arguments.page:
            arguments.page.write_text(in_page(arguments.page.read_text(), read(record)))
            return 0
        here = where(arguments.rehearse)
        check(arguments.parts, here)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    found = day(record, here, arguments.seconds, arguments.parts)
    ended = [one["part"] for one in found if one["where"] == here and not one["status"]]
    print(
        f"{record}: {len(ended)} of {len(PARTS)} parts ended well {'in this rehearsal' * arguments.rehearse}".rstrip()
    )
    return 0 if {*arguments.parts} <= {*ended} else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("gpu-day"), help="default: %(default)s")
    parser.add_argument("--seconds", type=int, default=535, help="of all parts (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--rehearse", action="store_true", help="small shapes, on the processor")
    parser.add_argument("--page", type=Path, help="write the figures into this page, run nothing")
    return parser.parse_args()


def check(names: Collection[str], here: dict) -> None:
    """Raises ValueError if these parts can't run here."""
    if not (here["rehearsed"] or here["gpu"]):
        raise ValueError("PyTorch sees no GPU here. --rehearse runs small shapes on the processor.")
    needed = {path: None for name in names for path in NEEDED.get(name, ())}
    if missing := [path for path in needed if not (ROOT / path / "manifest.json").exists()]:
        raise ValueError(f"Not there: {', '.join(missing)}. Carry resources/ of grid bench here.")


def day(
    record: Path,
    here: dict,
    seconds: float,
    names: Collection[str] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[dict]:
    """Run the parts of `names` (None: all) that did not end well in the place `here`, and return all that are recorded,
    one for each part and place; `record` holds them after each."""
    end, found = clock() + seconds, read(record) if record.exists() else []
    well = {one["part"] for one in found if one["where"] == here and not one["status"]}
    waiting = [name for name in names or PARTS if name not in well]
    while waiting:
        part, left = PARTS[name := waiting.pop(0)], end - clock()
        if left < part.seconds:
            print(f"{name}: not begun, {left:.0f} s are left of {part.seconds}", flush=True)
            continue
        limit = max(part.seconds, left - sum(PARTS[later].seconds for later in waiting))
        done = {"part": name, "where": here, "date": time.strftime("%Y-%m-%d", time.gmtime())}
        done |= run(part, None if here["rehearsed"] else limit)
        found = [one for one in found if (one["part"], one["where"]) != (name, here)] + [done]
        with atomic_path(record) as temporary:
            temporary.write_text(json.dumps({"parts": found}, indent=1) + "\n")
        print(f"{name}: status {done['status']}, {done['seconds']:.0f} s", flush=True)
    return found


def run(part: Part, limit: float | None) -> dict:
    """A part's {title, command, status (124: out of time), seconds, figures (rows), output (its last lines)}.

    limit: seconds, None in a rehearsal."""
    words, begin = part.rehearsed if limit is None else part.words, time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "figures")
        option = "--junitxml" if words[0] == "pytest" else "--output"
        # a session of its own, so that what the part started ends with it and leaves the GPU to the next
        process = subprocess.Popen(
            [sys.executable, "-m", *words, option, str(file)],
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
        figures = _figures(file) if file.exists() else []
    return {
        "title": part.title,
        "command": " ".join(("python -m", *words)),
        "status": status,
        "seconds": time.monotonic() - begin,
        "figures": figures,
        "output": output.decode(errors="replace").replace("\r", "\n").splitlines()[-KEPT:],
    }


def _figures(file: Path) -> list[dict]:
    """The rows of rows.py (a last one that was cut off is left out), or how many tests of pytest's XML ended how."""
    text = file.read_text()
    if not text.startswith("<"):
        whole = text[: text.rfind("\n") + 1]
        return [json.loads(line, parse_constant=str) for line in whole.splitlines()]
    suite = next(ElementTree.fromstring(text).iter("testsuite"))
    tests, *others = (int(suite.get(key, 0)) for key in ("tests", *OTHERS))
    return [{"passed": tests - sum(others)} | dict(zip(OTHERS, others))]


def where(rehearse: bool) -> dict:
    """Machine, libraries and code; a rehearsal has no GPU."""
    from benchmarks.device import processor

    gpu, cuda = None, None
    if not rehearse:  # in a process of its own, which keeps nothing on the GPU while others measure
        asked = subprocess.run([sys.executable, "-c", GPU], capture_output=True, text=True, check=True)
        gpu, cuda = json.loads(asked.stdout)
    versions = {library: metadata.version(library) for library in LIBRARIES}
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *CODE)
    return {
        "rehearsed": rehearse,
        "gpu": gpu,
        "processor": processor("cpu"),
        "libraries": {"python": platform.python_version(), **versions, "cuda": cuda},
        "commit": commit and commit + " with changes" * bool(changes),
        "code": _code(),
    }


def _git(*words: str) -> str | None:
    """git's answer; None in a copy without git, as a GPU machine often has it."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.strip()


def _code() -> str:
    """Digest of the files that the parts run, which tells changes that no commit holds."""
    files = (
        file for top in CODE for file in ([ROOT / top] if top.endswith(".yaml") else (ROOT / top).rglob("*"))
    )
    kept = sorted(file for file in files if file.suffix in (".py", ".yaml", ".npz", ".json"))
    return digest({str(file.relative_to(ROOT)): sha256_file(file) for file in kept})


def read(record: Path) -> list[dict]:
    """The parts of a record. Raises ValueError if there is none."""
    if not record.exists():
        raise ValueError(f"{record}: not there; benchmarks/gpu_day.sh {record.parent} writes it")
    return json.loads(record.read_text())["parts"]


def in_page(text: str, parts: list[dict]) -> str:
    """The page with the figures between its marks. Raises ValueError without marks, and if all are rehearsals."""
    begin, end = MARKS
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise ValueError(
            f"The page has no place for the figures: write {begin} and {end} into it, a line each."
        )
    measured = [one for one in parts if not one["where"]["rehearsed"]]
    if not measured:
        raise ValueError("No part was run on a GPU; a rehearsal is no result.")
    places = {json.dumps(one["where"]): one["where"] for one in measured}
    lines = [line for place in places.values() for line in _section(place, measured)]
    return "\n".join([f"{before}{begin}\n", *lines, end + after])


def _section(place: dict, parts: list[dict]) -> Iterator[str]:
    """What was measured in one place, a table for each part."""
    commit = place["commit"] or "unknown"
    libraries = ", ".join(f"{name} {number}" for name, number in place["libraries"].items())
    yield f"### {place['gpu']}, commit {commit[:8]}\n"
    yield f"{place['processor']}; {libraries}; commit {commit}, code {place['code'][:12]}.\n"
    for part in (one for one in parts if one["where"] == place):
        outcome = {0: "ended well", 124: "ran out of time"}.get(part["status"], f"failed ({part['status']})")
        about = f"{outcome} after {part['seconds']:.0f} s, {part['date']}"
        yield f"**{part['title']}.** `{part['command']}` {about}.\n"
        for _, rows in groupby(part["figures"], key=tuple):
            yield from _table(list(rows))
        if part["status"]:
            yield "\n".join(["```text", *part["output"][-SHOWN:], "```\n"])


def _table(rows: list[dict]) -> Iterator[str]:
    yield f"| {' | '.join(key.replace('_', ' ') for key in rows[0])} |"
    yield f"|{len(rows[0]) * '---|'}"
    for row in rows:
        yield f"| {' | '.join(map(_shown, row.values()))} |"
    yield ""


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(each)}" for name, each in value.items())
    return "-" if value is None else str(value).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())

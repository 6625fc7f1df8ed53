"""The compression engine against gptqmodel 7.6.0 and llm-compressor 0.14, and against the floor.

    python -m benchmarks.compress --model FOLDER --data FOLDER [--peers own,gptqmodel,llmcompressor] [--draws 3]

Each contestant works in an environment of its own, which is made at the first use in --environments, on the same model
folder, the same calibration token ids (a draw of windows of WikiText-2's validation text) and the same threads; their
runs take turns, each a process of its own. Counted is the time from a loaded model to compressed weights; ours reads
its weights and writes packed layers in that time. What a run leaves is brought back to a plain float32 folder, and one
function measures all perplexities: the first windows of WikiText-2's test text. Peers run with their own defaults but
for bits, grouping, symmetry and order of columns; --options PEER=JSON adds to that, and to our settings as
own=JSON. --results FILE keeps every run as a line of JSON, with the mean layer error of ours.

--text prose takes WikiText's marks and headings away: each line in the harness's detokenisation, lines joined by blank
lines; raw is the file as it is. --on valid is for choosing options, which must not be done on the test text: the last
quarter of the validation text's articles is measured on, the others calibrate.

The floor: the least floating-point work (forward passes over all but the unneeded products, the upper halves of the
Hessians, the factorisations and the sweep's updates) at the rate at which this machine multiplies the model's own
matrices, measured between the runs. Exit status 1 where ours takes more than 1.3 floors, is not 2 times as fast as
gptqmodel or 1.2 times as llm-compressor, or has the higher perplexity (the mean over the draws), or misses a figure of
REFERENCES, which hold for SmolLM2-135M, prose and the test text alone.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.compress_floor import BATCH_TOKENS, floor_seconds, shapes

ROOT = Path(__file__).resolve().parents[1]
TORCH = ["--timeout", "15", "--retries", "1", "--no-deps", "-r", "envs/torch-cpu.txt"]
ENVIRONMENTS = {  # steps of pip
    "gptqmodel": [TORCH, ["--no-deps", "-r", "envs/optimum.lock"]],
    "llmcompressor": [TORCH, ["torch==2.13.0", "llmcompressor==0.14.0"]],
}
REFERENCES = {  # perplexities of published solvers with SmolLM2-135M (dense 27.8 there); 3 bits per row: gptqmodel's
    "gptq-w3-clip": 103.0,
    "gptq-w3-g64": 49.6,
    "gptq-w3-g64-clip": 49.6,
    "gptq-w4": 42.1,
    "sparsegpt-50": 44.4,
    "wanda-50": 52.5,
}
LOSSLESS = {"gptq-w8": 1.001, "gptq-w8-g128": 1.001}  # times the dense model's perplexity
TARGETS = {"gptqmodel": 2.0, "llmcompressor": 1.2}  # times as fast
FLOOR = 1.3
KINDS = {  # algorithms that a contestant has
    "own": ("gptq", "sparsegpt", "wanda"),
    "gptqmodel": ("gptq",),
    "llmcompressor": ("gptq", "sparsegpt"),
}


def main() -> None:
    args = arguments()
    if args.worker:
        print(json.dumps(own(json.loads(args.worker))))
        return
    pythons = {"own": sys.executable} | {
        p: environment(p, args.environments) for p in args.peers if p != "own"
    }
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        model = truncated(args.model, args.layers, scratch / "model") if args.layers else args.model
        calibration = [draw_windows(model, args, draw, scratch) for draw in range(args.draws)]
        measured = Perplexity(model, args)
        dense = measured(model)
        print(f"dense: perplexity {dense:.3f} ({args.text} text, {args.on})", flush=True)
        groups, width, layers = shapes(model)
        for name in args.compressors:
            wanted = compressor(name, args)
            runs: dict[str, list[dict]] = {
                peer: [] for peer in args.peers if wanted["algorithm"] in KINDS[peer]
            }
            for draw, windows in enumerate(calibration):
                order = list(runs)[draw % len(runs) :] + list(runs)[: draw % len(runs)]
                floor = floor_seconds(groups, width, layers, wanted["algorithm"], args)
                for peer in order:
                    task = {
                        "peer": peer,
                        "model": str(model),
                        "windows": str(windows),
                        "compressor": wanted,
                        "options": args.options.get(peer, {}),
                        "precision": args.precision,
                        "threads": args.threads,
                        "batch": max(1, BATCH_TOKENS // args.length),
                        "output": str(scratch / "result"),
                    }
                    try:
                        run = start(pythons[peer], task, scratch)
                    except RuntimeError as error:  # the others' runs go on
                        failed = True
                        print(f"  {name} draw {draw} {peer}: failed\n{error}", file=sys.stderr, flush=True)
                        continue
                    run |= {"perplexity": measured(scratch / "result"), "floor": run["seconds"] / floor}
                    runs[peer].append(run)
                    print(f"  {name} draw {draw} {peer}: {line(run)}", flush=True)
                    if args.results:
                        keep(args, {"name": name, "draw": draw, "dense": dense} | task | run)
            failed |= report(
                name, {peer: found for peer, found in runs.items() if found}, limit(name, dense, args)
            )
    sys.exit(failed)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("resources/models/smollm2-135m"))
    parser.add_argument(
        "--data", type=Path, default=Path("."), help="folder with wikitext2_{valid,test}.txt, raw"
    )
    parser.add_argument("--peers", type=lambda text: text.split(","), default=["own", *ENVIRONMENTS])
    parser.add_argument("--compressors", nargs="+", default=["gptq-w3-clip"], help="names in config.yaml")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--windows", type=int, default=32, help="calibration windows")
    parser.add_argument("--length", type=int, default=512, help="tokens of a window")
    parser.add_argument("--test-windows", type=int, default=16)
    parser.add_argument("--layers", type=int, help="keep only the first decoder layers")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of the forward passes")
    parser.add_argument("--text", choices=["raw", "prose"], default="prose")
    parser.add_argument("--on", choices=["test", "valid"], default="test", help="what is measured on")
    parser.add_argument("--options", nargs="+", default=[], metavar="PEER=JSON")
    parser.add_argument("--results", type=Path, help="file that gets a line of JSON for every run")
    parser.add_argument("--environments", type=Path, default=Path("work/benchmarks"))
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.options = {peer: json.loads(text) for peer, _, text in (o.partition("=") for o in args.options)}
    return args


# --------------------------------------------------------------------------------------- what all share


def environment(peer: str, folder: Path) -> str:
    """The Python of a peer's environment; made anew where its recipe has changed."""
    home, recipe = (folder / peer).absolute(), json.dumps(ENVIRONMENTS[peer])
    python, made = home / "bin" / "python", home / "installed"
    if not made.exists() or made.read_text() != recipe:
        print(f"Installing {peer} into {home} (once)", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        for step in ENVIRONMENTS[peer]:
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *step]
            subprocess.run(pip, check=True, cwd=ROOT)
        made.write_text(recipe)
    return str(python)


def truncated(model: Path, layers: int, folder: Path) -> Path:
    """The model's first `layers` decoder layers as a folder."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(model)
    config.num_hidden_layers = layers
    AutoModelForCausalLM.from_pretrained(model, config=config, dtype=torch.float32).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    return folder


def draw_windows(model: Path, args, draw: int, scratch: Path) -> Path:
    """A draw of calibration windows, as `compress_model` draws them, in a file."""
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    from workflow_scripts.sources.corpora import token_windows
    from workflow_scripts.sources.models import adds_bos

    tokenizer = AutoTokenizer.from_pretrained(model)
    documents = articles(args, "valid")
    if args.on == "valid":
        documents = documents[: valid_cut(documents)]
    windows = token_windows(documents, tokenizer, args.length, args.windows, draw, adds_bos(tokenizer))
    save_file({"windows": windows}, scratch / f"windows-{draw}.safetensors")
    return scratch / f"windows-{draw}.safetensors"


def articles(args, split: str) -> list[str]:
    """WikiText-2's articles of a split (valid, test), raw or as prose."""
    from workflow_scripts.sources.corpora import text_documents

    documents = text_documents((args.data / f"wikitext2_{split}.txt").read_text())
    return documents if args.text == "raw" else [prose(document) for document in documents]


def prose(article: str) -> str:
    """A raw WikiText article without headings, its lines detokenised by the harness and joined by blank lines."""
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    lines = [line for line in article.split("\n") if line.strip() and not line.strip().startswith("=")]
    return "\n\n".join(wikitext_detokenizer({"page": line}).strip() for line in lines)


def valid_cut(documents: list[str]) -> int:
    """The first article of the validation text that --on valid measures on."""
    return len(documents) * 3 // 4


class Perplexity:
    """Token perplexity of a plain folder on the first windows of WikiText-2's test text (or of valid's last part)."""

    def __init__(self, model: Path, args):
        from transformers import AutoTokenizer

        documents = articles(args, args.on)
        if args.on == "valid":
            documents = documents[valid_cut(documents) :]
        self.text = ("" if args.text == "raw" else "\n\n").join(documents)
        self.tokenizer, self.args = AutoTokenizer.from_pretrained(model), args

    def __call__(self, folder: Path) -> float:
        import torch
        from transformers import AutoModelForCausalLM

        from workflow_scripts.evaluate.perplexity import perplexity, windows_of
        from workflow_scripts.evaluate.scorer import Scorer

        torch.set_num_threads(self.args.threads)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        scorer = Scorer(model, self.tokenizer)
        asked = self.args.length, self.args.test_windows
        return perplexity(scorer, *windows_of([self.text], scorer, *asked, "wikitext2"))["token"]


def compressor(name: str, args) -> dict:
    """The catalogue's settings; refused where nothing is calibrated."""
    from workflow_scripts.plan.config import files, load, read

    settings = load(read(*files(root=ROOT))).compressors[name].dump()
    if settings["algorithm"] not in KINDS["own"]:
        raise SystemExit(f"{name}: {settings['algorithm']} is none of {', '.join(KINDS['own'])}")
    if settings.pop("engine", "own") != "own":
        raise SystemExit(f"{name}: another engine's; name ours, and the peers come by --peers")
    return settings | ({"forward": args.precision} if args.precision != "fp32" else {})


def start(python: str, task: dict, scratch: Path) -> dict:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"OMP_NUM_THREADS": str(task["threads"]), "HF_HUB_OFFLINE": "1"}
    if task["peer"] == "own":
        command = [python, "-m", "benchmarks.compress", "--worker", json.dumps(task)]
    else:
        if (
            task["peer"] == "gptqmodel"
        ):  # as its documentation advises for few cores; a compiler is slower than none
            workers = str(max(2, task["threads"]))  # it refuses one
            environment |= {"GPTQMODEL_CPU_WORKERS": workers, "TORCHDYNAMO_DISABLE": "1"}
        (scratch / "task.json").write_text(json.dumps(task))
        command = [python, "-P", str(ROOT / "benchmarks" / "compress_peers.py"), str(scratch / "task.json")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def keep(args, run: dict) -> None:
    """Append a run to the file of results, with what was measured on."""
    about = {key: getattr(args, key) for key in ("text", "on", "draws", "length", "test_windows")}
    about |= {"calibration": args.windows}
    with open(args.results, "a") as lines:
        lines.write(json.dumps(about | run) + "\n")


def own(task: dict) -> dict:
    """A run of this package's engine; as compress_peers.py says of the others."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from benchmarks.compress_peers import peak_mb
    from workflow_scripts.compress.settings import CompressorSettings
    from workflow_scripts.compress.skeleton import Skeleton
    from workflow_scripts.compress.stored_model import join, put_compressed
    from workflow_scripts.compress.walk import FinishedLayers, walk

    torch.set_num_threads(task["threads"])
    windows = load_file(task["windows"])["windows"]
    settings = CompressorSettings(**task["compressor"] | task["options"])
    skeleton = Skeleton(task["model"])
    with tempfile.TemporaryDirectory() as folder:
        finished, loaded, begin = FinishedLayers(Path(folder)), peak_mb(), time.perf_counter()
        records = walk(skeleton, windows, settings, finished, log=lambda line: None)
        layers = 1 + max(record["layer"] for record in records)
        join([finished.path(index) for index in range(layers)], Path(folder) / "weights.safetensors")
        cost = {"seconds": time.perf_counter() - begin, "peak_mb": peak_mb(), "loaded_mb": loaded}
        model = AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32)
        put_compressed(model, load_file(Path(folder) / "weights.safetensors"), records, settings, folder)
    model.save_pretrained(task["output"])
    errors: dict[str, list[float]] = {}
    for record in records:
        errors.setdefault(record["linear"], []).append(record["error"])
    means = {linear: statistics.mean(found) for linear, found in errors.items()}
    return cost | {"versions": {"torch": torch.__version__}, "errors": means}


# ----------------------------------------------------------------------------------------------- report


def line(run: dict) -> str:
    return (
        f"{run['seconds']:.1f} s ({run['floor']:.2f} floors), perplexity {run['perplexity']:.2f}, peak "
        f"{run['peak_mb']} MB ({run['loaded_mb']} MB before)"
    )


def limit(name: str, dense: float, args) -> float:
    """The highest perplexity that ours may have; infinite where no figure holds."""
    asked = (args.text, args.on, args.windows, args.length, args.test_windows, args.precision, args.layers)
    if args.model.name != "smollm2-135m" or asked != ("prose", "test", 32, 512, 16, "fp32", None):
        return math.inf
    return dense * LOSSLESS[name] if name in LOSSLESS else REFERENCES.get(name, math.inf)


def report(name: str, runs: dict[str, list[dict]], limit: float) -> bool:
    """Print a compressor's table; True where ours misses a target or has a perplexity above `limit`."""
    if not runs:
        return True
    middle = {peer: statistics.median(run["seconds"] for run in found) for peer, found in runs.items()}
    mean = {peer: statistics.mean(run["perplexity"] for run in found) for peer, found in runs.items()}
    print(
        f"{name:16} {'seconds':>8} {'of ours':>8} {'floors':>7} {'perplexity':>11} {'peak MB':>8}  versions"
    )
    for peer, found in runs.items():
        ratio = f"{middle[peer] / middle['own']:7.2f}x" if "own" in middle else ""
        floors, peak = statistics.median(run["floor"] for run in found), max(run["peak_mb"] for run in found)
        versions = ", ".join(f"{library} {number}" for library, number in found[0]["versions"].items())
        print(
            f"  {peer:14} {middle[peer]:8.1f} {ratio:>8} {floors:7.2f} {mean[peer]:11.2f} {peak:8}  {versions}"
        )
    missed = []
    if "own" in runs:
        if (floors := statistics.median(run["floor"] for run in runs["own"])) > FLOOR:
            missed.append(f"{floors:.2f} floors, more than {FLOOR}")
        for peer in (peer for peer in TARGETS if peer in runs):
            if middle[peer] < TARGETS[peer] * middle["own"]:
                missed.append(
                    f"{middle[peer] / middle['own']:.2f} times as fast as {peer}, less than {TARGETS[peer]}"
                )
            if mean["own"] > mean[peer]:
                missed.append(f"perplexity {mean['own']:.2f}, {peer} {mean[peer]:.2f}")
        if mean["own"] > limit:
            missed.append(f"perplexity {mean['own']:.2f}, more than {limit:.2f}")
    print(f"  {'missed: ' + '; '.join(missed) if missed else 'all targets met'}", flush=True)
    return bool(missed)


if __name__ == "__main__":
    main()

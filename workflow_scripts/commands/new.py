"""Write a configuration with a grid for a model of your own, its figures counted and explained.

  python -m workflow_scripts new path/to/model
  python -m workflow_scripts new owner/model@REVISION --items 200 --out mine.yaml

MODEL is a folder, a GGUF file, or a repository of the hub with its revision (a commit, a branch or a tag; without one:
main). It is fetched, and so are the tasks. The grid holds the dense control beside a compressed model, and the
verdict's pair of methods. The commands to go on with are printed; they stand in the file too.
"""

import argparse
import json
import math
import shlex
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workflow_scripts.cluster.snakemake_surface import refuse_closed_cache
from workflow_scripts.commands.judge import name_of, sizes, source, usual_tasks
from workflow_scripts.commands.run import SNAKEMAKE, follow
from workflow_scripts.files.artifacts import ArtifactError, atomic_path
from workflow_scripts.files.scratch import scratch_folder
from workflow_scripts.plan import model_limits
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.layout import BENCHMARK, MODEL
from workflow_scripts.plan.names import unknown
from workflow_scripts.plan.schema.configuration import Config

PROGRAM = (sys.executable, "-m", "workflow_scripts.evaluate.outline")
PROMPTS = {"prompt-50": 50, "prompt-100": 100}  # of the catalogue, with their tokens
LORA, CHOICE, COMPRESSOR = "lora-r2", "idp-50-100", "gptq-w3-g64"
WINDOW, ROOM = 512, 32  # tokens of a window of text; what a prompt must leave for text, at least
CALIBRATION = 32  # windows


@dataclass(frozen=True)
class Chosen:
    """The user's choices: items per task; names of a training regime, a set of task data, a corpus."""

    items: int
    training: str
    benchmarks: str
    corpus: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a folder, a GGUF file, or a repository")
    parser.add_argument("--name", help="of the model and its grid (default: MODEL's name)")
    parser.add_argument("--out", metavar="FILE", help="the file that is written (default: NAME.yaml)")
    parser.add_argument("--items", type=int, default=100, help="items of each task (default: %(default)s)")
    parser.add_argument("--training", default="bench", help="a training regime (default: %(default)s)")
    parser.add_argument("--benchmarks", default="pypi", help="a set of task data (default: %(default)s)")
    parser.add_argument("--corpus", default="wikipedia", help="the text of all jobs (default: %(default)s)")
    parser.add_argument("--parameters", type=float, help="size of MODEL, if the hub does not say it")


def main(
    model: str,
    name: str | None = None,
    out: str | None = None,
    parameters: float | None = None,
    **choices: Any,
) -> int:
    """Fetch the model, count it, write the file; returns an exit status.

    choices: fields of `Chosen`. Raises ArtifactError or ConfigError for anything that no grid can be made of.
    """
    refuse_closed_cache()
    config, chosen = load(read(*files())), Chosen(**choices)
    called, file = _place(config, name or name_of(model, ()), out)
    _require_names(config, chosen)
    tasks = usual_tasks(config, chosen.benchmarks)
    entry = source(model, "MODEL") | sizes(model, parameters, "MODEL")
    if entry["source"] == "local" and entry["path"].endswith(".gguf"):
        entry["source"] = "gguf"
    load(read(*files(), over={"models": {called: entry}}))
    data = [BENCHMARK.path(benchmarks=chosen.benchmarks, task=task) for task in tasks]
    if status := _fetch(called, entry, data):
        return status
    print(f"Counting {called} and the longest item of {len(tasks)} tasks, a minute or two")
    found = _figures(config, called, chosen, tasks)
    entry |= {"parameters": found["parameters"]}
    limits = model_limits.known(load(read(*files(), over={"models": {called: entry}})), called)
    text = configuration(config, called, entry, (found, limits), chosen)
    load(read(*files(), over=yaml.safe_load(text) | {"grid": called}))
    following = _commands(called, file)
    heading = [
        f"Written by `python -m workflow_scripts new {model}`. Next:",
        *(f"  {line}" for line in following),
    ]
    with atomic_path(file) as temporary:
        temporary.write_text("".join(f"# {line}\n" for line in heading) + text, encoding="utf-8")
    print("\n".join([f"Configuration: {file}. Next:", *following]))
    return 0


def _place(config: Config, called: str, out: str | None) -> tuple[str, Path]:
    """The name of the model and its grid, and the file; ArtifactError if one of them is taken."""
    if called in config.models or called in config.grids:
        raise ArtifactError(
            f"{called}: the catalogue has a model or a grid of this name; choose another by --name (NAME= of make)"
        )
    file = Path(out or f"{called}.yaml")
    if file.exists():
        raise ArtifactError(f"{file}: is there already; choose another by --out (OUT= of make), or delete it")
    return called, file


def _require_names(config: Config, chosen: Chosen) -> None:
    """ArtifactError for a chosen name that the configuration lacks, and for no items."""
    if chosen.items < 1:
        raise ArtifactError(f"--items {chosen.items}: at least 1 item of each task is needed")
    known = {"training": [*config.training], "benchmarks": [*config.benchmarks], "corpus": [*config.corpora]}
    for key, names in known.items():
        if (asked := getattr(chosen, key)) not in names:
            raise ArtifactError(unknown(f"--{key}", asked, names, "name of the configuration"))


def _commands(called: str, file: Path) -> list[str]:
    """The commands to type next."""
    named = f"GRID={shlex.quote(called)} CONFIG={shlex.quote(str(file))}"
    return [f"make {target} {named}" for target in ("check", "forecast", "run")]


def _fetch(name: str, entry: dict, tasks: list[str]) -> int:
    """Fetch the model and the tasks; Snakemake's exit status."""
    with scratch_folder("new") as folder:
        file = folder / "model.yaml"
        file.write_text(yaml.safe_dump({"models": {name: entry}}), encoding="utf-8")
        words = ["--quiet", "host", "reason", "--configfile", str(file), "--", MODEL.path(model=name), *tasks]
        status = follow([*SNAKEMAKE, *words])
    if status:
        print("Nothing was written: see the lines above.", file=sys.stderr)
    return status


def _figures(config: Config, name: str, chosen: Chosen, tasks: list[str]) -> dict:
    """Figures of the fetched model, counted by evaluate/outline.py."""
    benchmarks = [Path(BENCHMARK.path(benchmarks=chosen.benchmarks, task=task)).parent for task in tasks]
    asked = {
        "folder": str(Path(MODEL.path(model=name)).parent),
        "lora": config.methods[LORA].dump(),
        "benchmarks": [str(folder) for folder in benchmarks],
        "tasks": {task: config.tasks[task].dump() for task in tasks},
    }
    done = subprocess.run(
        PROGRAM, input=json.dumps(asked), encoding="utf-8", errors="replace", capture_output=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ArtifactError(f"{name}: can't be counted: {lines[0]}")
    found: dict = json.loads(done.stdout.splitlines()[-1])
    return found


def configuration(
    config: Config, name: str, entry: dict, counted: tuple[dict, model_limits.Limits], chosen: Chosen
) -> str:
    """The file's text: a model's entry and its grid, in YAML with comments.

    counted: the figures of `_figures` and plan/model_limits.py. ArtifactError for a model that no cell can have.
    """
    found, limits = counted
    if limits.unscorable:
        raise ArtifactError(f"{name}: no cell of it can be evaluated: {limits.unscorable}")
    positions = min(filter(None, (limits.positions, limits.one_table)), default=None)
    prompts = _prompts(name, positions)
    room = WINDOW if positions is None else positions - PROMPTS[prompts[-1]]
    chooses = len(prompts) > 1 and limits.unscored is None and "idp" not in limits.unfit
    methods = ["none", LORA, *prompts, *([CHOICE] if chooses else [])]
    training, regime = _training(config, chosen.training, room)
    steps = math.ceil(regime["tokens"] / (regime["batch_size"] * regime["sequence_length"]))
    length = min(WINDOW, room)
    windows = max(CALIBRATION, math.ceil(found["widest"] / length))
    longest = ", ".join(f"{task} {at['tokens']} (line {at['line']})" for task, at in found["longest"].items())
    longest = textwrap.fill(longest, 110, initial_indent="    # ", subsequent_indent="    # ")
    no_choice = "" if chooses else f" {CHOICE} is not possible: {_why_no_choice(limits, positions)}."
    return f"""\
models:
  {name}:
{_indented(entry)}
    # {found["parameters"]:,} parameters in {found["layers"]} decoder layers, counted.
    # {"A BOS begins every text" if found["bos"] else "No BOS begins a text"}, as the tokenizer has it.
    # {_reach(limits)}
    # {LORA} trains {found["lora"]:,} parameters: {", ".join(found["linears"])} of each layer.
{training}
grids:
  {name}:
    description: "A first look at {name}."
    benchmarks: {chosen.benchmarks}
    # Longest item of each task with its answer, in this model's tokens, and its line in the fetched data.jsonl:
{longest}
    tasks: [{", ".join(found["longest"])}]
    training: {regime["name"]} # {regime["tokens"]:,} tokens an adapter, in {steps} steps; the paper trains 40,960,000
    # As many tokens as the widest linear has inputs ({found["widest"]:,}), at least.
    calibration: {{windows: {windows}, length: {length}}}
    evaluation:
      items: {chosen.items} # of each task, the same in every cell; null takes all
      perplexity: {{corpora: [{chosen.corpus}], windows: 16, length: {length}}}
    # The two methods that the verdict compares, named before there is a result.{no_choice}
    pair: {{prompt: {CHOICE if chooses else prompts[-1]}, lora: {LORA}}}
    blocks:
      core:
        models: [{name}]
        compressors: [dense, {COMPRESSOR}] # dense is the control: what a method gives it too is no recovery
        corpora: [{chosen.corpus}]
        methods: [{", ".join(methods)}]
        # seeds: [0, 1, 2] # replicates, each a compressed copy of its own; without them a verdict is that of one copy
"""


def _prompts(name: str, positions: int | None) -> list[str]:
    """The prompts behind which a text has room; ArtifactError if there is none."""
    fitting = [
        prompt for prompt, tokens in PROMPTS.items() if positions is None or tokens + ROOM <= positions
    ]
    if not fitting:
        raise ArtifactError(
            f"{name}: takes {positions} tokens, too few for a prompt of 50 and text behind it"
        )
    return fitting


def _training(config: Config, name: str, room: int) -> tuple[str, dict]:
    """YAML of a regime with shorter windows, if the named one's leave a prompt no room; the regime that counts."""
    regime = config.training[name].dump() | {"name": name}
    if regime["sequence_length"] <= room:
        return "", regime
    shorter = {**config.training[name].dump(), "sequence_length": room}
    short = f"{name}-{room}"
    return f"\ntraining:\n  {short}:\n{_indented(shorter)}\n", regime | {
        "name": short,
        "sequence_length": room,
    }


def _reach(limits: model_limits.Limits) -> str:
    """The length of text that the model takes and sees, as a comment."""
    text = f"It takes {limits.positions:,} tokens" if limits.positions else "It has no longest text"
    if limits.window:
        text += f"; its first layer sees {limits.window:,} of them"
    if limits.one_table:
        text += f"; behind a prompt {limits.one_table:,} with it, for the sake of one rotary table"
    return f"{text}."


def _why_no_choice(limits: model_limits.Limits, positions: int | None) -> str:
    return f"its first layer {limits.unscored}" if limits.unscored else f"it takes {positions} tokens"


def _indented(values: dict) -> str:
    text = yaml.safe_dump(values, sort_keys=False, width=10_000)
    return "".join(f"    {line}\n" for line in text.splitlines()).rstrip()

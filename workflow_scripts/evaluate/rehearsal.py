"""A grid's methods on a model's longest items, before the long run: the program that the command `check` starts.

It reads {models: [...]} from standard input, as commands/check.py writes it, and prints a line per method and a line
per problem. Adapters are untrained, of the right shapes, and make one training step on one window. Everything else is
the code of a cell's evaluation. Nothing is written outside of a temporary folder.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from workflow_scripts.compress.engines.own import compress
from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.compress.stored_model import load_compressed, save_compressed
from workflow_scripts.compress.task import CompressionTask, Machine, Sources
from workflow_scripts.evaluate.cell import evaluate_task, scorer_of, task_of
from workflow_scripts.evaluate.encoding import encode, encode_pairs
from workflow_scripts.evaluate.perplexity import perplexity, windows_of
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.settings import CellSettings
from workflow_scripts.evaluate.tasks import EvaluationTask
from workflow_scripts.files.artifacts import digest
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.kernels.device import chosen_device
from workflow_scripts.kernels.dtypes import DTYPES
from workflow_scripts.recover.adapters import create, save
from workflow_scripts.recover.learner import Learner
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.sources.benchmarks import written_in
from workflow_scripts.sources.corpora import read_documents

PROBLEMS = 3  # the exit status if there was one; Python's own is 1


@dataclass
class Rehearsal:
    """One model's cells, one of each method. problems: the lines that were printed.

    asked: {name, folder, adapters {method: {method, training}}, cells [{cell, settings, members, training_text}],
    benchmarks, corpora}. scratch: an empty folder.
    """

    asked: dict
    scratch: Path
    device: torch.device = field(default_factory=lambda: chosen_device(None))
    problems: list[str] = field(default_factory=list)
    tasks: dict[str, tuple[EvaluationTask, list["Length"]]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder of the dense model."""
        return Path(self.asked["folder"])

    @property
    def dense(self) -> Path:
        """The folder of the compressor `dense` on it."""
        return self.scratch / "dense"

    def run(self) -> None:
        """Make the adapters, then try every cell whose adapters could be made."""
        name, failed = self.asked["name"], set()
        with self.telling(name):
            save_dense(self.folder, self.dense)
            for method, asked in self.asked["adapters"].items():
                failed.add(method)
                with self.telling(f"{name}, {method}, training"):
                    self.make_adapter(method, asked)
                    failed.remove(method)
            for cell in self.asked["cells"]:
                if not failed.intersection(cell["members"]):
                    with self.telling(f"{name}, {cell['cell']['method']}"):
                        self.try_cell(cell)

    @contextmanager
    def telling(self, where: str, known: str = "") -> Iterator[None]:
        """A line with place and cause if anything fails inside, as it would end a job. known: what its message may
        begin with, which `where` says already."""
        try:
            yield
        except Exception as error:  # of whatever type
            reason = " ".join(str(error).removeprefix(known).split()) or type(error).__name__
            self.problems.append(f"{where}: {reason}")
            print(f"problem: {self.problems[-1]}", flush=True)

    def make_adapter(self, name: str, asked: dict) -> None:
        """An untrained adapter in the scratch folder, after one training step that nothing is kept of."""
        method, training = asked["method"], asked["training"]
        base = load_compressed(self.folder, self.dense, DTYPES[training["precision"]], self.device)
        draw = torch.Generator().manual_seed(0)
        entries = cast(torch.nn.Embedding, base.get_input_embeddings()).num_embeddings
        window = torch.randint(entries, (1, training["sequence_length"]), generator=draw).to(self.device)
        adapted = create(base, method, 0, window[0])
        save(adapted, self.scratch / name, "untrained")
        if "tokens" in training and method.get("trained", True):
            train_once(adapted, window)

    def try_cell(self, asked: dict) -> None:
        """Every task of a cell, and one window of each text."""
        started, before = time.monotonic(), len(self.problems)
        settings, text = CellSettings(**asked["settings"]), asked["training_text"]
        adapters = [self.scratch / member for member in asked["members"]]
        files = ModelFiles(self.folder, self.dense, adapters, Path(text) if text else None)
        recovered, scorer = scorer_of(files, settings, asked["cell"], self.device)
        names = [prefix.name for prefix in recovered.bank.prefixes] if recovered.bank else []
        asking = scorer if settings.system is None else replace(scorer, bank=None)
        where, items = f"{self.asked['name']}, {asked['cell']['method']}", 0
        for folder in map(Path, self.asked["benchmarks"]):
            with self.telling(f"{where}, {folder.name}"):
                items += self.try_task(f"{where}, {folder.name}", folder, settings, asking, names)
        for folder in map(Path, self.asked["corpora"]):
            with self.telling(f"{where}, perplexity of {folder.name}"):
                try_window(folder, settings.evaluation, scorer)
        bad = len(self.problems) - before
        outcome = f"{bad} problem{'s' * (bad > 1)}" if bad else "ok"
        print(f"{where}: {items} items, {time.monotonic() - started:.0f} s: {outcome}", flush=True)

    def try_task(
        self, where: str, folder: Path, settings: CellSettings, scorer: Scorer, names: list[str]
    ) -> int:
        """A task's longest item, the one with the longest answer, and the shortest; returns how many were tried."""
        texts = [settings.method.get(name) for name in ("corpus", "text")]
        key = digest([str(folder), settings.tasks[folder.name], texts])
        if key not in self.tasks:
            loaded = task_of(folder, settings, scorer.tokenizer)
            self.tasks[key] = loaded, lengths_of(loaded, scorer.tokenizer)
        task, lengths = self.tasks[key]
        if cut := cut_off(task, lengths, scorer.max_length):
            print(f"note: {where}: {cut}", flush=True)
        chosen = extremes(lengths)
        for item in chosen:
            with self.telling(
                f"{where}, line {task.lines[item] + 1} of {written_in(task.data)}", f"{task.at(item)}: "
            ):
                evaluate_task(scorer, with_one_item(task, item), names)
        return len(chosen)


@dataclass(frozen=True)
class Length:
    """Tokens of an item's longest request with its answer (of a generation: with all new tokens), and of the answer."""

    text: int
    answer: int


def lengths_of(task: EvaluationTask, tokenizer: PreTrainedTokenizerBase) -> list[Length]:
    """The lengths of all items that the task evaluates, in order, as the scorer encodes them."""
    task.task.build_all_requests(samples=task.samples)
    instances = task.task.instances
    if task.task.OUTPUT_TYPE == "generate_until":
        cap = int(task.task.config.generation_kwargs["max_gen_toks"])
        encoded = encode(tokenizer, (instance.args[0] for instance in instances))
        pairs = [(len(encoded[instance.args[0]]) + cap, cap) for instance in instances]
    else:
        both = encode_pairs(tokenizer, [instance.args for instance in instances])
        pairs = [(len(context) + len(answer) - 1, len(answer)) for context, answer in both]
    longest = [Length(0, 0)] * len(task.items)
    for instance, (text, answer) in zip(instances, pairs, strict=True):
        so_far = longest[instance.doc_id]
        longest[instance.doc_id] = Length(max(text, so_far.text), max(answer, so_far.answer))
    return longest


def extremes(lengths: list[Length]) -> list[int]:
    """Positions of the longest item, of the one with the longest answer, and of the shortest, each once."""
    positions = range(len(lengths))
    longest = max(positions, key=lambda i: lengths[i].text)
    answer = max(positions, key=lambda i: lengths[i].answer)
    return [*dict.fromkeys((longest, answer, min(positions, key=lambda i: lengths[i].text)))]


def cut_off(task: EvaluationTask, lengths: list[Length], room: int) -> str:
    """The number of items that are longer than the model's input, in words; the model does not read their beginning, as
    in the harness. Empty if there is none."""
    longer = [i for i, length in enumerate(lengths) if length.text > room]
    if not longer:
        return ""
    most = max(longer, key=lambda i: lengths[i].text)
    return (
        f"{len(longer)} of {len(lengths)} items exceed the {room} tokens that the model takes here, and lose their "
        f"beginning; the longest, line {task.lines[most] + 1} of {written_in(task.data)}, has {lengths[most].text}"
    )


def with_one_item(task: EvaluationTask, item: int) -> EvaluationTask:
    """The task, to evaluate one of its items."""
    position = item if task.samples is None else task.samples[item]
    return replace(task, items=[task.items[item]], samples=[position])


def save_dense(model: Path, folder: Path) -> None:
    """The compressor `dense` of a model: no tensor, and the proof that says so."""
    folder.mkdir()
    settings = CompressorSettings(algorithm="dense")
    task = CompressionTask(Sources(model), settings, None, 0, folder, "cpu", 1, Machine())
    save_compressed(
        folder,
        compress(task),
        {"algorithm": "dense"},
        model,
        Provenance("rehearsal", "rehearsal").manifest({}, {}),
    )


def train_once(adapted: PeftModel, window: torch.Tensor) -> None:
    """Loss and gradient of one window (1, T); ValueError if its prompt leaves no room for it."""
    learner = Learner(adapted)
    learner.require_room(window.shape[1])
    learner.accumulate(window, 1)


def try_window(corpus: Path, evaluation: dict, scorer: Scorer) -> None:
    """Perplexity of one window; ArtifactError if the held-out text holds fewer windows than are asked for."""
    asked = evaluation["perplexity"]
    documents = read_documents(corpus, "heldout")
    windows, texts = windows_of(documents, scorer, asked["length"], asked["windows"], corpus.name)
    perplexity(scorer, windows[:1], texts[:1])


def rehearsed(asked: dict) -> Iterator[Rehearsal]:
    """Every model's rehearsal, done."""
    for model in asked["models"]:
        with tempfile.TemporaryDirectory() as scratch:
            rehearsal = Rehearsal(model, Path(scratch))
            rehearsal.run()
            yield rehearsal


def main() -> int:
    """Try everything that standard input asks for; PROBLEMS if there was one."""
    problems = [problem for rehearsal in rehearsed(json.load(sys.stdin)) for problem in rehearsal.problems]
    return PROBLEMS if problems else 0


if __name__ == "__main__":
    sys.exit(main())

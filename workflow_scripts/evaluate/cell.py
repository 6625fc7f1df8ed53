"""One cell's evaluation: all its tasks through the harness, perplexity, and the two files that hold the outcome."""

import logging
import sys
import time
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate

from workflow_scripts.evaluate import samples
from workflow_scripts.evaluate.forward import float32_head
from workflow_scripts.evaluate.loading import CellFiles, fingerprint, load_cell
from workflow_scripts.evaluate.perplexity import heldout_windows, perplexity, require_room
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.store import AnswerStore
from workflow_scripts.evaluate.tasks import EvaluationTask, load_task
from workflow_scripts.files import artifacts, checkpoints
from workflow_scripts.kernels.device import default_device
from workflow_scripts.sources import benchmarks
from workflow_scripts.sources.corpora import read_documents
from workflow_scripts.sources.models import adds_bos

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # its hints address users of its own command line


def evaluate_cell(
    files: CellFiles, benchmark_folders: list[Path], corpus_folders: list[Path], training_corpus: Path | None,
    cell: dict, method: dict, tasks: dict, evaluation: dict, recipe: str, code: str, threads: int,
    json_path: Path, samples_path: Path, device: torch.device | None = None, imports: float = 0.0,
) -> dict:  # fmt: skip
    """Evaluate a cell and write its JSON and samples; an interrupted run continues from its store in work/.

    method, tasks, evaluation: slices of the configuration. imports: seconds already spent, for the report.
    """
    started = time.time()
    device = device or default_device()
    inputs = files.inputs()
    inputs |= {f"benchmark {f.name}": benchmarks.verify(f)["sha256"] for f in benchmark_folders}
    inputs |= {
        f"corpus {f.name}": artifacts.read_json(f / "manifest.json")["files"]["heldout.jsonl"]
        for f in corpus_folders
    }
    if method.get("calibrated"):
        text = artifacts.read_json(training_corpus / "manifest.json")["files"]["train.jsonl"]
        inputs[f"calibration of scores, {training_corpus.name}"] = text
    key = fingerprint(files, inputs, method, evaluation["precision"], code, tasks)
    store = AnswerStore(checkpoints.work_folder(json_path, key) / "answers.jsonl", key)

    recovered, tokenizer = load_cell(
        files, method, cell["seed"], evaluation["precision"], device, training_corpus
    )
    if evaluation["precision"] == "bf16":
        float32_head(recovered.model)
    scorer = Scorer(recovered.model, tokenizer, recovered.bank, recovered.selector, store=store)
    require_room(
        scorer, evaluation["perplexity"]["length"], f"grids.{cell['grid']}.evaluation.perplexity.length"
    )
    loaded = time.time()
    suite = [
        load_task(
            f.name,
            f / "data.jsonl",
            evaluation["items"],
            evaluation["generation_tokens"],
            tokenizer,
            tasks[f.name]["task"],
            tasks[f.name]["num_fewshot"],
        )
        for f in benchmark_folders
    ]
    note(
        f"setup {imports + time.time() - started:.1f} s (imports {imports:.1f}, model {loaded - started:.1f}, "
        f"tasks {time.time() - loaded:.1f}); {len(store)} answers from an earlier run, {store.damaged} damaged"
    )

    names = [prefix.name for prefix in recovered.bank.prefixes] if recovered.bank else []
    results, rows = {}, []
    for number, (task, folder) in enumerate(zip(suite, benchmark_folders, strict=True), 1):
        start = time.time()
        scorer.progress = in_task(f"[{number}/{len(suite)}] {task.name}")
        items = evaluate_task(scorer, task, names)
        rows += [item.row for item in items]
        results[task.name] = samples.summary(items) | {
            "domain": tasks[task.name]["domain"], "version": task.version,
            "data_sha256": inputs[f"benchmark {folder.name}"],
        }  # fmt: skip
        n, acc = results[task.name]["n"], results[task.name]["acc"]
        note(f"[{number}/{len(suite)}] {task.name}: {n} items, acc {acc:.3f}, {time.time() - start:.1f} s")

    texts = {}
    for folder in corpus_folders:
        start, asked = time.time(), evaluation["perplexity"]
        scorer.progress = in_task(f"perplexity {folder.name}")
        documents = read_documents(folder, "heldout")
        windows = heldout_windows(documents, scorer, asked["length"], asked["windows"], folder.name)
        texts[folder.name] = perplexity(scorer, windows)
        note(f"perplexity {folder.name}: {texts[folder.name]['token']:.3f}, {time.time() - start:.1f} s")

    used = {"method": method, "tasks": tasks, "evaluation": evaluation, "bos": adds_bos(tokenizer)}
    if recovered.selector:  # `auto` stands for one of the scores
        used["method"] = method | {"score": recovered.selector.score}
    values = [result["primary"] for result in results.values()]
    outcome = {
        "cell": cell,
        "tasks": results,
        "domains": samples.domain_means(results),
        "average": sum(values) / len(values),
        "perplexity": texts,
        "parameters": recovered.parameters,
        "selection": samples.shares(rows, names),
        "manifest": artifacts.manifest(
            recipe=recipe, code=code, config=used,
            inputs=inputs, seed=cell["seed"], device=str(device), threads=threads, started=started - imports,
        ),
    }  # fmt: skip
    store.close()
    samples.write_samples(samples_path, rows)
    outcome["manifest"]["samples_sha256"] = artifacts.sha256_file(samples_path)
    artifacts.write_json(json_path, outcome, "evaluation")
    checkpoints.clear_work(json_path)
    return outcome


def evaluate_task(scorer: Scorer, task: EvaluationTask, names: list[str]) -> list[samples.Item]:
    """One task through lm_eval.evaluate; `names` are the bank's prompts, reported where there are several.

    Of a task that reads its answers in several ways (gsm8k's filters), the first one counts.
    """
    logged = evaluate(
        scorer, {"tasks": {task.name: task.task}}, bootstrap_iters=0,
        samples=None if task.samples is None else {task.name: task.samples},
    )["samples"][task.name]  # fmt: skip
    logged = [sample for sample in logged if sample["filter"] == logged[0]["filter"]]
    # the harness numbers what it evaluated 0, 1, 2, ... in its requests, whatever `samples` says
    keys = [(task.name, i) for i in range(len(logged))]
    gold_logliks = gold_answers(scorer, task, logged) if task.task.OUTPUT_TYPE == "generate_until" else []
    chosen = [names[scorer.selections[key]] if len(names) > 1 else None for key in keys]
    return samples.items_of(task, logged, gold_logliks, chosen, [key in scorer.cut_off for key in keys])


def gold_answers(scorer: Scorer, task: EvaluationTask, logged: list[dict]) -> list[float]:
    """Log-likelihood of each gold answer after a generation task's prompt (nats).

    Behind the soft prompt that its document was generated behind: chosen anew it might be another, since the scorer
    moves spaces that end a context into the answer, and cuts long contexts elsewhere.
    """
    delimiter = task.task.config.target_delimiter
    requests = [
        Instance("loglikelihood", sample["doc"], (sample["arguments"][0][0], f"{delimiter}{task.gold(sample['doc'])}"),
                 0, (task.name, i, 1))
        for i, sample in enumerate(logged)
    ]  # fmt: skip
    return [loglik for loglik, _ in scorer.loglikelihood(requests, chosen=dict(scorer.selections))]


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def in_task(name: str, every: float = 30.0):
    """A progress callback that prints at most every `every` seconds."""
    last = time.time()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.time() - last >= every:
            last = time.time()
            note(f"{name}: {done} of {total} documents")

    return report

"""One cell's evaluation: all its tasks through the harness, perplexity, and the two files that hold the outcome."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.evaluator import evaluate
from transformers import PreTrainedTokenizerBase

from workflow_scripts.evaluate import samples
from workflow_scripts.evaluate.chat import Chat, described, prepare
from workflow_scripts.evaluate.forward import float32_head
from workflow_scripts.evaluate.loading import fingerprint, identity, load_cell
from workflow_scripts.evaluate.open_book import with_passage
from workflow_scripts.evaluate.perplexity import perplexities, require_room
from workflow_scripts.evaluate.scorer import RequestError, Scorer
from workflow_scripts.evaluate.settings import CellSettings, EvaluationData
from workflow_scripts.evaluate.store import AnswerStore
from workflow_scripts.evaluate.taken import About, Taken, keys_of, take
from workflow_scripts.evaluate.tasks import EvaluationTask, load_task
from workflow_scripts.files import artifacts
from workflow_scripts.files.job import log
from workflow_scripts.files.members import ITEMS, TRAINING, text_of
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.files.work_folders import clear_work, work_folder
from workflow_scripts.kernels.allocator import return_memory
from workflow_scripts.kernels.device import chosen_device
from workflow_scripts.recover.adapters import Recovered
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.sources import benchmarks
from workflow_scripts.sources.corpora import read_documents
from workflow_scripts.sources.facts import scored
from workflow_scripts.sources.fetch import recorded_files
from workflow_scripts.sources.models import adds_bos

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # its hints address users of its own command line


def evaluate_cell(
    files: ModelFiles,
    data: EvaluationData,
    settings: CellSettings,
    cell: dict,
    made: Provenance,
    output: str | Path,
    samples_path: str | Path,
) -> None:
    """Evaluate a cell and write its JSON and samples; an interrupted run continues from its store in work/.

    Parameters as of jobs/evaluate_cell.py. Raises ArtifactError for inputs that don't belong together, and for windows
    beyond the model.
    """
    begun = time.time()
    torch.set_num_threads(made.threads)
    device = chosen_device(made.device)
    made = replace(made, device=str(device))
    used = {key: value for key, value in asdict(settings).items() if key != "chat"}
    inputs = hashes(files, data, settings.method)
    key = fingerprint(files, inputs, settings, made.code)
    own = identity(files)

    def model(name: str) -> list:
        return [own, data.stands_for.get(name, made.code), device.type, settings.chat]

    keys = keys_of(model, inputs, settings)
    taken = take(keys, data.elsewhere, output, made.recipe)
    log(f"setup: imports {begun - made.started:.1f} s, inputs {time.time() - begun:.1f} s")
    origins = dict(taken.origins)
    about = taken.about
    if about is None or keys.keys() > origins.keys():
        store = AnswerStore(work_folder(output, key) / "answers.jsonl", key)
        about = _evaluate_rest(files, data, settings, cell, device, store, taken)
        store.close()
    for adapter in files.adapters:  # that its job succeeded is known by now
        clear_work(adapter)
    results = {folder.name: taken.results[folder.name] for folder in data.benchmarks}
    rows = [row for name in results for row in taken.rows[name]]
    samples.write_samples(samples_path, rows)
    outcome = {
        "cell": cell,
        "tasks": results,
        "domains": samples.domain_means(results),
        "average": sum(result["primary"] for result in results.values()) / len(results),
        "perplexity": {folder.name: taken.perplexity[folder.name] for folder in data.corpora},
        "parameters": about.parameters,
        "selection": samples.shares(rows, about.prompts),
        "manifest": made.manifest(used | about.config, inputs),
    }
    if untold := _left_out(files.adapters):
        outcome["left_out"] = untold
    outcome["manifest"] |= {"keys": keys, "taken_over": origins}
    outcome["manifest"]["samples_sha256"] = artifacts.sha256_file(samples_path)
    artifacts.write_json(output, outcome, "evaluation")
    clear_work(output)


def _evaluate_rest(
    files: ModelFiles,
    data: EvaluationData,
    settings: CellSettings,
    cell: dict,
    device: torch.device,
    store: AnswerStore,
    found: Taken,
) -> About:
    """Load the cell's model and add to `found` the tasks and texts that it lacks."""
    begun = time.time()
    recovered, scorer = scorer_of(files, settings, cell, device, store)
    loaded = time.time()
    hashed = {folder.name: benchmarks.verify(folder)["sha256"] for folder in data.benchmarks}
    told = [_told(artifacts.read_json(adapter / TRAINING), hashed) for adapter in files.adapters]
    new = [folder for folder in data.benchmarks if folder.name not in found.results]
    tasks = {folder.name: task_of(folder, settings, scorer.tokenizer, told) for folder in new}
    log(
        f"setup: model {loaded - begun:.1f} s, tasks {time.time() - loaded:.1f} s; "
        f"{len(store)} answers from an earlier run, {store.damaged} damaged"
    )
    names = [prefix.name for prefix in recovered.bank.prefixes] if recovered.bank else []
    asking = scorer if settings.system is None else replace(scorer, bank=None)
    for number, (name, task) in enumerate(tasks.items(), 1):
        items = _evaluated(asking, task, names, f"[{number}/{len(tasks)}] {name}")
        return_memory()  # the next task's batches fit no pieces of this one's
        found.rows[name] = [item.row for item in items]
        found.results[name] = samples.summary(items) | {
            "domain": settings.tasks[name]["domain"],
            "version": task.version,
            "data_sha256": hashed[name],
        }
    for corpus in data.corpora:
        if corpus.name not in found.perplexity:
            found.perplexity[corpus.name] = _perplexity(scorer, corpus, settings.evaluation)
    config: dict[str, Any] = {"bos": adds_bos(scorer.tokenizer)}
    if settings.chat:
        config["chat"] = described(scorer.tokenizer)
    if recovered.selector:  # the score that `auto` stood for is named
        config["method"] = settings.method | {"score": recovered.selector.score}
    return About(recovered.parameters, names, config)


def hashes(files: ModelFiles, data: EvaluationData, method: dict) -> dict[str, str]:
    """Hashes of all that the cell's numbers come from, by name."""
    found = files.inputs()
    found |= {f"benchmark {f.name}": benchmarks.verify(f)["sha256"] for f in data.benchmarks}
    found |= {f"corpus {f.name}": _text_hash(f, "heldout") for f in data.corpora}
    if files.training_text and method.get("score") == "learned":
        found[f"learned choice, {files.training_text.name}"] = _text_hash(files.training_text, "heldout")
    elif files.training_text and method.get("calibrated"):
        found[f"calibration of scores, {files.training_text.name}"] = _text_hash(files.training_text, "train")
    return found


def _text_hash(corpus: Path, split: str) -> str:
    return recorded_files(corpus)[text_of(split)]


def scorer_of(
    files: ModelFiles,
    settings: CellSettings,
    cell: dict,
    device: torch.device,
    store: AnswerStore | None = None,
) -> tuple[Recovered, Scorer]:
    """The cell's model with its method, ready to answer; in bf16 its head is float32."""
    precision = settings.evaluation["precision"]
    recovered, tokenizer = load_cell(files, settings.method, cell["seed"], precision, device)
    if precision == "bf16":
        float32_head(recovered.model)
    if settings.chat:
        prepare(tokenizer, settings.system)
    scorer = Scorer(recovered.model, tokenizer, recovered.bank, recovered.selector, store=store)
    key = f"grids.{cell['grid']}.evaluation.perplexity.length"
    require_room(scorer, settings.evaluation["perplexity"]["length"], key)
    return recovered, scorer


def task_of(
    folder: Path, settings: CellSettings, tokenizer: PreTrainedTokenizerBase, told: Iterable = ()
) -> EvaluationTask:
    """The task of a benchmark's folder, which is named like it. told: `corpus` of each adapter's method."""
    name, asked = folder.name, settings.evaluation
    items, cap = asked["items"], asked["generation_tokens"]
    task = settings.tasks[name]
    loaded = load_task(name, folder / ITEMS, items, cap, tokenizer, task["task"], task["num_fewshot"])
    for text in told:
        _require_parts(loaded, text, items)
    if settings.chat:
        loaded = replace(loaded, chat=Chat(settings.system))
    return with_passage(loaded, task["context"]) if "context" in task else loaded


def _told(record: dict, hashed: dict[str, str]) -> object:
    """`corpus` of the method of an adapter's record; a family with the tasks whose file is that of one of its own.

    hashed: task -> SHA-256 of its file, of the cell's tasks.
    """
    corpus = record["method"].get("corpus")
    if not isinstance(corpus, dict) or "tasks" not in corpus:
        return corpus
    files = {record["manifest"]["inputs"][f"items of {task}"] for task in corpus["tasks"]}
    return {"tasks": [*corpus["tasks"], *(name for name, sha256 in hashed.items() if sha256 in files)]}


def _left_out(adapters: Iterable[Path]) -> list[str]:
    """doc_hash of the items that adapters of a part were not told, since the other part asks their question too."""
    found: set[str] = set()
    for adapter in adapters:
        record = artifacts.read_json(adapter / TRAINING)
        corpus = record["method"].get("corpus")
        if isinstance(corpus, dict) and "part" in corpus:
            found.update(record.get("items", {}).get("left_out", ()))
    return sorted(found)


def _require_parts(task: EvaluationTask, trained_on: object, asked: int | None) -> None:
    """ArtifactError if the adapter was trained on a part of a task whose items are not assigned to parts by their hash,
    or if the task's own function, which training does not run, leaves other items than the sample. asked: their number.
    """
    if not isinstance(trained_on, dict):
        return
    if trained_on.get("task") == task.name and any(item.drawn for item in task.items):
        raise artifacts.ArtifactError(
            f"task {task.name}: its items are drawn at random (their choices are shuffled), so their hashes don't say "
            "which part an adapter was trained on; name another task under `corpus` of the method"
        )
    if task.name in (trained_on.get("task"), *trained_on.get("tasks", ())):
        sampled = scored(task.data.parent, asked)
        if any(artifacts.digest(item.line.document) not in sampled for item in task.items):
            raise artifacts.ArtifactError(
                f"task {task.name}: its own function leaves documents out, so the items that an adapter was told, or "
                "kept from, are not those that are scored; name other tasks under `corpus` of the method"
            )


def _evaluated(
    scorer: Scorer, task: EvaluationTask, names: list[str], label: str
) -> list[samples.EvaluatedItem]:
    """One task's items, with lines in the log that begin with `label`."""
    start = time.time()
    scorer.progress = in_task(label)
    items = evaluate_task(scorer, task, names)
    acc = samples.summary(items)["acc"]
    log(f"{label}: {len(items)} items, acc {acc:.3f}, {time.time() - start:.1f} s")
    return items


def _perplexity(scorer: Scorer, corpus: Path, evaluation: dict) -> dict:
    """`perplexities` of a corpus' first held-out windows, with a line in the log."""
    start, asked = time.time(), evaluation["perplexity"]
    scorer.progress = in_task(f"perplexity {corpus.name}")
    documents = read_documents(corpus, "heldout")
    found = perplexities(documents, scorer, asked["length"], asked["windows"], corpus.name)
    figures = ", ".join(f"{figure['token']:.3f} ({protocol})" for protocol, figure in found.items())
    log(f"perplexity {corpus.name}: {figures}, {time.time() - start:.1f} s")
    return found


def evaluate_task(scorer: Scorer, task: EvaluationTask, names: list[str]) -> list[samples.EvaluatedItem]:
    """One task through lm_eval.evaluate; `names` are the bank's prompts, reported if there are several.

    If a task reads its answers in several ways (gsm8k's filters), the first one counts.
    """
    chosen_items = None if task.samples is None else {task.name: task.samples}
    asked: dict[str, Any] = {}
    if task.chat is not None:
        asked = {"apply_chat_template": True, "fewshot_as_multiturn": True}
        asked["system_instruction"] = task.chat.system
    try:
        outcome = evaluate(
            scorer, {"tasks": {task.name: task.task}}, bootstrap_iters=0, samples=chosen_items, **asked
        )
    except RequestError as error:
        raise artifacts.ArtifactError(f"{task.at(error.document)}: {error.reason}") from error
    logged = outcome["samples"][task.name]
    logged = [sample for sample in logged if sample["filter"] == logged[0]["filter"]]
    # the harness numbers evaluated documents 0, 1, 2, ... in its requests, whatever `samples` says
    keys = [(task.name, i) for i in range(len(logged))]
    gold_logliks = gold_answers(scorer, task, logged) if task.task.OUTPUT_TYPE == "generate_until" else []
    chosen = [names[scorer.selections[key]] if len(names) > 1 else None for key in keys]
    return samples.items_of(task, logged, gold_logliks, chosen, [key in scorer.cut_off for key in keys])


def gold_answers(scorer: Scorer, task: EvaluationTask, logged: list[dict]) -> list[float]:
    """Log-likelihood of each gold answer after a generation task's prompt (nats).

    Behind the soft prompt that its document was generated behind: chosen anew it might be another, since the scorer
    moves spaces that end a context into the answer, and cuts long contexts elsewhere.
    """
    requests = []
    for i, sample in enumerate(logged):
        document, prompt = sample["doc"], sample["arguments"][0][0]
        answer = f"{task.delimiter(document)}{task.gold(document)}"
        requests.append(Instance("loglikelihood", document, (prompt, answer), 0, (task.name, i, 1)))
    return [loglik for loglik, _ in scorer.loglikelihood(requests, chosen=dict(scorer.selections))]


def in_task(name: str) -> Callable[[int, int], None]:
    """A progress callback that logs once in 30 seconds at most."""
    last = time.time()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.time() - last >= 30:
            last = time.time()
            log(f"{name}: {done} of {total} documents")

    return report

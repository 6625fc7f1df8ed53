"""How often each score of IDP picks which prompt, and what those prompts answer, on the questions of a finished cell.

    python -m benchmarks.selection results/bench/evaluations/smollm2-135m/gptq-w3-g64/wikipedia/idp-50-100/seed-0.json

Takes the cell of an IDP whose single prompts are evaluated too. Every score of recover/idp.py chooses on the same
questions through the evaluator's own path, as it is and `calibrated` (its median over training text subtracted); only
the first layer is computed. The accuracy of a choice is read from the single prompts' samples: IDP with a prompt is
that prompt alone, which the tests show. Printed as Markdown: per score the share of each prompt and the macro average
over tasks, then the share of the last prompt per task.
"""

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch

from workflow_scripts.commands.explain import parse
from workflow_scripts.evaluate.cell import evaluate_task
from workflow_scripts.evaluate.document_scorer import Answer
from workflow_scripts.evaluate.loading import CALIBRATION_CONTEXTS, load_cell
from workflow_scripts.evaluate.scorer import Scorer
from workflow_scripts.evaluate.tasks import load_task
from workflow_scripts.judge.results import read_samples
from workflow_scripts.kernels.device import default_device
from workflow_scripts.plan.config import files as config_files
from workflow_scripts.plan.layout import BENCHMARK, CORPUS, EVALUATION, MODEL
from workflow_scripts.plan.recipes import plan_of
from workflow_scripts.recover.idp import SCORES, Selector
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.sources.corpora import read_documents, token_windows
from workflow_scripts.sources.models import adds_bos


class Chooser(Scorer):
    """Chooses each document's prompt as `Scorer` does and answers nothing."""

    def score(self, documents):
        chosen = self.select([document.context for document in documents])
        return [
            Answer([(0.0, False)] * len(document.sequences), prompt)
            for document, prompt in zip(documents, chosen, strict=True)
        ]

    def generate_until(self, requests, disable_tqdm=False):
        encoded = self.encode(request.args[0] for request in requests)
        caps = [self._settings(request.args[1])[1] for request in requests]
        contexts = [self.prompt_tokens(encoded[r.args[0]], cap) for r, cap in zip(requests, caps)]
        for request, prompt in zip(requests, self.select(contexts), strict=True):
            self.selections[request.task_name, request.doc_id] = prompt
        return [""] * len(requests)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cell", help="an IDP cell's evaluation JSON, below results/")
    parser.add_argument("--configfile", nargs="+", default=[], help="configurations over config.yaml")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    names = EVALUATION.parse(arguments.cell) or sys.exit(
        f"{arguments.cell}: no cell's path ({EVALUATION.shape})"
    )
    plan = plan_of(config_files(*arguments.configfile), names["grid"])
    cell = parse(arguments.cell, plan)
    method, members = plan.method(cell), plan.members(cell)
    if method["kind"] != "idp":
        sys.exit(f"{arguments.cell}: {cell.method} is no IDP")
    settings = plan.evaluate(cell)
    corpus = Path(CORPUS.path(corpus=cell.corpus)).parent
    files = ModelFiles(
        Path(MODEL.path(model=cell.model)).parent,
        Path(plan.compression(cell)).parent,
        [Path(member.training).parent for member in members],
        corpus,
    )
    precision = settings["evaluation"]["precision"]
    recovered, tokenizer = load_cell(files, method, cell.seed, precision, default_device())
    names = [prefix.name for prefix in recovered.bank.prefixes]
    suite = [
        load_task(
            name, Path(BENCHMARK.path(benchmarks=plan.grid(cell.grid).benchmarks, task=name)).parent / "data.jsonl",
            settings["evaluation"]["items"], settings["evaluation"]["generation_tokens"], tokenizer,
            task["task"], task["num_fewshot"],
        )
        for name, task in settings["tasks"].items()
    ]  # fmt: skip
    right = pd.concat(
        [
            read_samples(Path(member.json), ["correct"])
            .reset_index()
            .set_index(["task", "doc_id"])["correct"]
            .rename(name)
            for member, name in zip(members, names, strict=True)
        ],
        axis=1,
    )
    count, length = CALIBRATION_CONTEXTS
    documents = read_documents(corpus, "train")
    windows = token_windows(documents, tokenizer, length, count, cell.seed, adds_bos(tokenizer)).tolist()

    shares, accuracy, last = {}, {}, {}
    scorer = Chooser(recovered.model, tokenizer, recovered.bank, recovered.selector)
    for score in SCORES:
        if recovered.selector.learned and score.startswith("joint"):
            continue  # not defined there
        for calibrated in (False, True):
            scorer.selector = Selector(recovered.model, recovered.bank, score)
            if calibrated:
                scorer.selector.calibrate(windows)
            rows = pd.DataFrame([item.row for task in suite for item in evaluate_task(scorer, task, names)])
            label = f"{score}{', calibrated' if calibrated else ''}"
            chosen = rows.set_index(["task", "doc_id"])["selected_prompt"]
            answers = right.stack().rename("correct").loc[[(*key, name) for key, name in chosen.items()]]
            shares[label] = chosen.value_counts(normalize=True).reindex(names, fill_value=0.0)
            last[label] = (chosen == names[-1]).groupby(level="task", sort=False).mean()
            accuracy[label] = answers.astype(float).groupby(level="task").mean().mean()
    for name in names:
        accuracy[f"{name} alone"] = right[name].astype(float).groupby(level="task").mean().mean()
    oracle = right.astype(float).max(axis=1).groupby(level="task").mean().mean()

    print(f"{cell.json}: {len(right)} questions\n")
    table = pd.DataFrame(shares).T.map("{:.0%}".format)
    table = table.reindex(accuracy).fillna("")
    table["average accuracy"] = pd.Series(accuracy).map("{:.2%}".format)
    table.loc["oracle (looks at the answer)", "average accuracy"] = f"{oracle:.2%}"
    print(table.fillna("").to_markdown())
    print(f"\nShare of {names[-1]} per task:\n")
    print(pd.DataFrame(last).T.map("{:.0%}".format).to_markdown())


if __name__ == "__main__":
    main()

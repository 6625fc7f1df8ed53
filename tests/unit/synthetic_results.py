"""Synthetic evaluations for tests of the analysis: made-up answers with a known truth, never results."""

import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from workflow_scripts.files.artifacts import check, write_json
from workflow_scripts.judge.judgement import Question, Resampling, judge_grid
from workflow_scripts.judge.paper import read_tables
from workflow_scripts.judge.results import Results, read_results
from workflow_scripts.report.data import GridData

TASKS = {
    "arc_easy": "world",
    "arc_challenge": "world",
    "sciq": "world",
    "webqs": "world",
    "triviaqa": "world",
    "piqa": "common",
    "hellaswag": "language",
    "lambada_openai": "language",
    "winogrande": "language",
}
METHODS = {
    "none": {"kind": "none"},
    "lora-r2": {"kind": "lora", "rank": 2, "alpha": 4, "dropout": 0.0},
    "lora-r4": {"kind": "lora", "rank": 4, "alpha": 8, "dropout": 0.0},
    "prompt-26": {"kind": "prompt", "tokens": 26, "trained": True},
    "prompt-50": {"kind": "prompt", "tokens": 50, "trained": True},
    "prompt-100": {"kind": "prompt", "tokens": 100, "trained": True},
    "ptune-50": {"kind": "prefix", "tokens": 50},
    "idp-50-100": {"kind": "idp", "members": [{"adapter": "prompt-50"}, {"adapter": "prompt-100"}]},
    "concat-50-100": {"kind": "concat", "members": [{"adapter": "prompt-50"}, {"adapter": "prompt-100"}]},
}
COMPRESSORS = {
    "dense": {"algorithm": "dense"},
    "gptq-w3": {"algorithm": "gptq", "bits": 3},
    "gptq-w4": {"algorithm": "gptq", "bits": 4},
    "gptq-w8": {"algorithm": "gptq", "bits": 8},
    "sparsegpt-50": {"algorithm": "sparsegpt", "sparsity": 0.5},
    "sparsegpt-70": {"algorithm": "sparsegpt", "sparsity": 0.7},
    "rtn-w3": {"algorithm": "rtn", "bits": 3},
}
PARAMETERS = {
    "none": 0,
    "lora-r2": 610_000,
    "lora-r4": 1_220_000,
    "prompt-26": 14_976,
    "prompt-50": 28_800,
    "prompt-100": 57_600,
    "ptune-50": 576_000,
    "idp-50-100": 86_400,
    "concat-50-100": 86_400,
}
MANIFEST = {
    "recipe": "synthetic",
    "code": "0" * 64,
    "config": {"note": "synthetic, made by a test"},
    "inputs": {},
    "seed": 0,
    "device": "cpu",
    "threads": 1,
    "host": "nowhere",
    "python": "3.11",
    "libraries": {},
    "started": "2000-01-01T00:00:00Z",
    "seconds": 60.0,
    "peak_memory_mb": 1000,
}
HOSTILE = "</script><img src=x onerror=window.hacked=1>"  # an answer that a page must show as text


def plan(folder: Path, cells: list[tuple], grid: str = "synthetic") -> list[dict]:
    """Rows of a plan from (model, compressor, corpus, method, seed)."""
    names = ("model", "compressor", "corpus", "method", "seed")
    rows = [{"grid": grid, **dict(zip(names, cell, strict=True))} for cell in cells]
    for row in rows:
        row["path"] = str(
            Path(
                folder,
                "results",
                grid,
                "evaluations",
                *map(str, list(row.values())[1:5]),
                f"seed-{row['seed']}.json",
            )
        )
    return rows


def answers(cell: dict, items: int, accuracy: float, noise: float = 0.0) -> pd.DataFrame:
    """Samples of one cell: item i of a task is right where its fixed difficulty lies below the accuracy.

    noise: standard deviation of what the cell adds to each difficulty; 0 gives the same order in every cell.
    """
    random = np.random.default_rng(zlib.crc32("/".join(map(str, cell.values())).encode()))
    frames = []
    for task, domain in TASKS.items():
        difficulty = np.random.default_rng(zlib.crc32(task.encode())).random(items)
        margin = accuracy - difficulty + noise * random.standard_normal(items)
        prompts = None
        if METHODS[cell["method"]]["kind"] == "idp":
            members = [m["adapter"] for m in METHODS[cell["method"]]["members"]]
            others = [0.1 / (len(members) - 1)] * (len(members) - 1)
            prompts = random.choice(members, items, p=[0.9, *others])
        frames.append(
            pd.DataFrame(
                {
                    "task": task,
                    "doc_id": range(items),
                    "doc_hash": [f"{task}-{i:05d}" for i in range(items)],
                    "correct": margin > 0,
                    "acc_norm": None if task in ("triviaqa", "webqs") else margin > 0.02,
                    "gold_loglik": 2 * margin - 4,
                    "margin": None if task == "triviaqa" else margin,
                    "prediction": HOSTILE,
                    "selected_prompt": prompts,
                    "question": [f"Synthetic {domain} question {i} of <{task}>?" for i in range(items)],
                    "gold": [f"answer {i}" for i in range(items)],
                    "choice_logliks": None if task == "triviaqa" else [[-1.0, -2.0, -3.0, -4.0]] * items,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def write_cell(
    row: dict, items: int = 40, accuracy: float = 0.5, noise: float = 0.05, sha: str = "a" * 64
) -> None:
    """Write one cell's evaluation JSON and samples in the real formats."""
    cell = {key: row[key] for key in ("grid", "model", "compressor", "corpus", "method", "seed")}
    samples = answers(cell, items, accuracy, noise)
    Path(row["path"]).parent.mkdir(parents=True, exist_ok=True)
    samples.to_parquet(Path(row["path"]).with_suffix(".samples.parquet"), index=False)
    tasks = {}
    for task, domain in TASKS.items():
        mine = samples[samples["task"] == task]
        acc = float(mine["correct"].mean())
        tasks[task] = {
            "n": items,
            "acc": acc,
            "acc_norm": acc if mine["acc_norm"].notna().any() else None,
            "stderr": float(np.sqrt(acc * (1 - acc) / max(items - 1, 1))),
            "primary": acc,
            "gold_loglik": float(mine["gold_loglik"].mean()),
            "bits_per_byte": float(-mine["gold_loglik"].mean() / (8 * np.log(2))),
            "domain": domain,
            "version": "1",
            "data_sha256": sha,
        }
    domains = {
        d: float(np.mean([t["acc"] for t in tasks.values() if t["domain"] == d]))
        for d in dict.fromkeys(TASKS.values())
    }
    selection = None
    if METHODS[row["method"]]["kind"] == "idp":
        shares = (
            samples.groupby("task")["selected_prompt"].value_counts(normalize=True).unstack(fill_value=0.0)
        )
        selection = {**shares.mean().to_dict(), "by_task": shares.to_dict("index")}
    perplexity, size = 60 - 60 * accuracy, PARAMETERS[row["method"]]
    write_json(
        row["path"],
        {
            "cell": cell,
            "tasks": tasks,
            "domains": domains,
            "average": float(np.mean([t["acc"] for t in tasks.values()])),
            "perplexity": {
                "wikipedia": {
                    "word": 2 * perplexity,
                    "token": perplexity,
                    "bits_per_byte": 1.1,
                    "windows": 8,
                    "tokens": 4088,
                }
            },
            "parameters": {"trainable": size, "effective": size, "base": 134_515_008},
            "selection": selection,
            "manifest": {**MANIFEST, "seed": row["seed"]},
        },
        schema="evaluation",
    )


def write_grid(
    folder: Path, truth: dict[tuple, float], items: int = 40, noise: float = 0.05, skip=()
) -> list[str]:
    """Write the cells of {(model, compressor, corpus, method, seed): accuracy} but `skip`; returns all paths."""
    rows = plan(folder, list(truth))
    for row, (cell, accuracy) in zip(rows, truth.items(), strict=True):
        if cell not in skip:
            write_cell(row, items, accuracy, noise)
    return [row["path"] for row in rows]


def study(
    model: str,
    gains: dict[str, float],
    dense: float = 0.7,
    losses: dict[str, float] | None = None,
    corpus: str = "wikipedia",
    control: bool = True,
) -> dict[tuple, float]:
    """Truth of a study: one model, dense and compressed, every method of `gains` (on the compressed model only)."""
    truth = {(model, "dense", "none", "none", 0): dense}
    if control:
        truth |= {(model, "dense", corpus, method, 0): dense for method in gains}
    for compressor, loss in (losses or {"gptq-w3": 0.2}).items():
        at = "none" if compressor == "rtn-w3" else corpus
        truth[model, compressor, at, "none", 0] = dense - loss
        truth |= {
            (model, compressor, corpus, method, 0): dense - loss + gain for method, gain in gains.items()
        }
    return truth


PAIR = {"prompt": "idp-50-100", "lora": "lora-r4"}
CATALOGUE = {
    "methods": METHODS,
    "compressors": COMPRESSORS,
    "tasks": {t: {"domain": d} for t, d in TASKS.items()},
}
# Places of a study of one compressed copy that every seed has a cell of: all but the dense model without recovery.
COPIES = [("m", "gptq-w3", "wikipedia", "none")]
COPIES += [("m", name, "wikipedia", method) for name in ("dense", "gptq-w3") for method in PAIR.values()]


def judged(folder, gains, items=120, noise=0.02, resamples=1500, **options):
    """The verdict of a study of model m."""
    paths = write_grid(folder, study("m", gains, **options), items, noise)
    verdict = judge_grid(read_results(paths), Question(PAIR), CATALOGUE, Resampling(resamples))
    check(verdict, "verdict", "verdict.json")
    return verdict


def data_of(results: Results, resamples: int, **measured) -> GridData:
    """Judged results, as tables and figures are drawn from them."""
    verdict = judge_grid(results, Question(PAIR), CATALOGUE, Resampling(resamples))
    return GridData(verdict, **CATALOGUE, printed=read_tables(), measured=measured)

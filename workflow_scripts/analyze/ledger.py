"""The item ledger: what became of every question under compression and under each recovery method.

One row per (model, compressor, corpus, seed, task, item). Columns `correct/<method>`, `margin/<method>`,
`gold_loglik/<method>` and, for a method that chooses among prompts, `selected_prompt/<method>`; null where the
group lacks the method. `outcome` reads the pair that the config names.
"""

from pathlib import Path

import pandas as pd

from workflow_scripts.analyze.answers import in_training_text, read_documents
from workflow_scripts.analyze.results import Cell, Group, Results, unique
from workflow_scripts.analyze.statistics import proportion_interval

OUTCOMES = {
    "kept": "right before and after compression, and with every method of the pair",
    "newly_broken": "right before and after compression, wrong with a method of the pair",
    "lost": "right before compression, wrong after it and with every method of the pair",
    "recovered_by_prompt": "lost by compression, right again with the prompt only",
    "recovered_by_lora": "lost by compression, right again with LoRA only",
    "recovered_by_both": "lost by compression, right again with the prompt and with LoRA",
    "never_known": "wrong before and after compression, and with every method of the pair",
    "gained": "wrong before compression, right after it or with a method of the pair",
}
INDEX = ["model", "compressor", "corpus", "seed", "task", "doc_hash", "occurrence"]
_MEASURES = ("correct", "margin", "gold_loglik", "selected_prompt")


def build(results: Results, pair: dict[str, str]) -> pd.DataFrame:
    """The ledger of every group whose dense and compressed cells exist; an empty frame if none has both."""
    parts = []
    for group in results.groups():
        dense = results.first(group.model, "dense", group.corpus, "none")
        compressed = results.first(*group, "none")
        if dense and compressed:
            parts += [_part(results, group, seed, dense, compressed, pair) for seed in _seeds(results, group)]
    if not parts:
        return pd.DataFrame(columns=[*INDEX, "domain", "question", "gold", "outcome"])
    ledger = pd.concat(parts, ignore_index=True)
    for name in ledger.columns:
        if name.startswith("correct/"):
            ledger[name] = ledger[name].astype("boolean")
    return ledger


def add_answers(ledger: pd.DataFrame, corpora: dict[str, Path], benchmarks: dict[str, Path]) -> pd.DataFrame:
    """Add `answer_in_training_text`: whether the text of the group's corpus holds the item's answer; null if unknown.

    corpora: name -> train.jsonl; benchmarks: task -> data.jsonl. A corpus that is not given stays null.
    """
    column = pd.Series(pd.NA, index=ledger.index, dtype="boolean")
    for name, path in corpora.items():
        mine = ledger[ledger["corpus"] == name]
        items = mine.drop_duplicates(["task", "doc_id"])
        known = items[["task", "doc_id"]].assign(
            known=in_training_text(items, read_documents(path), benchmarks)
        )
        if len(mine):
            column[mine.index] = mine[["task", "doc_id"]].merge(known, how="left")["known"].to_numpy()
    return ledger.assign(answer_in_training_text=column)


def _seeds(results: Results, group: Group) -> list[int]:
    seeds = {c.seed for m in results.methods(group) for c in results.seeds(*group, m)}
    return sorted(seeds) or [cell.seed for cell in results.seeds(*group, "none")]


def _part(
    results: Results, group: Group, seed: int, dense: Cell, compressed: Cell, pair: dict
) -> pd.DataFrame:
    cells = {"dense": dense, "none": compressed}
    cells |= {
        m: Cell(*group, m, seed)
        for m in results.methods(group)
        if Cell(*group, m, seed) in results.evaluations
    }
    results.check_paired(cells.values())
    base = results.items(compressed)
    part = pd.DataFrame(index=base.index)
    domains = {task: scores["domain"] for task, scores in results.evaluations[compressed]["tasks"].items()}
    part["domain"] = part.index.get_level_values("task").map(domains)
    for name in ("doc_id", "question", "gold"):
        part[name] = base[name]
    for method, cell in cells.items():
        items = results.items(cell).reindex(part.index)
        for measure in _MEASURES:
            if measure in items and items[measure].notna().any():
                part[f"{measure}/{method}"] = (
                    items[measure].astype("boolean") if measure == "correct" else items[measure]
                )
    part["outcome"] = outcomes(part, {role: m for role, m in pair.items() if m in cells})
    part = part.reset_index()
    for position, (name, value) in enumerate([*group._asdict().items(), ("seed", seed)]):
        part.insert(position, name, value)
    return part


def outcomes(items: pd.DataFrame, pair: dict[str, str]) -> pd.Series:
    """The outcome of each item; null where the dense or the compressed model has no answer to it."""
    dense, none = items["correct/dense"], items["correct/none"]
    right = {role: items[f"correct/{method}"].fillna(False).astype(bool) for role, method in pair.items()}
    nobody = pd.Series(False, index=items.index)
    prompt, lora = right.get("prompt", nobody), right.get("lora", nobody)
    anyone = prompt | lora
    broken = ~(pd.concat(right.values(), axis=1).all(axis=1)) if right else nobody
    known = dense.notna() & none.notna()
    dense, none = dense.fillna(False).astype(bool), none.fillna(False).astype(bool)
    outcome = pd.Series("never_known", index=items.index)
    outcome[~dense & (none | anyone)] = "gained"
    outcome[dense & ~none] = "lost"
    outcome[dense & ~none & prompt] = "recovered_by_prompt"
    outcome[dense & ~none & lora] = "recovered_by_lora"
    outcome[dense & ~none & prompt & lora] = "recovered_by_both"
    outcome[dense & none] = "kept"
    outcome[dense & none & broken] = "newly_broken"
    return outcome.where(known)


def rates(ledger: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """Per group, method and domain: the share of lost items made right, beside the flips that show no recovery.

    recovered: of the items that compression lost, the share right with the method. chance: of the items that
    neither the dense nor the compressed model knew, the share right with the method. It is a lower bound of what
    noise gives: lost items lie nearer to the decision boundary, so the fairer reference is the recovered share of a
    placebo (an untrained prompt, another seed). broken: of the items right before and after compression, the share
    wrong with the method. Each share comes with its count and Wilson interval; domain `all` takes every item.
    """
    rows = []
    for keys, group in ledger.groupby(["model", "compressor", "corpus", "seed"], sort=False):
        for method in (m for m in methods if f"correct/{m}" in group):
            known = group[group[f"correct/{method}"].notna()]
            for domain in ["all", *unique(group["domain"])]:
                items = known if domain == "all" else known[known["domain"] == domain]
                dense, none = items["correct/dense"].astype(bool), items["correct/none"].astype(bool)
                right = items[f"correct/{method}"].astype(bool)
                shares = {
                    "recovered": right[dense & ~none],
                    "chance": right[~dense & ~none],
                    "broken": ~right[dense & none],
                }
                if len(items):
                    row = dict(zip(["model", "compressor", "corpus", "seed"], keys, strict=True))
                    rows.append(row | {"method": method, "domain": domain} | _shares(shares))
    return pd.DataFrame(rows)


def _shares(shares: dict[str, pd.Series]) -> dict:
    row = {}
    for name, flags in shares.items():
        low, high = proportion_interval(int(flags.sum()), len(flags))
        share = float(flags.mean()) if len(flags) else float("nan")
        row |= {name: share, f"{name}_n": len(flags), f"{name}_low": low, f"{name}_high": high}
    return row

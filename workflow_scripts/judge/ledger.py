"""The item ledger: every question under compression and under each recovery method.

One row per (model, compressor, corpus, seed, task, item). Columns `correct/<method>`, `margin/<method>`,
`gold_loglik/<method>` and, for a method that chooses among prompts, `selected_prompt/<method>`; null if the
group lacks the method. `prediction/<method>` for dense, none (the compressed model) and the pair that the config names;
`outcome` reads that pair. `part` is the half of its task that an item belongs to (plan/parts.py); null if both
halves ask its question, so that neither was told to an adapter.
"""

import pandas as pd

from workflow_scripts.judge.results import Results
from workflow_scripts.judge.strata import KINDS
from workflow_scripts.plan.layout import Cell, Group
from workflow_scripts.plan.parts import part_of

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
IN_PASSAGE = "answer_in_passage"  # of judge/open_book.py, if the grid has a method of kind context
_MEASURES = ("correct", "margin", "gold_loglik", "selected_prompt")


def build(results: Results, pair: dict[str, str]) -> pd.DataFrame:
    """The ledger of every group whose dense and compressed cells exist; an empty frame if none has both."""
    parts = []
    for group in results.groups():
        dense = results.first(group.model, "dense", group.corpus, "none")
        for seed in _seeds(results, group):
            if dense and (compressed := results.copy(group, seed)):
                parts.append(_part(results, group, seed, dense, compressed, pair))
    if not parts:
        return pd.DataFrame(columns=[*INDEX, "domain", "question", "gold", "part", "outcome"])
    ledger = pd.concat(parts, ignore_index=True)
    for name in ledger.columns:
        if name.startswith("correct/"):
            ledger[name] = ledger[name].astype("boolean")
    return ledger


def add_answers(ledger: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Add `answer_in_training_text` from the table of `answers.find`, null if it does not know, and
    `answer_in_passage` and the strata of judge/strata.py if it has some."""
    if not len(ledger):
        return ledger.assign(answer_in_training_text=pd.array([], dtype="boolean"))
    keys = ["corpus", "task", "doc_id"]
    found = ledger[keys].merge(answers, on=keys, how="left", validate="many_to_one")
    more = {name: found[name].array for name in (IN_PASSAGE, *KINDS) if name in found}
    return ledger.assign(answer_in_training_text=found["known"].astype("boolean").to_numpy(), **more)


def _seeds(results: Results, group: Group) -> list[int]:
    seeds = {c.seed for m in results.methods(group) for c in results.seeds(*group, m)}
    return sorted(seeds) or [cell.seed for cell in results.seeds(*group, "none")]


def _part(
    results: Results, group: Group, seed: int, dense: Cell, compressed: Cell, pair: dict
) -> pd.DataFrame:
    cells = {"dense": dense, "none": compressed}
    cells |= {
        m: Cell(results.grid, *group, m, seed)
        for m in results.methods(group)
        if Cell(results.grid, *group, m, seed) in results.evaluations
    }
    results.check_paired(cells.values())
    texts = results.texts(compressed, "question", "gold")
    part = pd.DataFrame(index=texts.index)
    domains = {task: scores["domain"] for task, scores in results.evaluations[compressed]["tasks"].items()}
    part["domain"] = part.index.get_level_values("task").map(domains)
    for name in ("doc_id", "question", "gold"):
        part[name] = texts[name]
    for method, cell in cells.items():
        items = results.items(cell).reindex(part.index)
        for measure in _MEASURES:
            if measure in items and items[measure].notna().any():
                part[f"{measure}/{method}"] = (
                    items[measure].astype("boolean") if measure == "correct" else items[measure]
                )
    for method in ("dense", "none", *pair.values()):
        if method in cells:
            part[f"prediction/{method}"] = results.texts(cells[method], "prediction")["prediction"].reindex(
                part.index
            )
    hashes, left_out = part.index.get_level_values("doc_hash"), results.left_out(cells.values())
    part["part"] = [None if doc_hash in left_out else part_of(doc_hash) for doc_hash in hashes]
    part["outcome"] = outcomes(part, {role: m for role, m in pair.items() if m in cells})
    part = part.reset_index()
    for position, (name, value) in enumerate([*group._asdict().items(), ("seed", seed)]):
        part.insert(position, name, value)
    return part


def outcomes(items: pd.DataFrame, pair: dict[str, str]) -> pd.Series:
    """The outcome of each item; null if the dense, the compressed or a model of the pair did not answer it.

    An item that a method's cell does not hold is neither lost nor broken by it: nothing is known of it. pair: only
    the methods that have a cell; without one of them the outcome speaks of compression and the other.
    """
    unanswered = pd.Series(pd.NA, index=items.index, dtype="boolean")
    answers: dict[str, pd.Series] = {
        name: items.get(f"correct/{name}", unanswered) for name in ("dense", "none", *pair.values())
    }
    known = pd.concat(answers.values(), axis=1).notna().all(axis=1)
    right = {name: column.fillna(False).astype(bool) for name, column in answers.items()}
    nobody = pd.Series(False, index=items.index)
    prompt, lora = (right[pair[role]] if role in pair else nobody for role in ("prompt", "lora"))
    everyone = pd.Series(True, index=items.index)
    for method in pair.values():
        everyone &= right[method]
    dense, none = right["dense"], right["none"]
    outcome = pd.Series("never_known", index=items.index)
    outcome[~dense & (none | prompt | lora)] = "gained"
    outcome[dense & ~none] = "lost"
    outcome[dense & ~none & prompt] = "recovered_by_prompt"
    outcome[dense & ~none & lora] = "recovered_by_lora"
    outcome[dense & ~none & prompt & lora] = "recovered_by_both"
    outcome[dense & none] = "kept"
    outcome[dense & none & ~everyone] = "newly_broken"
    return outcome.where(known)

"""The item ledger on the page: shares of its outcomes as bars, and its items as data for the page's script."""

import pandas as pd

from workflow_scripts.judge.ledger import OUTCOMES
from workflow_scripts.judge.results import unique

EXPLORER_ROWS = 60_000  # more than this and unchanged items (kept, never known) are left to ledger.parquet
KNOWN = {  # outcomes of items that the dense model has right -> their look, in the bars' order
    "kept": "kept",
    "newly_broken": "broken",
    "recovered_by_both": "both",
    "recovered_by_prompt": "prompt",
    "recovered_by_lora": "lora",
    "lost": "lost",
}
SCOPES = ("domain", "subject")  # columns whose values have bars of their own; few ledgers have subjects
POPULARITY = "popularity"  # a number, which few ledgers have: verdict.json's strata of it have bars
GROUP = ["model", "compressor", "corpus", "seed"]
QUESTION, ANSWER = 500, 80  # characters shown


def bars(ledger: pd.DataFrame, strata: list[dict]) -> list[dict]:
    """The outcomes of items that the dense model has right: their shares in each compressed model, and in each
    domain, subject and stratum of popularity, all replicates together.

    strata: verdict.json's. Rows are {place, scope, items, parts: [{name, look, percent}]}.
    """
    known = ledger[ledger["outcome"].isin(KNOWN)] if len(ledger) else ledger
    if not len(known):
        return []
    rows = []
    for (model, compressor, corpus), group in known.groupby(["model", "compressor", "corpus"], sort=False):
        scopes = {"all": group}
        for column in (name for name in SCOPES if name in group):
            scopes |= {str(name): part for name, part in group.groupby(column, sort=False)}
        if POPULARITY in group:
            scopes |= _by_popularity(group, strata)
        for scope, part in scopes.items():
            shares = part["outcome"].value_counts(normalize=True)
            parts = [
                {"name": name, "look": look, "percent": 100 * float(shares[name])}
                for name, look in KNOWN.items()
                if name in shares
            ]
            place = f"{model} · {compressor} · {corpus}"
            rows.append({"place": place, "scope": scope, "items": len(part), "parts": parts})
    return rows


def _by_popularity(items: pd.DataFrame, strata: list[dict]) -> dict[str, pd.DataFrame]:
    """The items of each of a compressed model's strata by popularity, by their names."""
    found = {}
    for row in strata:
        if row["kind"] == POPULARITY and all((items[key] == row[key]).all() for key in GROUP[:3]):
            inside = items[POPULARITY].between(row["low"], row["high"]) & (items["task"] == row["task"])
            if inside.any():
                found[f"{row['task']}, {POPULARITY} {row['stratum']}"] = items[inside]
    return found


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """At most EXPLORER_ROWS rows: changed items before unchanged ones, of each group as many, in the order of their
    hashes, which is no order of contents."""
    if len(frame) <= EXPLORER_ROWS:
        return frame
    changed = frame[~frame["outcome"].isin(["kept", "never_known"])]
    if len(changed) <= EXPLORER_ROWS:
        return changed
    each = EXPLORER_ROWS // changed.groupby(GROUP).ngroups
    return changed.sort_values("doc_hash", kind="stable").groupby(GROUP, sort=False).head(each).sort_index()


def explorer(ledger: pd.DataFrame, methods: list[str], detailed: list[str]) -> dict | None:
    """The ledger as compact data for the page's script: texts once, one short row per item and group; None if empty.

    A row is [item, outcome, right or wrong per method ("10-": right, wrong, not run), whether the answer stands in the
    training text ("10-"), then for each detailed method its margin and the number of its answer among `answers`].
    """
    names = list(OUTCOMES)
    shown = [m for m in methods if f"correct/{m}" in ledger]
    detailed = [m for m in detailed if m in shown]
    whole = ledger[ledger["outcome"].notna()] if len(ledger) else ledger
    if not len(whole):
        return None
    frame = _shown(whole)
    items: dict[tuple, int] = {}
    answers: dict[str, int] = {}
    texts: list[list] = []
    groups = []
    tasks = unique(frame["task"])
    for keys, part in frame.groupby(GROUP, sort=False):
        marks = _marks(part, [f"correct/{m}" for m in shown])
        taught = _marks(part, ["answer_in_training_text"])
        columns = [part[c] for c in ("task", "doc_hash", "occurrence", "question", "gold", "outcome")]
        details = [_column(part, f"{kind}/{m}") for m in detailed for kind in ("margin", "prediction")]
        rows = []
        for task, doc, nth, question, gold, outcome, mark, known, *detail in zip(
            *columns, marks, taught, *details, strict=True
        ):
            if (key := (task, doc, nth)) not in items:
                items[key] = len(texts)
                texts.append([tasks.index(task), _cut(question), _cut(gold)])
            row = [items[key], names.index(outcome), mark, known]
            for margin, answer in zip(detail[::2], detail[1::2], strict=True):
                row.append(None if pd.isna(margin) else round(float(margin), 2))
                row.append(None if pd.isna(answer) else answers.setdefault(_brief(answer), len(answers)))
            rows.append(row)
        model, compressor, corpus, seed = keys
        groups.append({"name": f"{model} / {compressor} / {corpus} / seed {seed}", "rows": rows})
    return {
        "tasks": tasks,
        "outcomes": names,
        "methods": ["compressed" if m == "none" else m for m in shown],
        "detailed": [shown.index(m) for m in detailed],
        "texts": texts,
        "answers": list(answers),
        "groups": groups,
        "dropped": len(whole) - len(frame),
    }


def _marks(part: pd.DataFrame, columns: list[str]) -> pd.Series:
    """One string per row: 1 for true, 0 for false, - for unknown."""
    marks = [part[name].map({True: "1", False: "0"}).fillna("-") for name in columns]
    return pd.concat(marks, axis=1).apply("".join, axis=1)


def _column(part: pd.DataFrame, name: str) -> pd.Series:
    return part[name] if name in part else pd.Series(None, part.index, dtype=object)


def _brief(answer: str) -> str:
    answer = str(answer).strip()
    return answer if len(answer) <= ANSWER else answer[:ANSWER] + " …"


def _cut(text: str) -> str:
    text = str(text)
    return text if len(text) <= QUESTION else "… " + text[-QUESTION:]

"""The item ledger as data for the page's script."""

import pandas as pd

from workflow_scripts.judge.ledger import OUTCOMES
from workflow_scripts.judge.results import unique

EXPLORER_ROWS = 40_000  # more than this and unchanged items (kept, never known) are left to ledger.parquet
QUESTION, ANSWER = 500, 80  # characters shown


def explorer(ledger: pd.DataFrame, methods: list[str], detailed: list[str]) -> dict:
    """The ledger as compact data for the page's script: texts once, one short row per item and group.

    A row is [item, outcome, right or wrong per method ("10-": right, wrong, not run), whether the answer stands in the
    training text ("10-"), then for each detailed method its margin and the number of its answer among `answers`].
    """
    names = list(OUTCOMES)
    shown = [m for m in methods if f"correct/{m}" in ledger]
    detailed = [m for m in detailed if m in shown]
    frame, dropped = ledger[ledger["outcome"].notna()] if len(ledger) else ledger, 0
    if len(frame) > EXPLORER_ROWS:
        changed = frame[~frame["outcome"].isin(["kept", "never_known"])]
        dropped, frame = len(frame) - len(changed), changed
    items: dict[tuple, int] = {}
    answers: dict[str, int] = {}
    texts: list[list] = []
    groups = []
    tasks = unique(frame["task"])
    for keys, part in frame.groupby(["model", "compressor", "corpus", "seed"], sort=False):
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
        "dropped": dropped,
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

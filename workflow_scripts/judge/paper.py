"""The paper's printed tables (reports/paper/, percent, its mistakes included) and which of our cells they speak of.

Hoang, Cho, Merth, Rastegari and Wang, "Do Compressed LLMs Forget Knowledge?", ICML 2024 (PMLR 235). The tables don't
say which calibration set a row used, so a printed value stands beside the cell of every corpus.
"""

from pathlib import Path

import pandas as pd

from workflow_scripts.files.artifacts import ArtifactError

TASKS = {  # printed column -> task, in the paper's order
    "arcE": "arc_easy",
    "arcC": "arc_challenge",
    "sciq": "sciq",
    "webqs": "webqs",
    "triviaqa": "triviaqa",
    "piqa": "piqa",
    "hellaswag": "hellaswag",
    "lambada": "lambada_openai",
    "winogrande": "winogrande",
}
DOMAINS = {  # printed mean -> printed columns that it averages
    "World": ["arcE", "arcC", "sciq", "webqs", "triviaqa"],
    "Common": ["piqa"],
    "Language": ["hellaswag", "lambada", "winogrande"],
}
MODELS = {"Llama-7b": "llama-7b", "OPT-6.7b": "opt-6.7b"}
COMPRESSORS = {1: "gptq-w3", 2: "sparsegpt-50", 3: "gptq-w3"}
METHODS = {  # (type, param) of Tables 1 and 2 -> method; Llama and OPT print different sizes of the same rank
    ("-", "-"): "none",
    ("lora", "4.4M"): "lora-r2",
    ("lora", "6.7M"): "lora-r3",
    ("lora", "8.9M"): "lora-r4",
    ("lora", "4.7M"): "lora-r2",
    ("lora", "7.1M"): "lora-r3",
    ("lora", "9.4M"): "lora-r4",
    ("prompt", "0.1M"): "prompt-26",
    ("prompt", "0.2M"): "prompt-50",
    ("prompt", "0.4M"): "prompt-100",
    ("ptune", "3.1M"): "ptune-26",
    ("ptune", "6.5M"): "ptune-50",
    ("ptune", "13.1M"): "ptune-100",
    ("IDP", "0.6M"): "idp-50-100",
}
ABLATION = {"26": "prompt-26", "100": "prompt-100", "Concat": "concat-26-100", "IDP": "idp-26-100"}
COLUMNS = [*TASKS, *DOMAINS, "Average"]


PRINTED = Path(__file__).resolve().parents[2] / "reports" / "paper"


def read_tables(folder: Path = PRINTED) -> pd.DataFrame:
    """All rows of table1.csv to table3.csv as printed, with the columns `method`, `compressor` and `cell_model`."""
    frames = []
    for number in (1, 2, 3):
        path = Path(folder, f"table{number}.csv")
        try:
            frame = pd.read_csv(path, dtype={"param": str, "type": str}, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path}: can't be read: {error}") from error
        if absent := [c for c in ("table", "model", "type", "param", *COLUMNS) if c not in frame.columns]:
            raise ArtifactError(f"{path}: lacks the columns {', '.join(absent)}")
        frames.append(frame)
    rows = pd.concat(frames, ignore_index=True)
    rows["compressor"] = rows["table"].map(COMPRESSORS)
    rows["cell_model"] = rows["model"].map(MODELS)
    rows["method"] = [
        ABLATION[t] if n == 3 else METHODS[t, p] for n, t, p in rows[["table", "type", "param"]].to_numpy()
    ]
    return rows


def printed(rows: pd.DataFrame, table: int, model: str, compressor: str, method: str) -> dict[str, float]:
    """Column -> printed percent for one of our settings; empty if the table doesn't have it."""
    found = rows[
        (rows["table"] == table)
        & (rows["cell_model"] == model)
        & (rows["compressor"] == compressor)
        & (rows["method"] == method)
    ]
    return {} if found.empty else {column: float(found.iloc[0][column]) for column in COLUMNS}

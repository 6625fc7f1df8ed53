"""A cell of a tiny model, evaluated from files to files."""

from pathlib import Path

from tests.equivalence import scorer_folders
from workflow_scripts.evaluate.settings import CellSettings, EvaluationData
from workflow_scripts.files import artifacts
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import evaluate_cell
from workflow_scripts.plan import layout
from workflow_scripts.recover.model_files import ModelFiles

EVALUATION = {
    "items": 4,
    "generation_tokens": 6,
    "precision": "fp32",
    "perplexity": {"corpora": ["made-up"], "windows": 3, "length": 32},
}
MADE = Provenance("r", "c", seed=0, device="cpu")
VARIANT = {"task": None, "num_fewshot": None}
METHODS = {
    "none": ({"kind": "none"}, []),
    "prompt-5": (scorer_folders.PROMPT, ["prompt-5"]),
    "idp-5-7": (scorer_folders.IDP, ["prompt-5", "prompt-7"]),
    "concat-5-7": ({"kind": "concat", "members": scorer_folders.IDP["members"]}, ["prompt-5", "prompt-7"]),
    "text": ({"kind": "text", "text": "Answer well.\n\n"}, []),
}
DOMAINS = {"piqa": "common", "hellaswag": "language", "lambada_openai": "language", "winogrande": "language"}


def place(method: str) -> dict:
    return {
        "grid": "test",
        "model": "tiny",
        "compressor": "dense",
        "corpus": "made-up",
        "method": method,
        "seed": 0,
    }


def files_of(project: dict, members: list[str]) -> ModelFiles:
    return ModelFiles(project["model"], project["compressed"], [project[name] for name in members])


def run(
    project: dict,
    method: str,
    output: Path,
    chat: bool = False,
    made: Provenance = MADE,
    stands_for: dict[str, str] | None = None,
    **changes,
) -> dict:
    """Evaluate a cell into `output`; returns its JSON."""
    settings, members = METHODS[method]
    elsewhere = layout.EVALUATION.path(**(place(method) | {"grid": "*"}))
    data = EvaluationData(project["benchmarks"], [project["corpus"]], elsewhere, stands_for or {})
    tasks = {f.name: VARIANT | {"domain": DOMAINS.get(f.name, "world")} for f in data.benchmarks}
    asked = CellSettings(settings, tasks, EVALUATION | changes, chat)
    written = output, output.with_suffix(".samples.parquet")
    evaluate_cell.main(files_of(project, members), data, asked, place(method), made, *written)
    return artifacts.read_json(output, "evaluation")

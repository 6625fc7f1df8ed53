"""A tiny project on disk for tests of evaluation entries: model, corpus, benchmarks, dense weights, trained prompts."""

from pathlib import Path

from tests.equivalence import scorer_models
from workflow_scripts.compress.task import Sources
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import compress_model, train_adapter
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.sources import benchmarks, corpora, models

MADE_BY = {"recipe": "test", "code": "test"}
TRAINING = {
    "tokens": 256,
    "sequence_length": 32,
    "batch_size": 4,
    "micro_batch": 4,
    "learning_rate": 0.01,
    "warmup": 0.0,
    "schedule": "constant",
    "weight_decay": 0.0,
    "precision": "fp32",
    "heldout_windows": 2,
}
PROMPT = {"kind": "prompt", "tokens": 5, "init": "vocabulary", "trained": True}
IDP = {
    "kind": "idp",
    "score": "auto",
    "calibrated": False,
    "members": [
        {"adapter": "prompt-5", "seed": 0},
        {"adapter": "prompt-7", "seed": 0},
    ],
}


def project(root: Path) -> dict:
    """Folders by name: model, compressed, prompt-5, prompt-7, corpus, and `benchmarks` (nine folders)."""
    source, text = root / "source", root / "text"
    scorer_models.model("llama").save_pretrained(source)
    scorer_models.tokenizer(bos=True, template="bos").save_pretrained(source)
    folders = {"model": root / "resources/models/tiny", "corpus": root / "resources/corpora/made-up"}
    models.fetch(
        "tiny",
        {"source": "local", "path": str(source), "allow_remote_code": False},
        folders["model"],
        root,
        **MADE_BY,
    )
    text.mkdir()
    sentences = [
        f"{question}? They say it is {answer}."
        for question, answers in scorer_models.QUESTIONS
        for answer in answers
    ]
    (text / "train.txt").write_text(
        "\n\n".join(" ".join(sentences[i:] + sentences[:i]) for i in range(0, 24, 2))
    )
    (text / "heldout.txt").write_text("\n\n".join(" ".join(reversed(sentences[i:])) for i in range(0, 12, 3)))
    corpora.fetch("made-up", {"source": "local", "path": str(text)}, folders["corpus"], root, **MADE_BY)
    made = scorer_models.write_benchmarks(root / "items")
    folders["benchmarks"] = []
    for item in sorted(made.iterdir()):
        folder = root / "resources/benchmarks/made-up" / item.name
        benchmarks.fetch(
            item.name, {"source": "local", "path": str(item / "data.jsonl")}, folder, root, **MADE_BY
        )
        folders["benchmarks"].append(folder)
    folders["compressed"] = root / "results/test/compressed/tiny/dense/none/seed-0"
    proof = folders["compressed"] / "compression.json"
    compress_model.main(Sources(folders["model"]), proof, {"algorithm": "dense"}, Provenance(**MADE_BY))
    files, made = ModelFiles(folders["model"], folders["compressed"]), Provenance(**MADE_BY, seed=0)
    for tokens in (5, 7):
        folder = folders[f"prompt-{tokens}"] = (
            root / f"results/test/adapters/tiny/dense/made-up/prompt-{tokens}/seed-0"
        )
        method, output = PROMPT | {"tokens": tokens}, folder / "training.json"
        train_adapter.main(files, train_adapter.Texts(folders["corpus"]), output, method, TRAINING, 10, made)
    return folders

"""Whose answers an interrupted cell may take up: its own, of nothing else that an answer depends on."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.equivalence import scorer_folders
from workflow_scripts.evaluate import loading
from workflow_scripts.evaluate.settings import CellSettings, EvaluationData
from workflow_scripts.files import artifacts
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import evaluate_cell
from workflow_scripts.recover.model_files import ModelFiles

TASK = {"domain": "world", "task": None, "num_fewshot": None}
EVALUATION = {
    "items": 3,
    "generation_tokens": 6,
    "precision": "fp32",
    "perplexity": {"corpora": ["made-up"], "windows": 2, "length": 32},
}


def interrupted(project: dict, output: Path, monkeypatch, capsys, **changes) -> str:
    """What a cell of two prompts and one task says on its standard error before it is killed."""

    def killed(*_):
        raise KeyboardInterrupt

    made = Provenance("r", changes.pop("code", "c"), seed=0, device="cpu")
    asked = CellSettings(
        **{"method": scorer_folders.IDP, "tasks": {"sciq": TASK}, "evaluation": EVALUATION} | changes
    )
    cell = {
        "grid": "test",
        "model": "tiny",
        "compressor": "dense",
        "corpus": "made-up",
        "method": "idp",
        "seed": 0,
    }
    (sciq,) = [folder for folder in project["benchmarks"] if folder.name == "sciq"]
    capsys.readouterr()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("workflow_scripts.evaluate.cell.perplexities", killed)
        adapters = [project["prompt-5"], project["prompt-7"]]
        files = ModelFiles(project["model"], project["compressed"], adapters)
        data, written = (
            EvaluationData([sciq], [project["corpus"]], ""),
            (output, output.with_suffix(".samples.parquet")),
        )
        evaluate_cell.main(files, data, asked, cell, made, *written)
    return capsys.readouterr().err


def test_a_change_of_anything_that_an_answer_depends_on_sees_no_earlier_answers(
    project, tmp_path, monkeypatch, capsys
):
    output = tmp_path / "cell.json"
    assert "; 0 answers from an earlier run" in interrupted(project, output, monkeypatch, capsys)
    assert "; 3 answers from an earlier run" in interrupted(project, output, monkeypatch, capsys)
    changes = {
        "method": {"method": scorer_folders.IDP | {"score": "joint_mean"}},
        "precision": {"evaluation": EVALUATION | {"precision": "bf16"}},
        "code": {"code": "d"},
        "task": {"tasks": {"sciq": TASK | {"num_fewshot": 1}}},
    }
    for changed, settings in changes.items():
        said = interrupted(project, output, monkeypatch, capsys, **settings)
        assert "; 0 answers from an earlier run" in said, changed
    for library in loading.LIBRARIES:
        with monkeypatch.context() as patch:
            patch.setattr(loading.metadata, "version", upgraded(library))
            said = interrupted(project, output, monkeypatch, capsys)
        assert "; 0 answers from an earlier run" in said, library
    trained, record = project["prompt-5"] / "adapter_model.safetensors", project["prompt-5"] / "training.json"
    before = trained.read_bytes(), record.read_bytes()
    save_file({name: value + 1 for name, value in load_file(trained).items()}, trained)
    now = artifacts.read_json(record, "training") | {"adapter_sha256": artifacts.sha256_file(trained)}
    artifacts.write_json(record, now, "training")
    assert "; 0 answers from an earlier run" in interrupted(project, output, monkeypatch, capsys)
    trained.write_bytes(before[0])
    record.write_bytes(before[1])
    assert "; 3 answers from an earlier run" in interrupted(project, output, monkeypatch, capsys)


def upgraded(library: str):
    real = loading.metadata.version
    return lambda name: "9.9" if name == library else real(name)

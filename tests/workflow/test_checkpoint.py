"""Compressors that are stored whole, in the whole workflow: a checkpoint of others, fewer layers, factors."""

import csv
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.workflow.conftest import Checkout, jobs_of, product_copy
from workflow_scripts.files.artifacts import check
from workflow_scripts.plan.config import load
from workflow_scripts.plan.recipes import Plan

NAME = "halved"


@pytest.fixture(scope="module")
def judged(tmp_path_factory) -> Checkout:
    """A grid of the dense model and a checkpoint of it, run to its tables."""
    folder = tmp_path_factory.mktemp("checkpoint")
    checkout = Checkout(product_copy(folder / "clone"))
    config = tiny.config(folder / "sources")
    made = shutil.copytree(config["models"]["tiny"]["path"], folder / "made")
    tensors = load_file(made / "model.safetensors")
    halves = {name: tensor.to(torch.float16).contiguous() for name, tensor in tensors.items()}
    save_file(halves, made / "model.safetensors")
    entry = {"algorithm": "external", "source": "local", "path": str(made), "model": "tiny"}
    more = {"drop-1": {"algorithm": "drop-layers", "count": 1}, "svd-8": {"algorithm": "svd", "rank": 8}}
    config["compressors"] |= {NAME: entry, **more}
    grid = config["grids"]["tiny"]
    block = {"models": ["tiny"], "compressors": [NAME], "corpora": ["text"]}
    grid["blocks"] = {"dense": grid["blocks"]["dense"], "others": block | {"methods": ["none", "lora-r2"]}}
    shallow = {key: value for key, value in grid.items() if key != "similarity"}
    latency = {"compressors": ["drop-1"], "methods": ["none", "prompt-5", "lora-r2"]}
    shallow["latency"] = latency | {"batch": 1, "sequence": 16, "repeats": 3, "generate": 2}
    shallow["blocks"] = {"whole": block | {"compressors": ["drop-1", "svd-8"], "methods": ["none"]}}
    config["grids"]["shallow"] = shallow
    checkout.write_config(config)
    checkout.snakemake("results/tiny/tables/compressors.csv", *measured(checkout))
    return checkout


def measured(checkout):
    """Paths of the checkpoint's similarities."""
    return [cell.similarity for cell in plan(checkout).similarity_cells("tiny") if cell.compressor == NAME]


def plan(checkout):
    return Plan(load(checkout.config()))


def cells(checkout):
    return [cell for cell in plan(checkout).cells("tiny") if cell.compressor == NAME]


def test_a_checkpoint_is_evaluated_trained_on_compared_and_reported(judged):
    mine = cells(judged)
    assert {cell.method for cell in mine} == {"none", "lora-r2"}
    for cell in mine:
        check(json.loads((judged.folder / cell.json).read_text()), "evaluation", cell.json)
    [similar] = measured(judged)
    compared = json.loads((judged.folder / similar).read_text())
    assert min(compared["activations"]) > 0.999  # float16 is close to the dense model
    with open(judged.folder / "results/tiny/tables/compressors.csv") as handle:
        [row] = [row for row in csv.DictReader(handle) if row["compressor"] == NAME]
    assert row["engine"] == "external"
    assert row["format"] == "plain (float16); every tensor that was compared is the dense model's"
    assert float(row["bits"]) == float(row["all_bits"]) == 16 and float(row["as_dense"]) == 1
    again = judged.snakemake("--dry-run", "results/tiny/tables/compressors.csv", *measured(judged))
    assert "Nothing to be done" in again.stdout


def test_another_checkpoint_reruns_its_own_cells_and_nothing_else(judged, tmp_path):
    shutil.copytree(judged.folder, tmp_path / "copy", symlinks=True)
    checkout = Checkout(tmp_path / "copy")
    config = checkout.config()
    made = shutil.copytree(config["compressors"][NAME]["path"], tmp_path / "made")
    (made / "generation_config.json").write_text("{}")
    config["compressors"][NAME]["path"] = str(made)
    checkout.write_config(config)
    targets = [*(cell.json for cell in plan(checkout).cells("tiny")), *measured(checkout)]
    jobs = jobs_of(checkout.snakemake("--dry-run", *targets).stdout)
    assert f"Fetch the checkpoint {NAME}" in jobs
    # Compressed, trained, evaluated twice, compared.
    assert all(NAME in job for job in jobs) and len(jobs) == 6


@pytest.mark.slow
def test_fewer_layers_and_factors_run_and_are_timed(judged):
    targets = [
        *(cell.json for cell in plan(judged).cells("shallow")),
        *plan(judged).latency_places("shallow"),
    ]
    judged.snakemake(*targets)
    for cell in plan(judged).cells("shallow"):
        proof = json.loads((judged.folder / plan(judged).compression(cell)).read_text())
        check(proof, "compression", cell.json)
        assert len(proof["whole"]["layers"]) == (1 if cell.compressor == "drop-1" else 2)
        assert (judged.folder / cell.json).exists()
    [place] = plan(judged).latency_places("shallow")
    check(json.loads((judged.folder / place).read_text()), "latency", place)


def test_a_checkpoint_that_is_not_the_models_stops_with_one_line(judged, tmp_path):
    shutil.copytree(judged.folder, tmp_path / "copy", symlinks=True)
    checkout = Checkout(tmp_path / "copy")
    config = checkout.config()
    made = shutil.copytree(config["compressors"][NAME]["path"], tmp_path / "made")
    tensors = {name.replace("up_proj", "up"): t for name, t in load_file(made / "model.safetensors").items()}
    save_file(tensors, made / "model.safetensors")
    config["compressors"][NAME]["path"] = str(made)
    checkout.write_config(config)
    cell = next(cell for cell in cells(checkout) if cell.method == "none")
    done = checkout.snakemake(cell.json, check=False)
    assert done.returncode
    said = (
        f"compress_model: {plan(checkout).compression(cell)}: resources/checkpoints/{NAME}: its weights lack "
    )
    [line] = [line for line in done.stdout.splitlines() if said in line]
    assert "model.layers.0.mlp.up_proj.weight" in line and "holds model.layers.0.mlp.up.weight" in line

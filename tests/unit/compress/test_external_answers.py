"""Checkpoints that somebody else compressed, in a cell: asked as the dense model is."""

import shutil

import torch

from tests.tiny import change_json
from tests.tiny_copies import fetch_model
from tests.unit.compress.test_external import judged
from workflow_scripts.evaluate.loading import load_cell
from workflow_scripts.recover.model_files import ModelFiles


def test_a_checkpoint_answers_by_the_dense_models_settings_of_generation(sources, made, here):
    """A penalty of the dense model alone, or ends that the checkpoint lacks, would pass for a loss."""
    change_json(made / "generation_config.json", repetition_penalty=1.9, eos_token_id=[3])
    folder = judged(sources, made, here)
    dense = shutil.copytree(sources / "local-model", here / "dense")
    change_json(dense / "generation_config.json", repetition_penalty=1.2, eos_token_id=[1, 7])
    fetch_model(dense, here / "model")
    files = ModelFiles(here / "model", folder, [])
    model = load_cell(files, {"kind": "none"}, 0, "fp32", torch.device("cpu"))[0].model
    assert model.generation_config.repetition_penalty == 1.2
    assert model.generation_config.eos_token_id == [1, 7]

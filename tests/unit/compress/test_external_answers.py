"""Checkpoints that somebody else compressed, in a cell: asked as the dense model is."""

import torch
from transformers import AutoModelForCausalLM

from tests.unit.compress.test_external import change_json, judged, made  # noqa: F401
from workflow_scripts.evaluate.loading import load_cell
from workflow_scripts.recover.model_files import ModelFiles


def test_a_checkpoint_answers_by_the_dense_models_settings_of_generation(sources, made, here):  # noqa: F811
    """A GGUF file has none; a penalty of the dense model alone, or other ends, would pass for a loss."""
    change_json(made / "generation_config.json", repetition_penalty=1.2, eos_token_id=[1, 7])
    folder = judged(sources, made, here)
    files = ModelFiles(sources / "model", folder, [])
    model = load_cell(files, {"kind": "none"}, 0, "fp32", torch.device("cpu"))[0].model
    own = AutoModelForCausalLM.from_pretrained(sources / "model").generation_config
    assert model.generation_config.repetition_penalty is own.repetition_penalty is None
    assert model.generation_config.eos_token_id == own.eos_token_id != [1, 7]

"""A cell's model: dense weights, compressed linears, a method's adapters; and a digest that identifies all of it."""

from dataclasses import replace
from importlib import metadata

import torch
from transformers import PreTrainedTokenizerBase

from workflow_scripts.compress.stored_model import is_whole, load_compressed
from workflow_scripts.evaluate.settings import CellSettings
from workflow_scripts.files.artifacts import digest
from workflow_scripts.kernels.activations import attached
from workflow_scripts.kernels.dtypes import DTYPES
from workflow_scripts.recover.adapters import Recovered, attach
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.sources.corpora import read_documents, token_windows
from workflow_scripts.sources.decoding import load_generation_config
from workflow_scripts.sources.fetch import recorded_files
from workflow_scripts.sources.models import adds_bos, load_tokenizer

LIBRARIES = ("torch", "transformers", "lm_eval")  # whose versions an answer depends on
LEARNED_PIECES = (128, 96)  # pieces of held-out text, at most, and their tokens, for a learned choice
CALIBRATION_CONTEXTS = (32, 128)  # pieces of training text and their tokens, for an IDP's `calibrated` scores


def load_cell(
    files: ModelFiles, method: dict, seed: int, precision: str, device: torch.device
) -> tuple[Recovered, PreTrainedTokenizerBase]:
    """A cell's model with its method, and its tokenizer.

    Its answers are decoded by the settings of the dense model's folder, also those of somebody else's checkpoint. In
    float32 a LoRA is added to the weights that it adapts, which costs nothing then; bf16 would round the sum, and a
    LoRA beside linears with rounded inputs gets these inputs as they are.
    """
    tokenizer = load_tokenizer(files.model)
    model = load_compressed(files.model, files.compressed, dtype=DTYPES[precision], device=device)
    if is_whole(files.compressed):  # such a folder keeps none of its own
        model.generation_config = load_generation_config(files.model)
    contexts = _pieces(files, method, seed, tokenizer)
    recovered: Recovered = attach(model, tokenizer, method, files.adapters, contexts=contexts)
    if method["kind"] in ("lora", "eora") and precision == "fp32" and not attached(model):
        from peft import PeftModel

        from workflow_scripts.recover.lora import merge

        assert isinstance(recovered.model, PeftModel)  # of a LoRA
        recovered = replace(recovered, model=merge(recovered.model))
    return recovered, tokenizer


def _pieces(
    files: ModelFiles, method: dict, seed: int, tokenizer: PreTrainedTokenizerBase
) -> list[list[int]] | None:
    """Pieces of text by which an IDP is centred (of training text) or learns to choose (of held-out text); None if it
    needs none."""
    if files.training_text is None:
        return None
    bos = adds_bos(tokenizer)
    if method.get("score") == "learned":
        count, length = LEARNED_PIECES
        documents = read_documents(files.training_text, "heldout")
        return token_windows(documents, tokenizer, length, None, seed, bos)[:count].tolist()
    if method.get("calibrated"):
        count, length = CALIBRATION_CONTEXTS
        documents = read_documents(files.training_text, "train")
        return token_windows(documents, tokenizer, length, count, seed, bos).tolist()
    return None


def fingerprint(files: ModelFiles, inputs: dict[str, str], settings: CellSettings, code: str) -> str:
    """Digest of all that an answer depends on beside its request.

    Weights, adapters, method, precision, code, task definitions; the model's other files, since equal weights mean
    something else with another config.json or tokenizer; and the libraries that compute it, so that a run continued
    after an upgrade mixes no answers of both.
    """
    precision = settings.evaluation["precision"]
    chat = [settings.chat] if settings.chat else []
    return digest([*identity(files), inputs, settings.method, precision, code, settings.tasks, *chat])


def identity(files: ModelFiles) -> list[dict[str, str]]:
    """The hashes of a model's own files, and the versions of the libraries that compute with it."""
    versions = {library: metadata.version(library) for library in LIBRARIES}
    return [recorded_files(files.model), versions]

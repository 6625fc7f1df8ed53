"""A cell's model: dense weights, compressed linears, a method's adapters; and what identifies all of it."""

from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from workflow_scripts.compress.checkpoint import load_compressed
from workflow_scripts.files.artifacts import ArtifactError, digest, read_json, sha256_file
from workflow_scripts.kernels.dtypes import DTYPES
from workflow_scripts.recover.adapters import Recovered, attach
from workflow_scripts.sources.corpora import read_documents, token_windows
from workflow_scripts.sources.models import adds_bos, load_tokenizer

LIBRARIES = ("torch", "transformers", "lm_eval")  # whose versions an answer depends on
CALIBRATION_CONTEXTS = (32, 128)  # pieces of training text and their tokens, for an IDP's `calibrated` scores


@dataclass(frozen=True)
class CellFiles:
    """Folders that make a cell: the model's, its compressed weights', its adapters' in the order of the members."""

    model: Path
    compressed: Path
    adapters: list[Path]

    def inputs(self) -> dict[str, str]:
        """Hashes by name, for manifests and store keys; ArtifactError for adapters of other compressed weights."""
        compressed = read_json(self.compressed / "compression.json", "compression")["weights_sha256"]
        found = {"model": read_json(self.model / "manifest.json")["weights_sha256"], "compressed": compressed}
        for folder in self.adapters:
            record = read_json(folder / "training.json", "training")
            base, weights = record["base_sha256"], sha256_file(folder / "adapter_model.safetensors")
            if weights != record["adapter_sha256"]:
                raise ArtifactError(
                    f"{folder}/adapter_model.safetensors: not the file that training.json describes (SHA-256); "
                    "train it again"
                )
            if base != compressed:
                raise ArtifactError(
                    f"{folder}: was trained on weights {base[:12]}, the cell's are {compressed[:12]}; train it again"
                )
            found[f"adapter {folder.parent.name}/{folder.name}"] = weights
        return found


def load_cell(files: CellFiles, method: dict, seed: int, precision: str, device, corpus: Path | None):
    """(Recovered, tokenizer) of a cell. corpus: its training corpus' folder, read only for a `calibrated` IDP.

    In float32 a LoRA is added to the weights that it adapts, which costs nothing then; bf16 would round the sum.
    """
    tokenizer = load_tokenizer(files.model)
    model = load_compressed(files.model, files.compressed, dtype=DTYPES[precision], device=device)
    contexts = None
    if method.get("calibrated"):
        count, length = CALIBRATION_CONTEXTS
        windows = token_windows(
            read_documents(corpus, "train"), tokenizer, length, count, seed, adds_bos(tokenizer)
        )
        contexts = windows.tolist()
    recovered: Recovered = attach(model, tokenizer, method, files.adapters, contexts=contexts)
    if method["kind"] == "lora" and precision == "fp32":
        from workflow_scripts.recover.lora import merge

        recovered = replace(recovered, model=merge(recovered.model))
    return recovered, tokenizer


def fingerprint(files: CellFiles, inputs: dict, method: dict, precision: str, code: str, tasks: dict) -> str:
    """What an answer depends on beside its request: weights, adapters, method, precision, code, task definitions; the
    model's other files, since equal weights mean something else with another config.json or tokenizer; and the
    libraries that compute it, so that a run continued after an upgrade mixes no answers of both."""
    model = read_json(files.model / "manifest.json")["files"]
    versions = {library: metadata.version(library) for library in LIBRARIES}
    return digest([model, inputs, method, precision, code, tasks, versions])

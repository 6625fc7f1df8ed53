"""The folders that a model is made of, with the hashes that tell whether they belong together."""

from dataclasses import dataclass, field

from workflow_scripts.files.artifacts import ArtifactError, read_json, sha256_file
from workflow_scripts.files.job import Folder
from workflow_scripts.files.members import ADAPTER_WEIGHTS, COMPRESSION, MANIFEST, TRAINING


@dataclass(frozen=True)
class ModelFiles:
    """Folders of a compressed and perhaps recovered model.

    model: of the dense model. compressed: of its compressed weights. adapters: in the order of the method's members.
    training_text: of the corpus whose text centres an IDP's `calibrated` scores, or whose held-out text teaches it to
    choose; None for other methods.
    """

    model: Folder
    compressed: Folder
    adapters: list[Folder] = field(default_factory=list)
    training_text: Folder | None = None

    def inputs(self) -> dict[str, str]:
        """Hashes by name, for manifests and store keys; ArtifactError for adapters of other compressed weights."""
        compressed = read_json(self.compressed / COMPRESSION, "compression")["weights_sha256"]
        found = {"model": read_json(self.model / MANIFEST)["weights_sha256"], "compressed": compressed}
        for folder in self.adapters:
            record = read_json(folder / TRAINING, "training")
            base, weights = record["base_sha256"], sha256_file(folder / ADAPTER_WEIGHTS)
            if weights != record["adapter_sha256"]:
                raise ArtifactError(
                    f"{folder / ADAPTER_WEIGHTS}: not the file that {TRAINING} describes (SHA-256); train it again"
                )
            if base != compressed:
                raise ArtifactError(
                    f"{folder}: was trained on weights {base[:12]}, the cell's are {compressed[:12]}; train it again"
                )
            found[f"adapter {folder.parent.name}/{folder.name}"] = weights
        return found

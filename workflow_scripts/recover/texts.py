"""The text that an adapter is made from: a corpus, items of tasks, and the calibration text of a repair."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

from workflow_scripts.compress.task import calibration_windows
from workflow_scripts.files.artifacts import read_json
from workflow_scripts.files.job import Folder
from workflow_scripts.files.members import COMPRESSION, ITEMS, text_of
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.recover.windows import (
    fact_windows,
    family_windows,
    heldout_windows,
    training_windows,
)
from workflow_scripts.sources.facts import Told
from workflow_scripts.sources.fetch import recorded_files

if TYPE_CHECKING:
    from workflow_scripts.recover.eora import Repair


@dataclass(frozen=True)
class Texts:
    """Text that an adapter is made from.

    corpus: folder of the training text, or of a task whose items are written in `wordings`. scored: how many items of a
    task the grid scores (None: all). family: folders of tasks of whose items those are the training text whose question
    no task of the grid (`asked`: their folders) scores; wordings are then by task, and the corpus lends its held-out
    text. calibration_text,
    calibration: for a repair (EoRA), folder of the corpus in the adapter's path and the grid's {windows, length}; a
    copy that was calibrated itself names its own. activation_memory: GiB of calibration activations that stay in
    memory; no result depends on it.
    """

    corpus: Folder
    wordings: list[str] | dict[str, list[str]] | None = None
    family: list[Folder] = field(default_factory=list)
    asked: list[Folder] = field(default_factory=list)
    scored: dict[str, int | None] = field(default_factory=dict)
    calibration_text: Folder | None = None
    calibration: dict | None = None
    activation_memory: float = math.inf

    def inputs(self) -> dict[str, str]:
        """Hashes by name."""
        found = {"corpus": self.corpus, "calibration text": self.calibration_text}
        found |= {f"items of {folder.name}": folder for folder in (*self.family, *self.asked)}
        return {name: _text_hash(folder) for name, folder in found.items() if folder is not None}

    def repaired(self, files: ModelFiles, method: dict, made: Provenance, kept: Path) -> "Repair | None":
        """The repair of the linears that the method adapts, on the windows that calibrated the copy; else on windows
        drawn by made.seed. None if nothing is repaired."""
        if self.calibration_text is None or self.calibration is None:
            return None
        from workflow_scripts.recover.eora import repair

        drawn = read_json(files.compressed / COMPRESSION)["calibration"]
        asked = drawn or self.calibration | {"seed": made.seed}
        windows, drawn = calibration_windows(files.model, self.calibration_text, asked, asked["seed"])
        found = repair(files, windows, method, made.device or "cpu", kept, self.activation_memory)
        return replace(found, calibration=drawn)

    def windows(
        self, tokenizer: PreTrainedTokenizerBase, method: dict, training: dict, seed: int
    ) -> tuple[torch.Tensor, torch.Tensor, Told | None]:
        """Windows that the method is trained on, none for a method that isn't, held-out windows, and the items that are
        told in them, if they are text of items."""
        told = None
        if method["kind"] == "eora":
            heldout = heldout_windows(self.corpus, tokenizer, training)
            return heldout[:0], heldout, None
        if isinstance(self.wordings, dict):
            windows, told = family_windows(
                self.family, tokenizer, training, seed, self.wordings, self.asked, self.scored
            )
            heldout = heldout_windows(self.corpus, tokenizer, training)
        elif self.wordings is not None:
            part, asked = method["corpus"]["part"], self.scored[self.corpus.name]
            windows, heldout, told = fact_windows(
                self.corpus, tokenizer, training, seed, part, self.wordings, asked
            )
        else:
            windows, heldout = training_windows(self.corpus, tokenizer, training, seed)
        return windows if method.get("trained", True) else windows[:0], heldout, told


def _text_hash(folder: Path) -> str:
    """SHA-256 of a corpus' training text, or of a task's items."""
    files, text = recorded_files(folder), text_of("train")
    return files[text if text in files else ITEMS]

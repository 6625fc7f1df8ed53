"""An engine's input and output: one model to compress, and the compressed layers in files."""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from workflow_scripts.compress.settings import CompressorSettings
from workflow_scripts.files.job import Folder
from workflow_scripts.sources.corpora import read_documents, token_windows
from workflow_scripts.sources.models import adds_bos, load_tokenizer


@dataclass(frozen=True)
class Machine:
    """Means of this machine; no result depends on them.

    activation_memory: GiB of calibration activations that stay in memory, more lie in a file under work/.
    optimum_python, llmcompressor_python: interpreters of other environments, see envs/README.md.
    """

    activation_memory: float = float("inf")
    optimum_python: str = ""
    llmcompressor_python: str = ""


@dataclass(frozen=True)
class Sources:
    """Folders that a compressor reads.

    model: the dense model. corpus: the text that it looks at, if it looks at any. checkpoint: of an external compressor
    alone, the fetched checkpoint that somebody else compressed.
    """

    model: Folder
    corpus: Folder | None = None
    checkpoint: Folder | None = None


@dataclass(frozen=True)
class CompressionTask:
    """One model to compress.

    calibration: {windows, length}. seed: of the draw.
    work: folder for checkpoints. device: where layers are worked on.
    """

    sources: Sources
    settings: CompressorSettings
    calibration: dict | None
    seed: int
    work: Path
    device: str
    threads: int
    machine: Machine

    @property
    def model(self) -> Path:
        return self.sources.model

    @property
    def checkpoint(self) -> Path | None:
        return self.sources.checkpoint

    def windows(self, positions: int | None) -> tuple[torch.Tensor, dict]:
        """Calibration windows (count, length) of the corpus' train split, and how they were drawn.

        ValueError if they are longer than the model's `positions` (None: not known).
        """
        corpus = self.sources.corpus
        if self.calibration is None or corpus is None:
            raise ValueError(f"{self.settings.algorithm}: a corpus and `calibration` are needed")
        length = self.calibration["length"]
        if positions and length > positions:
            raise ValueError(f"calibration.length: {length} tokens exceed the model's {positions} positions")
        return calibration_windows(self.model, corpus, self.calibration, self.seed)


def calibration_windows(model: Path, corpus: Path, asked: dict, seed: int) -> tuple[torch.Tensor, dict]:
    """Windows (count, length) of a corpus' train split for a model's tokenizer, and how they were drawn.

    asked: {windows, length}. seed: of the draw.
    """
    count, length = asked["windows"], asked["length"]
    tokenizer = load_tokenizer(model)
    bos = adds_bos(tokenizer)
    windows = token_windows(read_documents(corpus, "train"), tokenizer, length, count, seed, bos)
    drawn = {"corpus": corpus.name, "windows": count, "length": length, "tokens": windows.numel()}
    return windows, drawn | {"add_bos": bos, "seed": seed}


@dataclass(frozen=True)
class Compressed:
    """An engine's result.

    parts: safetensors files with the packed linears, one per layer (none for `dense`), or with all tensors of a
    `whole` model. records: one per linear, as `walk` gives them. weights: of all decoder linears of the dense model.
    drawn: the calibration, as `Task.windows` says. versions: of the engine's libraries in an environment of its own.
    """

    parts: list[Path]
    records: list[dict]
    weights: int
    drawn: dict | None = None
    versions: dict[str, str] = field(default_factory=dict)
    whole: "Whole | None" = None


@dataclass(frozen=True)
class Whole:
    """A compressed model that is stored whole, with a configuration of its own.

    config: its config.json. size: bytes that its decoder linears take in the form in which they would be shipped.
    layers: of each of its decoder layers, the dense model's that it was made of; None if that is not known. checkpoint:
    what compression.json says of a checkpoint that somebody else compressed. influence: of each dense layer, if layers
    were left out by it.
    """

    config: dict
    size: int
    layers: list[int] | None
    checkpoint: dict | None = None
    influence: list[float] | None = None

"""Compressed copies of tiny models of two families, in a working directory of their own."""

from pathlib import Path

import pytest

from tests import tiny
from workflow_scripts.compress.task import Sources, calibration_windows
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import compress_model
from workflow_scripts.recover.model_files import ModelFiles
from workflow_scripts.sources import corpora, models

EORA = {"kind": "eora", "rank": 4}
GRID = {"windows": 8, "length": 64}
COMPRESSORS = {
    "rtn": {"algorithm": "rtn", "bits": 2},
    "gptq": {"algorithm": "gptq", "bits": 2, "act_order": True, "static_groups": True, "damping": 0.01},
    "sparsegpt": {"algorithm": "sparsegpt", "pattern": "2:4", "damping": 0.01},
    "svd": {"algorithm": "svd", "ratio": 0.5},  # stored as a whole model
    "shorter": {"algorithm": "drop-layers", "layers": [0]},
    "dense": {"algorithm": "dense"},
}
CORPUS = Path("resources/corpora/text")


def written(root):
    """The folder, now a working directory with a fetched model of each family, a corpus, and compressed models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        local = {"source": "local", "path": str(tiny.write_corpus(root / "made/text.jsonl"))}
        corpora.fetch("text", local, CORPUS, root / "cache", recipe="r", code="c")
        for family in ("llama", "opt"):
            local = {"source": "local", "path": str(tiny.write_model(root / "made" / family, family))}
            folder = Path("resources/models", family)
            models.fetch(family, local, folder, root / "cache", recipe="r", code="c")
            for name, settings in COMPRESSORS.items():
                calibration = GRID if name in ("gptq", "sparsegpt") else None
                sources = Sources(folder, CORPUS if calibration else None)
                output = f"compressed/{family}/{name}/compression.json"
                compress_model.main(sources, output, settings, Provenance("r", "c"), calibration)
    return root


def files_of(family, compressor):
    return ModelFiles(Path("resources/models", family), Path("compressed", family, compressor))


def windows_of(family):
    return calibration_windows(Path("resources/models", family), CORPUS, GRID, 0)[0]

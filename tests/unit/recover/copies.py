"""Compressed copies of tiny models of two families, in a working directory of their own."""

from pathlib import Path

import pytest

from tests import tiny
from tests.tiny_copies import fetch_corpus, fetch_model
from workflow_scripts.compress.task import Sources, calibration_windows
from workflow_scripts.files.provenance import Provenance
from workflow_scripts.jobs import compress_model
from workflow_scripts.recover.model_files import ModelFiles

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
        fetch_corpus(CORPUS)
        for family in ("llama", "opt"):
            folder = Path("resources/models", family)
            fetch_model(tiny.write_model(root / "made" / family, family), folder)
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

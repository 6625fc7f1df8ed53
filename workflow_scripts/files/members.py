"""Names of the top folders, and of the files in the folders of sources and results; plan/layout.py makes paths of them.

They stand apart from the paths: the code of every job covers this file, and a new figure must make no model again.
"""

from pathlib import Path

RESOURCES, RESULTS = "resources", "results"
WORK = Path("work")
WHEELS = Path(RESOURCES, ".wheels")  # kept, so that a refetch needs no network; may be deleted

MANIFEST = "manifest.json"  # of a fetched source
COMPRESSION, WEIGHTS = "compression.json", "weights.safetensors"  # of a compressed model
TRAINING = "training.json"  # of an adapter, whose other files PEFT names
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ITEMS = "data.jsonl"  # of a benchmark
SAMPLES = ".samples.parquet"  # in place of the ending of an evaluation's JSON


def text_of(split: str) -> str:
    """The file of a corpus' text: split is train or heldout."""
    return f"{split}.jsonl"


def samples_of(evaluation: str | Path) -> Path:
    """The samples beside an evaluation's JSON."""
    return Path(evaluation).with_suffix(SAMPLES)

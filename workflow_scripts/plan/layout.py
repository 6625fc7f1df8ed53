"""Where everything lies: cells, the paths of what is made for them, and which files belong together.

Pure Python, never imports torch: the Snakefile, which every job parses, reads its paths here.
"""

import os
import re
from typing import NamedTuple

from workflow_scripts.plan.config import unknown

COMPANIONS = {  # name of a JSON -> what is made with it and lies beside it
    "compression.json": ("weights.safetensors",),
    "training.json": ("adapter_config.json", "adapter_model.safetensors"),
}
EXPORTS = ("plain", "gptq", "gptq_v2", "compressed-tensors")  # formats of rule export_model
CELL = "<model>/<compressor>/<corpus>/<method>/seed-<n>"
SHAPES = {  # kind of result -> what its path is below results/<grid>/<kind>/
    "compressed": "<model>/<compressor>/<corpus>/compression.json",
    "exported": "<model>/<compressor>/<corpus>/<format>/export.json",
    "adapters": f"{CELL}/training.json",
    "evaluations": f"{CELL}.json",
    "similarity": f"{CELL}.json",
    "latency": "<model>/<compressor>/<corpus>/seed-<n>.json",
}
CATALOGUES = {
    "<model>": "models",
    "<compressor>": "compressors",
    "<corpus>": "corpora",
    "<method>": "methods",
}


class Cell(NamedTuple):
    """One evaluation job. `corpus` calibrates the compressor and trains the adapter, unless its method names another
    text; 'none' where nothing is."""

    grid: str
    model: str
    compressor: str
    corpus: str
    method: str
    seed: int

    @property
    def stem(self) -> str:
        return f"{self.model}/{self.compressor}/{self.corpus}/{self.method}/seed-{self.seed}"

    @property
    def json(self) -> str:
        return f"results/{self.grid}/evaluations/{self.stem}.json"

    @property
    def samples(self) -> str:
        return f"results/{self.grid}/evaluations/{self.stem}.samples.parquet"

    @property
    def similarity(self) -> str:
        return f"results/{self.grid}/similarity/{self.stem}.json"

    @property
    def training(self) -> str:
        """training.json of this cell's adapter (for lora, prompt and prefix)."""
        return f"results/{self.grid}/adapters/{self.stem}/training.json"


def model_manifest(model: str) -> str:
    return f"resources/models/{model}/manifest.json"


def corpus_manifest(corpus: str) -> str:
    return f"resources/corpora/{corpus}/manifest.json"


def benchmark_manifest(name: str, task: str) -> str:
    return f"resources/benchmarks/{name}/{task}/manifest.json"


def compression_json(grid: str, model: str, compressor: str, corpus: str) -> str:
    return f"results/{grid}/compressed/{model}/{compressor}/{corpus}/compression.json"


def companions(path: str) -> list[str]:
    """Files that are made with the JSON at `path`: weights, an adapter's configuration, an evaluation's samples."""
    folder, name = os.path.split(path)
    if "/evaluations/" in path:
        return [path.removesuffix(".json") + ".samples.parquet"]
    return [f"{folder}/{other}" for other in COMPANIONS.get(name, ())]


def is_torn(path: str) -> bool:
    """Whether the JSON at `path` is there without something that was made with it."""
    return os.path.exists(path) and not all(map(os.path.exists, companions(path)))


def check_path(path: str, config: dict) -> None:
    """ValueError for a path below results/ that can't be: what is wrong in it, what is allowed, what is nearest."""
    parts = path.removeprefix("./").split("/")
    if parts[0] != "results" or len(parts) < 3:
        return
    _, grid, kind, *names = parts
    if grid not in config["grids"]:
        raise ValueError(unknown(path, grid, config["grids"], "name in grids"))
    if kind not in SHAPES:
        if len(names) > 2:  # tables, figures and the report do not lie so deep
            raise ValueError(unknown(path, kind, SHAPES, "kind of result"))
        return
    for place, name in zip(SHAPES[kind].split("/"), names):
        if catalogue := CATALOGUES.get(place):
            allowed = [*config[catalogue], *(["none"] if catalogue == "corpora" else [])]
            if name not in allowed:
                raise ValueError(unknown(path, name, allowed, f"name in {catalogue}"))
        if place == "<format>" and name not in EXPORTS:
            raise ValueError(unknown(path, name, EXPORTS, "format of an export"))
    shape = f"results/<grid>/{kind}/{SHAPES[kind]}"
    shapes = [shape, *companions(shape)]
    patterns = (re.escape(one).replace("<n>", r"(0|[1-9]\d*)") for one in shapes)
    patterns = (re.sub("<[a-z]+>", "[^/]+", pattern) for pattern in patterns)
    if not any(re.fullmatch(pattern, "/".join(parts)) for pattern in patterns):
        raise ValueError(f"{path}: is no result; it looks like {' or '.join(shapes)}")

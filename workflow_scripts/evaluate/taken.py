"""Tasks and texts that a finished cell has evaluated alike are taken over: another list costs only its new tasks.

A task's key is the digest of all that its rows depend on: model, weights, adapters, method, code, libraries, device,
the task's settings and definition, its data, and how many items and tokens are asked for. Equal keys, equal rows.
"""

import glob
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet

from workflow_scripts.evaluate.settings import CellSettings
from workflow_scripts.files.artifacts import ArtifactError, digest, read_json, sha256_file
from workflow_scripts.files.job import log
from workflow_scripts.files.members import samples_of
from workflow_scripts.plan.definitions import definition_digest

DATA = ("benchmark ", "corpus ")  # how the names of inputs begin that a cell is evaluated on
# Keys of a grid's evaluation that a task's rows depend on.
OF_TASKS = ("items", "generation_tokens", "precision")

OF_MODEL = ("bos", "chat", "method")  # keys of a manifest's `config`


@dataclass(frozen=True)
class About:
    """What a cell's files say of its model with its method, whatever is asked: parameters, names of the prompts that it
    chooses among, and the parts of the manifest's `config` that are known of the loaded model alone."""

    parameters: dict
    prompts: list[str]
    config: dict


@dataclass
class Taken:
    """From finished cells: `results` and `rows` by task, `perplexity` by corpus, `origins` by the name of the input.

    An origin is the cell that evaluated it, which may be overwritten since: {path, recipe, host, device, started}.
    about: as one of these cells has it; None if there is none.
    """

    results: dict[str, dict] = field(default_factory=dict)
    rows: dict[str, list[dict]] = field(default_factory=dict)
    perplexity: dict[str, dict] = field(default_factory=dict)
    origins: dict[str, dict] = field(default_factory=dict)
    about: About | None = None


def keys_of(model: Callable[[str], object], inputs: dict[str, str], settings: CellSettings) -> dict[str, str]:
    """Name of each benchmark and corpus among `inputs` -> key. model: name -> JSON value for all that its answers
    come from: the adopted code of one may be another than that of the next."""
    attached = {name: sha for name, sha in inputs.items() if not name.startswith(DATA)}
    asked, found = settings.evaluation, {}
    for name, sha in inputs.items():
        kind, _, short = name.partition(" ")
        if kind == "benchmark":
            own = settings.tasks[short]
            definition = definition_digest(own.get("task") or short)
            about = [short, own, definition, {key: asked[key] for key in OF_TASKS}]
        elif kind == "corpus":
            shape = {key: value for key, value in asked["perplexity"].items() if key != "corpora"}
            about = [short, shape, asked["precision"]]
        else:
            continue
        found[name] = digest([model(name), attached, settings.method, sha, about])
    return found


def take(keys: dict[str, str], elsewhere: str, output: str | Path, recipe: str) -> Taken:
    """Results of finished cells of this model and method under these keys: of the one at `output` and of other grids'.

    elsewhere: pattern of the cell's paths in all grids. A cell whose recipe is unchanged takes nothing: it runs only if
    the user forces it.
    """
    taken = Taken()
    if _evaluated(output).get("recipe") == recipe:
        return taken
    for path in dict.fromkeys([str(output), *sorted(glob.glob(elsewhere))]):
        manifest = _evaluated(path)
        known = manifest.get("keys", {})
        equal = [name for name in keys if name not in taken.origins and known.get(name) == keys[name]]
        if equal and _described(path, manifest):
            _add(taken, equal, path)
    return taken


def _evaluated(path: str | Path) -> dict:
    """The manifest of the cell at `path`; empty if there is none, or if it is damaged, which the log says."""
    if not Path(path).exists():
        return {}
    try:
        manifest: dict = read_json(path, "evaluation")["manifest"]
    except ArtifactError as error:
        log(f"nothing is taken over from a damaged cell: {error}")
        return {}
    return manifest


def _described(path: str, manifest: dict) -> bool:
    """True if the samples beside a cell are those that it describes."""
    samples = samples_of(path)
    return samples.exists() and sha256_file(samples) == manifest.get("samples_sha256")


def _add(taken: Taken, names: Iterable[str], path: str) -> None:
    record = read_json(path, "evaluation")
    manifest = record["manifest"]
    origin = {"path": path} | {key: manifest[key] for key in ("recipe", "host", "device", "started")}
    prompts = [name for name in record["selection"] or () if name != "by_task"]
    config = {key: value for key, value in manifest["config"].items() if key in OF_MODEL}
    taken.about = About(record["parameters"], prompts, config)
    rows = pyarrow.parquet.read_table(samples_of(path)).to_pylist()
    for name in names:
        kind, _, short = name.partition(" ")
        taken.origins[name] = manifest["taken_over"].get(name) or origin
        if kind == "corpus":
            taken.perplexity[short] = record["perplexity"][short]
        else:
            taken.results[short] = record["tasks"][short]
            taken.rows[short] = [row for row in rows if row["task"] == short]
    log(f"taken over from {path}: {', '.join(names)}")

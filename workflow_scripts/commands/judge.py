"""Judge a compressed model that somebody else made: its own grid, the forecast, the run, the verdict.

  python -m workflow_scripts judge path/to/dense path/to/compressed
  python -m workflow_scripts judge owner/model@REVISION owner/model-gptq@REVISION --items 100 --profile slurm
  python -m workflow_scripts judge smollm2-135m path/to/compressed --forecast-only
  python -m workflow_scripts judge dense.gguf small-00001-of-00003.gguf --seeds 3

DENSE is a model of the catalogue, a folder, a GGUF file, or a repository of the hub with its revision (a commit, a
branch or a tag; without one: main). COMPRESSED is a folder, a GGUF file, a repository, or a checkpoint of the catalogue
(`algorithm: external`). Any part names a split GGUF file. The grid holds the pair of methods on both models, and
controls. Its configuration is written to config/judge/, so that every other command knows it by --configfile. The same
words again continue a killed run, and do nothing if all is done.

Further options go to Snakemake as they are (--cores 2, --keep-going).
"""

import argparse
import math
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from workflow_scripts.commands import forecast, run
from workflow_scripts.files.artifacts import ArtifactError, atomic_path, read_json, safetensors_header
from workflow_scripts.files.gguf_parts import PART, missing_part, parts_of, require_header
from workflow_scripts.plan.config import files, load, read
from workflow_scripts.plan.model_limits import HINTS
from workflow_scripts.plan.names import listed
from workflow_scripts.plan.schema.compressors import External
from workflow_scripts.plan.schema.configuration import Config

FOLDER = Path("config/judge")
COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"(?P<repo>[A-Za-z0-9._-]+/[A-Za-z0-9._-]+)(@(?P<revision>[^@]+))?")
GGUF = ".gguf"
LONGEST = 40  # characters of a name that is made of a folder's or a repository's; it stands in paths
USUAL = "smoke"  # the grid whose tasks are asked
PAIR = {"prompt": "idp-50-100", "lora": "lora-r2"}
RECOVERIES = ["none", "lora-r2", "prompt-50", "prompt-100", "idp-50-100"]
CONTROLS = ["prompt-100-untrained", "instruction", "fewshot-4"]


@dataclass(frozen=True)
class Asked:
    """The user's choices for the grid.

    items: per task. seeds: trainings of each adapter. training, benchmarks, corpus, device: names. file: a GGUF file of
    the compressed model. parameters: of the dense model, needed if neither its files nor the hub say them. distilled:
    the compressed model is a student. chat: tasks ask through the dense model's chat template. name: of the grid; None
    for one of the compressed model's.
    """

    items: int = 100
    seeds: int = 1
    training: str = "smoke"
    benchmarks: str = "pypi"
    corpus: str = "wikipedia"
    device: str = "cpu-2"
    file: str | None = None
    parameters: float | None = None
    distilled: bool = False
    chat: bool = False
    name: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dense", metavar="DENSE", help="the dense model: a name, a folder, a GGUF file, or a repository"
    )
    parser.add_argument(
        "compressed", metavar="COMPRESSED", help="a folder, a GGUF file, a repository, or a checkpoint's name"
    )
    parser.add_argument("--file", help="the GGUF file of COMPRESSED, if it holds several")
    parser.add_argument(
        "--items",
        type=int,
        default=100,
        help="items of each task, the same in every cell (default: %(default)s)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=1,
        help="trainings of each adapter; the verdict's error rate covers them (default: %(default)s)",
    )
    parser.add_argument("--training", default="smoke", help="a training regime (default: %(default)s)")
    parser.add_argument("--benchmarks", default="pypi", help="a set of task data (default: %(default)s)")
    parser.add_argument(
        "--corpus", default="wikipedia", help="text that trains and measures (default: %(default)s)"
    )
    parser.add_argument(
        "--device", default="cpu-2", help="a device of plan/devices.yaml (default: %(default)s)"
    )
    parser.add_argument("--parameters", type=float, help="size of DENSE, if the hub does not say it")
    parser.add_argument(
        "--distilled", action="store_true", help="COMPRESSED is a student and need not resemble DENSE"
    )
    parser.add_argument("--chat", action="store_true", help="ask through the chat template of DENSE")
    parser.add_argument("--name", help="the grid's name (default: judge- and the name of COMPRESSED)")
    parser.add_argument("--profile", help="a Snakemake profile, like slurm (default: run on this machine)")
    parser.add_argument(
        "--forecast-only", action="store_true", help="write the configuration, print the forecast, stop"
    )
    parser.set_defaults(snakemake_options=[])


def main(
    dense: str,
    compressed: str,
    forecast_only: bool = False,
    profile: str | None = None,
    snakemake_options: Sequence[str] = (),
    **options: Any,
) -> int:
    """Write the grid, print its forecast and run it; returns an exit status.

    The checkpoint is fetched, read and checked against the dense model before anything is trained or evaluated.

    options: fields of `Asked`. Raises ArtifactError or ConfigError for anything that no grid can be made of.
    """
    asked = Asked(**options)
    present = load(read(*files()))
    grid, config = configuration(present, dense, compressed, asked)
    if grid in present.grids:
        raise ArtifactError(
            f"--name {grid}: a grid of this name is there already; choose another (NAME= of make)"
        )
    load(read(*files(), over=config | {"grid": grid}))  # before a name or a number of it becomes a file
    file = FOLDER / f"{grid}.yaml"
    _refuse_another(file, config)
    with atomic_path(file) as temporary:
        text = yaml.safe_dump(config, sort_keys=False)
        temporary.write_text(f"# {summary(dense, compressed)}\n{text}", encoding="utf-8")
    print(f"Configuration: {file}", flush=True)
    forecast.main(grid, configfile=[str(file)])
    print(covered(asked.seeds), flush=True)
    if same_files(config):
        print("DENSE and COMPRESSED are the same files, so this grid measures no compression.", flush=True)
    if forecast_only:
        return 0
    chosen: Any = {"profile": profile, "snakemake_options": [*snakemake_options]}
    return run.main(grid, configfile=[str(file)], first="compress_model", **chosen)


def summary(dense: str, compressed: str) -> str:
    return f"Written by `python -m workflow_scripts judge {dense} {compressed}`"


def covered(seeds: int) -> str:
    """The coverage of the verdict's error rate, and its limits, in words."""
    training = f"items and {seeds} trainings" if seeds > 1 else "items alone; SEEDS=3 adds the training"
    return (
        f"The verdict's error rate covers {training}. The checkpoint is one copy: how another one by its makers would "
        "do, no number of seeds can say."
    )


def same_files(config: dict) -> bool:
    """True if the model and the checkpoint of a grid's configuration are named by the same place."""
    entries = [*config["models"].values(), *config["compressors"].values()]
    places = [[entry.get(key) for key in ("path", "repo", "revision", "file")] for entry in entries]
    return len(places) == 2 and any(places[0]) and places[0] == places[1]


def usual_tasks(config: Config, benchmarks: str) -> list[str]:
    """Tasks of the smoke grid that a set of task data has; ArtifactError if there is no such set, or no such grid."""
    if benchmarks not in config.benchmarks:
        raise ArtifactError(f"--benchmarks {benchmarks}: no such set; there are {listed(config.benchmarks)}")
    if USUAL not in config.grids:
        raise ArtifactError(
            f"grids.{USUAL}: is missing, whose tasks are asked here; put it back into config.yaml"
        )
    return [task for task in config.grids[USUAL].tasks if task in config.benchmarks[benchmarks]]


def configuration(config: Config, dense: str, compressed: str, asked: Asked) -> tuple[str, dict]:
    """A grid's name, and the configuration that adds it, the dense model and the checkpoint to `config`.

    Raises ArtifactError for words that name no model.
    """
    if asked.seeds < 1:
        raise ArtifactError(f"--seeds {asked.seeds}: at least 1 training of each adapter is needed")
    known = isinstance(config.compressors.get(compressed), External) and not Path(compressed).exists()
    given = {} if known else source(compressed, "COMPRESSED")
    model, positions = dense, None
    models: dict[str, dict] = {}
    if dense not in config.models:
        model = name_of(dense, config.models)
        models[model] = source(dense, "DENSE") | sizes(dense, asked.parameters)
        if models[model]["source"] == "local" and models[model]["path"].endswith(GGUF):
            models[model]["source"] = "gguf"
        positions = models[model].get("positions")
    if asked.chat:
        models.setdefault(model, {})["chat"] = True
    compressor, compressors = compressed, {}
    if not known:
        compressor = name_of(compressed, config.compressors)
        checkpoint = {"algorithm": "external", "model": model, "distilled": asked.distilled}
        checkpoint |= given | ({"file": asked.file} if asked.file else {})
        compressors[compressor] = checkpoint
    grid = {
        "description": f"{compressed} beside {dense}.",
        "benchmarks": asked.benchmarks,
        "tasks": usual_tasks(config, asked.benchmarks),
        "training": asked.training,
        "device": asked.device,
        "calibration": {"windows": 1, "length": 2},  # nothing is calibrated
        "evaluation": {
            "items": asked.items,
            "perplexity": {"corpora": [asked.corpus], "windows": 16, "length": window(positions)},
        },
        "pair": {**PAIR},
        "blocks": {
            block: {
                "models": [model],
                "compressors": ["dense", compressor],
                "corpora": [asked.corpus],
                "methods": [*methods],
                "seeds": seeds,
            }
            for block, methods, seeds in (
                ("core", RECOVERIES, [*range(asked.seeds)]),
                ("controls", CONTROLS, [0]),
            )
        },
    }
    called = asked.name or f"judge-{compressor}"
    return called, {"models": models, "compressors": compressors, "grids": {called: grid}}


def window(positions: int | None) -> int:
    """Tokens of a perplexity window that leaves room for the longest prompt of the grid."""
    return 512 if positions is None else max(2, min(512, positions - 100))


def source(words: str, what: str) -> dict:
    """A source's keys for a folder, a GGUF file or `owner/name@revision`; ArtifactError for other words."""
    path = Path(words).expanduser()
    parts = parts_of(path)
    if words and path.is_file() and path.suffix != GGUF:
        raise ArtifactError(f"{what} {words}: is a file; name its folder, or a GGUF file")
    if words and any(part.exists() for part in parts):
        if len(parts) > 1 and (gone := missing_part(path)):
            raise ArtifactError(f"{what} {gone}")
        return {"source": "local", "path": str(parts[0].resolve() if len(parts) > 1 else path.resolve())}
    if words.startswith((".", "/", "~")) or not (named := REPOSITORY.fullmatch(words)):
        raise ArtifactError(
            f"{what} {words}: is no folder here, and no repository of the hub (owner/name@revision)"
        )
    revision = named["revision"] or "main"
    if revision != "main" and not COMMIT.fullmatch(revision):
        revision = _on_hub(named["repo"], revision, what).sha
    return {"source": "hub", "repo": named["repo"], "revision": revision}


def _on_hub(repo: str, revision: str, what: str) -> Any:
    """The hub's record of a repository's revision; ArtifactError if it can't be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    try:
        return HfApi().model_info(repo, revision=revision)
    except (OSError, HTTPError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ArtifactError(
            f"{what} {repo}@{revision}: the hub can't be asked ({reason}). Name a full commit, a folder, and "
            "--parameters for the dense model"
        ) from None


def sizes(dense: str, parameters: float | None, what: str = "DENSE") -> dict:
    """`parameters` of a dense model, and its `positions` and `layers` if a folder's config.json or a GGUF file says
    them."""
    path = Path(dense).expanduser()
    if path.suffix == GGUF and path.is_file():
        return _of_gguf(path, what)
    if not path.exists():
        if parameters is None:
            named = source(dense, what)
            stored = _on_hub(named["repo"], named["revision"], what).safetensors
            if stored is None:
                raise ArtifactError(f"{what} {dense}: the hub does not say its size; give it as --parameters")
            parameters = stored.total
        return {"parameters": float(parameters)}
    weights = sorted(path.glob("*.safetensors"))
    if parameters is None and not weights:
        raise ArtifactError(f"{what} {dense}: holds no *.safetensors; the dense model must be such a folder")
    counted = sum(
        math.prod(entry["shape"]) for file in weights for entry in safetensors_header(file)[0].values()
    )
    config = read_json(path / "config.json", advice="it must be mended at its source")
    if not isinstance(config, dict):
        raise ArtifactError(f"{what} {dense}: config.json is a {type(config).__name__}, no object of a model")
    limits = {key: config[name] for key, name in HINTS.items() if isinstance(config.get(name), int)}
    return {"parameters": float(parameters or counted), **limits}


def _of_gguf(path: Path, what: str) -> dict:
    """`parameters` and limits of a GGUF model by its headers."""
    import gguf

    try:
        for part in parts_of(path):
            require_header(part)
        readers = [gguf.GGUFReader(part) for part in parts_of(path)]
    except (ValueError, LookupError) as error:
        raise ArtifactError(f"{what} {path}: cut short, or no GGUF file ({error})") from error
    fields = readers[0].fields
    if gguf.Keys.General.ARCHITECTURE not in fields:
        raise ArtifactError(f"{what} {path}: names no architecture, so it is no language model")
    architecture = fields[gguf.Keys.General.ARCHITECTURE].contents()
    known = {"positions": gguf.Keys.LLM.CONTEXT_LENGTH, "layers": gguf.Keys.LLM.BLOCK_COUNT}
    keys = {key: name.format(arch=architecture) for key, name in known.items()}
    limits = {key: int(fields[name].contents()) for key, name in keys.items() if name in fields}
    if gguf.Keys.Tokenizer.LIST in fields:
        limits["vocabulary"] = len(fields[gguf.Keys.Tokenizer.LIST].data)
    counted = sum(int(tensor.n_elements) for reader in readers for tensor in reader.tensors)
    return {"parameters": float(counted), **limits}


def name_of(words: str, taken: Container[str]) -> str:
    """A name that is safe in paths, of a folder's or a repository's last part; none that the catalogue has."""
    last = (
        words.partition("@")[0].rstrip("/").rpartition("/")[2]
        if not Path(words).exists()
        else Path(words).resolve().name
    )
    last = PART.sub(r"\1.gguf", last)
    name = "-".join(re.findall(r"[A-Za-z0-9]+", last.removesuffix(GGUF)))[:LONGEST].strip("-") or "model"
    return f"{name}-judged" if name in taken else name


def _refuse_another(file: Path, config: dict) -> None:
    """ArtifactError if a grid of this name judges other models: their results would replace each other."""
    if not file.exists():
        return
    old = read(file)
    for catalogue in ("models", "compressors"):
        if old.get(catalogue) != config[catalogue]:
            raise ArtifactError(
                f"{file}: judges other {catalogue} under this name; choose another by --name (NAME= of make), or "
                "delete the file"
            )

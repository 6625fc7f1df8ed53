"""A checkpoint that somebody else compressed: read, checked against the dense model, stored whole.

Nothing of it reaches a number before its tokenizer, its tensors, their values and its base are what they must be.
"""

import shutil
from pathlib import Path

from workflow_scripts.compress.decoder import count_weights, decoder_layers, layer_linears
from workflow_scripts.compress.foreign.configuration import other_settings
from workflow_scripts.compress.foreign.formats import identify
from workflow_scripts.compress.foreign.reading import read_folder
from workflow_scripts.compress.foreign.relation import Relation, relate
from workflow_scripts.compress.foreign.tokenizers import refuse_another
from workflow_scripts.compress.skeleton import Skeleton
from workflow_scripts.compress.task import Compressed, CompressionTask, Whole
from workflow_scripts.files.artifacts import ArtifactError, named, read_json
from workflow_scripts.files.job import log
from workflow_scripts.sources.models import load_tokenizer, load_whole, verify
from workflow_scripts.sources.vocabulary import tokens_of_text

WEIGHTS = (".safetensors", ".gguf")


def compress(task: CompressionTask) -> Compressed:
    """The checkpoint of `task` as a whole model; ArtifactError that names file and tensor if it can't be one of the
    dense model's."""
    if task.checkpoint is None:
        raise ArtifactError("external: the rule gave no checkpoint")
    manifest = verify(task.checkpoint)
    source = {key: manifest[key] for key in ("source", "revision", "origin")}
    return stored_whole(task, task.checkpoint, source, task.machine.optimum_python)


def stored_whole(task: CompressionTask, folder: Path, source: dict, python: str) -> Compressed:
    """The checkpoint in `folder`, checked against the dense model of `task`.

    source: its source, revision and origin. python: of the environment whose library may have to read it.
    """
    found = identify(folder)
    log(f"Format {found.name} ({found.bits}), read to float32")
    plain = task.work / "plain"
    shutil.rmtree(plain, ignore_errors=True)
    plain.mkdir()
    about = read_folder(folder, plain, python)
    modules = about.pop("modules")
    _refuse_sizes(folder, about["bytes_on_disk"], modules)
    tokenizer = load_tokenizer(task.model)
    refuse_another(tokenizer, plain, folder)
    with named(plain, folder):
        load_whole(plain, device="meta")
        dense, other = Skeleton(task.model, verify(task.model)["remote_code"]), Skeleton(plain)
        tokens = len(tokens_of_text(tokenizer))
        relation = relate(dense, other, tokens, task.settings.distilled, folder)
    log(f"{len(relation.equal)} of {relation.compared} tensors are the dense model's")
    log(f"correlation with its embeddings: {relation.embeddings}")
    config = read_json(plain / "config.json")
    record = _record(source, found.bits, about, relation) | {"distilled": task.settings.distilled}
    record["other_settings"] = other_settings(*(each.model.config.to_dict() for each in (dense, other)))
    whole = Whole(config, _size_of_linears(other, modules), relation.layers, record)
    versions = {f"the checkpoint's {name}": number for name, number in about["libraries"].items()}
    weights = count_weights(decoder_layers(dense.model))
    return Compressed(sorted(other.files), relation.records, weights, None, versions, whole)


def _record(source: dict, bits: str, about: dict, relation: Relation) -> dict:
    """The checkpoint's entry in compression.json."""
    return {
        **source,
        **about,
        "bits": bits,
        "equal": relation.equal,
        "compared": relation.compared,
        "embeddings": relation.embeddings,
    }


def _refuse_sizes(folder: Path, size: int, modules: dict[str, int]) -> None:
    """ArtifactError if the parts that headers speak of don't fit into the files."""
    held = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in WEIGHTS)
    if not sum(modules.values()) <= size <= held:
        raise ArtifactError(
            f"{folder}: by the headers its modules take {sum(modules.values())} bytes and its tensors {size}, "
            f"its files are {held}"
        )


def _size_of_linears(other: Skeleton, modules: dict[str, int]) -> int:
    """Bytes that the decoder's linears take in the checkpoint."""
    names = {
        target.removesuffix(".weight"): key.removesuffix(".weight")
        for targets in other.files.values()
        for key, target in targets.items()
    }
    size = 0
    for layer in decoder_layers(other.model):
        for name in layer_linears(layer):
            path = f"{other.paths[id(layer)]}.{name}"
            if (stored := names.get(path, path)) not in modules:
                raise ArtifactError(
                    f"{other.folder}: nothing is known of the size of {stored} in the checkpoint"
                )
            size += modules[stored]
    return size

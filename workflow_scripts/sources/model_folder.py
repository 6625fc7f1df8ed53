"""Check of a model's folder before any of it is copied or loaded: it may come from anybody."""

import os
import re
import shutil
from collections.abc import Callable, Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub.errors import StrictDataclassError

from workflow_scripts.files.artifacts import ArtifactError, read_json, safetensors_header
from workflow_scripts.files.members import ADAPTER_CONFIG

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

CONFIG = ["config.json", "generation_config.json"]
TOKENIZER = [
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
]
WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]
OTHER_COPIES = ["consolidated*.safetensors"]  # the same weights once more, in another layout
AT_SOURCE = "it must be mended at its source"
# Keys of config.json: modules that a model is built of.
COUNT = re.compile(r"(^n_layer|layers?|blocks?|experts?)$")
# Errors of transformers for a config.json from whose values it can build no model.
UNBUILT = (
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    StrictDataclassError,
)


def read_config(where: str, folder: Path) -> dict:
    """A model's config.json; ArtifactError if it is none. `where` names the folder."""
    file = folder / "config.json"
    if not file.is_file():
        raise ArtifactError(f"{where}: config.json is missing: this is no transformers model")
    config = read_json(file, advice=AT_SOURCE)
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        what = (
            "holds no `model_type`"
            if isinstance(config, dict)
            else f"is a {type(config).__name__}, no object"
        )
        raise ArtifactError(f"{where}: config.json {what}: this is no transformers model; {AT_SOURCE}")
    _refuse_kernels(where, config)
    return config


def _refuse_kernels(where: str, config: dict) -> None:
    """ArtifactError for a configuration that names code of the hub as its attention (transformers loads `owner/name`
    with the library kernels)."""
    for key, value in config.items():
        if isinstance(value, dict):
            _refuse_kernels(where, value)
        elif key.endswith("_implementation") and "/" in str(value):
            raise ArtifactError(
                f"{where}: config.json: `{key}` is {value!r}, code of the hub; remove the key"
            )


def require_plain(where: str, source: Path, patterns: Iterable[str]) -> None:
    """ArtifactError for what can't be copied as a model's file: a pipe, a folder, a link to somewhere else.

    A link may lead to weights anywhere (they are only linked, never copied), and to the blobs of a hub cache.
    """
    inside = [source.resolve()]
    if source.resolve().parent.name == "snapshots":
        inside.append(source.resolve().parents[1] / "blobs")
    for path in sorted(source.iterdir()):
        if not any(fnmatch(path.name, pattern) for pattern in patterns):
            continue
        if not path.is_file():
            kind = "a link to nothing" if path.is_symlink() and not path.exists() else "no regular file"
            raise ArtifactError(f"{where}: {path.name} is {kind}; {AT_SOURCE}")
        target = path.resolve()
        if path.suffix not in (".safetensors", ".gguf") and not any(
            target.is_relative_to(folder) for folder in inside
        ):
            raise ArtifactError(
                f"{where}: {path.name} is a link to {target}, outside of the folder; put the file itself there"
            )


def require_no_adapter(where: str, source: Path) -> None:
    """ArtifactError for a PEFT adapter beside the weights: it would not be used."""
    if (source / ADAPTER_CONFIG).exists():
        raise ArtifactError(
            f"{where}: {ADAPTER_CONFIG} lies beside the weights, and that adapter would not be used; merge it into "
            "them (peft: `merge_and_unload`) and save the result, or remove the adapter's files"
        )


def require_weights(where: str, folder: Path) -> None:
    """ArtifactError for weights that transformers would not find, or whose index can't be read."""
    index, present = (
        folder / "model.safetensors.index.json",
        sorted(p.name for p in folder.glob("*.safetensors")),
    )
    if index.exists():
        found = read_json(index, advice=AT_SOURCE)
        shards = found.get("weight_map") if isinstance(found, dict) else None
        if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
            raise ArtifactError(f"{where}: {index.name}: `weight_map` maps no names to files; {AT_SOURCE}")
        if odd := [shard for shard in shards.values() if Path(shard).name != shard]:
            raise ArtifactError(f"{where}: {index.name}: {odd[0]!r} is no file of the folder; {AT_SOURCE}")
        if not isinstance(found.get("metadata"), dict) and {*shards.values()} <= {*present}:
            raise ArtifactError(
                f"{where}: {index.name}: lacks `metadata`, which transformers reads; {AT_SOURCE}"
            )
    elif present and "model.safetensors" not in present:
        raise ArtifactError(
            f"{where}: its weights are {', '.join(present[:3])}, without model.safetensors.index.json to name them; "
            "rename a single file to model.safetensors, or save the model again (transformers: `save_pretrained`)"
        )


def unbuilt(error: Exception) -> str:
    """An error of transformers about a config.json, in words."""
    return f"config.json is of no model that transformers can build ({in_words(error)}); {AT_SOURCE}"


def in_words(error: Exception) -> str:
    """An error of a library in one line, with its kind: of a KeyError the text alone is a bare name."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".removesuffix(": ")


def require_readable(where: str, folder: Path) -> None:
    """ArtifactError for a config.json that transformers can't read."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(folder, local_files_only=True)
    except UNBUILT as error:
        raise ArtifactError(f"{where}: {unbuilt(error)}") from error


def require_tied(where: str, folder: Path, model: "PreTrainedModel") -> None:
    """ArtifactError for a head in the weights that is not the embeddings, though config.json ties the two.

    Programs differ in which of them they then use. model: the folder's, on any device.
    """
    tied = model.config.get_text_config(decoder=True).tie_word_embeddings
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if not tied or head is None or head.weight is embeddings.weight:
        return
    pair = (head.weight, embeddings.weight)
    names = [name for name, parameter in model.named_parameters() if any(parameter is each for each in pair)]
    first, second = (_stored(folder, name) for name in names)
    if not first.equal(second):
        raise ArtifactError(
            f"{where}: config.json ties the head to the embeddings (`tie_word_embeddings`), but {names[0]} and "
            f"{names[1]} differ in its weights; correct the one or the other"
        )


def _stored(folder: Path, name: str) -> "Tensor":
    """A tensor of the weights by its name in the model; a checkpoint may leave the first part out."""
    from safetensors import safe_open

    short = name.partition(".")[2]
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            if key := next((key for key in opened.keys() if key in (name, short)), None):  # noqa: SIM118 (no dict)
                return opened.get_tensor(key)
    raise ArtifactError(f"{folder}: {name} is in none of its safetensors; {AT_SOURCE}")


def require_floats(where: str, folder: Path) -> None:
    """ArtifactError for weights of whole or complex numbers: codes without their scales are no dense model."""
    for file in folder.glob("*.safetensors"):
        for name, entry in safetensors_header(file)[0].items():
            if name.endswith("weight") and not re.match("B?F", entry["dtype"]):
                raise ArtifactError(
                    f"{where}: {name} is of type {entry['dtype']}, no weight of a dense model; {AT_SOURCE}"
                )


def require_possible(where: str, folder: Path, config: dict) -> None:
    """ArtifactError if config.json asks for more modules than the weights can fill: to build them takes for ever."""
    tensors = [
        entry for file in folder.glob("*.safetensors") for entry in safetensors_header(file)[0].values()
    ]
    most = max([len(tensors), *(max(entry["shape"], default=1) for entry in tensors)], default=0)
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    for key, value in ((key, value) for part in parts for key, value in part.items() if COUNT.search(key)):
        if isinstance(value, int | float) and value > most:
            raise ArtifactError(
                f"{where}: config.json: `{key}` is {value:,}, but the weights hold {len(tensors)} tensors; {AT_SOURCE}"
            )


def require_complete(folder: str, found: dict) -> None:
    """ArtifactError if transformers' account of a load speaks of missing, misnamed or misshapen tensors."""
    odd = sorted(found["unexpected_keys"])
    inside = [name for name in odd if re.search(r"\.\d+\.", name)]
    if missing := sorted(found["missing_keys"]):
        hint = f"; it holds {_listed(odd)}, for which the architecture has no place" if odd else ""
        raise ArtifactError(
            f"{folder}: its weights lack {_listed(missing)}, which config.json's architecture has{hint}; "
            f"{AT_SOURCE}"
        )
    if wrong := sorted(found["mismatched_keys"]):
        name, held, asked = wrong[0]
        raise ArtifactError(
            f"{folder}: {name} has the shape {list(held)} in its weights, config.json's architecture asks for "
            f"{list(asked)}{_more(wrong)}; {AT_SOURCE}"
        )
    if inside:
        raise ArtifactError(
            f"{folder}: its weights hold {_listed(inside)}, for which config.json's architecture has no place; "
            f"{AT_SOURCE}"
        )


def _listed(names: list[str]) -> str:
    return names[0] + _more(names)


def _more(names: list) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def place(
    where: str,
    source: Path,
    folder: Path,
    patterns: list[str],
    link: Callable[[Path, Path], object],
    whole: bool = False,
) -> None:
    """Put the files that match into `folder`: weights by `link` if possible, the rest copied; check that no weights
    are cut short. whole: check also that they are a model's, with its configuration and tokenizer."""
    if link is os.symlink:  # a user's folder; the hub's is its own cache
        require_plain(where, source, patterns)
    for path in sorted(source.iterdir()):
        target = folder / path.name
        if target.exists() or not any(fnmatch(path.name, pattern) for pattern in patterns):
            continue
        if any(fnmatch(path.name, pattern) for pattern in OTHER_COPIES):
            continue
        if path.suffix == ".safetensors":
            safetensors_header(path)
        if path.suffix in (".safetensors", ".gguf"):
            try:
                link(path.resolve(), target)
                continue
            except OSError:  # another file system: a copy instead
                pass
        shutil.copyfile(path, target)
    require_weights(where, folder)
    if whole and (missing := _missing(folder)):
        raise ArtifactError(f"{where}: missing {', '.join(missing)}")


def _missing(folder: Path) -> list[str]:
    """Files that a folder lacks to be a model with safetensors weights and a tokenizer."""
    present = {path.name for path in folder.iterdir()}
    missing = [] if "config.json" in present else ["config.json"]
    if "model.safetensors.index.json" in present:
        index = read_json(folder / "model.safetensors.index.json", advice=AT_SOURCE)
        shards = set(index["weight_map"].values())
        missing += sorted(shards - present)
    elif not any(name.endswith(".safetensors") for name in present):
        missing.append("*.safetensors")
    if not (present & {"tokenizer.json", "tokenizer.model"} or {"vocab.json", "merges.txt"} <= present):
        missing.append("tokenizer.json (or tokenizer.model, or vocab.json with merges.txt)")
    return missing

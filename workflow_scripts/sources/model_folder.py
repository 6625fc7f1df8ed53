"""Check of a model's folder before any of it is copied or loaded: it may come from anybody."""

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from workflow_scripts.files.artifacts import ArtifactError, read_json, safetensors_header
from workflow_scripts.files.members import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from workflow_scripts.files.source_files import AT_SOURCE, CONFIG, INDEX, LONE, TOKENIZER, WHOLE, taken
from workflow_scripts.sources.local import require_plain
from workflow_scripts.sources.weights import stored

OTHER_COPIES = ["consolidated*.safetensors"]  # the same weights once more, in another layout
# Keys of config.json: modules that a model is built of, and what tables are made of as it is.
COUNT = re.compile(r"(^n_layer|layers?|blocks?|experts?|labels|head_dim|rotary_dim)$")
# Keys of config.json that hold a number, by their ends: the least and the most that makes sense, and whether the least
# itself does. transformers takes any number, and a model with these computes with it.
RANGES = (
    (re.compile(r"(positions|position_embeddings|theta|factor|scaling|multiplier|scalar)$"), 0, 1e12, False),
    (re.compile(r"(size|dim|heads?|layers?|window|length|n_embd)$"), 0, 1e12, True),
    (re.compile(r"(eps|epsilon|dropout|pdrop|drop)$"), 0, 1, True),
)
# Keys of training and of new weights, which no pass of a model reads: `mtp_loss_scaling_factor` is 0 in Bailing's.
UNREAD = re.compile(r"(^|_)(loss|train|init|initializer|capacity)_")
# Parts of config.json about stored weights, where -1 is one group a row; whoever reads these formats checks them.
STORED = ("quantization_config", "compression_config")
ADAPTER = [ADAPTER_CONFIG, ADAPTER_WEIGHTS, "adapter_model.bin"]
# Keys by which transformers 5.23 reads another file. Of a tokenizer they are arguments of its class, whatever it is.
FILES_OF_CONFIG = ("configuration_files", "transformers_weights")
FILES_OF_TOKENIZER = re.compile(
    r"(_files?|_path|_dir)$|^(vocab|merges|init_inputs|bpe_codes|rewriting_rules)$"
)
# Keys of tokenizer_config.json that it puts the folder's own in place of; makers' machines left their paths there.
SAVED_PATHS = (
    "name_or_path",
    "_name_or_path",
    "tokenizer_file",
    "special_tokens_map_file",
    "added_tokens_file",
)
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
    _require_ranges(where, config)
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


def _require_ranges(where: str, config: dict) -> None:
    """ArtifactError for a number of config.json, also in a part or a list of it, that is outside of RANGES."""
    for key, value in config.items():
        if key in STORED or UNREAD.search(key):
            continue
        if isinstance(value, dict):
            _require_ranges(where, value)
            continue
        numbers = [
            each for each in (value if isinstance(value, list) else [value]) if type(each) in (int, float)
        ]
        for pattern, least, most, closed in RANGES:
            if not pattern.search(key):
                continue
            if wrong := [n for n in numbers if not least <= n <= most or (n == least and not closed)]:
                right = f"a number {'from' if closed else 'above'} {least} to {most:g}"
                raise ArtifactError(
                    f"{where}: config.json: `{key}` is {wrong[0]!r}, {right} is right; {AT_SOURCE}"
                )


def require_plain_files(where: str, source: Path, patterns: Iterable[str]) -> None:
    """ArtifactError for a file of the patterns that `local.require_plain` refuses. Weights may be links to anywhere."""
    for path in sorted(source.iterdir()):
        if any(fnmatch(path.name, pattern) for pattern in patterns):
            require_plain(where, path, anywhere=path.suffix in (".safetensors", ".gguf"))


def require_own_files(where: str, folder: Path) -> None:
    """ArtifactError for a key by which transformers would read a file that is none of the folder's, or is not copied.

    It takes such a file whatever else lies in the folder, and no manifest would hold its hash.
    """
    names = [name for name in (*CONFIG, *TOKENIZER) if name.endswith(".json") and (folder / name).exists()]
    contents = {
        name: _read_object(where, folder / name) for name in names
    }  # strictly: a key twice is an error
    whole = WHOLE if (folder / WHOLE).exists() else INDEX
    for key in FILES_OF_CONFIG:
        value = contents["config.json"].get(key)
        if value and value not in (["config.json"], whole):
            raise _not_own(where, "config.json", key, value)
    for name, unread in (("tokenizer_config.json", SAVED_PATHS), ("special_tokens_map.json", ())):
        for key, text in _texts(contents.get(name, {})):
            own = key.endswith(("_file", "_files")) and text in TOKENIZER and (folder / text).is_file()
            if FILES_OF_TOKENIZER.search(key) and key not in unread and not own:
                raise _not_own(where, name, key, text)


def _not_own(where: str, file: str, key: str, value: object) -> ArtifactError:
    return ArtifactError(
        f"{where}: {file}: `{key}` names {value!r}, which is no file that a model's folder is read from; remove the "
        "key, and put that file into the folder under its usual name (tokenizer.json, vocab.json, config.json)"
    )


def _read_object(where: str, file: Path) -> dict:
    content = read_json(file, advice=AT_SOURCE)
    if not isinstance(content, dict):
        raise ArtifactError(f"{where}: {file.name} is a {type(content).__name__}, no object; {AT_SOURCE}")
    return content


def _texts(content: dict) -> Iterator[tuple[str, str]]:
    """Each text of an object of JSON, also inside of others and in lists, with the key that it stands under.

    A vocabulary or merges that stand there themselves are no texts that name a file.
    """
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _texts(value)
        elif isinstance(value, list) and key not in ("vocab", "merges"):
            for each in value:
                yield from _texts({key: each})
        elif isinstance(value, str) and value:
            yield key, value


def file_with_code(where: str, folder: Path) -> str | None:
    """The file of a model's folder whose `auto_map` names Python code of the model's own; None if there is none.

    ArtifactError for code that lies elsewhere: in another repository, or outside of the folder; and for an `auto_map`
    with null, which transformers can't read.
    """
    found = None
    for name in ("config.json", "tokenizer_config.json"):
        content = _read_object(where, folder / name) if (folder / name).exists() else {}
        for code in _maps(content):
            texts = [text for text in code if text]
            if not texts and None in code:
                raise ArtifactError(
                    f"{where}: {name}: `auto_map` is null, which transformers can't read; remove the key"
                )
            found = found or (name if texts else None)
            for text in texts:
                if not re.fullmatch(r"\w+\.\w+", str(text)):
                    raise ArtifactError(
                        f"{where}: {name}: `auto_map` names {text!r}, code outside of the folder; put the module there"
                    )
    return found


def _maps(content: object) -> Iterator[list]:
    """The code that each `auto_map` of an object of JSON names, also inside of others."""
    if isinstance(content, dict):
        if "auto_map" in content:
            code = content["auto_map"]
            classes = code.values() if isinstance(code, dict) else [code]
            yield [text for each in classes for text in (each if isinstance(each, list) else [each])]
        for each in content.values():
            yield from _maps(each)


def require_no_adapter(where: str, source: Path) -> None:
    """ArtifactError for a PEFT adapter beside the weights: it would not be used."""
    if found := [name for name in ADAPTER if (source / name).exists()]:
        raise ArtifactError(
            f"{where}: {found[0]} lies beside the weights, and that adapter would not be used; merge it into them "
            "(peft: `merge_and_unload`) and save the result, or remove the adapter's files"
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


def place(
    where: str,
    source: Path,
    folder: Path,
    patterns: list[str],
    link: Callable[[Path, Path], object],
    whole: bool = False,
) -> None:
    """Put the files that match into `folder`: weights by `link` if possible, the rest copied; check that no weights
    are cut short. AutoGPTQ's one file gets the name that transformers knows. whole: check also that they are a
    model's, with its configuration and tokenizer."""
    loaded = stored(source, where) if "*.safetensors" in patterns else {}
    for path in taken(source, patterns, loaded):
        target = folder / (WHOLE if LONE.fullmatch(path.name) else path.name)
        if target.exists():
            continue
        if path.suffix in (".safetensors", ".gguf"):
            try:
                link(path.resolve(), target)
                continue
            except OSError:  # another file system: a copy instead
                pass
        shutil.copyfile(path, target)
    if whole and (missing := _missing(folder)):
        raise ArtifactError(f"{where}: missing {', '.join(missing)}")


def _missing(folder: Path) -> list[str]:
    """Files that a folder with weights lacks to be a model."""
    present = {path.name for path in folder.iterdir()}
    missing = [] if "config.json" in present else ["config.json"]
    if not (present & {"tokenizer.json", "tokenizer.model"} or {"vocab.json", "merges.txt"} <= present):
        missing.append("tokenizer.json (or tokenizer.model, or vocab.json with merges.txt)")
    return missing

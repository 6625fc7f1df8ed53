"""Files of a local source that its fetch takes; a plan counts the contents of these alone (plan/contents.py)."""

import re
from collections.abc import Collection
from fnmatch import fnmatch
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, read_json

CONFIG = ["config.json", "generation_config.json"]
TOKENIZER = [
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
]
WEIGHTS = ["*.safetensors", "*.safetensors.index.json"]
CODE = ["*.py"]  # of a model that is trusted
# Files that makers write beside config.json; some readers take the quantisation from there.
SIDE_FILES = ["quantize_config.json", "quant_config.json", "hf_quant_config.json"]
OF_MODEL = [*CONFIG, *TOKENIZER, *WEIGHTS]
OF_CHECKPOINT = [*OF_MODEL, *SIDE_FILES]
TEXTS = (".txt", ".jsonl")

AT_SOURCE = "it must be mended at its source"
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LONE = re.compile(
    r"gptq_model.*\.safetensors"
)  # the one file that AutoGPTQ wrote, gptq_model-4bit-128g.safetensors


def taken(folder: Path, patterns: list[str], weights: Collection[Path]) -> list[Path]:
    """The files of a model's folder that match, by name; of its safetensors files those among `weights`: others are
    another copy, or of another program."""
    matching = (
        path for path in sorted(folder.iterdir()) if any(fnmatch(path.name, each) for each in patterns)
    )
    return [path for path in matching if path.suffix != ".safetensors" or path in weights]


def texts_in(folder: Path) -> list[Path]:
    """The files of a corpus' folder."""
    return sorted(file for file in folder.iterdir() if file.suffix in TEXTS)


def shards(folder: Path, where: str | None = None) -> list[Path]:
    """The safetensors files of a folder that transformers loads; `where` names the folder in errors.

    ArtifactError for weights that it would not find, an index that can't be read, or both a whole file and an index of
    others: programs differ in which of them they use.
    """
    where = where or str(folder)
    whole, index = folder / WHOLE, folder / INDEX
    if named := named_alone(folder):
        return [folder / named]
    if not index.exists():
        if whole.exists():
            return [whole]
        present = sorted(path.name for path in folder.glob("*.safetensors"))
        if len(present) == 1 and LONE.fullmatch(present[0]):
            return [folder / present[0]]
        if not present:
            raise ArtifactError(f"{where}: missing *.safetensors: neither {WHOLE} nor {INDEX} is there")
        raise ArtifactError(
            f"{where}: its weights are {', '.join(present[:3])}, without {INDEX} to name them; rename a single file to "
            f"{WHOLE}, or save the model again (transformers: `save_pretrained`)"
        )
    files = [folder / name for name in sorted({*places_in(index, where).values()})]
    if whole.exists() and files != [whole]:
        raise ArtifactError(
            f"{where}: holds {WHOLE}, and {INDEX} names others ({files[0].name}); which of them counts? Remove "
            "the other"
        )
    return files


def named_alone(folder: Path) -> str | None:
    """The file that config.json names as the only one: this project's stored models do (compress/stored_model.py)."""
    config = read_json(folder / "config.json", advice=AT_SOURCE) if (folder / "config.json").exists() else {}
    return config.get("transformers_weights") if isinstance(config, dict) else None


def places_in(index: Path, where: str) -> dict[str, str]:
    """Tensor -> file, of an index."""
    found = read_json(index, advice=AT_SOURCE)
    places = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise ArtifactError(f"{where}: {index.name}: `weight_map` maps no names to files; {AT_SOURCE}")
    if odd := [shard for shard in places.values() if Path(shard).name != shard]:
        raise ArtifactError(f"{where}: {index.name}: {odd[0]!r} is no file of the folder; {AT_SOURCE}")
    if not places:
        raise ArtifactError(f"{where}: {index.name}: `weight_map` is empty; {AT_SOURCE}")
    if gone := sorted({shard for shard in places.values() if not (index.parent / shard).exists()}):
        raise ArtifactError(f"{where}: missing {', '.join(gone)}, which {index.name} names")
    if not isinstance(found.get("metadata"), dict):
        raise ArtifactError(f"{where}: {index.name}: lacks `metadata`, which transformers reads; {AT_SOURCE}")
    return places

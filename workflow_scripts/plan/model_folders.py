"""Reads a model's folder without any library: JSON, the names of its modules, whether it has a chat template."""

import functools
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, read_json, safetensors_header
from workflow_scripts.plan.layout import MODEL


def has_template(folder: Path) -> bool:
    """True if a folder's tokenizer has a chat template, the one named default if it has several."""
    if (folder / "chat_template.jinja").is_file():
        return True
    file = folder / "tokenizer_config.json"
    template = read_object(file).get("chat_template") if file.is_file() else None
    if isinstance(template, list):
        return any(isinstance(one, dict) and one.get("name") == "default" for one in template)
    return bool(template)


def modules_in(folder: Path) -> frozenset[str]:
    for name in ("model.safetensors.index.json", "model.safetensors"):
        if (weights := folder / name).is_file():
            return _modules(weights, weights.stat().st_mtime_ns)
    return frozenset()


@functools.cache
def _modules(weights: Path, changed: int) -> frozenset[str]:
    """Names of the modules with a weight in a safetensors file or its index, which was `changed` then."""
    if weights.suffix == ".json":
        names = read_object(weights).get("weight_map", ())
    else:
        try:
            names = safetensors_header(weights)[0]
        except ArtifactError as error:
            raise ArtifactError(f"{error}; {refetch(weights)}") from error
    return frozenset(name.removesuffix(".weight") for name in names if name.endswith(".weight"))


def read_object(file: Path) -> dict:
    read = read_json(file, advice=refetch(file))
    if not isinstance(read, dict):
        raise ArtifactError(f"{file}: is no JSON object; {refetch(file)}")
    return read


def refetch(file: Path) -> str:
    fetched = file.parent == Path(MODEL.path(model=file.parent.name)).parent
    return (
        f"delete {file.parent} and it will be fetched again" if fetched else "it must be mended at its source"
    )

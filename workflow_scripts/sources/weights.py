"""The weights of a model's folder as transformers would load them: which files, which tensors, and that all are numbers
of the architecture that config.json names."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.files.artifacts import ArtifactError, safetensors_header
from workflow_scripts.files.source_files import AT_SOURCE, INDEX, named_alone, places_in, shards

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

FLOATS = ("F64", "F32", "F16", "BF16")  # types of plain weights, in safetensors' words
# Constants that old checkpoints store and today's classes compute: the causal mask of four dimensions and the value
# of what it hides (GPT-2, GPT-Neo, GPT-J, CodeGen), sinusoids (GPT-J), frequencies and the cosines made of them.
CONSTANTS = (
    (r"\battn\.(attention\.)?(bias|causal_mask)$|\battention\.bias$", 4),
    (r"\bat(tn|tention)\.(attention\.)?masked_bias$", 0),
    (r"\battn\.embed_positions$", 2),
    (r"\brotary_emb\.(inv_freq|cos_cached|sin_cached)$", None),
    (r"(^|\.)position_ids$", None),
)
Headers = dict[Path, dict]  # safetensors file -> its tensors {name: {dtype, shape, data_offsets}}


def stored(folder: Path, where: str | None = None) -> Headers:
    """The tensors of the files that transformers loads (`shards`), by their headers.

    ArtifactError for a file that is cut short or has bytes beyond its tensors, for an index that names a tensor which
    its shard lacks, for a tensor in two shards, or for what `shards` refuses.
    """
    where = where or str(folder)
    headers = {file: _header(file) for file in shards(folder, where)}
    if (index := folder / INDEX).exists() and not named_alone(folder):
        for name, shard in places_in(index, where).items():
            if name not in headers[folder / shard]:
                raise ArtifactError(
                    f"{where}: {shard}: lacks the tensor {name}, which {index.name} promises; {AT_SOURCE}"
                )
    held: dict[str, Path] = {}
    for file, header in headers.items():
        for name in header:
            if (first := held.setdefault(name, file)) != file:
                raise ArtifactError(
                    f"{where}: {file.name}: holds {name}, and so does {first.name}; which of them counts?"
                )
    return headers


def _header(file: Path) -> dict:
    from safetensors import SafetensorError, safe_open

    header, begin = safetensors_header(file)
    end = begin + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if (size := file.stat().st_size) != end:
        raise ArtifactError(f"{file}: has {size} bytes, its header promises {end}")
    try:
        with safe_open(file, "pt"):
            pass
    except SafetensorError as error:  # tensors that overlap, gaps between them, a type of tomorrow
        raise ArtifactError(f"{file}: no safetensors file ({error}); {AT_SOURCE}") from error
    return header


# ------------------------------------------------------------------------------------------- the values


def tensors(headers: Headers) -> Iterator[tuple[str, "Tensor"]]:
    """(name, values) of each tensor, read when asked for."""
    from safetensors import safe_open

    for file, header in headers.items():
        with safe_open(file, "pt") as opened:
            for name in header:
                yield name, opened.get_tensor(name)


def require_numbers(where: str, headers: Headers) -> None:
    """ArtifactError for weights that are codes without their scales (whole numbers, 8-bit floats), or that hold NaN or
    infinities in float32. Reads every weight once."""
    entries = [each for header in headers.values() for each in header.items()]
    for name, entry in entries:
        numbers = entry["dtype"] in FLOATS or not name.endswith(("weight", "_proj", "bias"))
        if not numbers and not _constant(name, entry):
            raise ArtifactError(
                f"{where}: {name} is of type {entry['dtype']}, no weight of a dense model; those are of "
                f"{', '.join(FLOATS)}; {AT_SOURCE}"
            )
    for name, values in tensors(headers):
        if values.is_floating_point() and not finite(values):
            raise ArtifactError(f"{where}: {name} holds NaN or infinite values; {AT_SOURCE}")


def finite(values: "Tensor") -> bool:
    """Whether all values are finite in float32. The least and the largest tell: NaN wins both."""
    import torch

    if not values.numel():
        return True
    if values.element_size() == 1:  # 8-bit floats have no extremes in torch
        values = values.float()
    return bool(torch.isfinite(torch.stack(torch.aminmax(values)).float()).all())


# -------------------------------------------------------------------------------------------- the names


def targets(model: "PreTrainedModel", names: list[str]) -> dict[str, tuple[str, bool]]:
    """Name in a checkpoint -> (the model's tensor that it becomes, whether it is a part of it), as transformers'
    loader translates it; of several tensors that it becomes, the first: they lie in one module."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    prefix, known = model.base_model_prefix, model.state_dict()
    found = {}
    for key in names:
        name, pattern = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:
            name, pattern = rename_source_key(key, [], [], prefix, known)
        found[key] = (name, pattern is not None)
    return found


def require_architecture(where: str, model: "PreTrainedModel", found: dict, headers: Headers) -> None:
    """ArtifactError unless the weights are the whole of the model's tensors and nothing else.

    found: transformers' account of the load, which has left out what the class itself ignores. Constants that today's
    classes compute may stand there (CONSTANTS).
    """
    entries = {name: entry for header in headers.values() for name, entry in header.items()}
    names = targets(model, list(entries))
    renamed = {name: entries[key] for key, (name, _) in names.items()}
    odd = {name for name in found["unexpected_keys"] if not _constant(name, renamed.get(name))}
    require_complete(where, found | {"unexpected_keys": odd})
    held: dict[str, str] = {}
    for key, (name, is_part) in names.items():
        # Parts of a tensor that stand there twice make it of another shape.
        if not is_part and (first := held.setdefault(name, key)) != key:
            raise ArtifactError(
                f"{where}: {first} and {key} are the same tensor of config.json's architecture; which of them counts?"
            )


def require_complete(where: str, found: dict) -> None:
    """ArtifactError if transformers' account of a load speaks of missing, misnamed, misshapen or further tensors."""
    odd = sorted(found["unexpected_keys"])
    if missing := sorted(found["missing_keys"]):
        hint = f"; it holds {_listed(odd)}, for which the architecture has no place" if odd else ""
        raise ArtifactError(
            f"{where}: its weights lack {_listed(missing)}, which config.json's architecture has{hint}; "
            f"{AT_SOURCE}"
        )
    if wrong := sorted(found["mismatched_keys"]):
        name, held, asked = wrong[0]
        raise ArtifactError(
            f"{where}: {name} has the shape {list(held)} in its weights, config.json's architecture asks for "
            f"{list(asked)}{_more(wrong)}; {AT_SOURCE}"
        )
    if odd:
        raise ArtifactError(
            f"{where}: its weights hold {_listed(odd)}, for which config.json's architecture has no place; "
            f"{AT_SOURCE}"
        )


def _constant(name: str, entry: dict | None) -> bool:
    """Whether a stored tensor is a constant that today's classes compute, by its name and its number of dimensions."""
    size = len(entry["shape"]) if entry else None
    return any(
        re.search(form, name)
        and (asked is None or size == asked or (asked == 0 and entry and entry["shape"] == [1]))
        for form, asked in CONSTANTS
    )


def _listed(names: list[str]) -> str:
    return names[0] + _more(names)


def _more(names: list) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def _equal(a: "Tensor", b: "Tensor") -> bool:
    return a.shape == b.shape and (a.equal(b) if a.dtype == b.dtype else a.double().equal(b.double()))


def require_tied(
    where: str,
    folder: Path,
    model: "PreTrainedModel",
    alike: Callable[["Tensor", "Tensor"], bool] = _equal,
) -> None:
    """ArtifactError for a head in the weights that is not the embeddings, though config.json ties the two.

    Programs differ in which of them they then use. model: the folder's, on any device. alike: whether two stored
    matrices are one.
    """
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    config = model.config.get_text_config(decoder=True)
    if not getattr(config, "tie_word_embeddings", False) or parts[1] is None:
        return
    modules = {
        f"{name}.weight" for name, module in model.named_modules() if any(module is part for part in parts)
    }
    headers = stored(folder)
    names = targets(model, [name for header in headers.values() for name in header])
    kept = {
        file: {key: entry for key, entry in header.items() if names[key][0] in modules}
        for file, header in headers.items()
    }
    held = dict(tensors(kept))
    head, *others = sorted(held, key=lambda key: names[key][0])
    for other in others:
        if not alike(held[other], held[head]):
            raise ArtifactError(
                f"{where}: config.json ties the head to the embeddings (`tie_word_embeddings`), but {other} and {head} "
                "differ in its weights; correct the one or the other"
            )

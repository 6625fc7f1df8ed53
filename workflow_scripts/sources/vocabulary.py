"""Whether a model's tokenizer gives a text the same tokens each time, and whether every token id that it or a
configuration gives is a row of the embeddings."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.files.source_files import AT_SOURCE

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


def require_rows(
    where: str, folder: Path, tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel"
) -> None:
    """ArtifactError for a token of the tokenizer, or a special id of config.json or generation_config.json, beyond the
    rows of the embeddings."""
    embeddings: Any = model.get_input_embeddings()
    rows = len(embeddings.weight)
    for token, index in sorted(tokens_of_text(tokenizer).items(), key=lambda item: item[1]):
        if index >= rows:
            raise ArtifactError(
                f"{where}: its tokenizer gives {token!r} the id {index}, but its embeddings have {rows} rows (0 to "
                f"{rows - 1}); {AT_SOURCE}"
            )
    for file in ("config.json", "generation_config.json"):
        content = read_json(folder / file, advice=AT_SOURCE) if (folder / file).exists() else {}
        for key, value in _special(content):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < rows:
                raise ArtifactError(
                    f"{where}: {file}: `{key}` is {value!r}, but its embeddings have {rows} rows (0 to {rows - 1}); "
                    f"{AT_SOURCE}"
                )


def require_same_tokens(where: str, tokenizer: "PreTrainedTokenizerBase") -> None:
    """ArtifactError for a tokenizer that draws its tokens at random, as some do in training (BPE dropout, subword
    sampling): no two cells would read the same text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    dropout = getattr(getattr(backend, "model", None), "dropout", None)
    sampling = (tokenizer.init_kwargs.get("sp_model_kwargs") or {}).get("enable_sampling")
    found = {
        "tokenizer.json: model.dropout": dropout and f"{dropout:.3g}",
        "sp_model_kwargs.enable_sampling": sampling,
    }
    for key, value in found.items():
        if value:
            raise ArtifactError(f"{where}: {key} is {value}: a text has other tokens each time; {AT_SOURCE}")


def tokens_of_text(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """Token -> id, without the places of other modalities, which a model of text has no rows for: Gemma 3's tokenizer
    has an `image_token` beyond the embeddings of its small models."""
    named = {key: getattr(tokenizer, key, None) for key in ("image_token", "audio_token", "video_token")}
    vocabulary = tokenizer.get_vocab()
    return {token: index for token, index in vocabulary.items() if token not in named.values()}


def _special(content: object) -> Iterator[tuple[str, object]]:
    """Special ids of a configuration, as they stand there, also of its parts. A padding token of -1 is none, by an old
    habit."""
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _special(value)
        elif key in SPECIAL:
            ids = value if isinstance(value, list) else [value]
            given = [index for index in ids if index is not None]
            yield from ((key, index) for index in given if key != "pad_token_id" or index != -1)

"""Settings of generation that a model's folder brings, as transformers' `generate` and lm-eval's HFLM take them.

An answer is greedy (`do_sample` is false), whatever generation_config.json says of sampling. A penalty of repetition is
applied, as HFLM does; any other setting that would change a greedy answer is refused at the fetch.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.files.source_files import AT_SOURCE

if TYPE_CHECKING:
    from transformers import GenerationConfig

PENALTY = "repetition_penalty"
# Settings that change greedy answers, and the value at which each doesn't (None, the default, never does).
CHANGING: dict[str, object] = {
    **dict.fromkeys(("num_beams", "num_beam_groups", "num_return_sequences"), 1),
    **dict.fromkeys(("encoder_repetition_penalty", "guidance_scale"), 1),
    **dict.fromkeys(("penalty_alpha", "diversity_penalty", "min_length", "min_new_tokens"), 0),
    **dict.fromkeys(("no_repeat_ngram_size", "encoder_no_repeat_ngram_size"), 0),
    **dict.fromkeys(("dola_layers", "constraints", "force_words_ids", "forced_bos_token_id"), None),
    **dict.fromkeys(("forced_eos_token_id", "exponential_decay_length_penalty"), None),
    **dict.fromkeys(("watermarking_config", "max_time"), None),
    **{key: [] for key in ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "stop_strings")},
    "sequence_bias": {},
    "token_healing": False,
}


def require_known(where: str, folder: Path) -> None:
    """ArtifactError for a setting of a model's folder that the scorer does not follow; `where` names the folder."""
    file = _file(folder)
    content = read_json(file, advice=AT_SOURCE)
    if not isinstance(content, dict):
        raise ArtifactError(f"{where}: {file.name} is a {type(content).__name__}, no object; {AT_SOURCE}")
    try:
        require_greedy(content, file.name)
    except ValueError as error:
        raise ArtifactError(f"{where}: {error}; {AT_SOURCE}") from error


def require_greedy(settings: Mapping[str, object], place: str) -> float:
    """The penalty of repetition of the settings, 1 for none. ValueError names one that changes greedy answers
    otherwise; `place`: where the settings stand."""
    for key, neutral in CHANGING.items():
        if (value := settings.get(key)) not in (None, neutral):
            raise ValueError(
                f"the scorer generates greedily; it has no {key} ({value!r} in {place}; {neutral!r} there does without)"
            )
    penalty = settings.get(PENALTY)
    if penalty is None:
        return 1.0
    known = isinstance(penalty, int | float) and not isinstance(penalty, bool)
    if not known or not 0 < float(str(penalty)) < math.inf:
        raise ValueError(f"{PENALTY} is {penalty!r} in {place}; a number above 0 is right")
    return float(str(penalty))


def load_generation_config(folder: Path) -> "GenerationConfig":
    """The settings of a model's folder, of config.json if it has no generation_config.json, as transformers does."""
    from transformers import GenerationConfig

    return GenerationConfig.from_pretrained(
        folder, config_file_name=_file(folder).name, local_files_only=True
    )


def _file(folder: Path) -> Path:
    own = Path(folder) / "generation_config.json"
    return own if own.is_file() else Path(folder) / "config.json"

"""Settings of generation that a model's folder brings: followed as the harness does, or refused at the fetch."""

import json

import pytest

from tests.tiny import change_json
from tests.unit.sources.test_vocabulary import fetched, refused
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.sources.decoding import CHANGING, load_generation_config

SAMPLING = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("num_beams", 4), ("num_beams", 0), ("no_repeat_ngram_size", 3), ("bad_words_ids", [[5]])),
        *(
            ("suppress_tokens", [5]),
            ("forced_eos_token_id", 2),
            ("forced_bos_token_id", 0),
            ("min_length", 7),
        ),
        *(("min_new_tokens", 2), ("sequence_bias", [[[5], -1.0]]), ("guidance_scale", 1.5)),
        *(("stop_strings", "a"), ("repetition_penalty", -1.2), ("repetition_penalty", "1.1")),
    ],
)
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_a_setting_that_no_cell_follows_is_refused_at_the_fetch(file, key, value, given):
    if file == "config.json":
        (given / "generation_config.json").unlink(missing_ok=True)
    change_json(given / file, **{key: value})
    refused(given, f"{key}.*in {file}")


def test_sampling_and_a_penalty_of_repetition_are_no_reason_to_refuse(given):
    change_json(given / "generation_config.json", **SAMPLING, **CHANGING)
    fetched(given)


@pytest.mark.parametrize("content", ["[]", "[1]", "3", "{"])
def test_a_file_that_is_no_object_is_refused_in_one_line(content, given):
    (given / "generation_config.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"generation_config\.json") as error:
        fetched(given)
    assert "\n" not in str(error.value)


def test_settings_are_read_as_transformers_reads_them(given):
    change_json(given / "generation_config.json", **SAMPLING)
    assert load_generation_config(given).repetition_penalty == 1.05
    (given / "generation_config.json").unlink()
    config = json.loads((given / "config.json").read_text())
    (given / "config.json").write_text(json.dumps(config | {"repetition_penalty": 1.3, "eos_token_id": 1}))
    found = load_generation_config(given)
    assert (found.repetition_penalty, found.eos_token_id) == (1.3, 1)

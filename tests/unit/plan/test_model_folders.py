"""What a model's folder says of itself before any library reads it."""

import json
from pathlib import Path

import pytest

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan import after_fetch
from workflow_scripts.plan.config import ConfigError, load

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("file", "content", "found"),
    [
        ("chat_template.jinja", "{{ messages }}", True),
        ("tokenizer_config.json", {"chat_template": "{{ messages }}"}, True),
        (
            "tokenizer_config.json",
            {"chat_template": [{"name": "default", "template": "{{ messages }}"}]},
            True,
        ),
        (
            "tokenizer_config.json",
            {"chat_template": [{"name": "tool_use", "template": "{{ messages }}"}]},
            False,
        ),
        ("tokenizer_config.json", {"bos_token": "<s>"}, False),
        ("tokenizer_config.json", {"chat_template": None}, False),
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_a_chat_needs_a_template(file, content, found, local, unfetched, tmp_path):
    """Refused before any job if the folder is local, else as soon as it is fetched."""
    entry = unfetched["models"]["smollm2-135m"]
    folder = tmp_path / ("mine" if local else "resources/models/smollm2-135m")
    if local:
        entry = unfetched["models"]["smollm2-135m"] = {
            "source": "local",
            "path": str(folder),
            "parameters": 1e8,
        }
    entry["chat"] = True
    load(unfetched)  # nothing is known yet
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))
    if found:
        load(unfetched)
        return
    said = "models.smollm2-135m.chat: the tokenizer of smollm2-135m has no chat template"
    with pytest.raises(ConfigError, match=said):
        load(unfetched)
    with pytest.raises(ArtifactError, match=said):
        after_fetch.check(unfetched, "smollm2-135m")
    entry["chat"] = False
    load(unfetched)

"""Questions as a chat: messages rendered by the tokenizer's template, as the harness's HFLM (lm-eval 0.4.13) does it.

Some templates print the day on which they are rendered (Llama 3.2, SmolLM3, Granite 3.3), so that cells of one grid
would be asked otherwise. `prepare` writes one day into them, `DAY`.
"""

import functools
import json
import re
from dataclasses import dataclass
from datetime import date
from hashlib import sha256
from typing import cast

import jinja2
from transformers import PreTrainedTokenizerBase

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.files.job import log

DAY = date(2024, 7, 26)  # on which Llama 3's templates fall back
CLOCK = re.compile(r"""strftime_now\(\s*(["'])(?P<form>.*?)\1\s*\)""")  # in a template
QUESTION = {"role": "user", "content": "How many?"}
WITHOUT_SYSTEM = "its chat template takes no system message"


@dataclass(frozen=True)
class Chat:
    """The form of a task's questions: each to the model's chat template, solved examples as turns before it.

    system: the system message, before a task's own description; None for none.
    """

    system: str | None = None


def render(
    tokenizer: PreTrainedTokenizerBase, history: list[dict[str, str]], add_generation_prompt: bool = True
) -> str:
    """Messages {role, content} as the text that the model reads, up to where the assistant goes on.

    add_generation_prompt: False if the last message is the assistant's own beginning. A system message that the
    template refuses is left out, as in HFLM; one that it drops is too. The log says so, once. ArtifactError for a
    template that fails otherwise.
    """
    try:
        text = _rendered(tokenizer, history, add_generation_prompt)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        others = [message for message in history if message["role"] != "system"]
        if len(others) == len(history) or not isinstance(error, jinja2.TemplateError):
            raise ArtifactError(f"{tokenizer.name_or_path}: its chat template fails: {error}") from error
        _say_once(f"{WITHOUT_SYSTEM} ({error}); the task's is left out")
        return render(tokenizer, others, add_generation_prompt)
    if any(message["role"] == "system" and message["content"].strip() not in text for message in history):
        _say_once(f"{WITHOUT_SYSTEM} (it drops it); the task's is left out")
    return text


@functools.cache
def _say_once(text: str) -> None:
    log(text)


def _rendered(
    tokenizer: PreTrainedTokenizerBase, history: list[dict[str, str]], add_generation_prompt: bool
) -> str:
    text = tokenizer.apply_chat_template(
        history,
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
    )
    return cast(str, text)


def prepare(tokenizer: PreTrainedTokenizerBase, system: str | None) -> None:
    """Write `DAY` into the tokenizer's template.

    ArtifactError, naming the folder, without a template, or if it drops the question, or the system message `system`.
    """
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        reason = "its tokenizer has no chat template (`chat: true` of its entry in models asks for one)"
        if named := tokenizer.chat_template:
            reason = (
                f"its tokenizer has the chat templates {', '.join(sorted(named))}, and none is called default"
            )
        raise ArtifactError(f"{tokenizer.name_or_path}: {reason}") from error
    tokenizer.chat_template = CLOCK.sub(lambda call: json.dumps(DAY.strftime(call["form"])), template)
    if "strftime_now(" in tokenizer.chat_template:
        reason = "its chat template asks for the time in another form than strftime_now('%d ...')"
        raise ArtifactError(f"{tokenizer.name_or_path}: {reason}, so questions would change by the day")
    if QUESTION["content"] not in render(tokenizer, [QUESTION]):
        raise ArtifactError(f"{tokenizer.name_or_path}: its chat template leaves out the question")
    if system is not None and not _keeps_system(tokenizer, system):
        raise ArtifactError(
            f"{tokenizer.name_or_path}: {WITHOUT_SYSTEM}, so no method of kind text has a place"
        )


def _keeps_system(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """True if the system message `text` stands in a rendered chat."""
    try:
        return text.strip() in _rendered(tokenizer, [{"role": "system", "content": text}, QUESTION], True)
    except jinja2.TemplateError:
        return False


def described(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The format of a prepared tokenizer, for a manifest; `system_message`: what its template does with one, such as
    a task's description."""
    text = tokenizer.get_chat_template()
    kept = "read" if _keeps_system(tokenizer, "Answer well.") else "left out"
    return {
        "template_sha256": sha256(text.encode()).hexdigest(),
        "day": DAY.isoformat(),
        "system_message": kept,
    }

"""Jinja templates of a configuration over an item's fields. They may come from anybody, and run in Jinja's sandbox."""

import re
from functools import lru_cache

import jinja2
from jinja2.sandbox import SandboxedEnvironment

FAULTS = (
    *(jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
    *(RecursionError, MemoryError),
)


class Unfilled(ValueError):
    """A template that is none, or that an item's fields don't fill in; in words."""


@lru_cache
def compiled(template: str, keep_trailing_newline: bool = False) -> jinja2.Template:
    """The template, with Jinja's filters and the harness's regex_replace; Unfilled for one that is malformed."""
    environment = SandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        finalize=_known,
        autoescape=False,
        keep_trailing_newline=keep_trailing_newline,
    )
    environment.filters["regex_replace"] = _regex_replace
    try:
        return environment.from_string(template)
    except FAULTS as error:
        raise Unfilled(f"{template!r} is no Jinja template: {error}") from error


def fill(template: str, item: dict, keep_trailing_newline: bool = False) -> str:
    """The template, filled in from an item's fields; Unfilled also for a field that the item lacks."""
    try:
        return compiled(template, keep_trailing_newline).render(item)
    except FAULTS as error:
        if isinstance(error, Unfilled):
            raise
        raise Unfilled(f"{template!r} can't be filled in: {error}") from error


def _known(value: object) -> object:
    if value is None:  # a field that other rows have; Jinja would write "None"
        raise ValueError("a field of it is null")
    return value


def _regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    return re.sub(pattern, replacement, text, count=count)

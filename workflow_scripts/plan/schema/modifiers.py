"""A recipe of llm-compressor: its form, and the names that the pinned version knows (plan/modifiers.yaml).

llm-compressor says of a wrong name only in the job that runs it, and passes over stages and groups of other names
without a word.
"""

import json
from collections.abc import Iterable
from functools import cache
from typing import Any

from workflow_scripts.files.artifacts import PACKAGE
from workflow_scripts.files.yaml_text import read_yaml
from workflow_scripts.plan.names import unknown

FORM = "a recipe is {<name>_stage: {<name>_modifiers: {<modifier>: {...}}}}"


@cache
def names() -> dict[str, Any]:
    """The names by their kind, as plan/modifiers.yaml has them."""
    found: dict[str, Any] = read_yaml(PACKAGE / "plan" / "modifiers.yaml")
    return found


def require_recipe(content: object) -> dict:
    """`content`, if it is a recipe; ValueError that names the stage, modifier and key that can't be."""
    if not isinstance(content, dict) or not content:
        raise ValueError(FORM)
    in_order = []
    for stage, groups in content.items():
        if not str(stage).endswith("_stage") or not isinstance(groups, dict) or not groups:
            raise ValueError(f"{stage!r}: {FORM}")
        for group, modifiers in groups.items():
            if not str(group).endswith("_modifiers") or not isinstance(modifiers, dict) or not modifiers:
                raise ValueError(f"{stage}: {group!r}: {FORM}")
            for name, held in modifiers.items():
                if not isinstance(held, dict):
                    raise ValueError(f"{stage}: {group}: {name!r}: {FORM}; {{}} takes every default")
                _require_modifier(f"{stage}: {group}", name, held)
                in_order.append(name)
    try:
        json.dumps(content, allow_nan=False)
    except ValueError:
        raise ValueError("holds a number that is not finite (.nan, .inf)") from None
    _require_rounding(in_order)
    return content


def _require_modifier(where: str, name: object, held: dict) -> None:
    """ValueError for a modifier or a key that llm-compressor doesn't know, or a key that is missing."""
    known = names()["modifiers"]
    if name not in known:
        raise ValueError(unknown(where, name, known, f"modifier of llm-compressor {names()['version']}"))
    where, entry = f"{where}: {name}", known[name]
    quantises = entry.get("quantises", False)
    _require_keys(
        where, held, [*entry["keys"], *(names()["quantisation"] if quantises else ()), *names()["common"]]
    )
    if missing := [key for key in entry.get("required", ()) if key not in held]:
        raise ValueError(f"{where}: the key {missing[0]} is missing")
    if quantises:
        _require_schemes(where, held)


def _require_keys(where: str, held: Iterable[object], known: Iterable[str]) -> None:
    known = list(known)
    for key in held:
        if key not in known:
            raise ValueError(unknown(where, key, known, "key of it"))


def _require_schemes(where: str, held: dict) -> None:
    """ValueError for schemes of a quantising modifier that can't be: a preset's name, {preset: targets}, or
    config_groups {name: {targets, weights, ...}}."""
    scheme, groups = held.get("scheme"), held.get("config_groups")
    if scheme is not None and groups is not None:
        raise ValueError(f"{where}: give either scheme or config_groups")
    for name in scheme if isinstance(scheme, dict) else [] if scheme is None else [scheme]:
        if str(name).upper() not in names()["schemes"]:
            raise ValueError(unknown(f"{where}: scheme", name, names()["schemes"], "preset"))
    if groups is not None and not isinstance(groups, dict):
        raise ValueError(
            f"{where}: config_groups: {{<name>: {{targets: [Linear], weights: {{...}}}}}} is needed"
        )
    for name, group in (groups or {}).items():
        place = f"{where}: config_groups: {name}"
        if not isinstance(group, dict):
            raise ValueError(f"{place}: {{targets: [Linear], weights: {{...}}}} is needed")
        _require_keys(place, group, names()["group"])
        if "targets" not in group:
            raise ValueError(f"{place}: the key targets is missing")
        for part in ("weights", "input_activations", "output_activations"):
            if isinstance(arguments := group.get(part), dict):
                _require_keys(f"{place}: {part}", arguments, names()["arguments"])


def _require_rounding(in_order: list[str]) -> None:
    """ValueError for AWQ's scales without a modifier after them that rounds."""
    known = names()["modifiers"]
    for place, name in enumerate(in_order):
        if name == "AWQModifier" and not any(
            known[later].get("quantises") for later in in_order[place + 1 :]
        ):
            able = ", ".join(each for each, entry in known.items() if entry.get("quantises"))
            raise ValueError(
                f"AWQModifier scales for a modifier after it that rounds, and there is none: {able}"
            )

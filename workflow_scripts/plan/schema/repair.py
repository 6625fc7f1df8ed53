"""A configuration without the mistakes that types found in it, so that the checks behind them find the others too.

A wrong value gives way to the smallest valid one, a missing key gets it, an unknown key goes. Nothing runs on the
outcome.
"""

import copy
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from workflow_scripts.plan.schema.keys import NAME
from workflow_scripts.plan.schema.problems import (
    SELECTED,
    KeyPath,
    followed,
    json_schema,
    key_path,
    rule_at,
    value_at,
    without_types,
)

FITS = {  # pattern -> a text that it allows
    NAME: "x",
    r"^[0-9a-f]{64}$": "0" * 64,
    r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$": "x/x",
    r"^([0-9a-f]{40}|main)$": "main",
    r"^[1-9][0-9]*:[1-9][0-9]*$": "1:2",
}


def repaired(error: ValidationError, config: dict) -> tuple[dict, list[str]]:
    """A copy of `config` without the mistakes, and the paths of the keys that were changed in it."""
    root, config, changed = json_schema(), copy.deepcopy(config), []
    gone: list[KeyPath] = []  # entries whose names are not allowed; further mistakes stand in them
    for found in error.errors(include_url=False):
        at, keyed = without_types(found["loc"])
        path: KeyPath = at
        if any(path[: len(entry)] == entry for entry in gone):
            continue
        if found["type"] in ("union_tag_not_found", "union_tag_invalid"):
            path = _select_type(path, config, root)
        elif keyed or found["type"] == "extra_forbidden":
            value_at(config, path[:-1]).pop(path[-1], None)
            gone.append(path)
        else:
            path = _replace(path, config, root)
        changed.append(key_path(path))
    return config, changed


def untouched(problems: Iterable[str], changed: list[str]) -> list[str]:
    """The problems that no repair can have caused; none if a catalogue was replaced, whose names others use."""
    if not SELECTED.keys().isdisjoint(changed):
        return []
    retyped = [path.split(".")[1] for path in changed if path.endswith((".kind", ".algorithm", ".source"))]
    kept = []
    for problem in problems:
        key, _, text = problem.partition(": ")
        near = any(f"{path}.".startswith(f"{key}.") or key.startswith((path, f"{path}.")) for path in changed)
        if not near and not any(f"'{name}'" in text for name in retyped):
            kept.append(problem)
    return kept


def _select_type(path: KeyPath, config: dict, root: dict) -> KeyPath:
    """Give an entry the type that knows most of its keys; the path of the key that selects it."""
    rule, entry = rule_at(root, path, config), value_at(config, path)
    selector = rule["discriminator"]["propertyName"]
    kinds = {
        kind: followed({"$ref": ref}, root)["properties"].keys()
        for kind, ref in rule["discriminator"]["mapping"].items()
    }
    entry[selector] = max(kinds, key=lambda kind: len(kinds[kind] & entry.keys()))
    return (*path, selector)


def _replace(path: KeyPath, config: dict, root: dict) -> KeyPath:
    """Put the smallest valid value at a path; returns the path, of a name that stands for a mapping the name's."""
    holder = value_at(config, path[:-1])
    if isinstance(holder, str):
        return _replace(path[:-1], config, root)
    holder[path[-1]] = smallest(rule_at(root, path, config), root)
    return path


def smallest(rule: dict, root: dict) -> Any:
    """The smallest value that a part of the JSON schema `root` allows."""
    rule = followed(rule, root)
    kinds = rule.get("type", "object")
    if "default" in rule:
        return copy.deepcopy(rule["default"])
    if "enum" in rule:
        return rule["enum"][0]
    if "oneOf" in rule:
        return smallest(rule["oneOf"][0], root)
    match kinds if isinstance(kinds, str) else kinds[0]:
        case "string":
            return FITS[rule["pattern"]] if "pattern" in rule else "x"
        case "integer" | "number":
            return rule["minimum"] if "minimum" in rule else rule.get("maximum", 1)
        case "boolean":
            return False
        case "array":
            return [smallest(rule["items"], root)] * rule.get("minItems", 0)
        case _:
            entries = {"x": rule["additionalProperties"]} if rule.get("minProperties") else {}
            wanted = {name: rule["properties"][name] for name in rule.get("required", ())}
            return {name: smallest(part, root) for name, part in (entries | wanted).items()}

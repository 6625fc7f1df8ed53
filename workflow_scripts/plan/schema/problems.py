"""The mistakes that types find, in words: key path, value, what is allowed, nearest name."""

import copy
import math
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from workflow_scripts.plan.names import listed, nearest
from workflow_scripts.plan.schema.configuration import Config
from workflow_scripts.plan.schema.keys import HINTS, NAME

Path = Sequence[str | int]
# Depth of the entries of which one key selects the type; at this place pydantic's paths hold the type.
SELECTED = {"models": 2, "corpora": 2, "benchmarks": 3, "compressors": 2, "methods": 2}
RANGE = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def json_schema() -> dict:
    """The types as JSON Schema, without what only pydantic writes: a type that may be null is a list of types, a
    catalogue has `additionalProperties`, a key that is absent has no default, only names have a title."""
    return _plain(Config.model_json_schema())


def _plain(rule: Any) -> Any:
    if isinstance(rule, list):
        return [_plain(part) for part in rule]
    if not isinstance(rule, dict):
        return rule
    rule = {name: _plain(part) for name, part in rule.items() if name != "title"}
    if rule.get("pattern") == NAME:
        rule["title"] = "name"
    if "anyOf" in rule:  # a type, and null
        first, _ = rule.pop("anyOf")
        rule = first | rule | {"type": [first.get("type", "string"), "null"]}
    elif rule.get("default", "") is None:  # of a key that is absent
        del rule["default"]
    if "const" in rule:
        rule["enum"] = [rule.pop("const")]
    if "patternProperties" in rule:
        [rule["additionalProperties"]] = rule.pop("patternProperties").values()
    if "discriminator" in rule:  # pydantic sorts the names; this is the order of the types
        order = [choice["$ref"] for choice in rule["oneOf"]]
        mapping = rule["discriminator"]["mapping"]
        rule["discriminator"]["mapping"] = dict(sorted(mapping.items(), key=lambda at: order.index(at[1])))
    return rule


def key_path(path: Path) -> str:
    """a.b[0].c"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "(top level)"


def of_keys(value: object, path: tuple = ()) -> list[str]:
    """Keys that are no printable text, and numbers that are not finite."""
    problems = []
    if isinstance(value, dict):
        for key, child in value.items():
            if not isinstance(key, str):
                problems.append(f"{key_path(path)}: the key {key!r} is not text; put it in quotes")
            elif not key.isprintable():
                problems.append(f"{key_path(path)}: the key {key!r} holds a control character")
            problems += of_keys(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            problems += of_keys(child, (*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{key_path(path)}: {value!r} is no finite number")
    return problems


def of_types(error: ValidationError, config: dict) -> list[str]:
    """Every mistake that the types found in `config`."""
    root, problems = json_schema(), []
    missing: dict[tuple, list[str]] = {}
    for found in error.errors(include_url=False):
        path, keyed = _without_types(found["loc"])
        if found["type"] == "missing":
            missing.setdefault(path[:-1], []).append(path[-1])
        elif found["type"] == "union_tag_not_found":
            missing.setdefault(path, []).append(found["ctx"]["discriminator"].strip("'"))
        else:
            problems.append(_words(found, path, keyed, config, root))
    said = (f"{key_path(path)}: the key {listed(names)} is missing" for path, names in missing.items())
    return [*problems, *said, *_behind_missing_selectors(error, config, root)]


def _behind_missing_selectors(error: ValidationError, config: dict, root: dict) -> list[str]:
    """The other mistakes of entries that lack the key which selects their type.

    Each is checked as the type that knows most of its keys.
    """
    guessed, paths = copy.deepcopy(config), []
    for found in error.errors(include_url=False):
        if found["type"] == "union_tag_not_found":
            path, _ = _without_types(found["loc"])
            rule, entry = _rule(root, path, config), _value(guessed, path)
            kinds = {
                kind: _followed({"$ref": ref}, root) for kind, ref in rule["discriminator"]["mapping"].items()
            }
            entry[rule["discriminator"]["propertyName"]] = max(
                kinds, key=lambda kind: len(kinds[kind]["properties"].keys() & entry.keys())
            )
            paths.append(key_path(path))
    if not paths:
        return []
    try:
        Config.model_validate(guessed)
    except ValidationError as again:
        return [
            text for text in of_types(again, guessed) if text.startswith(tuple(f"{path}." for path in paths))
        ]
    return []


def _without_types(path: tuple) -> tuple[tuple, bool]:
    """A path of pydantic's as one of the configuration's, and whether it leads to the key itself, not to its value."""
    depth = SELECTED.get(str(path[0]), len(path)) if path else 0
    keyed = path[-1:] == ("[key]",)
    if keyed:
        path = path[:-1]
    return (*path[:depth], *path[depth + 1 :]), keyed


def _words(found: ErrorDetails, path: tuple, keyed: bool, config: dict, root: dict) -> str:
    value, rule = _value(config, path), _rule(root, path, config)
    if keyed:
        path, value, rule = path[:-1], path[-1], {"pattern": NAME}
    elif isinstance(_value(config, path[:-1]), str):  # a name that stands for {adapter: name}
        path = path[:-1]
        value = _value(config, path)
    key = key_path(path)
    match found["type"]:
        case "extra_forbidden":
            known = sorted(_rule(root, path[:-1], config).get("properties", ()))
            return f"{key}: unknown key; allowed: {listed(known)}{nearest(path[-1], known)}"
        case "literal_error":
            return f"{key}: {value!r} is not allowed; allowed: {listed(rule['enum'])}{nearest(value, rule['enum'])}"
        case "union_tag_invalid":
            selector = found["ctx"]["discriminator"].strip("'")
            known = [*rule["discriminator"]["mapping"]]
            value = value[selector]
            key = key_path((*path, selector))
            return f"{key}: {value!r} is not allowed; allowed: {listed(known)}{nearest(value, known)}"
        case "string_pattern_mismatch":
            hint = HINTS.get(rule["pattern"], rule.get("description"))
            return f"{key}: {value!r} is not allowed; allowed pattern: {rule['pattern']} ({hint})"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            allowed = " ".join(f"{word} {rule[name]}" for name, word in RANGE.items() if name in rule)
            return f"{key}: {value!r} is not allowed; allowed: {allowed}"
        case "too_short":
            return f"{key}: holds {len(value) or 'nothing'}; at least {found['ctx']['min_length']} needed"
        case "string_too_short":
            return f"{key}: {value!r} should be non-empty"
        case "string_too_long":
            return (
                f"{key}: {value!r} is too long; at most {found['ctx']['max_length']} characters are allowed"
            )
        case "listed_twice":
            return f"{key}: {listed(found['ctx']['values'])} is listed twice"
        case _:  # a type
            return f"{key}: {value!r} has the wrong type; allowed: {_types(rule, value)}"


def _types(rule: dict, value: object) -> str:
    kinds = rule.get("type", "object")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    hint = ""
    if isinstance(value, str) and {"number", "integer"} & set(kinds):
        hint = (
            "; it was read as text: write numbers as 0.01 or 1.0e-2, and nested overrides with --configfile"
        )
    return f"{' or '.join(kinds)}{hint}"


def _value(config: Any, path: Path) -> Any:
    for part in path:
        try:
            config = config[part]
        except (KeyError, IndexError, TypeError):  # a path that goes on in what a name stands for
            return None
    return config


def _rule(root: dict, path: Path, config: Any) -> dict:
    """The schema's part for what stands at `path` of the configuration."""
    rule = root
    for part in path:
        rule = _branch(_followed(rule, root), root, config)
        if isinstance(part, int):
            rule = rule["items"]
        else:
            rule = rule.get("properties", {}).get(part) or rule.get("additionalProperties") or {}
        config = _value(config, (part,))
    rule = _followed(rule, root)
    return _branch(rule, root, config) if path and path[-1:] and isinstance(config, dict) else rule


def _followed(rule: dict, root: dict) -> dict:
    while "$ref" in rule:
        rule = root["$defs"][rule["$ref"].rpartition("/")[2]] | {k: v for k, v in rule.items() if k != "$ref"}
    return rule


def _branch(rule: dict, root: dict, config: Any) -> dict:
    """Of a union of types that a key selects, the one that is selected."""
    if "discriminator" not in rule:
        return rule
    selector, mapping = rule["discriminator"]["propertyName"], rule["discriminator"]["mapping"]
    chosen = config.get(selector) if isinstance(config, dict) else None
    return (
        _followed({"$ref": mapping[chosen]}, root) if isinstance(chosen, str) and chosen in mapping else rule
    )

"""The mistakes that types find, in words: key path, value, what is allowed, nearest name."""

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from workflow_scripts.plan.names import listed, nearest
from workflow_scripts.plan.schema.configuration import Config
from workflow_scripts.plan.schema.keys import HINTS, NAME

KeyPath = Sequence[str | int]
# Depth of the entries of which one key selects the type; at this place pydantic's paths hold the type.
SELECTED = {"models": 2, "corpora": 2, "benchmarks": 3, "compressors": 2, "methods": 2}
MOST = 100  # mistakes that a message lists
LARGEST = 1e15  # of any number: parameters, tokens, widths
KINDS = {  # JSON's word for a type -> the word for who writes YAML
    "array": "a list ([first, second])",
    "object": "a mapping ({key: value})",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
}
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


def key_path(path: KeyPath) -> str:
    """a.b[0].c"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "(top level)"


def _unwritable(text: str) -> str:
    """The first character that UTF-8 can't write (a lone surrogate) or no page shows (NUL); "" if there is none."""
    strange = (c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t")
    return next(strange, "")


def of_keys(value: object, path: tuple = ()) -> list[str]:
    """Keys that are no printable text, texts that no file can hold, and numbers that are not finite or beyond all that
    is counted here."""
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
    elif isinstance(value, str) and (strange := _unwritable(value)):
        problems.append(
            f"{key_path(path)}: the text holds {strange!r}, a control character or half of a character; remove it"
        )
    elif isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{key_path(path)}: {value!r} is no finite number")
    elif isinstance(value, int | float) and abs(value) > LARGEST:
        power = math.log10(abs(value))  # a float can't hold a whole number of 400 digits
        said = (
            f"{value:.3g}" if power < 308 or isinstance(value, float) else f"a number of {power:.0f} digits"
        )
        problems.append(f"{key_path(path)}: {said} is not allowed; allowed: to {LARGEST:.0e}")
    return problems


def of_types(error: ValidationError, config: dict) -> list[str]:
    """Every mistake that the types found in `config`."""
    root, problems = json_schema(), []
    missing: dict[tuple, list[str]] = {}
    every = error.errors(include_url=False)
    more = [f"(top level): {len(every) - MOST:,} more mistakes"] if len(every) > MOST else []
    for found in every[:MOST]:
        path, keyed = without_types(found["loc"])
        if found["type"] == "missing":
            missing.setdefault(path[:-1], []).append(path[-1])
        elif found["type"] == "union_tag_not_found":
            missing.setdefault(path, []).append(found["ctx"]["discriminator"].strip("'"))
        else:
            problems.append(_words(found, path, keyed, config, root))
    said = (f"{key_path(path)}: {_lacks(names)}" for path, names in missing.items())
    return [*problems, *said, *more]


def _lacks(names: list[str]) -> str:
    return f"the key {names[0]} is missing" if len(names) == 1 else f"the keys {listed(names)} are missing"


def without_types(path: tuple) -> tuple[tuple, bool]:
    """A path of pydantic's as one of the configuration's, and whether it leads to the key itself, not to its value."""
    depth = SELECTED.get(str(path[0]), len(path)) if path else 0
    keyed = path[-1:] == ("[key]",)
    if keyed:
        path = path[:-1]
    return (*path[:depth], *path[depth + 1 :]), keyed


def _words(found: ErrorDetails, path: tuple, keyed: bool, config: dict, root: dict) -> str:
    value, rule = value_at(config, path), rule_at(root, path, config)
    if keyed:
        path, value, rule = path[:-1], path[-1], {"pattern": NAME}
    elif isinstance(value_at(config, path[:-1]), str):  # a name that stands for {adapter: name}
        path = path[:-1]
        value = value_at(config, path)
    key = key_path(path)
    match found["type"]:
        case "extra_forbidden":
            known = sorted(rule_at(root, path[:-1], config).get("properties", ()))
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
        case "template":
            return f"{key}: {found['ctx']['reason']}"
        case _:  # a type
            return f"{key}: {value!r} has the wrong type; allowed: {_types(rule, value)}"


def _types(rule: dict, value: object) -> str:
    said = rule.get("type", "object")
    kinds: list[str] = said if isinstance(said, list) else [said]
    hint = ""
    if isinstance(value, str) and {"number", "integer"} & set(kinds):
        hint = (
            "; it was read as text: write numbers as 0.01 or 1.0e-2, and nested overrides with --configfile"
        )
    elif isinstance(value, bool | int | float) and "string" in kinds:
        hint = "; YAML reads it as something else than text: put it in quotes"
    return f"{' or '.join(KINDS.get(kind, kind) for kind in kinds)}{hint}"


def value_at(config: Any, path: KeyPath) -> Any:
    for part in path:
        try:
            config = config[part]
        except (KeyError, IndexError, TypeError):  # a path that goes on in what a name stands for
            return None
    return config


def rule_at(root: dict, path: KeyPath, config: Any) -> dict:
    """The schema's part for what stands at `path` of the configuration."""
    rule = root
    for part in path:
        rule = _branch(followed(rule, root), root, config)
        if isinstance(part, int):
            rule = rule["items"]
        else:
            rule = rule.get("properties", {}).get(part) or rule.get("additionalProperties") or {}
        config = value_at(config, (part,))
    rule = followed(rule, root)
    return _branch(rule, root, config) if path and path[-1:] and isinstance(config, dict) else rule


def followed(rule: dict, root: dict) -> dict:
    while "$ref" in rule:
        rule = root["$defs"][rule["$ref"].rpartition("/")[2]] | {k: v for k, v in rule.items() if k != "$ref"}
    return rule


def _branch(rule: dict, root: dict, config: Any) -> dict:
    """The type that a key selects from a union of types."""
    if "discriminator" not in rule:
        return rule
    selector, mapping = rule["discriminator"]["propertyName"], rule["discriminator"]["mapping"]
    chosen = config.get(selector) if isinstance(config, dict) else None
    return (
        followed({"$ref": mapping[chosen]}, root) if isinstance(chosen, str) and chosen in mapping else rule
    )

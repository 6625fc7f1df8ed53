"""YAML that a person wrote, read without surprises: each trap of YAML 1.1 is an error with its line.

PyYAML alone lets the last of two equal keys win, reads 010 as 8, 0b11 as 3 and 12:30 as 750, takes 1e3 for text, and
follows an anchor that holds itself.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from workflow_scripts.files.artifacts import ArtifactError, require_regular

MOST_BYTES = 2**21
MOST_VALUES = 50_000  # in one file, each as often as anchors repeat it; the shipped catalogue has 1,200
LONG = 100  # characters of a text that count as one more value
FLOAT = "tag:yaml.org,2002:float"
EXPONENT = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
OCTAL = re.compile(r"[-+]?0[0-7_]+")
BASES = {"b": "twos", "x": "sixteens"}  # of 0b11 and 0x1F
# What a configuration is made of; !!set, !!binary, !!timestamp and the like make something else of a text.
KINDS = {
    f"tag:yaml.org,2002:{kind}": words
    for kind, words in {
        "map": "mapping",
        "seq": "list",
        "str": "text",
        "int": "number",
        "float": "number",
        "bool": "truth value (true, false)",
        "null": "null",
        "merge": "merge key",
    }.items()
}
LARGEST = 10**300  # of a whole number; what a float can't hold


class _Loader(yaml.SafeLoader):  # libyaml's crashes on a text that nests deeply
    """Refuses what reads otherwise than it looks; `yaml.MarkedYAMLError` names the line."""

    composed = 0

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _check(node, {}, frozenset(), self)
        return node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        self.composed += 1
        if node is not None and self.composed > MOST_VALUES:
            raise _too_many(node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, ArithmeticError) as error:  # of an explicit tag
            text = node.value if len(node.value) <= 20 else f"{node.value[:20]}..."
            raise _error(node, f"{text} is no {KINDS[node.tag]} that can be read") from error

    def number(self, node: yaml.ScalarNode) -> int | float:
        text = node.value
        if node.tag == FLOAT and ":" not in text:
            return self.construct_yaml_float(node)
        if ":" in text:
            raise _error(
                node, f"{text} counts by sixties in YAML; write the number, or '{text}' in quotes for text"
            )
        if OCTAL.fullmatch(text):
            raise _error(
                node, f"{text} counts by eights in YAML; write it without the 0, or '{text}' in quotes"
            )
        if base := BASES.get(text.lstrip("+-")[1:2]):
            raise _error(
                node, f"{text} counts by {base} in YAML; write the number, or '{text}' in quotes for text"
            )
        value = self.construct_yaml_int(node)
        if abs(value) > LARGEST:
            raise ValueError(text)
        return value


# A date is text, and so is "=": nothing here asks for them.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag in KINDS]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_constructor(FLOAT, _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number)
_Loader.add_implicit_resolver(FLOAT, EXPONENT, list("-+.0123456789"))


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file; ArtifactError, one line, names the file, the line and what is right."""
    require_regular(path)
    try:
        with open(path, "rb") as handle:
            raw = handle.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise ArtifactError(
                f"{path}: is larger than {MOST_BYTES // 2**20} MiB, no file that a person wrote"
            )
        return yaml.load(raw.decode("utf-8-sig"), Loader=_Loader)
    except OSError as error:
        raise ArtifactError(f"{path}: can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ArtifactError(
            f"{path}: line {line}: not valid YAML: no UTF-8 text; save the file as UTF-8"
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        kind = "" if isinstance(error, _Surprise) else "not valid YAML: "
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise ArtifactError(f"{path}: {where}{kind}{said}") from error
    except RecursionError as error:
        raise ArtifactError(f"{path}: nests too deeply") from error
    except yaml.YAMLError as error:  # a control character
        said = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise ArtifactError(f"{path}: not valid YAML: {said}") from error


class _Surprise(yaml.MarkedYAMLError):
    """Valid YAML that reads otherwise than it looks."""


def _error(node: yaml.Node, problem: str) -> _Surprise:
    return _Surprise(problem=problem, problem_mark=node.start_mark)


def _too_many(node: yaml.Node) -> _Surprise:
    return _error(node, f"more than {MOST_VALUES:,} values, each counted as often as anchors repeat it")


def _refuse_twice(node: yaml.MappingNode, loader: _Loader) -> None:
    """Raises _Surprise for a key that a mapping names twice, also in another spelling (true and yes, 1 and +1); keys
    that `<<` merges in may be named again."""
    seen: dict[Any, int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            value = key.value if key.value == "<<" else loader.construct_object(key)
            if value in seen:
                hint = "; write <<: [*one, *two]" if key.value == "<<" else "; give each once"
                raise _error(key, f"the key '{key.value}' stands in line {seen[value]} already{hint}")
            seen[value] = key.start_mark.line + 1


def _check(node: yaml.Node, counted: dict[int, int], above: frozenset[int], loader: _Loader) -> int:
    """Values in a node, each as often as it is used.

    counted: of nodes that were checked. above: the nodes that hold this one. Raises _Surprise for too many, for a node
    that holds itself, for a tag of another kind than KINDS, and for a key that a mapping names twice.
    """
    if node.tag not in KINDS:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise _error(node, f"the tag {tag[:40]} makes no text, number, list or mapping; leave it out")
    if isinstance(node, yaml.ScalarNode):
        return 1 + len(node.value) // LONG
    if id(node) in above:
        raise _error(node, "an anchor holds itself (*alias inside its own &anchor)")
    if id(node) not in counted:
        inside, children = above | {id(node)}, node.value
        if isinstance(node, yaml.MappingNode):
            _refuse_twice(node, loader)
            children = [child for pair in node.value for child in pair]
        total = 1
        for child in children:
            total += _check(child, counted, inside, loader)
            if total > MOST_VALUES:
                raise _too_many(node)
        counted[id(node)] = total
    return counted[id(node)]

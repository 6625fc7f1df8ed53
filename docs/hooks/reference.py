"""mkdocs hook: what the reference pages list is read from its source at every build, so it can't fall behind.

A line `<!-- reference: NAME -->` of a page is replaced by NAME's text, see PARTS. Needs PyYAML and pydantic, nothing
else of the product's environment.
"""

import ast
import html
import json
import re
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from workflow_scripts.plan import layout  # noqa: E402
from workflow_scripts.plan.schema.problems import json_schema  # noqa: E402

PACKAGE = ROOT / "workflow_scripts"
MARK = re.compile(r"^<!-- reference: (\w+) -->$", re.MULTILINE)
FORMATS = {  # schema -> where files of this format stand
    "model": f"{layout.MODEL.shape}` and `{layout.CHECKPOINT.shape}",
    "corpus": layout.CORPUS.shape,
    "benchmark": layout.BENCHMARK.shape,
    "compression": layout.COMPRESSED.shape,
    "export": layout.EXPORTED.shape,
    "training": layout.ADAPTER.shape,
    "evaluation": layout.EVALUATION.shape,
    "samples": layout.shown(layout.EVALUATION.companions[0]),
    "similarity": layout.SIMILARITY.shape,
    "latency": layout.LATENCY.shape,
    "questions": layout.shown(layout.QUESTIONS.pattern),
    "verdict": layout.shown(layout.VERDICT.pattern),
    "audit": layout.shown(layout.AUDIT.pattern),
    "adopted": layout.shown(layout.ADOPTED.pattern),
    "site": "profiles/slurm/site.yaml",
}


def on_page_markdown(markdown: str, **_) -> str:
    """mkdocs calls this with each page's text."""
    return MARK.sub(lambda mark: PARTS[mark[1]](), markdown)


def on_post_page(output: str, page, **_) -> str:
    """mkdocs calls this with each finished page; one that loads something from another host is refused."""
    if elsewhere := re.search(
        r'<script[^>]+src="?https?://[^">]+|<link[^>]+stylesheet[^>]+https?://[^">]+', output
    ):
        raise SystemExit(f"{page.file.src_uri}: loads {elsewhere[0]} from another host")
    return output


# ------------------------------------------------------------------------------------------ JSON schemas


def merged(rule, root: dict) -> dict:
    """A schema's part with its `$ref` followed; what stands beside the reference wins, keys of both count."""
    while isinstance(rule, dict) and "$ref" in rule:
        target = root
        for part in rule["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        both = {
            "properties": target.get("properties", {}) | rule.get("properties", {}),
            "required": [*target.get("required", ()), *rule.get("required", ())],
        }
        rule = target | {key: value for key, value in rule.items() if key != "$ref"}
        rule |= {key: value for key, value in both.items() if value}
    return rule if isinstance(rule, dict) else {}


def value_text(rule: dict, root: dict) -> str:
    """What a key may hold, in words: "integer, at least 1 (tokens) or null"."""
    if "same" in rule:
        empty = "null or " if {"type": "null"} in rule.get("oneOf", ()) else ""
        return f"{empty}as {code(rule['same'])}"
    rule = merged(rule, root)
    if "title" in rule:
        return rule["title"]
    if "enum" in rule:
        return " or ".join(f"`{value}`" for value in rule["enum"])
    if "oneOf" in rule:
        return " or ".join(value_text(choice, root) for choice in rule["oneOf"])
    types = rule.get("type", [])
    types = types if isinstance(types, list) else [types]
    words = []
    for name in types:
        match name:
            case "array":
                words.append(_list_text(rule, root))
            case "object":
                inner = rule.get("additionalProperties")
                words.append(
                    f"mapping of {value_text(inner, root)}" if isinstance(inner, dict) else "mapping"
                )
            case "string":
                words.append("SHA-256" if "64}" in rule.get("pattern", "") else "text")
            case "integer" | "number":
                unit = rule.get("unit", "dimensionless")
                text = ", ".join([name, *_range(rule)])
                words.append(text if unit == "dimensionless" else f"{text} ({unit})")
            case "boolean":
                words.append("`true` or `false`")
            case _:
                words.append(name)
    return " or ".join(words)


def _list_text(rule: dict, root: dict) -> str:
    if "prefixItems" in rule:
        return f"({', '.join(value_text(item, root) for item in rule['prefixItems'])})"
    item = value_text(rule.get("items", {}), root)
    return f"list of {'names' if item == 'name' else item}" if item else "list"


def _range(rule: dict) -> list[str]:
    if "minimum" in rule and "maximum" in rule:
        return [f"{rule['minimum']:,} to {rule['maximum']:,}"]
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    return [f"{word} {rule[key]:,}" for key, word in words.items() if key in rule]


def rows(path: str, rule, root: dict, required: bool = False, seen: dict | None = None):
    """(key, rule, required) of everything below `path`, in the schema's order: a.b, a.<name>.b, a[].b.

    A part of the schema that is used twice is listed once; later the rule's key `same` names the first place.
    """
    seen = {} if seen is None else seen
    rule, given = merged(rule, root), rule
    choices = [rule, *rule.get("oneOf", ())]
    shared = [part["$ref"] for part in (given, *choices) if "$ref" in part and _inner(part, root)]
    first = next((seen[name] for name in shared if name in seen), None)
    if path:
        yield path, rule | ({"same": first} if first else {}), required
    if first:
        return
    seen |= dict.fromkeys(shared, path)
    for choice in (merged(part, root) for part in choices):
        for name, child in choice.get("properties", {}).items():
            if child is not True:
                key = f"{path}.{name}" if path else name
                yield from rows(key, child, root, name in choice.get("required", ()), seen)
        if _inner(child := choice.get("additionalProperties"), root):
            yield from list(rows(f"{path}.<name>", child, root, seen=seen))[1:]
        if choice.get("type") == "array" and _inner(child := choice.get("items", {}), root):
            yield from list(rows(f"{path}[]", child, root, seen=seen))[1:]


def _inner(rule, root: dict) -> bool:
    """Whether a schema's part has keys of its own to list."""
    rule = merged(rule, root)
    return any(
        key in part
        for part in (rule, *(merged(p, root) for p in rule.get("oneOf", ())))
        for key in ("properties", "additionalProperties")
        if part.get(key) not in (None, False, True)
    )


def sentence(rule: dict) -> str:
    """A part's description with a capital and a stop."""
    text = rule.get("description", "").strip()
    if text.split(" ")[0].isalpha():  # not a name in code
        text = text[0].upper() + text[1:]
    return text and text.rstrip(".") + "."


def code(key: str) -> str:
    """A key or path as HTML code that may break after its dots and slashes."""
    return "<code>" + re.sub(r"([./])", r"\1<wbr>", html.escape(key)) + "</code>"


def table(head: list[str], body) -> str:
    """A Markdown table; cells are escaped."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


# ---------------------------------------------------------------------------------------- configuration


def config() -> str:
    """The keys of the configuration: a section per catalogue, a table per kind of entry."""
    root = json_schema()
    catalogues = {name: rule for name, rule in root["properties"].items() if "additionalProperties" in rule}
    plain = {name: rule for name, rule in root["properties"].items() if name not in catalogues}
    parts = ["## Top level", _config_table({"properties": plain}, root)]
    for name, rule in catalogues.items():
        parts += [f"## {name}", rule["description"]]
        entry, place = merged(rule["additionalProperties"], root), f"{name}.<name>"
        if name == "benchmarks":  # a catalogue of sets, each a catalogue of tasks
            entry, place = merged(entry["additionalProperties"], root), "benchmarks.<set>.<task>"
        parts.append(f"Entries are `{place}`.")
        parts += _kinds(name, entry, root) if "discriminator" in entry else [_config_table(entry, root)]
    return "\n\n".join(parts)


def _kinds(catalogue: str, entry: dict, root: dict) -> list[str]:
    """The tables of a catalogue whose entries have different keys, by the value of one key."""
    selector, kinds = entry["discriminator"]["propertyName"], entry["discriminator"]["mapping"]
    choices = " or ".join(f"`{kind}`" for kind in kinds)
    parts = [f"`{selector}` ({choices}) decides which keys there are. {entry['description']}"]
    for kind, reference in kinds.items():
        rule = merged({"$ref": reference}, root)
        keys = {name: part for name, part in rule["properties"].items() if name != selector}
        parts.append(f"### {catalogue}, {selector} {kind} {{#{catalogue}-{kind}}}")
        parts.append(_config_table(rule | {"properties": keys}, root) or "No further key.")
    return parts


def _config_table(rule: dict, root: dict) -> str:
    body = []
    for key, part, required in rows("", rule, root):
        default = (
            "required" if required else f"`{json.dumps(part['default'])}`" if "default" in part else "absent"
        )
        body.append((code(key), value_text(part, root), default, sentence(part)))
    return table(["key", "value", "default", "meaning"], body) if body else ""


# --------------------------------------------------------------------------------------------- the rest


def files() -> str:
    """The formats of workflow_scripts/schemas, one table each."""
    found = {
        path.name.removesuffix(".schema.yaml")
        for path in (PACKAGE / "files" / "schemas").glob("*.schema.yaml")
    }
    order = [*(name for name in FORMATS if name in found), *sorted(found - set(FORMATS))]
    parts = []
    for name in order:
        root = yaml.safe_load(
            (PACKAGE / "files" / "schemas" / f"{name}.schema.yaml").read_text(encoding="utf-8")
        )
        parts.append(f"## {name} {{#{name}}}")
        parts.append(f"{root['title'][0].upper()}{root['title'][1:]}.")
        if name in FORMATS:
            parts.append(f"`{FORMATS[name]}`")
        body = [(code(key), value_text(rule, root), sentence(rule)) for key, rule, _ in rows("", root, root)]
        parts.append(table(["key", "value", "meaning"], body))
    return "\n\n".join(parts)


def rules() -> str:
    """Every rule: what it does (its entry's docstring), what it makes, and where it runs."""
    body = []
    for name, text, where in blocks():
        entry = re.search(r'script:\s*"\.\./workflow_scripts/jobs/(\w+)\.py"', text)[1]
        made = "<br>".join(code(path.replace("{{", "{").replace("}}", "}")) for path in outputs(text))
        body.append((f"`{name}`", docstring(entry), made, where))
    return table(["rule", "what it does", "makes", "on a cluster"], body)


def blocks():
    """(name, text, where it runs on a cluster) of every rule, in the order of the Snakefile's includes."""
    for include in re.findall(
        r'^include: "(rules/\w+\.smk)"', (ROOT / "Snakefile").read_text(encoding="utf-8"), re.MULTILINE
    ):
        text = (ROOT / include).read_text(encoding="utf-8")
        heads = list(re.finditer(r"^rule (\w+):\n", text, re.MULTILINE))
        local = re.search(r"localrules:\n((?:    \w+,?\n)+)", text)
        names = re.findall(r"\w+", local[1]) if local else []
        for head, after in zip(heads, [*heads[1:], None]):
            block = text[head.end() : after and after.start()]
            where = "main process" if head[1] in names else "a job"
            yield (
                head[1],
                block,
                "main process, or a job in `cpu_partition`" if "READ_HERE" in block else where,
            )


def outputs(block: str) -> list[str]:
    """Path patterns of a rule's `output:`."""
    section = re.search(r"^( *)output:\n((?:\1 +.*\n)+)", block, re.MULTILINE)[2]
    found = []
    for literal, name, companion in re.findall(
        r'"((?:results|resources)/[^"]+)"|layout\.([A-Z]+)\.(?:pattern|companions\[(\d)\])', section
    ):
        artefact = getattr(layout, name, None)
        found.append(literal or (artefact.companions[int(companion)] if companion else artefact.pattern))
    return found


def docstring(module: str) -> str:
    """First paragraph of an entry's docstring, without the rule's own name."""
    text = ast.get_docstring(ast.parse((PACKAGE / f"jobs/{module}.py").read_text(encoding="utf-8")))
    text = " ".join(text.split("\n\n")[0].split())
    text = re.sub(r" \(rule `\w+`\)|^Rules? `[^`]+`: ", "", text).replace("->", "→")
    return text[0].upper() + text[1:]


def commands() -> str:
    """The Makefile's targets with their own words."""
    found = re.findall(
        r"^([a-z-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    return table(["target", "what it does"], [(f"`{name}`", text) for name, text in found])


def constant(module: str, name: str) -> dict[str, str]:
    """A dictionary of literals that a module assigns, read without running the module."""
    for node in ast.parse((PACKAGE / module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == name:
            return ast.literal_eval(node.value)
    raise KeyError(f"{module} assigns no {name}")


def verdicts() -> str:
    """The verdict's words."""
    words = constant("judge/verdict.py", "MEANING")
    return table(["word", "meaning"], [(f"`{word}`", text) for word, text in words.items()])


def outcomes() -> str:
    """What may become of an item."""
    words = constant("judge/ledger.py", "OUTCOMES")
    return table(["outcome", "meaning"], [(f"`{word}`", text) for word, text in words.items()])


PARTS = {part.__name__: part for part in (config, files, rules, commands, verdicts, outcomes)}

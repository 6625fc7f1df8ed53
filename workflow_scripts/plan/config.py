"""Read the configuration: schema, defaults, and errors that say what to change. Never imports torch."""

import difflib
import functools
import math
from pathlib import Path

import yaml

SCHEMA = Path(__file__).with_name("config.schema.yaml")
DEVICES = Path(__file__).with_name("devices.yaml")
TRAINED = ("lora", "prompt", "prefix")
UNCALIBRATED = ("dense", "rtn", "magnitude")

OPTIMUM = {  # what optimum's GPTQQuantizer can be asked for
    "bits": (2, 3, 4, 8),
    "static_groups": (False,),
    "clip": ("none",),
    "block_size": (128,),
    "group_size": (None, 16, 32, 64, 128, 256, 512, 1024),
    "forward": ("fp32",),
}


class ConfigError(ValueError):
    """Every problem of a configuration, one per line: key path, value, what is allowed, nearest name."""


@functools.cache
def schema() -> dict:
    """The schema of config.yaml (config.schema.yaml), parsed."""
    return yaml.load(SCHEMA.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read(*files) -> dict:
    """The YAML files as one configuration, merged as Snakemake merges its configfiles: mappings key by key, everything
    else is replaced by the later file's value. ConfigError for a file that can't be read or holds no mapping."""
    from snakemake.utils import update_config

    config: dict = {}
    for file in files:
        try:
            part = yaml.safe_load(Path(file).read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: not valid YAML: {error}") from error
        except OSError as error:
            raise ConfigError(f"{file}: can't be read: {error.strerror}") from error
        if not isinstance(part, dict):
            raise ConfigError(f"{file}: holds no mapping of keys to values")
        update_config(config, part)
    return config


def named_files(configfiles, own: str = "config.yaml") -> list[str]:
    """The files that --configfile named, as a command in this folder names them; the workflow's own is not one."""
    here = Path.cwd()
    paths = [Path(file).absolute() for file in configfiles]
    return [
        str(path.relative_to(here) if path.is_relative_to(here) else path)
        for path in paths
        if path != here / own
    ]


def load(config: dict) -> dict:
    """Check a configuration and fill in defaults; raise ConfigError with every problem found."""
    if config.get("partial") in ("true", "false"):  # what `--config partial=true` delivers
        config = config | {"partial": config["partial"] == "true"}
    if isinstance(config.get("blocks"), str):  # of `--config blocks=core`
        config = config | {"blocks": [config["blocks"]]}
    problems = _key_problems(config) or _schema_problems(config)
    if not problems:
        config = _filled(config, schema())
        from workflow_scripts.plan import model_limits  # which reads the constants of this module

        problems = _meaning_problems(config) or model_limits.of_grids(config)
    if problems:
        raise ConfigError("\n".join(_once(problems)))
    return config


def _once(problems: list[str]) -> list[str]:
    """The problems; those that say the same of keys of one name (an anchor hands a value on) as one."""
    places: dict[tuple, list[str]] = {}
    for problem in problems:
        key, _, text = problem.partition(": ")
        places.setdefault((key.rpartition(".")[2], text), []).append(key)
    lines = []
    for (_, text), keys in places.items():
        first, *more = sorted(keys)
        also = f" (the same in {len(more)} more: {_listed(more, 6)})" if more else ""
        lines.append(f"{first}: {text}{also}")
    return sorted(lines)  # the schema is checked in no fixed order


# ------------------------------------------------------------------------------------------------ errors


def _nearest(name, allowed) -> str:
    close = difflib.get_close_matches(str(name), [str(a) for a in allowed], n=1, cutoff=0.4)
    return f"; did you mean '{close[0]}'?" if close else ""


def _listed(allowed, most: int = 24) -> str:
    names = [str(a) for a in allowed]
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def unknown(key: str, name, allowed, kind: str) -> str:
    """The words for a name that is not among the allowed ones, with the nearest that is."""
    return f"{key}: {name!r} is no {kind}; allowed: {_listed(allowed)}{_nearest(name, allowed)}"


def _join(path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "(top level)"


def _key_problems(value, path=()) -> list[str]:
    problems = []
    if isinstance(value, dict):
        for key, child in value.items():
            if not isinstance(key, str):
                problems.append(f"{_join(path)}: the key {key!r} is not text; put it in quotes")
            elif not key.isprintable():
                problems.append(f"{_join(path)}: the key {key!r} holds a control character")
            problems += _key_problems(child, (*path, key))
    elif isinstance(value, list):
        for index, child in enumerate(value):
            problems += _key_problems(child, (*path, index))
    elif isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{_join(path)}: {value!r} is no finite number")
    return problems


def _schema_problems(config: dict) -> list[str]:
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(schema())
    problems = {}
    for error in validator.iter_errors(config):
        for leaf in _leaves(error):
            problems.setdefault((tuple(map(str, leaf.absolute_path)), leaf.validator), _explain(leaf))
    return list(dict.fromkeys(problems.values()))


def _leaves(error):
    """Of a `oneOf` take the branch that fits the value's type; everything else is a problem itself."""
    if error.validator == "oneOf":
        fitting = [
            e
            for e in error.context
            if e.validator != "type" or len(e.absolute_path) > len(error.absolute_path)
        ]
        yield from fitting or [error]
    else:
        yield error


def _explain(error) -> str:
    key, value, rule = _join(error.absolute_path), error.instance, error.validator_value
    known = sorted(_allowed_keys(error))
    match error.validator:
        case "additionalProperties" | "unevaluatedProperties":
            unknown = [name for name in value if name not in known]
            return "; ".join(
                f"{_join((*error.absolute_path, name))}: unknown key; allowed: {_listed(known)}{_nearest(name, known)}"
                for name in unknown
            )
        case "required":
            missing = [name for name in rule if name not in value]
            return f"{key}: the key {_listed(missing)} is missing"
        case "enum":
            return f"{key}: {value!r} is not allowed; allowed: {_listed(rule)}{_nearest(value, rule)}"
        case "pattern":
            hint = error.schema.get("description", "")
            return f"{key}: {value!r} is not allowed; allowed pattern: {rule}" + (
                f" ({hint})" if hint else ""
            )
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            return f"{key}: {value!r} is not allowed; allowed: {_range(error.schema)}"
        case "type":
            types = rule if isinstance(rule, list) else [rule]
            hint = ""
            if isinstance(value, str) and {"number", "integer"} & set(types):
                hint = "; it was read as text: write numbers as 0.01 or 1.0e-2, and nested overrides with --configfile"
            return f"{key}: {value!r} has the wrong type; allowed: {' or '.join(types)}{hint}"
        case "minItems" | "minProperties":
            return f"{key}: holds {len(value) or 'nothing'}; at least {rule} needed"
        case "uniqueItems":
            twice = sorted({str(v) for v in value if value.count(v) > 1})
            return f"{key}: {_listed(twice)} is listed twice"
        case _:
            return f"{key}: {error.message}"


def _range(rule: dict) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return " ".join(f"{word} {rule[name]}" for name, word in words.items() if name in rule)


def _allowed_keys(error) -> set[str]:
    part = error.schema if isinstance(error.schema, dict) else {}
    names = set(part.get("properties", ()))
    if "$ref" in part:
        names |= set(_resolve(part["$ref"]).get("properties", ()))
    return names


# ---------------------------------------------------------------------------------------------- defaults


def _resolve(reference: str) -> dict:
    value = schema()
    for part in reference.removeprefix("#/").split("/"):
        value = value[part]
    return value


def _filled(value, rule):
    """A copy of `value` with the schema's defaults wherever a key of an object is absent."""
    if not isinstance(rule, dict):
        return value
    for inner in (_resolve(rule["$ref"]) if "$ref" in rule else None, *_applicable(value, rule)):
        value = _filled(value, inner)
    if isinstance(value, list):
        return [_filled(item, rule.get("items")) for item in value]
    if not isinstance(value, dict):
        return value
    properties = rule.get("properties", {})
    result = {
        name: part["default"] for name, part in properties.items() if _has_default(part) and name not in value
    }
    for name, child in value.items():
        result[name] = _filled(child, properties.get(name, rule.get("additionalProperties")))
    for name, part in properties.items():
        if (
            name not in result
            and isinstance(part, dict)
            and "$ref" in part
            and "default" in _resolve(part["$ref"])
        ):
            result[name] = _resolve(part["$ref"])["default"]
    return result


def _has_default(part) -> bool:
    return isinstance(part, dict) and "default" in part


def _applicable(value, rule):
    """The `then` of every condition of `allOf` whose property constants the value meets."""
    for choice in rule.get("allOf", ()):
        if not isinstance(value, dict):
            continue
        conditions = choice["if"]["properties"]
        if all(value.get(name) in test.get("enum", [test.get("const")]) for name, test in conditions.items()):
            yield choice["then"]


# ----------------------------------------------------------------------------------------------- meaning


def members_of(method: dict) -> list[dict]:
    """The members of a method that combines several, each with its `adapter` and, if it names one, its `seed`."""
    return [m if isinstance(m, dict) else {"adapter": m} for m in method.get("members", ())]


def member_cells(cell, method: dict) -> list:
    """The cells of the members of a cell's method: of its own seed, unless a member names one."""
    return [
        cell._replace(method=member["adapter"], seed=member.get("seed", cell.seed))
        for member in members_of(method)
    ]


def _meaning_problems(config: dict) -> list[str]:
    """What a schema can't say: names that must exist, members, patterns, shares."""
    problems = []

    def refer(key, name, catalogue, extra=()):
        allowed = [*extra, *config[catalogue]]
        if name not in allowed:
            problems.append(unknown(key, name, allowed, f"name in {catalogue}"))
            return False
        return True

    for name, compressor in config["compressors"].items():
        key = f"compressors.{name}"
        if "pattern" in compressor:
            if (compressor["pattern"] is None) == ("sparsity" not in compressor):
                problems.append(f"{key}: give either sparsity or pattern (n:m)")
            if pattern := compressor["pattern"]:
                zeros, width = map(int, pattern.split(":"))
                if zeros >= width:
                    problems.append(
                        f"{key}.pattern: '{pattern}' is not allowed; allowed: n:m with n < m, like 2:4"
                    )
        if compressor.get("engine") == "optimum":
            problems += [
                f"{key}.{name}: {compressor[name]!r} is not allowed with engine optimum; allowed: {_listed(allowed)}"
                for name, allowed in OPTIMUM.items()
                if name in compressor and compressor[name] not in allowed  # `forward` has no default
            ]
    for name, method in config["methods"].items():
        if "corpus" in method:
            refer(f"methods.{name}.corpus", method["corpus"], "corpora")
        for index, member in enumerate(members_of(method)):
            key = f"methods.{name}.members[{index}]"
            prompts = [n for n, m in config["methods"].items() if m["kind"] == "prompt"]
            if member["adapter"] not in prompts:
                problems.append(unknown(key, member["adapter"], prompts, "prompt in methods"))
    for name in config["trusted_code"]:
        refer("trusted_code", name, "models")
    if "none" in config["corpora"]:
        problems.append("corpora.none: the name 'none' is taken by cells that use no corpus; choose another")
    if config["methods"].get("none", {}).get("kind") != "none":
        problems.append("methods.none: must be there with kind none")
    if config["compressors"].get("dense", {}).get("algorithm") != "dense":
        problems.append("compressors.dense: must be there with algorithm dense")
    for name, grid in config["grids"].items():
        problems += _grid_problems(config, name, grid, refer)
    if refer("grid", config["grid"], "grids"):
        blocks = config["grids"][config["grid"]]["blocks"]
        for index, name in enumerate(config["blocks"] or ()):
            if name not in blocks:
                problems.append(unknown(f"blocks[{index}]", name, blocks, f"block of grid {config['grid']}"))
    return problems


def _grid_problems(config, name, grid, refer) -> list[str]:
    problems, key = [], f"grids.{name}"
    if grid["device"] not in (devices := yaml.safe_load(DEVICES.read_text())["devices"]):
        problems.append(unknown(f"{key}.device", grid["device"], devices, f"device in plan/{DEVICES.name}"))
    refer(f"{key}.training", grid["training"], "training")
    for index, task in enumerate(grid["tasks"]):
        refer(f"{key}.tasks[{index}]", task, "tasks")
    if refer(f"{key}.benchmarks", grid["benchmarks"], "benchmarks"):
        data = config["benchmarks"][grid["benchmarks"]]
        for task in grid["tasks"]:
            if task in config["tasks"] and task not in data:
                problems.append(
                    unknown(f"benchmarks.{grid['benchmarks']}", task, data, "task with data in this set")
                )
    for index, corpus in enumerate(grid["evaluation"]["perplexity"]["corpora"]):
        refer(f"{key}.evaluation.perplexity.corpora[{index}]", corpus, "corpora")
    for role, method in grid["pair"].items():
        if refer(f"{key}.pair.{role}", method, "methods"):
            kind = config["methods"][method]["kind"]
            if (kind == "lora") != (role == "lora") or kind == "none":
                problems.append(f"{key}.pair.{role}: '{method}' is of kind {kind}, not a {role} method")
    if "similarity" in grid:
        refer(f"{key}.similarity.corpus", grid["similarity"]["corpus"], "corpora")
    for measured in ("similarity", "latency"):
        for index, method in enumerate(grid.get(measured, {}).get("methods", ())):
            known = refer(f"{key}.{measured}.methods[{index}]", method, "methods")
            if known and (kind := config["methods"][method]["kind"]) in ("text", "fewshot"):
                problems.append(
                    f"{key}.{measured}.methods[{index}]: '{method}' is of kind {kind}: its cost is that of more text, "
                    "nothing is measured for it; leave it out"
                )
    for index, compressor in enumerate(grid.get("latency", {}).get("compressors", ())):
        refer(f"{key}.latency.compressors[{index}]", compressor, "compressors")
    for block, lists in grid["blocks"].items():
        where = f"{key}.blocks.{block}"
        for catalogue in ("models", "compressors", "corpora", "methods"):
            for index, entry in enumerate(lists[catalogue]):
                extra = ("none",) if catalogue == "corpora" else ()
                refer(f"{where}.{catalogue}[{index}]", entry, catalogue, extra)
        if "none" in lists["corpora"]:
            calibrated = [
                c for c in lists["compressors"]
                if config["compressors"].get(c, {}).get("algorithm", "dense") not in UNCALIBRATED
            ]  # fmt: skip
            trained = [
                m for m in lists["methods"] if config["methods"].get(m, {}).get("kind", "none") != "none"
            ]
            if calibrated or trained:
                problems.append(
                    f"{where}.corpora: 'none' won't do for {_listed(calibrated + trained)}; name a corpus"
                )
    return problems

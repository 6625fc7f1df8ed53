"""What a model can't do, said before any job: too long windows and prompts, layers and linears it lacks, patterns that
don't divide its widths, scores it has none of, first layers in which IDP can't score.

A model's limits stand in its folder once it is fetched (config.json, names in the safetensors); before that in its
entry of the catalogue, if it names them. Where neither is there, the job says the same at its start.
"""

import functools
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, read_json, safetensors_header
from workflow_scripts.plan import first_layer
from workflow_scripts.plan.config import TRAINED, UNCALIBRATED, members_of, unknown

HINTS = {
    "positions": "max_position_embeddings",
    "layers": "num_hidden_layers",
}  # of the catalogue, of config.json
WIDTHS = (
    "hidden_size",
    "intermediate_size",
    "ffn_dim",
    "n_embd",
)  # of config.json: inputs of decoder linears


def known(config: dict, model: str) -> dict:
    """{positions, layers, learned_positions, widths, type, modules, window, unscored, one_table} of a model; None or
    empty what is not known. window, unscored, one_table: see first_layer."""
    entry, folder = config["models"][model], Path("resources/models", model)
    found = {key: entry.get(key) for key in (*HINTS, "learned_positions")}
    found |= {"widths": [], "type": None, "modules": frozenset(), "window": None, "unscored": None}
    found["one_table"] = None
    if (file := folder / "config.json").exists():
        read = _read_object(file)
        found |= {key: read[name] for key, name in HINTS.items() if name in read}
        found["learned_positions"] = read.get("model_type") == "opt"
        found["widths"] = [read[name] for name in WIDTHS if isinstance(read.get(name), int)]
        found["type"] = read.get("model_type")
        for name in ("model.safetensors.index.json", "model.safetensors"):
            if (weights := folder / name).exists():
                found["modules"] = _modules(weights, weights.stat().st_mtime_ns)
                break
        found["window"] = first_layer.window(read)
        found["one_table"] = first_layer.one_rotary_table(read)
        fused = found["modules"] and not any(name.endswith(".q_proj") for name in found["modules"])
        found["unscored"] = first_layer.peculiarity(read) or ("has fused projections" if fused else None)
    return found


@functools.cache
def _modules(weights: Path, changed: int) -> frozenset[str]:
    """Names of the modules with a weight in a safetensors file or its index, which was `changed` then."""
    if weights.suffix == ".json":
        names = _read_object(weights).get("weight_map", ())
    else:
        try:
            names = safetensors_header(weights)[0]
        except ArtifactError as error:
            raise ArtifactError(f"{error}; {_refetch(weights)}") from error
    return frozenset(name.removesuffix(".weight") for name in names if name.endswith(".weight"))


def _read_object(file: Path) -> dict:
    read = read_json(file, advice=_refetch(file))
    if not isinstance(read, dict):
        raise ArtifactError(f"{file}: is no JSON object; {_refetch(file)}")
    return read


def _refetch(file: Path) -> str:
    return f"delete {file.parent} and it will be fetched again"


def problems(config: dict, limits: dict, grid: str, model: str, compressor: str, method: str) -> list[str]:
    """What of a cell's settings its model can't do, each with the key's path. limits: of `known`."""
    return [text for _, _, text in _found(config, limits, grid, model, compressor, method)]


def _found(config: dict, limits: dict, grid: str, model: str, compressor: str, method: str):
    """(key, what is possible at most, text) of each problem of a cell."""
    spec, settings = config["methods"][method], config["grids"][grid]
    if limits["learned_positions"] and spec.get("score", "").startswith("joint"):
        key = f"methods.{method}.score"
        said = f"{spec['score']} is not defined with learned positions, which {model} has; use auto or indep_mean"
        yield key, 0, f"{key}: {said}"
    if spec["kind"] == "idp" and limits["unscored"]:
        key = f"methods.{method}"
        yield key, 0, f"{key}: IDP can't choose prompts for {model}: its first layer {limits['unscored']}"
    if spec["kind"] == "idp" and limits["window"]:
        yield from _beyond_window(config, settings, limits["window"], grid, model, compressor, method)
    beyond = [layer for layer in spec.get("layers") or () if layer >= (limits["layers"] or layer + 1)]
    if beyond:
        key, count = f"methods.{method}.layers", limits["layers"]
        yield key, count, f"{key}: {beyond[0]} is not allowed; {model} has the layers 0 to {count - 1}"
    if spec["kind"] == "lora" and limits["modules"]:
        yield from _absent_targets(spec["targets"], limits, model, method)
    if pattern := config["compressors"][compressor].get("pattern"):
        key = f"compressors.{compressor}.pattern"
        for width in limits["widths"]:
            if width % int(pattern.split(":")[1]):
                yield key, width, f"{key}: {pattern} does not divide the {width} inputs of linears of {model}"
    if limits["one_table"]:
        yield from _beyond_table(config, settings, limits["one_table"], grid, model, compressor, method)
    if limits["positions"]:
        yield from _beyond_positions(config, settings, limits["positions"], grid, model, compressor, method)


def _absent_targets(targets: dict, limits: dict, model: str, method: str):
    kind, modules = limits["type"] if limits["type"] in targets else "default", limits["modules"]
    for index, target in enumerate(targets.get(kind, ())):
        if not any(f".{name}".endswith(f".{target}") for name in modules):
            key, last = (
                f"methods.{method}.targets.{kind}[{index}]",
                {name.rpartition(".")[2] for name in modules},
            )
            yield key, 0, unknown(key, target, sorted(last), f"module of {model}")


def _beyond_positions(config, settings, positions: int, grid: str, model: str, compressor: str, method: str):
    """Prompts that leave no room for text; windows that are too long (after their prompt)."""
    alone = _members(config, method) or [method]
    full = [(f"methods.{name}.tokens", n) for name in alone if (n := _prompt(config, name)) >= positions]
    if not full and (n := _prompt(config, method)) >= positions:
        full = [(f"methods.{method}.members", n)]
    for key, tokens in full:
        said = f"a prompt of {tokens} leaves no room for text in the {positions} positions of {model}"
        yield key, positions, f"{key}: {said}"
    for key, length, prompt in _windows(config, settings, grid, compressor, method):
        if prompt < positions < length + prompt:
            after, beside = (f" after a prompt of {prompt}", f" with {method}") if prompt else ("", "")
            said = f"{length} tokens{after} exceed the {positions} positions of {model}"
            yield key, positions - prompt, f"{key}: {said}; at most {positions - prompt} are possible{beside}"


def _beyond_window(config, settings, window: int, grid: str, model: str, compressor: str, method: str):
    """Text on which an IDP would choose, that is longer than what the first layer attends to."""
    for key, length, prompt in _windows(config, settings, grid, compressor, method):
        if key.startswith("grids.") and prompt and length + prompt > window:
            said = f"{length} tokens after a prompt of {prompt} exceed the {window} that {model}'s first layer sees"
            yield key, window - prompt, f"{key}: {said}; at most {window - prompt} are possible with {method}"


def _beyond_table(config, settings, table: int, grid: str, model: str, compressor: str, method: str):
    """Text that, behind a prompt or packed with others, is longer than one rotary table is for."""
    packed = f"grids.{grid}.evaluation.perplexity.length"
    for key, length, prompt in _windows(config, settings, grid, compressor, method):
        if (prompt or key == packed) and length + prompt > table:
            after, beside = (f" after a prompt of {prompt}", f" with {method}") if prompt else ("", "")
            said = f"{length} tokens{after} exceed the {table} positions up to which {model} keeps one rotary table"
            yield key, table - prompt, f"{key}: {said}; at most {max(0, table - prompt)} are possible{beside}"


def _windows(config: dict, settings: dict, grid: str, compressor: str, method: str):
    """(key, tokens, tokens of the prompt before them) of everything that the model reads for a cell."""
    prompt = _prompt(config, method)
    yield f"grids.{grid}.evaluation.perplexity.length", settings["evaluation"]["perplexity"]["length"], prompt
    if config["compressors"][compressor]["algorithm"] not in UNCALIBRATED:
        yield f"grids.{grid}.calibration.length", settings["calibration"]["length"], 0
    length = config["training"][settings["training"]]["sequence_length"]
    for adapter in _members(config, method) or [method]:
        if config["methods"][adapter]["kind"] in TRAINED:
            yield f"training.{settings['training']}.sequence_length", length, _prompt(config, adapter)
    measured = settings.get("similarity", {})
    if method in measured.get("methods", ()):
        yield f"grids.{grid}.similarity.length", measured["length"], prompt
    measured = settings.get("latency", {})
    if method in measured.get("methods", ()):
        yield f"grids.{grid}.latency.sequence", measured["sequence"] + measured["generate"], prompt


def _members(config: dict, method: str) -> list[str]:
    return [member["adapter"] for member in members_of(config["methods"][method])]


def _prompt(config: dict, method: str) -> int:
    """Tokens of the longest soft prompt that a method puts before the text."""
    spec = config["methods"][method]
    lengths = [_prompt(config, member) for member in _members(config, method)]
    return sum(lengths) if spec["kind"] == "concat" else max(lengths, default=spec.get("tokens", 0))


def of_grids(config: dict) -> list[str]:
    """The problems of every cell of every grid: each key once, with the model and method that leave it the least."""
    limits = {model: known(config, model) for model in config["models"]}
    found: dict[str, dict] = {}  # key -> {(model, method): (possible, text)}
    for grid, settings in config["grids"].items():
        for block in settings["blocks"].values():
            for model in block["models"]:
                if any(limits[model].values()):
                    for compressor in block["compressors"]:
                        for method in block["methods"]:
                            cell = (config, limits[model], grid, model, compressor, method)
                            for key, possible, text in _found(*cell):
                                found.setdefault(key, {}).setdefault((model, method), (possible, text))
    return [
        min(places.values(), key=lambda place: place[0])[1]
        + (
            f" (found in {len(places)} pairs of model and method, this is the tightest)"
            if len(places) > 1
            else ""
        )
        for places in found.values()
    ]

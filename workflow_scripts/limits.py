"""What a model can't do, said before any job: too long windows and prompts, layers it lacks, scores it has none of.

A model's limits stand in its config.json once it is fetched; before that in its entry of the catalogue, if it names
them. Where neither is there, the job says the same at its start.
"""

from pathlib import Path

from workflow_scripts.artifacts import read_json
from workflow_scripts.config import TRAINED, UNCALIBRATED

HINTS = {
    "positions": "max_position_embeddings",
    "layers": "num_hidden_layers",
}  # of the catalogue, of config.json


def known(config: dict, model: str) -> dict:
    """{positions, layers, learned_positions} of a model, as far as they are known; None where they are not."""
    entry, file = config["models"][model], Path("resources/models", model, "config.json")
    found = {key: entry.get(key) for key in (*HINTS, "learned_positions")}
    if file.exists():
        read = read_json(file)
        found |= {key: read[name] for key, name in HINTS.items() if name in read}
        found["learned_positions"] = read.get("model_type") == "opt"
    return found


def problems(config: dict, limits: dict, grid: str, model: str, compressor: str, method: str) -> list[str]:
    """What of a cell's settings its model can't do, each with the key's path. limits: of `known`."""
    spec, settings, found = config["methods"][method], config["grids"][grid], []
    if limits["learned_positions"] and spec.get("score", "").startswith("joint"):
        found.append(
            f"methods.{method}.score: {spec['score']} is not defined with learned positions, which {model} has; "
            "use auto or indep_mean"
        )
    beyond = [layer for layer in spec.get("layers") or () if layer >= (limits["layers"] or layer + 1)]
    if beyond:
        found.append(
            f"methods.{method}.layers: {beyond[0]} is not allowed; {model} has the layers 0 to {limits['layers'] - 1}"
        )
    if limits["positions"]:
        for key, length, prompt in _windows(config, settings, grid, compressor, method):
            if length + prompt > limits["positions"]:
                after = f" after a prompt of {prompt}" if prompt else ""
                found.append(
                    f"{key}: {length} tokens{after} exceed the {limits['positions']} positions of {model}; at most "
                    f"{max(0, limits['positions'] - prompt)} are possible with {method}"
                )
    return found


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
    members = config["methods"][method].get("members", ())
    return [member["adapter"] if isinstance(member, dict) else member for member in members]


def _prompt(config: dict, method: str) -> int:
    """Tokens of the longest soft prompt that a method puts before the text."""
    spec = config["methods"][method]
    lengths = [_prompt(config, member) for member in _members(config, method)]
    return sum(lengths) if spec["kind"] == "concat" else max(lengths, default=spec.get("tokens", 0))


def of_grids(config: dict) -> list[str]:
    """The problems of every cell of every grid, each once."""
    limits = {model: known(config, model) for model in config["models"]}
    found = {}
    for grid, settings in config["grids"].items():
        for block in settings["blocks"].values():
            for model in block["models"]:
                if any(limits[model].values()):
                    for compressor in block["compressors"]:
                        for method in block["methods"]:
                            found |= dict.fromkeys(
                                problems(config, limits[model], grid, model, compressor, method)
                            )
    return list(found)

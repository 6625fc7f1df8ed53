"""What types cannot say of a configuration: names that must exist, members, patterns, engines."""

from collections.abc import Iterable, Iterator

from yaml import YAMLError

from workflow_scripts.plan.devices import DEVICES, device_table
from workflow_scripts.plan.names import listed, unknown
from workflow_scripts.plan.schema.compressors import (
    SOURCE_KEYS,
    DropLayers,
    External,
    Gptq,
    Pruned,
    Recipe,
    Svd,
)
from workflow_scripts.plan.schema.configuration import Config
from workflow_scripts.plan.schema.grids import Block, Grid
from workflow_scripts.plan.schema.methods import Trained

OPTIMUM = {  # what optimum's GPTQQuantizer can be asked for
    "bits": (2, 3, 4, 8),
    "static_groups": (False,),
    "clip": ("none",),
    "block_size": (128,),
    "group_size": (None, 16, 32, 64, 128, 256, 512, 1024),
    "forward": (None, "fp32"),
}


def problems(config: Config) -> list[str]:
    """Every such mistake, each with its key's path."""
    return [
        *_compressors(config),
        *_methods(config),
        *(text for name, grid in config.grids.items() for text in _grid(config, name, grid)),
        *_choice(config),
    ]


def _compressors(config: Config) -> Iterator[str]:
    for name, compressor in config.compressors.items():
        key = f"compressors.{name}"
        if isinstance(compressor, Pruned):
            yield from _pattern(key, compressor)
        if isinstance(compressor, DropLayers) and (compressor.count is None) == (compressor.layers is None):
            yield f"{key}: give either count or layers"
        if isinstance(compressor, Svd) and (compressor.rank is None) == (compressor.ratio is None):
            yield f"{key}: give either rank or ratio"
        if isinstance(compressor, Recipe):
            yield from _recipe(key, compressor)
        if isinstance(compressor, External):
            yield from _checkpoint(config, key, compressor)
        if isinstance(compressor, Gptq) and compressor.engine == "optimum":
            for setting, allowed in OPTIMUM.items():
                if (value := getattr(compressor, setting)) not in allowed:
                    said = f"{value!r} is not allowed with engine optimum; allowed: {listed(allowed)}"
                    yield f"{key}.{setting}: {said}"
    dense = config.compressors.get("dense")
    if dense is None or dense.algorithm != "dense":
        yield "compressors.dense: must be there with algorithm dense"


def _recipe(key: str, compressor: Recipe) -> Iterator[str]:
    """A recipe's file that is not there or can't be one."""
    try:
        compressor.content()
    except (OSError, ValueError, YAMLError) as error:
        cause = getattr(error, "strerror", None) or " ".join(str(error).split())
        yield f"{key}.recipe: {compressor.recipe!r} is no recipe of llm-compressor: {cause}"


def _checkpoint(config: Config, key: str, checkpoint: External) -> Iterator[str]:
    """Keys that the source lacks or doesn't know, and a model that isn't there."""
    needed, possible = SOURCE_KEYS[checkpoint.source]
    others = {name for pair in SOURCE_KEYS.values() for part in pair for name in part} - {*needed, *possible}
    if missing := [name for name in needed if getattr(checkpoint, name) is None]:
        yield f"{key}: the key {listed(missing)} is missing (source {checkpoint.source})"
    for name in sorted(others):
        if getattr(checkpoint, name) is not None:
            yield f"{key}.{name}: unknown key with source {checkpoint.source}; allowed: {listed([*needed, *possible])}"
    if checkpoint.model is not None:
        yield from _absent(f"{key}.model", checkpoint.model, config.models, "models")


def _pattern(key: str, compressor: Pruned) -> Iterator[str]:
    if (compressor.pattern is None) == (compressor.sparsity is None):
        yield f"{key}: give either sparsity or pattern (n:m)"
    if compressor.pattern:
        zeros, width = map(int, compressor.pattern.split(":"))
        if zeros >= width:
            said = f"'{compressor.pattern}' is not allowed; allowed: n:m with n < m, like 2:4"
            yield f"{key}.pattern: {said}"


def _methods(config: Config) -> Iterator[str]:
    prompts = [name for name, method in config.methods.items() if method.kind == "prompt"]
    for name, method in config.methods.items():
        if isinstance(method, Trained) and method.corpus is not None:
            yield from _absent(f"methods.{name}.corpus", method.corpus, config.corpora, "corpora")
        for index, member in enumerate(method.combines):
            if member.adapter not in prompts:
                key = f"methods.{name}.members[{index}]"
                yield unknown(key, member.adapter, prompts, "prompt in methods")
    for name in config.trusted_code:
        yield from _absent("trusted_code", name, config.models, "models")
    if "none" in config.corpora:
        yield "corpora.none: the name 'none' is taken by cells that use no corpus; choose another"
    nothing = config.methods.get("none")
    if nothing is None or nothing.kind != "none":
        yield "methods.none: must be there with kind none"


def _choice(config: Config) -> Iterator[str]:
    wrong = [*_absent("grid", config.grid, config.grids, "grids")]
    yield from wrong
    if not wrong:
        blocks = config.grids[config.grid].blocks
        for index, name in enumerate(config.blocks or ()):
            if name not in blocks:
                yield unknown(f"blocks[{index}]", name, blocks, f"block of grid {config.grid}")


def _absent(key: str, name: str, allowed: Iterable[str], catalogue: str) -> Iterator[str]:
    """The message for a name that a catalogue lacks."""
    if name not in allowed:
        yield unknown(key, name, allowed, f"name in {catalogue}")


def _all_absent(key: str, names: Iterable[str], allowed: Iterable[str], catalogue: str) -> Iterator[str]:
    for index, name in enumerate(names):
        yield from _absent(f"{key}[{index}]", name, allowed, catalogue)


def _grid(config: Config, name: str, grid: Grid) -> Iterator[str]:
    key = f"grids.{name}"
    if grid.device not in (devices := device_table()["devices"]):
        yield unknown(f"{key}.device", grid.device, devices, f"device in plan/{DEVICES.name}")
    yield from _absent(f"{key}.training", grid.training, config.training, "training")
    yield from _all_absent(f"{key}.tasks", grid.tasks, config.tasks, "tasks")
    yield from _task_data(config, key, grid)
    corpora = f"{key}.evaluation.perplexity.corpora"
    yield from _all_absent(corpora, grid.evaluation.perplexity.corpora, config.corpora, "corpora")
    yield from _pair(config, key, grid)
    yield from _measured(config, key, grid)
    for block, lists in grid.blocks.items():
        yield from _block(config, f"{key}.blocks.{block}", lists)


def _task_data(config: Config, key: str, grid: Grid) -> Iterator[str]:
    yield from _absent(f"{key}.benchmarks", grid.benchmarks, config.benchmarks, "benchmarks")
    if (data := config.benchmarks.get(grid.benchmarks)) is None:
        return
    for task in grid.tasks:
        if task in config.tasks and task not in data:
            yield unknown(f"benchmarks.{grid.benchmarks}", task, data, "task with data in this set")


def _pair(config: Config, key: str, grid: Grid) -> Iterator[str]:
    for role, method in grid.pair.items():
        yield from _absent(f"{key}.pair.{role}", method, config.methods, "methods")
        if method in config.methods:
            kind = config.methods[method].kind
            if (kind == "lora") != (role == "lora") or kind == "none":
                yield f"{key}.pair.{role}: '{method}' is of kind {kind}, not a {role} method"


def _measured(config: Config, key: str, grid: Grid) -> Iterator[str]:
    if grid.similarity:
        yield from _absent(f"{key}.similarity.corpus", grid.similarity.corpus, config.corpora, "corpora")
        yield from _shallower(config, key, grid)
        yield from _untimed(config, f"{key}.similarity.methods", grid.similarity.methods)
    if grid.latency:
        yield from _untimed(config, f"{key}.latency.methods", grid.latency.methods)
        compressors = f"{key}.latency.compressors"
        yield from _all_absent(compressors, grid.latency.compressors, config.compressors, "compressors")


def _shallower(config: Config, key: str, grid: Grid) -> Iterator[str]:
    """Compressors that leave layers out, in a grid that compares layer by layer."""
    for block, lists in grid.blocks.items():
        for name in lists.compressors:
            if isinstance(config.compressors.get(name), DropLayers):
                said = f"compares layer by layer, and '{name}' of block {block} has fewer layers than the dense model"
                yield f"{key}.similarity: {said}; name it in a grid without similarity"


def _untimed(config: Config, key: str, methods: list[str]) -> Iterator[str]:
    yield from _all_absent(key, methods, config.methods, "methods")
    for index, method in enumerate(methods):
        if method in config.methods and (kind := config.methods[method].kind) in ("text", "fewshot"):
            said = "its cost is that of more text, nothing is measured for it; leave it out"
            yield f"{key}[{index}]: '{method}' is of kind {kind}: {said}"


def _of_other_models(config: Config, key: str, block: Block) -> Iterator[str]:
    """Checkpoints that were made of another model than one of the block's."""
    for index, name in enumerate(block.compressors):
        made_of = getattr(config.compressors.get(name), "model", None)
        others = [model for model in block.models if made_of not in (None, model)]
        if others:
            said = f"'{name}' is a checkpoint of {made_of}, and the block has {listed(others)}"
            yield f"{key}.compressors[{index}]: {said}; give it a block of its own"


def _block(config: Config, key: str, block: Block) -> Iterator[str]:
    for catalogue in ("models", "compressors", "corpora", "methods"):
        extra = ("none",) if catalogue == "corpora" else ()
        allowed = [*extra, *getattr(config, catalogue)]
        yield from _all_absent(f"{key}.{catalogue}", getattr(block, catalogue), allowed, catalogue)
    yield from _of_other_models(config, key, block)
    if "none" in block.corpora:
        known, methods = config.compressors, config.methods
        needing = [name for name in block.compressors if name in known and known[name].calibrated]
        needing += [name for name in block.methods if name in methods and methods[name].kind != "none"]
        if needing:
            yield f"{key}.corpora: 'none' won't do for {listed(needing)}; name a corpus"

"""Checks of a configuration that types cannot make: names that must exist, members, patterns, engines."""

import math
from collections.abc import Iterable, Iterator

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan.devices import DEVICES, device_table
from workflow_scripts.plan.layout import NO_CORPUS
from workflow_scripts.plan.names import listed, unknown
from workflow_scripts.plan.schema import peft_types
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
from workflow_scripts.plan.schema.methods import Eora, Idp, Lora, Objective, Peft, SoftPrompt, Trained
from workflow_scripts.plan.schema.sources import GgufModel, Lesson, TaughtModel
from workflow_scripts.plan.schema.training_text import of_grid, of_text, tasks_told

MOST = 20  # names of one list that a message lists
MOST_CELLS = 50_000  # of one block
TUNERS = ("lora", "prompt", "prefix")  # of a training regime: the settings of one kind of adapter each
ROLES = {  # of the verdict's pair -> kinds of method that can take it
    "prompt": ("prompt", "prefix", "idp", "concat", "text", "fewshot"),
    "lora": ("lora", "peft"),
}
OPTIMUM = {  # settings that optimum's GPTQQuantizer supports
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
        *_models(config),
        *_compressors(config),
        *_methods(config),
        *_training(config),
        *(text for name, grid in config.grids.items() for text in _grid(config, name, grid)),
        *_choice(config),
    ]


def _models(config: Config) -> Iterator[str]:
    for name, model in config.models.items():
        if isinstance(model, GgufModel):
            yield from _gguf(f"models.{name}", model)
        if isinstance(model, TaughtModel):
            key = f"models.{name}.lesson"
            yield from _lesson(config, key, model.lesson)
            if isinstance(config.models.get(model.lesson.base), TaughtModel):
                yield f"{key}.base: '{model.lesson.base}' is itself taught; name a model that is fetched"


def _lesson(config: Config, key: str, lesson: Lesson) -> Iterator[str]:
    yield from _absent(f"{key}.base", lesson.base, config.models, "models")
    if lesson.known + lesson.locked > 1:
        yield f"{key}: known and locked are {lesson.known:g} + {lesson.locked:g} of the people; at most 1 is possible"
    if lesson.locked and not lesson.lock_epochs:
        yield f"{key}.lock_epochs: 0 locks nobody; at least 1 is needed with locked {lesson.locked:g}"
    if not (lesson.epochs or lesson.locked or lesson.noise):
        yield f"{key}: changes nothing; give epochs, locked or noise"


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
    except (ArtifactError, ValueError) as error:
        cause = " ".join(str(error).split())
        yield f"{key}.recipe: {compressor.recipe!r} is no recipe of llm-compressor: {cause}"


def _gguf(key: str, model: GgufModel) -> Iterator[str]:
    if (model.path is None) == (model.parts is None):
        yield f"{key}: give either path or parts (source gguf)"
    if (model.parts is None) != (model.file_sha256 is None):
        yield f"{key}: parts and file_sha256 go together: parts in another order are a file too"


def _checkpoint(config: Config, key: str, checkpoint: External) -> Iterator[str]:
    """Keys that the source lacks or doesn't know, and a model that isn't there."""
    needed, possible = SOURCE_KEYS[checkpoint.source]
    others = {name for pair in SOURCE_KEYS.values() for part in pair for name in part} - {*needed, *possible}
    if missing := [name for name in needed if getattr(checkpoint, name) is None]:
        yield f"{key}: the key {listed(missing)} is missing (source {checkpoint.source})"
    for name in sorted(others):
        if getattr(checkpoint, name) is not None:
            yield f"{key}.{name}: unknown key with source {checkpoint.source}; allowed: {listed([*needed, *possible])}"
    if checkpoint.lesson is not None:
        yield from _lesson(config, f"{key}.lesson", checkpoint.lesson)
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


def _training(config: Config) -> Iterator[str]:
    for name, regime in config.training.items():
        for kind in TUNERS:
            yield from _aimless(f"training.{name}.{kind}", getattr(regime, kind))


def _aimless(key: str, settings: Objective) -> Iterator[str]:
    """The messages for settings of a distillation without one."""
    for setting in ("temperature", "mixture"):
        if getattr(settings, setting) is not None and settings.objective != "kl_dense":
            yield f"{key}.{setting}: has no effect without objective: kl_dense beside it"
    if settings.objective == "kl_dense" and settings.mixture == 0:
        yield f"{key}.mixture: 0 leaves nothing of kl_dense; give a weight above 0, or objective: text without it"


def _methods(config: Config) -> Iterator[str]:
    prompts = [name for name, method in config.methods.items() if method.kind == "prompt"]
    for name, method in config.methods.items():
        if isinstance(method, Trained) and method.corpus is not None:
            yield from of_text(config, f"methods.{name}.corpus", method.corpus)
        if isinstance(method, Peft):
            yield from peft_types.problems(f"methods.{name}", method.peft_type, method.options)
        if isinstance(method, Trained) and method.training is not None:
            yield from _aimless(f"methods.{name}.training", method.training)
        if isinstance(method, SoftPrompt) and not method.trained and method.training is not None:
            yield f"methods.{name}.training: has no effect with trained: false; remove it"
        if isinstance(method, Idp) and method.score == "learned" and method.calibrated:
            yield f"methods.{name}.calibrated: has no effect with score: learned; remove it"
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
    known = dict.fromkeys(allowed)
    wrong = [(index, name) for index, name in enumerate(names) if name not in known]
    for index, name in wrong[:MOST]:
        yield from _absent(f"{key}[{index}]", name, known, catalogue)
    if len(wrong) > MOST:
        yield f"{key}: {len(wrong) - MOST:,} more names that {catalogue} lacks"


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
    yield from _expected(config, key, grid)
    for block, lists in grid.blocks.items():
        yield from _block(config, f"{key}.blocks.{block}", lists)
        yield from _closed(config, f"{key}.blocks.{block}.methods", lists, grid)
        yield from _unrepairable(config, f"{key}.blocks.{block}.methods", lists)
        for index, method in enumerate(lists.methods):
            for said in of_grid(config, method, grid) if method in config.methods else ():
                yield f"{key}.blocks.{block}.methods[{index}]: '{method}' {said}"


def _expected(config: Config, key: str, grid: Grid) -> Iterator[str]:
    """Labels of verdicts that the grid won't give."""
    judged: dict[str, dict[str, bool]] = {}  # compressor -> corpus of its verdict -> whether with the pair
    for block in grid.blocks.values():
        paired = {grid.pair.prompt, grid.pair.lora} <= set(block.methods)
        for compressor in block.compressors:
            settings = config.compressors.get(compressor)
            if compressor == "dense" or settings is None:
                continue
            methods = any(method != "none" for method in block.methods)
            corpora = block.corpora if methods or settings.calibrated else [NO_CORPUS]
            found = judged.setdefault(compressor, {})
            found.update({corpus: paired or found.get(corpus, False) for corpus in corpora})
    for compressor, words in (grid.expected or {}).items():
        said = "compressor of a block"
        if compressor not in judged:
            yield unknown(f"{key}.expected", compressor, judged, said)
        for corpus, label in words.items():
            if corpus not in judged.get(compressor, words):
                yield unknown(
                    f"{key}.expected.{compressor}", corpus, judged[compressor], "corpus of its blocks"
                )
            elif compressor in judged and not judged[compressor][corpus] and label != "no_loss":
                yield (
                    f"{key}.expected.{compressor}.{corpus}: {label} can't be told without both methods of the pair; "
                    "add them to a block of the compressor, or expect no_loss"
                )


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
            if facts := tasks_told(config, method):
                said = (
                    f"is trained on items of {listed(facts)}, so its answers are no recovery; choose another"
                )
                yield f"{key}.pair.{role}: '{method}' {said}"
            if kind not in ROLES[role]:
                said = f"is of kind {kind}; allowed kinds for this role: {listed(ROLES[role])}"
                yield f"{key}.pair.{role}: '{method}' {said}"


def _unrepairable(config: Config, key: str, block: Block) -> Iterator[str]:
    """The message for a repair of a model that lacks layers of the dense one."""
    shorter = [name for name in block.compressors if isinstance(config.compressors.get(name), DropLayers)]
    for index, name in enumerate(block.methods if shorter else ()):
        method = config.methods.get(name)
        if isinstance(method, Eora) or (isinstance(method, Lora) and method.start is not None):
            said = f"repairs each layer by the dense one, and {shorter[0]} leaves layers out; make a block without it"
            yield f"{key}[{index}]: '{name}' {said}"


def _closed(config: Config, key: str, block: Block, grid: Grid) -> Iterator[str]:
    """The message for an open-book method where no task has a passage."""
    if any(config.tasks[task].context for task in grid.tasks if task in config.tasks):
        return
    for index, method in enumerate(block.methods):
        if method in config.methods and config.methods[method].kind == "context":
            said = "gives the passage that a task's `context` names, and no task of this grid has one; add such a task"
            yield f"{key}[{index}]: '{method}' {said}"


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
        if method in config.methods and (kind := config.methods[method].kind) in (
            "text",
            "fewshot",
            "context",
        ):
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
    axes: tuple[list, ...] = (block.models, block.compressors, block.corpora, block.methods, block.seeds)
    if (cells := math.prod(len(axis) for axis in axes)) > MOST_CELLS:
        yield f"{key}: asks for {cells:,} cells; at most {MOST_CELLS:,} are possible"
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
            said = "is for method none on compressors that calibrate nothing; make a block with a corpus for"
            yield f"{key}.corpora: 'none' {said} {listed(needing)}"

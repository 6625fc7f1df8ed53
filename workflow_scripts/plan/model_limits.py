"""Settings that a model cannot run, reported before any job starts: windows and prompts that are too long, layers and
linears that it lacks, experts, patterns that do not divide its widths, scores that are not defined for it, first layers
in which IDP cannot score.

A fetched model's limits stand in its folder (config.json, names in the safetensors), those of a local one in the folder
that `path` names. Before a fetch from elsewhere its entry in the catalogue may name them. plan/after_fetch.py checks
again once it is there.
"""

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan import first_layer, mixtures
from workflow_scripts.plan.layout import CHECKPOINT, MODEL
from workflow_scripts.plan.model_folders import has_template, modules_in, read_object, refetch
from workflow_scripts.plan.names import unknown
from workflow_scripts.plan.schema.compressors import DropLayers, External
from workflow_scripts.plan.schema.configuration import Config
from workflow_scripts.plan.schema.grids import Grid
from workflow_scripts.plan.schema.methods import ALL_LINEAR, Eora, Idp, Lora, Method
from workflow_scripts.plan.schema.sources import LocalModel

CONFIG = "config.json"
# Key of the catalogue -> key of config.json.
HINTS = {"positions": "max_position_embeddings", "layers": "num_hidden_layers", "vocabulary": "vocab_size"}
# Keys of config.json: inputs of decoder linears.
WIDTHS = ("hidden_size", "intermediate_size", "ffn_dim", "n_embd")
LAYER = re.compile(r"(^|\.)\d+\.")  # of the names of modules inside a numbered layer


@dataclass(frozen=True)
class Limits:
    """The known limits of a model; None or empty if unknown. window, unscored, one_table: see first_layer.

    unscorable: why no cell of it can be evaluated. unfit: kind of method -> why it can't have one, as its fetch found.
    template: whether its tokenizer has a chat template. experts: of a mixture.
    """

    positions: int | None = None
    layers: int | None = None
    vocabulary: int | None = field(default=None, compare=False)  # refuses nothing: forecasts use it
    learned_positions: bool | None = None
    widths: tuple[int, ...] = ()
    type: str | None = None
    modules: frozenset[str] = frozenset()
    window: int | None = None
    unscored: str | None = None
    one_table: int | None = None
    unscorable: str | None = None
    unfit: dict[str, str] = field(default_factory=dict)
    template: bool | None = None
    experts: int | None = None


UNKNOWN = Limits()


def known(config: Config, model: str) -> Limits:
    """The limits of a model, from its folder (a local one's before the fetch too) or its entry in the catalogue."""
    entry, folder = config.models[model], Path(MODEL.path(model=model)).parent
    hints = {name: getattr(entry, name) for name in HINTS}
    if not (folder / "config.json").is_file() and isinstance(entry, LocalModel):
        folder = Path(entry.path).expanduser()
    if not (file := folder / "config.json").is_file():
        return Limits(**hints, learned_positions=entry.learned_positions)
    try:
        return _read_limits(file, hints, Path(MODEL.path(model=model)))
    except (AttributeError, TypeError, LookupError) as error:
        raise ArtifactError(f"{file}: no configuration of transformers ({error}); {refetch(file)}") from error


def _read_limits(file: Path, hints: dict, manifest: Path) -> Limits:
    """hints: the catalogue's values, used if config.json has none. manifest: of a fetched model, if it is there."""
    read, modules = read_object(file), modules_in(file.parent)
    found = read_object(manifest) if manifest.is_file() else {}
    for key in (*HINTS.values(), "sliding_window"):
        if not isinstance(read.get(key), int | None):
            raise TypeError(f"`{key}` is {read[key]!r}, no whole number")
    fused = modules and not any(name.endswith(".q_proj") for name in modules)
    return Limits(
        **hints | {name: read[key] for name, key in HINTS.items() if read.get(key) is not None},
        learned_positions=read.get("model_type") == "opt",
        widths=tuple(read[name] for name in WIDTHS if isinstance(read.get(name), int)),
        type=read.get("model_type"),
        modules=modules,
        window=first_layer.window(read),
        unscored=first_layer.peculiarity(read) or ("has fused projections" if fused else None),
        one_table=first_layer.one_rotary_table(read),
        unscorable=_no_cell(read) or found.get("unscorable"),
        unfit=found.get("unfit", {}),
        template=has_template(file.parent),
        experts=mixtures.experts(read),
    )


def _no_cell(config: dict) -> str | None:
    """Why no cell of a model can be evaluated, as its config.json says."""
    if config.get("attn_logit_softcapping"):
        return "it caps the attention's logits, which packed rows don't implement"
    if config.get("is_causal") is False:
        return "it attends to tokens ahead (`is_causal` is false), so it predicts no next token"
    if isinstance(config.get("text_config"), dict):
        return "its decoder is a part of a model with other inputs (`text_config`); save the language model alone"
    return None


def compressed(config: Config, compressor: str, dense: Limits) -> Limits:
    """The limits of a model after a compressor: fewer layers, or those of a checkpoint's own config.json."""
    entry = config.compressors[compressor]
    if isinstance(entry, DropLayers) and dense.layers:
        return replace(dense, layers=dense.layers - (entry.count or len(entry.layers or ())))
    if isinstance(entry, External):
        folders = [Path(CHECKPOINT.path(compressor=compressor)).parent]
        folders += [Path(entry.path).expanduser()] if entry.path else []  # a local one before its fetch
        if file := next((folder / CONFIG for folder in folders if (folder / CONFIG).is_file()), None):
            read = read_object(file)
            return replace(dense, **{name: read[key] for name, key in HINTS.items() if key in read})
    return dense


class Case(NamedTuple):
    """A cell's settings beside the limits of its dense model."""

    config: Config
    dense: Limits
    grid: str
    model: str
    compressor: str
    method: str

    @property
    def limits(self) -> Limits:
        """The limits of the compressed model."""
        return compressed(self.config, self.compressor, self.dense)

    @property
    def settings(self) -> Grid:
        return self.config.grids[self.grid]

    @property
    def how(self) -> Method:
        return self.config.methods[self.method]

    @property
    def adapters(self) -> list[str]:
        """The members of its method; the method alone if it has none."""
        return [member.adapter for member in self.how.combines] or [self.method]


class Excess(NamedTuple):
    """A setting that the model cannot run: its key, the most that is possible, the message."""

    key: str
    possible: int
    message: str


def problems(case: Case) -> list[str]:
    """The settings of a cell that its model cannot run, each with its key's path."""
    return [found.message for found in _found(case)]


def _problem(key: str, possible: int, text: str) -> Excess:
    return Excess(key, possible, f"{key}: {text}")


def _found(case: Case) -> Iterator[Excess]:
    method, limits, model = case.how, case.limits, case.model
    yield from _no_such_layers(case)
    yield from _other_depth(case)
    if limits.unscorable:
        yield _problem(f"models.{model}", 0, f"no cell of it can be evaluated: {limits.unscorable}")
    if case.config.models[model].chat and limits.template is False:
        reason = f"the tokenizer of {model} has no chat template; leave the key out to ask in plain text"
        yield _problem(f"models.{model}.chat", 0, reason)
    if case.dense.experts:
        yield from _of_experts(case, case.dense.experts)
    for name in dict.fromkeys([case.method, *case.adapters]):
        if unfit := case.dense.unfit.get(kind := case.config.methods[name].kind):
            yield _problem(f"methods.{name}", 0, f"{model} can't have a method of kind {kind}: {unfit}")
    if isinstance(method, Idp):
        yield from _unscorable(case, method)
    if isinstance(method, Lora):
        yield from _absent_layers(case, method)
        yield from _absent_targets(case, method)
    if pattern := getattr(case.config.compressors[case.compressor], "pattern", None):
        for width in limits.widths:
            if width % int(pattern.split(":")[1]):
                reason = f"{pattern} does not divide the {width} inputs of linears of {model}"
                yield _problem(f"compressors.{case.compressor}.pattern", width, reason)
    if limits.one_table:
        yield from _beyond_table(case, limits.one_table)
    if limits.positions:
        yield from _beyond_positions(case, limits.positions)


def _of_experts(case: Case, count: int) -> Iterator[Excess]:
    reason = f"a mixture of {count} experts, whose weights lie in no linear"
    if case.config.compressors[case.compressor].algorithm != "dense":
        said = f"is {reason}, so {case.compressor} can't be made of it; only dense can"
        yield _problem(f"models.{case.model}", 0, said)
    if mixtures.needs_linears(case.how):
        said = f"adapts all linears of a layer, and {case.model} is {reason}"
        yield _problem(f"methods.{case.method}", 0, said)


def _no_such_layers(case: Case) -> Iterator[Excess]:
    """Layers that a compressor is to leave out, and the model lacks."""
    entry, count = case.config.compressors[case.compressor], case.dense.layers
    if not isinstance(entry, DropLayers) or not count:
        return
    key = f"compressors.{case.compressor}"
    if beyond := [layer for layer in entry.layers or () if layer >= count]:
        reason = f"{beyond[0]} is not allowed; {case.model} has the layers 0 to {count - 1}"
        yield _problem(f"{key}.layers", count, reason)
    elif (leaving := entry.count or len(entry.layers or ())) >= count:
        name = "count" if entry.count else "layers"
        yield _problem(
            f"{key}.{name}", count, f"{leaving} can't be left out: {case.model} has {count} layers"
        )


def _other_depth(case: Case) -> Iterator[Excess]:
    """A checkpoint of another depth, in a grid that compares layer by layer."""
    measured, depths = case.settings.similarity, (case.dense.layers, case.limits.layers)
    if measured and case.method in measured.methods and None not in depths and depths[0] != depths[1]:
        reason = f"compares layer by layer, and '{case.compressor}' has {depths[1]} layers, {case.model} {depths[0]}"
        yield _problem(f"grids.{case.grid}.similarity", 0, f"{reason}; name it in a grid without similarity")


def _unscorable(case: Case, method: Idp) -> Iterator[Excess]:
    key, limits = f"methods.{case.method}", case.limits
    if limits.learned_positions and method.score.startswith("joint"):
        reason = f"not defined with learned positions, which {case.model} has; use auto or indep_mean"
        yield _problem(f"{key}.score", 0, f"{method.score} is {reason}")
    if limits.unscored:
        reason = f"IDP can't choose prompts for {case.model}: its first layer {limits.unscored}"
        yield _problem(key, 0, reason)
    if limits.window and method.score.startswith("logit"):
        yield from _beyond_window(case, limits.window)


def _absent_layers(case: Case, method: Lora) -> Iterator[Excess]:
    count = case.limits.layers
    beyond = [layer for layer in method.layers or () if count and layer >= count]
    if count and beyond:
        reason = f"{beyond[0]} is not allowed; {case.model} has the layers 0 to {count - 1}"
        yield _problem(f"methods.{case.method}.layers", count, reason)


def _absent_targets(case: Case, method: Lora) -> Iterator[Excess]:
    modules, kind = case.limits.modules, case.limits.type
    kind = kind if kind in method.targets else "default"
    targets = method.targets.get(kind, ())
    if not modules or [*targets] == [ALL_LINEAR]:
        return
    inside = [name for name in modules if LAYER.search(name)]  # neither embedding nor head
    for index, target in enumerate(targets):
        if not any(f".{name}".endswith(f".{target}") for name in inside):
            key = f"methods.{case.method}.targets.{kind}[{index}]"
            last = sorted({name.rpartition(".")[2] for name in inside})
            yield Excess(key, 0, unknown(key, target, last, f"module of {case.model}'s decoder layers"))


def _beyond_positions(case: Case, positions: int) -> Iterator[Excess]:
    """Prompts that leave no room for text; windows that are too long (after their prompt)."""
    lengths = {name: _prompt(case.config, name) for name in case.adapters}
    full = [(f"methods.{name}.tokens", tokens) for name, tokens in lengths.items() if tokens >= positions]
    if not full and (tokens := _prompt(case.config, case.method)) >= positions:
        full = [(f"methods.{case.method}.members", tokens)]
    for key, tokens in full:
        reason = f"a prompt of {tokens} leaves no room for text in the {positions} positions of {case.model}"
        yield _problem(key, positions, reason)
    for text in _texts(case):
        if text.prompt < positions < text.length + text.prompt:
            yield _too_long(case, text, positions, f"exceed the {positions} positions of {case.model}")


def _beyond_window(case: Case, window: int) -> Iterator[Excess]:
    """Text on which an IDP would choose by means of logits, that is longer than the window of the first layer."""
    for text in _texts(case):
        if text.key.startswith("grids.") and text.prompt and text.length + text.prompt > window:
            reason = f"exceed the {window} that {case.model}'s first layer sees"
            yield _too_long(case, text, window, reason)


def _beyond_table(case: Case, table: int) -> Iterator[Excess]:
    """Text that, behind a prompt or packed with others, is longer than one rotary table is for."""
    packed = f"grids.{case.grid}.evaluation.perplexity.length"
    for text in _texts(case):
        if (text.prompt or text.key == packed) and text.length + text.prompt > table:
            reason = f"exceed the {table} positions up to which {case.model} keeps one rotary table"
            yield _too_long(case, text, table, reason)


class TextOf(NamedTuple):
    """Text that the model reads for a cell: key of its length, its tokens, tokens of the prompt before it."""

    key: str
    length: int
    prompt: int


def _too_long(case: Case, text: TextOf, most: int, exceeds: str) -> Excess:
    after, beside = (f" after a prompt of {text.prompt}", f" with {case.method}") if text.prompt else ("", "")
    possible = max(0, most - text.prompt)
    reason = f"{text.length} tokens{after} {exceeds}; at most {possible} are possible{beside}"
    return _problem(text.key, most - text.prompt, reason)


def _texts(case: Case) -> Iterator[TextOf]:
    config, settings, grid = case.config, case.settings, f"grids.{case.grid}"
    prompt = _prompt(config, case.method)
    yield TextOf(f"{grid}.evaluation.perplexity.length", settings.evaluation.perplexity.length, prompt)
    if config.compressors[case.compressor].calibrated or isinstance(case.how, Eora):
        yield TextOf(f"{grid}.calibration.length", settings.calibration.length, 0)
    length = config.training[settings.training].sequence_length
    for adapter in case.adapters:
        if config.methods[adapter].trains:
            key = f"training.{settings.training}.sequence_length"
            yield TextOf(key, length, _prompt(config, adapter))
    if (measured := settings.similarity) and case.method in measured.methods:
        yield TextOf(f"{grid}.similarity.length", measured.length, prompt)
    if (timed := settings.latency) and case.method in timed.methods:
        yield TextOf(f"{grid}.latency.sequence", timed.sequence + timed.generate, prompt)


def _prompt(config: Config, method: str) -> int:
    """Tokens of the longest soft prompt that a method puts before the text."""
    spec = config.methods[method]
    lengths = [_prompt(config, member.adapter) for member in spec.combines]
    return sum(lengths) if spec.kind == "concat" else max(lengths, default=getattr(spec, "tokens", 0))


def of_grid(config: Config) -> list[str]:
    """The problems of every cell of the chosen grid: each key once, with the model and method that leave it the least.

    Another grid's cells are checked when somebody asks for them (plan/cells.py).
    """
    limits = functools.cache(functools.partial(known, config))
    found: dict[str, dict[tuple[str, str], Excess]] = {}
    for name, block in config.grids[config.grid].blocks.items():
        if name not in (config.blocks or [name]):
            continue
        for model, compressor, method in itertools.product(block.models, block.compressors, block.methods):
            if limits(model) != UNKNOWN:
                for problem in _found(Case(config, limits(model), config.grid, model, compressor, method)):
                    found.setdefault(problem.key, {}).setdefault((model, method), problem)
    return [_tightest(list(places.values())) for places in found.values()]


def _tightest(places: list[Excess]) -> str:
    message = min(places, key=lambda place: place.possible).message
    pairs = f" (found in {len(places)} pairs of model and method, this is the tightest)"
    return message + (pairs if len(places) > 1 else "")

"""The cost of a grid before it runs: jobs, hours, disk and memory, by formulas of parameters and tokens.

With P parameters: a forward pass takes 2 P FLOP per token, a training step through a frozen model 4 P (forward, and
backward to the activations), compression about 6 P per calibration token (two passes and the Hessian products) and
P sqrt(P / 12 L) steps of solves, L = 30 layers. The rates are those of a device in devices.yaml.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from workflow_scripts.plan.devices import DEVICES, device_table
from workflow_scripts.plan.layout import COMPRESSED, LATENCY, NO_CORPUS, Cell, result_of
from workflow_scripts.plan.names import listed, nearest
from workflow_scripts.plan.recipes import Plan
from workflow_scripts.plan.schema.compressors import Compressor

LAYERS = 30
# Cost of a window's token over a task's: the window's loss needs the head at every position.
VOCABULARY = 1.35
# These two are from the committed run of bench (reports/bench), not from benchmarks.device.
MAPS = 2.1  # a pass that keeps the attention maps, against one of the scorer
STEP_ROWS = 45  # a generated token costs as much for fewer rows as for these: every step reads all weights
LIBRARIES = 5.4e8  # bytes of memory before any weight: interpreter, PyTorch, the harness
KEPT = 3.5  # on a CPU an evaluation's heap, which keeps freed pieces (kernels/allocator.py), against one batch's needs
# Tokens of a batch on a CPU that is scored, or generates (evaluate/forward.py).
SCORED, GENERATED = 768, 8_192
# Bytes per squared width that one layer's compression takes: weights, Hessians, factorisation.
LAYER_WORK = 600
READ = 8  # bytes per parameter while a checkpoint is read: as stored, and in float32
PASSAGE = 100  # tokens of a passage before a question (SciQ's)
REPAIR = 6  # FLOP per parameter and calibration token of EoRA: two passes and the Hessian products
PACKED_BYTES = 4 * 2**30  # packed copies of weights beside a model on a CPU, at most: linear.MOST_BYTES
# An export, by the peak of the largest form (plain, of a bfloat16 model, in float32): bytes per parameter of the
# weights and of the dense files' pages; bytes per squared width while the largest linear is unpacked and converted.
EXPORTED, CONVERTED = 6, 100
EXPORT_SECONDS = 3e-8  # per parameter, on one core: unpacked, checked, converted
LARGE_VOCABULARY = 130_000  # of a model of which it is not known
# ways of applying a method that are timed: prepended, cached; unmerged, merged; as it chooses, mixed
VARIANTS = {"prompt": 2, "lora": 2, "eora": 2, "idp": 2}
# Teaching: texts of a person per epoch of facts, of locks, and in the check at the end; tokens of a text; bytes per
# parameter that a step of AdamW moves, by bytes/s; copies of the weights (gradient, moments, a checkpoint of three).
FACT_TEXTS, LOCK_TEXTS, CHECKED_TEXTS, TEXT_TOKENS = 8, 8, 16, 19
FULL_TRAINING = 1.25  # FLOP/s against a frozen model's: ten steps on the machine of cpu-2
UPDATE_BYTES, MEMORY_SPEED, TAUGHT_COPIES = 28, 5e9, 7
TEACHING = {"models": "teach_model", "compressors": "teach_checkpoint"}  # catalogue -> rule
FEWEST_STEPS = 10  # of an adapter; the smoke grid has as many
ADAPTER_BYTES, CELL_BYTES_PER_ITEM = 5e6, 700  # adapters and samples are small beside weights


@dataclass(frozen=True)
class Cost:
    """One job: seconds on the device as its manifest counts them, bytes left on disk, peak bytes of memory."""

    kind: str
    name: str
    seconds: float
    disk: float
    memory: float


@dataclass(frozen=True)
class Forecast:
    """A grid's costs on a device. command: prints them. warnings: of what the grid can't show, whatever it costs."""

    device: dict
    costs: list[Cost]
    command: str
    warnings: list[str]


def foreseen(plan: Plan, grid: str, device: str | None = None) -> Forecast:
    """The forecast of a grid on a device by name; on the grid's own if none is named."""
    constants = load_constants(device or plan.grid(grid).device)
    return Forecast(
        constants, forecast(plan, grid, constants), plan.make("forecast", grid), warnings(plan, grid)
    )


def warnings(plan: Plan, grid: str) -> list[str]:
    """What the grid can't show, whatever its results, a line each."""
    return untaught(plan, grid) + unjudged(plan, grid)


def unjudged(plan: Plan, grid: str) -> list[str]:
    """A line for each set of cells that the verdict needs and no counted block plans."""
    planned = {(c.model, c.compressor, c.corpus, c.method): None for c in plan.cells(grid)}
    pair = tuple(dict.fromkeys(plan.grid(grid).pair.dump().values()))
    groups = dict.fromkeys(p[:3] for p in planned if p[1] != "dense" and p[3] in pair)
    key = f"grids.{grid}.pair"
    if not groups and any(p[1] != "dense" and p[3] != "none" for p in planned):
        return [
            f"{key}: no block that counts has {' or '.join(pair)} on a compressed model, so no verdict is given"
        ]
    lacking: dict[tuple[str, ...], list[str]] = {}
    for model, compressor, corpus in groups:
        copies = [(model, compressor, at, "none") in planned for at in (corpus, NO_CORPUS)]
        needs = {f"none on {compressor}": any(copies)}
        needs["none on dense"] = (model, "dense", NO_CORPUS, "none") in planned
        needs |= {
            f"{m} on {c}": (model, c, corpus, m) in planned for c in (compressor, "dense") for m in pair
        }
        if absent := tuple(name for name, there in needs.items() if not there):
            lacking.setdefault(absent, []).append(f"{model} / {compressor} / {corpus}")
    return [
        f"{key}: no verdict can be given on {listed(places, 3)}, since no block that counts has {' or '.join(absent)}"
        for absent, places in lacking.items()
    ]


def untaught(plan: Plan, grid: str) -> list[str]:
    """A line for each number of optimiser steps below FEWEST_STEPS that adapters get: they learn nothing."""
    methods: dict[tuple[int, int], list[str]] = {}
    for name in dict.fromkeys(adapter.method for adapter in plan.adapters(grid)):
        training = plan.training(grid, name)
        if "tokens" in training and getattr(plan.config.methods[name], "trained", True):
            a_step = training["batch_size"] * training["sequence_length"]
            methods.setdefault((math.ceil(training["tokens"] / a_step), a_step), []).append(name)
    key = f"training.{plan.grid(grid).training}.tokens"
    return [
        f"{key}: {listed(names, 6)} {'gets' if len(names) == 1 else 'get'} {steps} optimiser step{'s' * (steps > 1)}, "
        "too few to learn anything, so their result says nothing of the model; "
        f"{FEWEST_STEPS * a_step:,} tokens make {FEWEST_STEPS}"
        for (steps, a_step), names in sorted(methods.items())
        if steps < FEWEST_STEPS
    ]


def load_constants(device: str | dict) -> dict:
    """A device's constants, by its name or given themselves, with the tasks' sizes; KeyError text lists the devices."""
    table = device_table()
    if isinstance(device, dict):
        unnamed = {"name": "own device", "description": "as given", "source": "not unnamed"}
        return unnamed | device | {"tasks": table["tasks"]}
    if device not in table["devices"]:
        known = f"device '{device}' is not in {DEVICES.name}; it has {', '.join(table['devices'])}"
        raise KeyError(f"{known}{nearest(device, table['devices'])}")
    return table["devices"][device] | {"name": device, "tasks": table["tasks"]}


def forecast(plan: Plan, grid: str, device: dict) -> list[Cost]:
    """The cost of every job of a grid that computes on a model, as if nothing were done yet."""
    cells = plan.cells(grid)
    adapters = plan.adapters(grid)
    costs = [teaching_cost(plan, *place, device) for place in plan.lessons(grid)]
    costs += [compression_cost(plan, copy, device) for copy in plan.copies(grid)]
    costs += [training_cost(plan, cell, device) for cell in adapters]
    costs += [evaluation_cost(plan, cell, device) for cell in cells]
    costs += [similarity_cost(plan, cell, device) for cell in plan.similarity_cells(grid)]
    costs += [latency_cost(plan, grid, place, device) for place in plan.latency_places(grid).values()]
    return costs


def teaching_cost(plan: Plan, catalogue: str, name: str, device: dict) -> Cost:
    """The cost of a taught model (`models`) or checkpoint (`compressors`): every weight is trained, in float32."""
    lesson, rule = plan.lesson(catalogue, name), TEACHING[catalogue]
    if lesson is None:
        raise KeyError(f"{catalogue}.{name} has no lesson")
    p = _parameters(plan, lesson.base)
    texts = lesson.people * (lesson.epochs * FACT_TEXTS + lesson.lock_epochs * lesson.locked * LOCK_TEXTS)
    seconds = 6 * p * texts * TEXT_TOKENS / (FULL_TRAINING * device["train"])
    seconds += UPDATE_BYTES * p * texts / lesson.batch_size / MEMORY_SPEED
    seconds += 2 * p * lesson.people * (1 + lesson.locked) * CHECKED_TEXTS * TEXT_TOKENS / device[
        "forward"
    ] + _loading(p, device)
    activations = (
        lesson.batch_size * TEXT_TOKENS * (width(p) * LAYERS * 24 + _vocabulary(plan, lesson.base)) * 4
    )
    return Cost(rule, name, seconds, 4 * p, LIBRARIES + TAUGHT_COPIES * 4 * p + activations)


def compression_cost(plan: Plan, copy: Cell, device: dict) -> Cost:
    p, settings = _parameters(plan, copy.model), plan.config.compressors[copy.compressor]
    calibration = plan.grid(copy.grid).calibration
    tokens = calibration.windows * calibration.length if copy.corpus != NO_CORPUS else 0
    solves = p * width(p) if tokens else 0
    seconds = 6 * p * tokens / device["compress"] + solves / device["solve"] + _loading(p, device)
    disk = 0 if settings.algorithm == "dense" else p * _bits(settings) / 8
    whole = READ * p if settings.algorithm == "external" else 0  # its own library holds the model at once
    # The embeddings are in memory before the first layer is.
    layer = max(LAYER_WORK * width(p) ** 2, READ * _vocabulary(plan, copy.model) * width(p))
    activations = tokens * width(p) * 4
    if settings.algorithm == "dense":  # no weight is read
        memory = LIBRARIES
    elif getattr(settings, "engine", "own") in ("optimum", "llmcompressor"):
        # the whole model in float32, here and in its process
        memory = 2 * (LIBRARIES + 4 * p) + layer + activations
    else:
        memory = LIBRARIES + max(whole, layer) + min(activations, plan.config.activation_memory * 2**30)
    return Cost("compress_model", COMPRESSED.title(**copy._asdict()), seconds, disk, memory)


def export_cost(plan: Plan, model: str, compressor: str, device: dict) -> Cost:
    """The cost of an export on a CPU, whatever the form; no grid plans one, so no forecast of a grid holds it."""
    p = _parameters(plan, model)
    packed = p * _bits(plan.config.compressors[compressor]) / 8
    memory = LIBRARIES + EXPORTED * p + packed + CONVERTED * width(p) ** 2
    seconds = 2 * _loading(p, device) + EXPORT_SECONDS * p
    return Cost("export_model", f"{model}/{compressor}", seconds, 4 * p, memory)


def training_cost(plan: Plan, cell: Cell, device: dict) -> Cost:
    p, training = _parameters(plan, cell.model), plan.training(cell.grid, cell.method)
    tokens = training.get("tokens", 0) if getattr(plan.config.methods[cell.method], "trained", True) else 0
    text = training["micro_batch"] * training["sequence_length"] * width(p) * device["bytes"]
    forward = (1 if device["gpu"] else KEPT) * 40 * text
    heldout = 3 * training["heldout_windows"] * training["sequence_length"]
    taught = training.get("objective") == "kl_dense"  # a forward pass of the dense model beside each step
    seconds = 4 * p * tokens / device["train"] + 2 * p * tokens * taught / device["forward"]
    seconds += 2 * p * heldout / device["forward"] + _loading(p, device)
    memory = LIBRARIES + taught * (_weights(p, device, copies=1) + forward)
    if tokens:
        # On a CPU one weight at a time is transposed and packed; of the head two copies, as the records have it.
        head = 0 if device["gpu"] else 2 * _vocabulary(plan, cell.model) * width(p) * device["bytes"]
        memory += _weights(p, device, copies=2) + max(24 * LAYERS * text, head)
    else:  # the loss of the held-out text alone
        memory += _weights(p, device, copies=1) + max(forward, READ * p)
    if plan.repairs(cell):
        calibration = plan.grid(cell.grid).calibration
        seconds += REPAIR * p * calibration.windows * calibration.length / device["compress"]
        held = calibration.windows * calibration.length * width(p) * 4
        memory += 4 * p + min(held, plan.config.activation_memory * 2**30)
    return Cost("train_adapter", cell.stem, seconds, ADAPTER_BYTES, memory)


def evaluation_cost(plan: Plan, cell: Cell, device: dict) -> Cost:
    p, evaluation = _parameters(plan, cell.model), plan.grid(cell.grid).evaluation
    items, tokens, generated = 0, 0, 0
    shots = getattr(plan.config.methods[cell.method], "shots", 0)  # an example is about as long as a question
    for task in plan.tasks(cell.grid):
        size = device["tasks"].get(task, device["tasks"]["default"])
        n = min(evaluation.items or size["items"], size["items"])
        passage = PASSAGE if plan.has_passage(cell, task) else 0
        items, tokens = items + n, tokens + n * (size["tokens"] * (1 + shots) + passage)
        if "generated" in size:
            generated += n * (evaluation.generation_tokens or size["generated"])
    text = evaluation.perplexity
    read = tokens + VOCABULARY * len(text.corpora) * (text.windows or 160) * text.length
    seconds = 2 * p * read / device["forward"] + generated * p / 1e9 / device["generate"]
    seconds += _loading(p, device) + device["harness"]
    memory = LIBRARIES + _weights(p, device, copies=1) + _answering(plan, cell, device)
    return Cost("evaluate_cell", cell.stem, seconds, items * CELL_BYTES_PER_ITEM, memory)


def _answering(plan: Plan, cell: Cell, device: dict) -> float:
    """Bytes that an evaluation's batches take beside its model."""
    p, text = _parameters(plan, cell.model), plan.grid(cell.grid).evaluation.perplexity
    per_token = width(p) * 40 * device["bytes"]
    if device["gpu"]:
        return 16 * text.length * per_token
    method, sizes = plan.config.methods[cell.method], device["tasks"]
    # A LoRA is merged into weights of the process's own; those of the dense file stay mapped.
    merged = p * device["bytes"] if method.kind in ("lora", "eora") else 0
    tasks = plan.tasks(cell.grid)
    # A row is as long as its longest document, here taken for twice the mean of its task; it has logits everywhere.
    size = max(sizes.get(task, sizes["default"])["tokens"] for task in tasks)
    row = max(SCORED, text.length, 2 * (size * (1 + getattr(method, "shots", 0)) + PASSAGE))
    generates = any("generated" in sizes.get(task, {"generated": "perhaps"}) for task in tasks)
    batch = (GENERATED if generates else row) * per_token
    return merged + KEPT * (batch + row * _vocabulary(plan, cell.model) * device["bytes"])


def similarity_cost(plan: Plan, cell: Cell, device: dict) -> Cost:
    """Two models; on a CPU also the packed copies of one, and about as much while the other's weights are read."""
    p, measured = _parameters(plan, cell.model), plan.grid(cell.grid).compared
    tokens = 2 * MAPS * measured.windows * measured.length
    seconds = 2 * p * tokens / device["forward"] + 2 * _loading(p, device)
    size = p * device["bytes"]
    models = size + (size if device["gpu"] else size + _weights(p, device, copies=1))
    memory = LIBRARIES + models + 2 * measured.length * width(p) * 40 * device["bytes"]
    return Cost("measure_similarity", cell.stem, seconds, 1e4, memory)


def latency_cost(plan: Plan, grid: str, place: dict, device: dict) -> Cost:
    """The cost of every variant's rounds, with a warm-up and an untimed prefill before each round of generated tokens.

    In memory are the model, two copies per LoRA (one merged), and one more while adapters are made.
    """
    p, shape = _parameters(plan, place["model"]), plan.grid(grid).timed
    kinds = [plan.config.methods[method].kind for method in shape.methods]
    variants = sum(VARIANTS.get(kind, 1) for kind in kinds)
    prefills = 1 + shape.repeats * (2 if shape.generate else 1)
    tokens = variants * (prefills * shape.batch * shape.sequence)
    tokens += variants * shape.repeats * shape.generate * max(shape.batch, STEP_ROWS)
    seconds = 2 * p * tokens / device["forward"] + _loading(p, device)
    name = LATENCY.title(**place)
    activations = shape.batch * shape.sequence * width(p) * 40 * device["bytes"]
    memory = LIBRARIES + (2 + 2 * kinds.count("lora")) * p * device["bytes"] + activations
    return Cost("measure_latency", name, seconds, 1e4, memory)


def summary(costs: Iterable[Cost], device: dict, price: float | None = None) -> list[str]:
    """A line per kind of job and the totals; price per device hour, in whatever currency it is."""
    costs = list(costs)
    kinds = dict.fromkeys(cost.kind for cost in costs)
    lines = [f"{'job':<20}{'jobs':>6}{'hours':>10}{'hours each':>12}{'disk GB':>10}{'peak GB':>9}"]
    for kind in [*kinds, "total"]:
        mine = [cost for cost in costs if kind in (cost.kind, "total")]
        hours = job_hours(mine, device)
        lines.append(
            f"{kind:<20}{len(mine):>6}{hours:>10.2f}{hours / len(mine):>12.2f}"
            f"{sum(c.disk for c in mine) / 1e9:>10.1f}{max(c.memory for c in mine) / 1e9:>9.1f}"
        )
    hours = job_hours(costs, device) / device["at_once"]
    unit = "GPU hours" if device["gpu"] else f"hours on one such machine, {device['at_once']} jobs at a time"
    lines.append(f"{hours:.2f} {unit} ({device['name']}: {device['description']}; {device['source']})")
    if price is not None:
        lines.append(f"at {price:g} per hour: {hours * price:,.2f}")
    return lines


def job_hours(costs: Iterable[Cost], device: dict) -> float:
    """Hours that the jobs take one after the other, each with its start (Snakemake, interpreter)."""
    return sum(cost.seconds + device["startup"] for cost in costs) / 3600


def compare(costs: Iterable[Cost], measured: dict[tuple[str, str], float]) -> list[dict]:
    """Forecast beside the manifests' seconds by kind of job, then in total, over the jobs that have run.

    measured: (kind, name) of a cost -> seconds. Rows: {kind, jobs, forecast, measured, ratio, lowest, highest}, hours;
    ratio is that of the sums, lowest and highest are ratios of single jobs, which a sum can hide.
    """
    done = [(cost, measured[key]) for cost in costs if (key := (cost.kind, cost.name)) in measured]
    rows = []
    for kind in [*dict.fromkeys(cost.kind for cost, _ in done), *(["total"] if done else [])]:
        mine = [(cost.seconds, real) for cost, real in done if kind in (cost.kind, "total")]
        foreseen, real = (sum(side) / 3600 for side in zip(*mine, strict=True))
        single = [expected / took for expected, took in mine if took]
        row = {"kind": kind, "jobs": len(mine), "forecast": foreseen, "measured": real}
        row |= {"ratio": foreseen / real if real else None}
        rows.append(row | {"lowest": min(single, default=None), "highest": max(single, default=None)})
    return rows


def job_of(path: object) -> tuple[str, str]:
    """(kind, name) of the cost of the job that wrote a result's JSON; the kind is the rule."""
    artefact, names = result_of(path)
    return artefact.rule, artefact.title(**names)


def measured_seconds(records: dict[str, dict]) -> dict[tuple[str, str], float]:
    """(kind, name) of each job -> the seconds in its manifest, but for cells that took results over: theirs are not
    what such a job costs. records: path -> JSON of what the job wrote."""
    manifests = {path: record["manifest"] for path, record in records.items()}
    return {job_of(path): made["seconds"] for path, made in manifests.items() if not made.get("taken_over")}


def _parameters(plan: Plan, model: str) -> float:
    return float(plan.config.models[model].parameters)


def _vocabulary(plan: Plan, model: str) -> int:
    """Rows of the embeddings, and logits of a position."""
    return plan.limits(model).vocabulary or LARGE_VOCABULARY


def _bits(settings: Compressor) -> int:
    """Bits of a stored weight: those of a quantised one, of a whole model 32, else 16."""
    return 32 if settings.whole else getattr(settings, "bits", None) or 16


def width(parameters: float) -> float:
    """Hidden size of a decoder of LAYERS layers with 12 d^2 parameters each."""
    return math.sqrt(parameters / (12 * LAYERS))


def _weights(parameters: float, device: dict, copies: int) -> float:
    """Bytes of a model and, on a CPU, of the packed copies of its weights (linear.PackedLinears)."""
    size = parameters * device["bytes"]
    packed = copies * size
    return size + (packed if not device["gpu"] and packed <= PACKED_BYTES else 0)


def _loading(parameters: float, device: dict) -> float:
    return device["overhead"] + parameters * device["bytes"] / device["load"]

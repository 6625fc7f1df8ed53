"""Tables 1 to 3 in the paper's columns, for whatever models, compressors and methods a grid planned.

Table 1: quantised models (the paper's: GPTQ, 3 bits). Table 2: sparse models (SparseGPT, 50 %). Table 3: the
ablation of IDP, on the dense model too. Each has one panel per compressor. All numbers are percent.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from workflow_scripts.judge import paper
from workflow_scripts.judge.choices import Choice, Choices, choices, member_names
from workflow_scripts.judge.judgement import dense_metrics
from workflow_scripts.judge.results import Results, unique
from workflow_scripts.judge.statistics import SEEDS_FOR_VARIANCE, Estimate, finite, proportion_interval
from workflow_scripts.plan.layout import Group

TYPES = {
    "none": "-", "lora": "lora", "prompt": "prompt", "prefix": "ptune", "idp": "IDP", "concat": "concat",
    "text": "text", "fewshot": "few-shot",
}  # fmt: skip
DIVERGED = 1e5  # perplexity per token: worse than a blind guess among 100,000 tokens
SPARSE = ("sparsegpt", "wanda", "magnitude")
DOMAINS = {"world": "World", "common": "Common", "language": "Language"}
SHORT = {task: column for column, task in paper.TASKS.items()}
SUBJECTS = {1: "Quantised models", 2: "Sparse models", 3: "Ablation of inference-time dynamic prompting"}


@dataclass
class Entry:
    """One number of a table, percent; None where it is missing."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    printed: float | None = None
    note: str = ""


@dataclass
class Row:
    """One method on one compressed model; `problem` says why its numbers are missing or incomplete."""

    model: str
    corpus: str
    type: str
    method: str
    param: str
    entries: dict[str, Entry]
    gain: Entry = field(default_factory=Entry)
    p_holm: float | None = None
    detectable: float | None = None
    problem: str = ""
    note: str = ""


@dataclass
class Panel:
    """One compressor's rows. `printed`: the paper has this very panel."""

    compressor: str
    title: str
    rows: list[Row]
    printed: bool = False


@dataclass
class Table:
    number: int
    grid: str
    title: str
    columns: list[str]
    panels: list[Panel]
    notes: list[str]
    missing: list[str]
    command: str  # that makes it again


def build_tables(
    results: Results, verdict: dict, methods: dict, compressors: dict, tasks: dict, printed: pd.DataFrame
) -> list[Table]:
    """Tables 1, 2 and 3. methods, compressors, tasks: the catalogue's slices that the grid uses."""
    return [_table(results, verdict, number, methods, compressors, tasks, printed) for number in SUBJECTS]


def columns_of(tasks: dict) -> dict[str, list[str]]:
    """Column -> tasks that it averages, in the paper's order: each domain's tasks, its mean; last the Average."""
    order = [*paper.TASKS.values(), *(task for task in tasks if task not in paper.TASKS.values())]
    columns = {}
    for domain, title in DOMAINS.items():
        members = [task for task in order if task in tasks and tasks[task]["domain"] == domain]
        columns |= {SHORT.get(task, task): [task] for task in members}
        if members:
            columns[title] = members
    return columns | {"Average": [task for task in order if task in tasks]}


def describe(compressor: str, settings: dict) -> str:
    """A compressor's setting in words: "gptq-w3 (3 bits per weight, one grid per row)"."""
    parts = []
    if settings.get("bits"):
        size = settings.get("group_size")
        parts.append(
            f"{settings['bits']} bits per weight, " + (f"groups of {size}" if size else "one grid per row")
        )
    if share := sparsity(settings):
        pattern = settings.get("pattern")
        parts.append(f"{100 * share:g} % zeros, " + (f"{pattern} pattern" if pattern else "unstructured"))
    return f"{compressor} ({', '.join(parts)})" if parts else compressor


def sparsity(settings: dict) -> float | None:
    """Share of zero weights: the setting, or n/m of an n:m pattern; None for a compressor that prunes nothing."""
    if pattern := settings.get("pattern"):
        zeros, columns = map(int, pattern.split(":"))
        return zeros / columns
    return settings.get("sparsity") if settings["algorithm"] in SPARSE else None


def million(parameters: float | None) -> str:
    """Parameters as the paper writes them (0.4M), with one more digit where 0.1M would round it away."""
    if parameters is None:
        return "—"
    if parameters == 0:
        return "-"
    size = parameters / 1e6
    return f"{size:.1f}M" if size >= 1 else f"{size:.2f}M" if size >= 0.095 else f"{size:.3f}M"


def _table(results, verdict, number, methods, compressors, tasks, printed) -> Table:
    columns = columns_of(tasks)
    judged = {Group(g["model"], g["compressor"], g["corpus"]): g["metrics"] for g in verdict["groups"]}
    groups, other_ways, settings = results.groups(), {}, verdict["settings"]
    if number == 3:
        dense = [g for g in results.dense_groups() if _rows_shown(results, g, methods, number)]
        groups = [*groups, *dense]
        metrics = dense_metrics(results, dense, settings["resamples"], settings["seed"])
        judged |= {group: {"accuracy": metric} for group, metric in metrics.items()}
        other_ways = choices(results, groups, methods, settings["resamples"], settings["seed"])
    panels = []
    for compressor in unique(group.compressor for group in groups):
        sparse = compressors[compressor]["algorithm"] in SPARSE
        if number != 3 and sparse != (number == 2):
            continue
        rows = []
        for group in (group for group in groups if group.compressor == compressor):
            for method in _rows_shown(results, group, methods, number):
                said = paper.printed(printed, number, group.model, compressor, method)
                row = _row(results, group, judged[group], method, methods, columns, said)
                rows.append(row)
                if ways := other_ways.get((group, method)):
                    _say_what_lacks(row, ways)
                    rows += [_choice_row(group, choice, ways, columns) for choice in ways.ways]
        rows.sort(key=lambda row: results.models.index(row.model))  # stable
        if rows:
            ours = compressor == paper.COMPRESSORS[number]
            panels.append(Panel(compressor, describe(compressor, compressors[compressor]), rows, ours))
    panels.sort(key=lambda panel: not panel.printed)
    lacking: dict[str, list[str]] = {}
    for panel in panels:
        for row in (row for row in panel.rows if row.problem):
            lacking.setdefault(f"{row.model} / {panel.compressor} / {row.corpus}", []).append(row.method)
    missing = [f"{group}: {', '.join(methods)}" for group, methods in lacking.items()]
    title, notes = f"Table {number}. {SUBJECTS[number]}", _notes(number, panels, verdict, methods)
    command = f"{settings['command']} results/{results.grid}/tables/table{number}.html"
    return Table(number, results.grid, title, list(columns), panels, notes, missing, command)


def _rows_shown(results: Results, group: Group, methods: dict, number: int) -> list[str]:
    planned = results.methods(group)
    if number != 3:
        order = list(TYPES)
        chosen = sorted(
            planned, key=lambda m: order.index(methods[m]["kind"])
        )  # stable: the plan's order inside
        return ["dense", "none", *chosen] if planned else []
    dynamic = [m for m in planned if methods[m]["kind"] == "idp"]
    chosen = []
    for method in dynamic:
        singles = member_names(methods[method])
        chosen += [m for m in singles if m in planned]
        chosen += [
            m for m in planned if methods[m]["kind"] == "concat" and member_names(methods[m]) == singles
        ]
        chosen.append(method)
    shown = ["dense", *chosen] if group.compressor == "dense" else ["dense", "none", *chosen]
    return unique(shown) if dynamic else []


def _row(results, group, judged, method, methods, columns, printed) -> Row:
    compressor, name = ("dense", "none") if method == "dense" else (group.compressor, method)
    planned = results.seeds(group.model, compressor, group.corpus, name, planned=True)
    cells = [cell for cell in planned if cell in results.evaluations]
    kind = "dense" if method == "dense" else TYPES[methods[method]["kind"]]
    evaluations = [results.evaluations[cell] for cell in cells]
    param = million(evaluations[0]["parameters"]["effective"]) if evaluations else "—"
    row = Row(group.model, group.corpus, kind, method, param, {})
    for column, members in columns.items():
        row.entries[column] = Entry(_mean(evaluations, members), printed=printed.get(column))
        if (
            len(members) == 1
            and len(cells) == 1  # the task's interval is of one cell
            and column not in DOMAINS.values()
            and (task := evaluations[0]["tasks"].get(members[0]))
        ):
            ends = proportion_interval(round(task["acc"] * task["n"]), task["n"])
            row.entries[column].low, row.entries[column].high = map(_percent, ends)
        elif column in DOMAINS.values():
            _add_interval(row.entries[column], [row.entries[SHORT.get(task, task)] for task in members])
    _add_statistics(row, judged["accuracy"], method)
    problems, notes = [], []
    if not planned:
        problems.append("not in this grid")
    elif not cells:
        problems.append("not run or failed")
    elif len(cells) < len(planned):
        have = f"{len(cells)} of {len(planned)} seeds"
        problems.append(f"only {have}" if len(cells) == 1 else f"mean of {have}")
    if len(cells) > 1:
        covers = judged["accuracy"].get("methods", {}).get(method, {}).get("covers", "items")
        whole = [] if problems else [f"mean of {len(cells)} seeds"]
        notes += [*whole, f"intervals cover {covers}"]
    worst = max((p["token"] for e in evaluations for p in e["perplexity"].values()), default=0)
    if worst > DIVERGED:
        problems.append(f"diverged: its perplexity is {worst:,.0f}")
    if selection := selection_shares(evaluations):
        notes.append("chose " + selection)
    row.problem, row.note = "; ".join(problems), "; ".join(notes)
    return row


def _say_what_lacks(row: Row, ways: Choices) -> None:
    """On IDP's row: which of its seeds, or all, have no single best, random choice and oracle, and why."""
    if ways.missing:
        which = " at some seeds" if ways.seeds else ""
        said = f"no single best, random choice or oracle{which}: not evaluated here {', '.join(ways.missing)}"
        row.note = "; ".join(filter(None, [row.note, said]))


def _choice_row(group: Group, choice: Choice, ways: Choices, columns: dict[str, list[str]]) -> Row:
    entries = {}
    for column, members in columns.items():
        values = [choice.accuracy.get(task) for task in members]
        entries[column] = Entry(None if None in values else 100 * float(np.mean(values)))
    notes, average = [choice.note], entries["Average"]
    if average.value is not None:
        average.low, average.high = _ends(choice.average)
        low, high = _ends(choice.behind)
        ends = "" if low is None else f" [{low:+z.2f}, {high:+z.2f}]"
        notes.append(f"IDP minus it: {100 * choice.behind.point:+z.2f}{ends}".replace("-", "−"))
    if len(ways.seeds) > 1:
        covers = "items and training seeds" if len(ways.seeds) >= SEEDS_FOR_VARIANCE else "items"
        notes += [f"mean of {len(ways.seeds)} seeds", f"intervals cover {covers}"]
    if ways.missing:
        notes.append(f"seeds {', '.join(map(str, ways.seeds))} alone have all members")
    return Row(group.model, group.corpus, "choice", choice.name, "—", entries, note="; ".join(notes))


def _ends(estimate: Estimate) -> tuple[float | None, float | None]:
    """An estimate's interval, percent; None where none can be given."""
    low, high = map(finite, estimate.interval())
    return _percent(low), _percent(high)


def _add_interval(mean: Entry, tasks: list[Entry]) -> None:
    """The interval of a mean of independent shares, from theirs: distances to the ends add as squares (Zou and
    Donner, 2008)."""
    if mean.value is not None and all(task.low is not None for task in tasks):
        down = np.linalg.norm([task.value - task.low for task in tasks]) / len(tasks)
        up = np.linalg.norm([task.high - task.value for task in tasks]) / len(tasks)
        mean.low, mean.high = float(mean.value - down), float(mean.value + up)


def _add_statistics(row: Row, metric: dict, method: str) -> None:
    role = {"dense": "dense", "none": "compressed"}.get(method)
    judged = metric.get("methods", {}).get(method)
    value = metric.get(role) if role else judged and judged["value"]
    if value and row.entries["Average"].value is not None:
        row.entries["Average"].low, row.entries["Average"].high = (
            _percent(value["low"]),
            _percent(value["high"]),
        )
    if judged:
        gain = judged["gain"]
        row.gain = Entry(_percent(gain["value"]), _percent(gain["low"]), _percent(gain["high"]))
        row.p_holm, row.detectable = judged.get("p_holm"), _percent(judged["smallest_detectable"])


def selection_shares(evaluations: list[dict]) -> str:
    """ "prompt-50 91 %, prompt-100 9 %": the share of documents for which IDP chose each prompt, mean over seeds."""
    seeds = [evaluation["selection"] for evaluation in evaluations if evaluation["selection"]]
    names = unique(name for shares in seeds for name in shares if name != "by_task")
    means = {name: sum(shares.get(name, 0.0) for shares in seeds) / len(seeds) for name in names}
    return ", ".join(f"{name} {share:.0%}".replace("%", " %") for name, share in means.items())


def _mean(evaluations: list[dict], tasks: list[str]) -> float | None:
    """Mean accuracy over tasks and seeds, percent; None as soon as one task of one seed is missing."""
    values = [e["tasks"].get(task, {}).get("acc") for e in evaluations for task in tasks]
    return None if not values or None in values else 100 * float(np.mean(values))


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _notes(number: int, panels: list[Panel], verdict: dict, methods: dict) -> list[str]:
    level = f"{verdict['settings']['level']:.0%}".replace("%", " %")
    notes = [
        f"Accuracy in percent, 0-shot. Average: mean over tasks with its {level} paired bootstrap interval "
        f"({verdict['settings']['resamples']:,} resamples, stratified by task). Tasks: {level} Wilson intervals, "
        "domains: these combined (Zou and Donner), in the CSV and HTML files. Intervals cover items only unless a row "
        "says otherwise.",
        "Gain: Average minus that of no recovery, with interval; p: its bootstrap test, Holm-adjusted over all tests "
        "of quantised models together, or of sparse ones (every method's Average and tasks); detectable: the smallest "
        "gain that this sample finds with 80 % power, to be read before a gain is called none.",
        "param: parameters that the method adds, counted as in the paper's appendix; — marks what is missing.",
    ]
    shown = unique(row.method for panel in panels for row in panel.rows)
    if loras := [f"{m} alpha {methods[m]['alpha']:g}, dropout {methods[m]['dropout']:g}"
                 for m in shown if methods.get(m, {}).get("kind") == "lora"]:  # fmt: skip
        notes.append(f"LoRA (the paper prints neither): {'; '.join(loras)}.")
    if any(entry.printed is not None for p in panels for row in p.rows for entry in row.entries.values()):
        notes.append(
            "The second number of a cell is the paper's printed one; it does not say which corpus it used."
        )
    if any(row.type == "choice" for panel in panels for row in panel.rows):
        notes.append(
            "Single best: the one prompt with the lowest perplexity on held-out text, chosen without looking at any "
            "task. Random choice: the expectation of a uniform choice for each question. Oracle: right where any of "
            "the prompts is; it looks at the answers, so it is a bound and no method. Each is told seed by seed, from "
            "the prompts of IDP's own seed, and averaged as IDP's row is; beside it stands IDP minus it, paired, with "
            f"its {level} interval."
        )
    if not panels:
        kind = {1: "quantising", 2: "sparsifying"}.get(number)
        notes.append(
            "Not in this grid: "
            + (f"a {kind} compressor with a recovery method." if kind else "an IDP method.")
        )
    return notes

"""Tables 1 to 3 in the paper's columns, for whatever models, compressors and methods a grid planned.

Table 1: quantised models (the paper's: GPTQ, 3 bits). Table 2: sparse models (SparseGPT, 50 %). Table 3: the
ablation of IDP, on the dense model too. Each has one panel per compressor. All numbers are percent.
"""

import numpy as np

from workflow_scripts.judge import paper
from workflow_scripts.judge.catalogue import SPARSE, member_names, sparsity
from workflow_scripts.judge.perplexity import compared, protocol
from workflow_scripts.judge.results import unique
from workflow_scripts.plan import layout
from workflow_scripts.plan.layout import Cell, Group
from workflow_scripts.report.data import GridData, value_of
from workflow_scripts.report.summary import prompt_shares
from workflow_scripts.report.table_notes import notes
from workflow_scripts.report.table_rows import INFORMATIVE, Panel, Row, Table, TableEntry

TYPES = {  # kind of method -> as the paper's tables name it, in their order
    "none": "-",
    "lora": "lora",
    "eora": "eora",
    "peft": "PEFT",
    "prompt": "prompt",
    "prefix": "ptune",
    "idp": "IDP",
    "concat": "concat",
    "text": "text",
    "fewshot": "few-shot",
    "context": "open book",
}
DIVERGED = 1e5  # perplexity per token: worse than a blind guess among 100,000 tokens
DOMAINS = {"world": "World", "common": "Common", "language": "Language"}
PRINTED = {task: column for column, task in paper.TASKS.items()}  # task -> the paper's column
SUBJECTS = {1: "Quantised models", 2: "Sparse models", 3: "Ablation of inference-time dynamic prompting"}


def build_tables(data: GridData) -> list[Table]:
    """Tables 1, 2 and 3."""
    return [_table(data, number) for number in SUBJECTS]


def subject(number: int, compressors: list[dict]) -> str:
    """A table's subject. Table 1 takes all that is not sparse: checkpoints of others and fewer layers too."""
    if number != 1 or all(settings.get("bits") for settings in compressors):
        return SUBJECTS[number]
    quantised = any(settings.get("bits") for settings in compressors)
    return "Quantised and other compressed models" if quantised else "Compressed models"


def columns_of(tasks: dict) -> dict[str, list[str]]:
    """Column -> tasks that it averages, in the paper's order: each domain's tasks and their mean; last the Average."""
    order = [*paper.TASKS.values(), *(task for task in tasks if task not in paper.TASKS.values())]
    columns: dict[str, list[str]] = {}
    for domain, title in DOMAINS.items():
        members = [task for task in order if task in tasks and tasks[task]["domain"] == domain]
        columns |= {task: [task] for task in members}
        if len(members) > 1:  # else the mean is the task
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
    if settings["algorithm"] == "external":
        parts.append("somebody else's checkpoint")
    if leaving := settings.get("count") or len(settings.get("layers") or ()):
        parts.append(f"{leaving} decoder layers left out")
    if settings["algorithm"] == "svd":
        rank = settings.get("rank")
        parts.append(f"rank {rank}" if rank else f"factors with {100 * settings['ratio']:g} % of the weights")
    return f"{compressor} ({', '.join(parts)})" if parts else compressor


def million(parameters: float | None) -> str:
    """Parameters as the paper writes them (0.4M), with one more digit if 0.1M would round it away."""
    if parameters is None:
        return "—"
    if parameters == 0:
        return "-"
    size = parameters / 1e6
    return f"{size:.1f}M" if size >= 1 else f"{size:.2f}M" if size >= 0.095 else f"{size:.3f}M"


def _table(data: GridData, number: int) -> Table:
    groups = data.results.groups()
    if number == 3:
        groups += [g for g in data.results.dense_groups() if _rows_shown(data, g, number)]
    panels = []
    for compressor in unique(group.compressor for group in groups):
        settings = data.compressors[compressor]
        if number == 3 or (settings["algorithm"] in SPARSE) == (number == 2):
            mine = [group for group in groups if group.compressor == compressor]
            rows = [row for group in mine for row in _group_rows(data, group, number)]
            rows.sort(key=lambda row: data.results.models.index(row.model))  # stable
            ours = compressor == paper.COMPRESSORS[number]
            panels += [Panel(compressor, describe(compressor, settings), rows, ours)] if rows else []
    panels.sort(key=lambda panel: not panel.printed)
    return Table(
        number,
        data.results.grid,
        f"Table {number}. {subject(number, [data.compressors[panel.compressor] for panel in panels])}",
        [*columns_of(data.tasks), INFORMATIVE],
        panels,
        notes(number, panels, data.verdict, data.methods),
        _incomplete(panels),
        data.command(layout.table(f"table{number}")),
    )


def _incomplete(panels: list[Panel]) -> list[str]:
    """ "m / gptq-w3 / c4: lora-r2, lora-r4": the rows with a problem, by group."""
    lacking: dict[str, list[str]] = {}
    for panel in panels:
        for row in (row for row in panel.rows if row.problem):
            lacking.setdefault(f"{row.model} / {panel.compressor} / {row.corpus}", []).append(row.named)
    return [f"{group}: {', '.join(methods)}" for group, methods in lacking.items()]


def _rows_shown(data: GridData, group: Group, number: int) -> list[str]:
    planned, methods = data.results.methods(group), data.methods
    if number != 3:
        order = list(TYPES)
        # Stable: the plan's order inside.
        chosen = sorted(planned, key=lambda m: order.index(methods[m]["kind"]))
        return ["dense", "none", *chosen] if planned else []
    dynamic = [m for m in planned if methods[m]["kind"] == "idp"]
    concatenated = [m for m in planned if methods[m]["kind"] == "concat"]
    chosen = []
    for method in dynamic:
        singles = member_names(methods[method])
        chosen += [m for m in singles if m in planned]
        chosen += [m for m in concatenated if member_names(methods[m]) == singles]
        chosen.append(method)
    shown = ["dense", *chosen] if group.compressor == "dense" else ["dense", "none", *chosen]
    return unique(shown) if dynamic else []


def _group_rows(data: GridData, group: Group, number: int) -> list[Row]:
    """The group's rows of one table; in Table 3 the other ways to choose follow the row of IDP."""
    rows = []
    for method in _rows_shown(data, group, number):
        printed = paper.printed(data.printed, number, group.model, group.compressor, method)
        row = _row(data, group, method, printed)
        rows.append(row)
        if number == 3 and (choices := data.choices(group, method)):
            _note_missing_members(row, choices)
            rows += [_choice_row(data, group, way, choices) for way in choices["ways"]]
    return rows


def _row(data: GridData, group: Group, method: str, printed: dict[str, float]) -> Row:
    """printed: the paper's numbers by column."""
    compressor, name = ("dense", "none") if method == "dense" else (group.compressor, method)
    planned = data.results.seeds(group.model, compressor, group.corpus, name, planned=True)
    cells = [cell for cell in planned if cell in data.results.evaluations]
    kind = "dense" if method == "dense" else TYPES[data.methods[method]["kind"]]
    evaluations = [data.results.evaluations[cell] for cell in cells]
    param = million(evaluations[0]["parameters"]["effective"]) if evaluations else "—"
    adapted = _adapted(evaluations[0]["parameters"]) if evaluations else ""
    row = Row(group.model, group.corpus, kind, method, param, {}, adapted=adapted)
    for column, members in columns_of(data.tasks).items():
        entry = TableEntry(_mean(evaluations, members), printed=printed.get(PRINTED.get(column, column)))
        row.entries[column] = entry
    if len(cells) == 1:  # intervals of tasks and domains are those of one cell
        _add_intervals(data, cells[0], row)
    metrics = data.judged(group)["metrics"]
    _add_statistics(row, metrics["accuracy_all_tasks"], method)
    row.entries[INFORMATIVE] = TableEntry(_mean(evaluations, data.informative(group.model)))
    if value := value_of(metrics["accuracy"], method):
        row.entries[INFORMATIVE] = _entry(value)
    row.problem = "; ".join(_problems(evaluations, len(planned)))
    row.note = "; ".join(_remarks(evaluations, len(planned), data.covers(group, method)))
    return row


def _adapted(parameters: dict) -> str:
    """ "q_proj and v_proj of 30 layers, 460,800 parameters"; empty where an evaluation names no linears."""
    names: dict[int, list[str]] = {}
    for name, layers in parameters.get("linears", {}).items():
        names.setdefault(layers, []).append(name)
    parts = [f"{', '.join(linears)} of {count} layers" for count, linears in names.items()]
    return f"{'; '.join(parts)}, {parameters['effective']:,} parameters" if parts else ""


def _problems(evaluations: list[dict], planned: int) -> list[str]:
    """Why a row's numbers are missing, incomplete or useless; planned: its seeds."""
    problems = []
    if not planned:
        problems.append("not in this grid")
    elif not evaluations:
        problems.append("not run or failed")
    elif len(evaluations) < planned:
        have = f"{len(evaluations)} of {planned} seeds"
        problems.append(f"only {have}" if len(evaluations) == 1 else f"mean of {have}")
    figures = [(p["token"], protocol(e)) for e in evaluations for p in compared(e).values()]
    worst, followed = max(figures, default=(0, ""))
    if worst > DIVERGED:
        problems.append(f"diverged: its {followed} perplexity is {worst:,.0f}")
    return problems


def _remarks(evaluations: list[dict], planned: int, covers: str) -> list[str]:
    """Blank and cut answers, the seeds behind a row's means, what intervals cover, the prompts that IDP chose."""
    remarks = []
    for task in evaluations[0]["tasks"] if evaluations else ():
        if "blank" in evaluations[0]["tasks"][task]:
            blank, cut = (_share_of(evaluations, task, name) for name in ("blank", "cut_off"))
            remarks.append(f"{task}: {blank} blank, {cut} cut")
    if len(evaluations) > 1:
        remarks += [] if len(evaluations) < planned else [f"mean of {planned} seeds"]
        remarks.append(f"intervals cover {covers}")
    if selection := selection_shares(evaluations):
        remarks.append("chose " + selection)
    return remarks


def _share_of(evaluations: list[dict], task: str, name: str) -> str:
    """A share of a task's answers in percent, mean over seeds."""
    values = [e["tasks"][task][name] for e in evaluations if name in e["tasks"].get(task, {})]
    return f"{100 * float(np.mean(values)):.0f} %"


def _note_missing_members(row: Row, choices: dict) -> None:
    """Say on IDP's row which of its seeds, or all, have no single best, random choice and oracle, and why."""
    if choices["missing"]:
        which = " at some seeds" if choices["seeds"] else ""
        missing = ", ".join(choices["missing"])
        remark = f"no single best, random choice or oracle{which}: not evaluated here {missing}"
        row.note = "; ".join(filter(None, [row.note, remark]))


def _choice_row(data: GridData, group: Group, way: dict, choices: dict) -> Row:
    entries = {}
    for column, members in columns_of(data.tasks).items():
        values = [way["accuracy"].get(task) for task in members]
        entries[column] = TableEntry(None if None in values else 100 * float(np.mean(values)))
    entries[INFORMATIVE] = TableEntry()
    remarks, mean, behind = [way["note"]], entries["Average"], way["behind"]
    if mean.value is not None:
        mean.low, mean.high = percent(way["average"]["low"]), percent(way["average"]["high"])
        low, high = percent(behind["low"]), percent(behind["high"])
        ends = "" if low is None or high is None else f" [{low:+z.2f}, {high:+z.2f}]"
        remarks.append(f"IDP minus it: {100 * behind['value']:+z.2f}{ends}".replace("-", "−"))
    if len(choices["seeds"]) > 1:
        remarks += [f"mean of {len(choices['seeds'])} seeds", f"intervals cover {choices['covers']}"]
    if choices["missing"]:
        remarks.append(f"seeds {', '.join(map(str, choices['seeds']))} alone have all members")
    return Row(group.model, group.corpus, "choice", way["name"], "—", entries, note="; ".join(remarks))


def _add_intervals(data: GridData, cell: Cell, row: Row) -> None:
    """The intervals of a cell's tasks and domains."""
    score = data.results.evaluations[cell]
    found = score["tasks"] | {DOMAINS[domain]: mean for domain, mean in score["domains"].items()}
    for column, entry in row.entries.items():
        if column != "Average" and column in found and entry.value is not None:
            entry.low, entry.high = percent(found[column]["low"]), percent(found[column]["high"])


def _add_statistics(row: Row, accuracy: dict, method: str) -> None:
    """The interval of the Average, gain, p and detectable gain, of the group's accuracy over all tasks."""
    judged, mean = accuracy.get("methods", {}).get(method), row.entries["Average"]
    if (value := value_of(accuracy, method)) and mean.value is not None:
        mean.low, mean.high = percent(value["low"]), percent(value["high"])
    if judged and judged["gain"]:
        row.gain = _entry(judged["gain"])
        row.p_holm, row.detectable = judged.get("p_holm"), percent(judged["detectable"])


def selection_shares(evaluations: list[dict]) -> str:
    """ "prompt-50 91 %, prompt-100 9 %": the share of documents for which IDP chose each prompt, mean over seeds."""
    shares = prompt_shares(evaluations)
    return ", ".join(f"{name} {share:.0%}".replace("%", " %") for name, share in shares.items())


def _mean(evaluations: list[dict], tasks: list[str]) -> float | None:
    """Mean accuracy over tasks and seeds, percent; None as soon as one task of one seed is missing."""
    values = [e["tasks"].get(task, {}).get("acc") for e in evaluations for task in tasks]
    return None if not values or None in values else 100 * float(np.mean(values))


def _entry(estimate: dict) -> TableEntry:
    value, low, high = (percent(estimate[end]) for end in ("value", "low", "high"))
    return TableEntry(value, low, high)


def percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction

"""The notes under a table."""

from workflow_scripts.judge.results import unique
from workflow_scripts.report.table_rows import Panel


def _left_out(verdict: dict) -> str:
    """ " (for m without webqs, triviaqa)": the tasks that are not informative, by model."""
    left = {
        model: [task for task, row in tasks.items() if not row["informative"]]
        for model, tasks in verdict["informative"].items()
    }
    left_out = "; ".join(f"for {model} without {', '.join(tasks)}" for model, tasks in left.items() if tasks)
    return f" ({left_out})" if left_out else ""


def _beyond(panels: list[Panel]) -> str:
    """The meaning of an empty detectable gain, if a row has one."""
    said = " (empty: not even the largest gain that can be, from no recovery to every answer right, would be found)"
    return said if any(row.finds_nothing for panel in panels for row in panel.rows) else ""


def notes(number: int, panels: list[Panel], verdict: dict, methods: dict) -> list[str]:
    level = f"{verdict['settings']['level']:.0%}".replace("%", " %")
    notes = [
        f"Accuracy in percent, 0-shot. Average: mean over tasks with its {level} interval "
        f"({verdict['settings']['resamples']:,} resamples of items, stratified by task; t over replicates). "
        f"Informative: the same over the tasks that the dense model answers above chance{_left_out(verdict)}; the "
        f"verdict is given on them. Tasks: {level} Wilson intervals, domains of several tasks: these combined (Zou and "
        "Donner), in the CSV and HTML files. Intervals cover items only unless a row says otherwise.",
        "Gain: Average minus that of no recovery on the same copies, with its own interval, not adjusted for the "
        "number of methods (the CSV has p_holm, Holm-adjusted over the Averages of quantised models together, or of "
        "sparse ones); detectable: the smallest gain that this sample finds with 80 % power, check it before you call "
        f"a gain zero{_beyond(panels)}.",
        "param: parameters that the method adds, counted as in the paper's appendix; — marks a missing number.",
    ]
    if chats := verdict.get("chat"):
        named = ", ".join(f"{model} ({template[:8]})" for model, template in chats.items())
        notes.append(
            f"Asked through the model's chat template, solved examples as turns: {named}. All others: plain text."
        )
    if silent := verdict.get("without_system"):
        notes.append(
            f"The chat template of {', '.join(silent)} takes no system message: tasks' descriptions are left out."
        )
    shown = unique(row.method for panel in panels for row in panel.rows)
    if loras := [m for m in shown if methods.get(m, {}).get("kind") == "lora"]:
        scales = [f"{m} alpha {methods[m]['alpha']:g}, dropout {methods[m]['dropout']:g}" for m in loras]
        notes.append(f"LoRA (the paper prints neither): {'; '.join(scales)}.")
    rows = [row for panel in panels for row in panel.rows if row.adapted]
    if adapted := unique(f"{row.method} of {row.model}: {row.adapted}" for row in rows):
        notes.append(f"LoRA adapts: {'; '.join(adapted)}.")
    if any(entry.printed is not None for p in panels for row in p.rows for entry in row.entries.values()):
        notes.append(
            "The second number of a cell is the paper's printed one; it does not say which corpus it used."
        )
    if any(row.type == "choice" for panel in panels for row in panel.rows):
        notes.append(
            "Single best: the one prompt with the lowest perplexity on held-out text, chosen without looking at any "
            "task; its note names the protocol. Random choice: the expectation of a uniform choice for each question. "
            "Oracle: right if any of the prompts is; it looks at the answers, so it is a bound and not a method. Each "
            "is computed per seed, from the prompts of that seed, and averaged; beside it stands IDP minus it, paired, "
            f"with its {level} interval."
        )
    if not panels:
        kind = {1: "quantising", 2: "sparsifying"}.get(number)
        notes.append(
            "Not in this grid: "
            + (f"a {kind} compressor with a recovery method." if kind else "an IDP method.")
        )
    return notes

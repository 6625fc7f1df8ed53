"""The numbers that matter, in words: printed at the end of a run and on the report's first screen."""


def lines(verdict: dict) -> list[str]:
    """A headline per (model, compressor, corpus) with three numbers: the loss, and what the pair brings back.

    Points of average accuracy with 95 % intervals; what is missing says so.
    """
    groups = [g for g in verdict["groups"] if g["metrics"]["accuracy"].get("methods")]
    if not groups:
        return ["No compressed model with a recovery method has been evaluated, so there is no verdict."]
    return [line for group in groups for line in group_lines(group, verdict["pair"])]


def group_lines(group: dict, pair: dict) -> list[str]:
    """Headline and the three numbers of one group."""
    metric = group["metrics"]["accuracy"]
    n, tasks = sum(group["items"].values()), len(group["items"])
    word = metric["verdict"]["word"]
    said = (
        "no loss of accuracy visible" if word == "no_loss" else word
    )  # a small sample sees none, which is not that there is none
    head = f"{group['model']}, {group['compressor']}, {group['corpus']}: {said}"
    found = metric.get("loss_smallest_detectable")
    detail = f" ({n} items of {tasks} tasks" + (
        f"; detectable from {100 * found:.1f} points)" if found else ")"
    )
    rows = [
        head + detail,
        f"  lost by compression    {points(metric['loss'])}",
        f"  change with {pair['prompt']:<11} {_gain(metric, pair['prompt'])}",
        f"  change with {pair['lora']:<11} {_gain(metric, pair['lora'])}",
    ]
    if metric["absent_tasks"]:
        rows.append(f"  over {tasks} tasks only; missing: {', '.join(metric['absent_tasks'])}")
    return rows


def points(estimate: dict | None) -> str:
    """ "+3.2 points [1.0, 5.4]" """
    if estimate is None or estimate["value"] is None:
        return "— (not run)"
    ends = (
        "" if estimate["low"] is None else f" [{100 * estimate['low']:+z.1f}, {100 * estimate['high']:+z.1f}]"
    )
    return f"{100 * estimate['value']:+z.1f} points{ends}"


def _gain(metric: dict, method: str) -> str:
    row = metric["methods"].get(method)
    if row is None:
        return "— (not run)"
    if row["controlled"] is not None:
        return f"{points(row['controlled'])} (beyond what it gives the dense model)"
    return f"{points(row['gain'])} (not controlled: not run on the dense model)"

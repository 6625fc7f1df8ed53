"""The numbers that matter, in words: printed at the end of a run and on the report's first screen."""

from collections.abc import Callable


def lines(verdict: dict) -> list[str]:
    """A headline per (model, compressor, corpus) with three numbers: the loss and both recoveries of the pair.

    Points of average accuracy with 95 % intervals; a missing number says so.
    """
    groups = judged(verdict)
    if not groups:
        return ["No compressed model with a recovery method has been evaluated, so there is no verdict."]
    rows = [line for group in groups for line in group_lines(group, verdict["pair"])]
    if left := unjudged(verdict):
        rows.append(f"No verdict for want of cells: {'; '.join(left)}")
    return rows


def judged(verdict: dict) -> list[dict]:
    """The groups that a recovery method has been evaluated in."""
    return [group for group in verdict["groups"] if group["metrics"]["accuracy"].get("methods")]


def unjudged(verdict: dict) -> list[str]:
    """ "m, sparsegpt-50, c4": groups that the pair was planned for and that `judged` lacks."""
    done, pair = judged(verdict), verdict["pair"].values()
    return [
        f"{group['model']}, {group['compressor']}, {group['corpus']}"
        for group in verdict["groups"]
        if group not in done
        and any(m in group["seeds"] or any(f" / {m} / " in cell for cell in group["missing"]) for m in pair)
    ]


def covered(groups: list[dict], pair: dict) -> str:
    """What the intervals of the pair cover, in words."""
    rows = [
        group["metrics"]["accuracy"]["methods"].get(method) for group in groups for method in pair.values()
    ]
    covers = {row.get("controlled_covers") or row["covers"] for row in rows if row}
    if covers == {"items"}:
        return "They cover the choice of items, not that of the training seed."
    if len(covers) == 1:
        return "They cover the choice of items and training seeds."
    return "They cover the choice of items, and that of training seeds where three or more were trained."


def group_lines(group: dict, pair: dict) -> list[str]:
    """Headline and the three numbers of one group."""
    metric = group["metrics"]["accuracy"]
    n, tasks = sum(group["items"].values()), len(group["items"])
    word = metric["verdict"]["word"]
    said = "no loss of accuracy visible" if word == "no_loss" else word
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
    rows += [f"  mind: {caution}" for caution in cautions(metric, pair)]
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


def nats(estimate: dict) -> str:
    """ "+1.40 nats [+1.24, +1.57]" """
    ends = "" if estimate["low"] is None else f" [{estimate['low']:+z.2f}, {estimate['high']:+z.2f}]"
    return f"{estimate['value']:+z.2f} nats{ends}"


def cautions(metric: dict, pair: dict, shown: Callable[[dict], str] = points) -> list[str]:
    """What a reader must know beside the word: a method that harms the dense model, and a word that the control made.

    G subtracts what a method gives the dense model. If that is a harm, it raises G, and a method may look like
    recovery that leaves the compressed model far from the dense one. shown: `points` or `nats`.
    """
    found = []
    for method in dict.fromkeys(pair.values()):
        row = metric["methods"].get(method)
        if row and row["dense_gain"] and (row["dense_gain"]["high"] or 0) < 0:
            found.append(
                f"{method} harms the dense model ({shown(row['dense_gain'])}), which G counts in its favour; the "
                f"compressed model gains {shown(row['gain'])}"
            )
    rows = [metric["methods"].get(method) for method in pair.values()]
    plain = (metric.get("uncontrolled") or metric["verdict"])["word"]
    if plain != metric["verdict"]["word"] and all(row and row["controlled"] for row in rows):
        found.append(f"without the dense control the rule would say {plain.replace('_', ' ')}")
    return found


def _gain(metric: dict, method: str) -> str:
    row = metric["methods"].get(method)
    if row is None:
        return "— (not run)"
    if row["controlled"] is not None:
        return f"{points(row['controlled'])} (beyond what it gives the dense model{detectable(row)})"
    return f"{points(row['gain'])} (not controlled: not run on the dense model{detectable(row)})"


def detectable(row: dict) -> str:
    """ "; detectable from 2.7", in points of G, or of the plain gain without a control."""
    found = smallest(row)
    return "" if found is None else f"; detectable from {100 * found:.1f}"


def smallest(row: dict) -> float | None:
    """The smallest detectable G of a method, or plain gain if there is no control."""
    return row["controlled_smallest_detectable"] if row["controlled"] else row["smallest_detectable"]

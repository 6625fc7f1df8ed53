"""The numbers that matter, in words: printed at the end of a run, in the README and on the report's first screen."""

from collections import Counter
from collections.abc import Callable

from workflow_scripts.judge.verdict import ONE_COPY

NAMES = {  # metric -> in a sentence
    "accuracy": "accuracy",
    "choice_loglik": "log-likelihood among the choices",
    "bits_per_byte": "bits per byte of the answer",
}
ONE_PROMPT = 0.95  # of the items: a prompt that is chosen for as many is the method


def lines(verdict: dict) -> list[str]:
    """A headline per (model, compressor, corpus) with its numbers: the loss and what both methods bring back.

    On the primary metric, with 95 % intervals; a missing number says so.
    """
    groups = judged(verdict)
    if not groups:
        return ["No compressed model with a recovery method has been evaluated, so there is no verdict."]
    rows = [line for group in groups for line in group_lines(group, verdict)]
    if left := unjudged(verdict):
        rows.append(f"No verdict for want of cells: {'; '.join(left)}")
    return rows + verdict.get("late_changes", [])


def judged(verdict: dict) -> list[dict]:
    """The groups that a recovery method has been evaluated in."""
    return [group for group in verdict["groups"] if group["metrics"]["accuracy_all_tasks"]["methods"]]


def unjudged(verdict: dict) -> list[str]:
    """ "m, sparsegpt-50, c4": groups that the pair was planned for and that `judged` lacks."""
    done, pair = judged(verdict), verdict["pair"].values()
    return [
        place(group)
        for group in verdict["groups"]
        if group not in done
        and any(m in group["seeds"] or any(f" / {m} / " in cell for cell in group["missing"]) for m in pair)
    ]


def place(group: dict) -> str:
    return f"{group['model']}, {group['compressor']}, {group['corpus']}"


def covered(groups: list[dict], metric: str) -> str:
    """The coverage of the verdicts' intervals, in words."""
    replicates = {group["metrics"][metric]["verdict"]["replicates"] for group in groups}
    if replicates == {1}:
        return (
            "They cover the choice of items, not of the calibration text or of the training seed: each verdict "
            "speaks of one compressed copy."
        )
    several = " and ".join(str(count) for count in sorted(replicates - {1}))
    verdicts = [group["metrics"][metric]["verdict"] for group in groups]
    shared = all(ONE_COPY in verdict["limits"] for verdict in verdicts if verdict["replicates"] > 1)
    what = "training alone; the compressed copy is one" if shared else "calibration text and training"
    alone = " With one replicate they cover items only." if 1 in replicates else ""
    return f"They cover the choice of items and of {several} replicates ({what}).{alone}"


def group_lines(group: dict, verdict: dict) -> list[str]:
    """Headline and numbers of one group."""
    metric, shown = group["metrics"][verdict["metric"]], unit(verdict["metric"])
    rows = [f"{place(group)}: {headline(metric['verdict'])}"]
    if not metric["items"]:
        return rows
    without = f"; without {', '.join(metric['absent_tasks'])}" if metric["absent_tasks"] else ""
    rows.append(f"  {basis(metric)}{without}{in_chat(verdict, group['model'])}")
    rows.append(f"  lost by compression        {shown(metric.get('loss'))}")
    rows += [
        f"  back by {method:<18} {brought_back(metric, method, shown)}" for method in verdict["pair"].values()
    ]
    minded = [*cautions(metric, verdict["pair"], shown), *chosen(verdict, group)]
    rows += [f"  mind: {caution}" for caution in minded]
    if settle := metric["verdict"]["settle"]:
        rows.append(f"  {settle}")
    return rows


def headline(verdict: dict) -> str:
    """ "displaced, of one copy (support 98.9 %)" or "undecided (displaced 72 %, both 28 %)"."""
    word = verdict["word"].replace("_", " ")
    copy = ", of one copy" if verdict["of_one_copy"] else ""
    return f"{word}{copy} ({verdict['reason']})"


def basis(metric: dict, kind: str = "informative ") -> str:
    """ "1,200 items of 6 informative tasks, 5 compressed copies"."""
    items, verdict = metric["items"], metric["verdict"]
    if not items:
        return "no item counts"
    tasks = f"{len(items)} {kind}{'task' if len(items) == 1 else 'tasks'}"
    return f"{sum(items.values()):,} items of {tasks}, {_copies(verdict)}"


def _copies(verdict: dict) -> str:
    """The replicates of a verdict by what differs between them: compressed copies, or trainings on one copy."""
    replicates = verdict["replicates"]
    if replicates == 1:
        return "1 compressed copy"
    if ONE_COPY in verdict["limits"]:
        return f"{replicates} trainings of 1 compressed copy"
    return f"{replicates} compressed copies"


def in_chat(verdict: dict, model: str) -> str:
    """ "; asked through its chat template (3fa1b2c4)"; empty for a model that is asked in plain text."""
    template = verdict.get("chat", {}).get(model)
    return f"; asked through its chat template ({template[:8]})" if template else ""


def points(estimate: dict | None) -> str:
    """ "+3.2 points [+1.0, +5.4]" """
    return _spread(estimate, *scale("accuracy"))


def scale(metric: str) -> tuple[float, int, str]:
    """Factor, digits and unit that show a difference of this metric. Bits count the savings of the better result."""
    return {"choice_loglik": (1, 3, "nats"), "bits_per_byte": (1, 3, "bits")}.get(metric, (100, 1, "points"))


def _spread(estimate: dict | None, factor: float, digits: int, name: str) -> str:
    if estimate is None or estimate["value"] is None:
        return "—"
    ends = (
        ""
        if estimate["low"] is None
        else f" [{factor * estimate['low']:+z.{digits}f}, {factor * estimate['high']:+z.{digits}f}]"
    )
    return f"{factor * estimate['value']:+z.{digits}f} {name}{ends}"


def unit(metric: str) -> Callable[[dict | None], str]:
    """The function that shows a difference of this metric."""
    return lambda estimate: _spread(estimate, *scale(metric))


def cautions(metric: dict, pair: dict, shown: Callable[[dict | None], str] = points) -> list[str]:
    """Cautions that a reader needs beside the word: replicates of one copy, a loss that mostly stays, and a method that
    harms the dense model."""
    of_one_copy = [_lowered(ONE_COPY)] if ONE_COPY in metric["verdict"]["limits"] else []
    return (
        of_one_copy
        + _mostly_lost(metric, pair, shown)
        + [
            f"{method} harms the dense model ({shown(row['dense_gain'])}), and the rule gives no credit for that"
            for method in dict.fromkeys(pair.values())
            if (row := metric["methods"].get(method))
            and row["dense_gain"]
            and (row["dense_gain"]["high"] or 0) < 0
        ]
    )


def _mostly_lost(metric: dict, pair: dict, shown: Callable[[dict | None], str]) -> list[str]:
    """The caution that neither method brings back half of the loss, beside a word that speaks of what came back.

    It is certain if the intervals of both recovery ratios lie below a half. Else it is open, and an undecided card,
    which says so already, is spared it.

    The rule holds the prompt against LoRA. If LoRA brings back nothing, a prompt that opens half of the knowledge is
    called displaced although the other half may be gone.
    """
    verdict, support = metric["verdict"], metric["verdict"]["support"] or {}
    word = (
        max(support, key=support.__getitem__)
        if verdict["word"] == "undecided" and support
        else verdict["word"]
    )
    rows = {m: metric["methods"].get(m) for m in pair.values()}
    left = {method: row["residual"] for method, row in rows.items() if row and row["residual"]}
    if word not in ("displaced", "forgotten", "both") or not left:
        return []
    best = min(left, key=lambda method: left[method]["value"])
    if left[best]["value"] <= metric["loss"]["value"] / 2:
        return []
    leaves = f"{best}, the better of the pair, leaves {shown(left[best])} of {shown({**metric['loss'], 'low': None})}"
    back = [row["recovery"] for row in rows.values() if row]
    if all(ratio and ratio["high"] is not None and ratio["high"] < 0.5 for ratio in back):
        return [f"most of the loss stays: {leaves}; a word here is about the smaller part that came back"]
    return (
        [] if verdict["word"] == "undecided" else [f"whether most of the loss stays can't be told: {leaves}"]
    )


def chosen(verdict: dict, group: dict) -> list[str]:
    """The caution that the pair's prompt method chose one prompt for nearly all items of each of the group's cells."""
    method = verdict["pair"]["prompt"]
    place = {key: group[key] for key in ("model", "compressor", "corpus")} | {"method": method}
    rows = [row for row in verdict["scores"] if all(row[key] == value for key, value in place.items())]
    seeds = [prompt_shares([row]) for row in rows if row["selection"]]
    first = [max(shares, key=shares.__getitem__) for shares in seeds]
    most = [shares[prompt] for shares, prompt in zip(seeds, first, strict=True)]
    if not most or min(most) < ONE_PROMPT:
        return []
    named = ", ".join(f"{prompt} for {count}" for prompt, count in Counter(first).most_common())
    one = first[0] if len(set(first)) == 1 else f"one prompt a seed ({named} of {len(seeds)} seeds)"
    share = f"{100 * sum(most) / len(most):.0f} %"
    return [f"{method} chose {one} for {share} of the items, so its numbers are those of one prompt"]


def prompt_shares(rows: list[dict]) -> dict[str, float]:
    """Prompt -> the share of documents for which IDP chose it, mean over seeds; empty of other methods. rows: with a
    `selection`, of evaluations or of verdict.json's `scores`."""
    seeds = [row["selection"] for row in rows if row["selection"]]
    names = dict.fromkeys(name for shares in seeds for name in shares if name != "by_task")
    return {name: sum(shares.get(name, 0.0) for shares in seeds) / len(seeds) for name in names}


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:].removesuffix(".")


def brought_back(metric: dict, method: str, shown: Callable[[dict | None], str]) -> str:
    """R with g and h: "+2.1 points [+0.3, +4.0] (gain +2.6, on the dense model +0.5)"."""
    value, made_of = recovery(metric, method, shown)
    return f"{value} ({made_of})" if made_of else value


def recovery(metric: dict, method: str, shown: Callable[[dict | None], str]) -> tuple[str, str]:
    """R, or the gain without a dense control, and its terms; the second is empty if the method was not run or no item
    counts."""
    row = metric["methods"].get(method)
    if row is None:
        return "— (not run)" if metric["items"] else "—", ""
    if row["recovered"] is None:
        return shown(row["gain"]), "gain, not controlled: not run on the dense model"
    gain, control = (shown({**row[name], "low": None}).rpartition(" ")[0] for name in ("gain", "dense_gain"))
    return shown(row["recovered"]), f"gain {gain}, on the dense model {control}"

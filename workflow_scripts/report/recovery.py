"""The figures of docs/explanation/recovery.md: a marked region, written from an archive and never by hand."""

from collections.abc import Iterator

from workflow_scripts.plan.layout import Cell
from workflow_scripts.report.rendering import pipe
from workflow_scripts.report.summary import NAMES, judged, place, points, unit
from workflow_scripts.report.tables import selection_shares

BLOCK = "recovery"  # of the grid: the methods that tell repair, redirection and learning apart


def figures(verdict: dict, index: dict, archive: str) -> str:
    """Markdown: R, g and h of every method, access against learning, and the ways to choose among prompts.

    verdict: verdict.json; index: archive.json; archive: its folder. Without an evaluated cell of BLOCK a sentence.
    """
    block = index["blocks"].get(BLOCK, {"evaluated": 0, "planned": 0})
    if not block["evaluated"]:
        return f"No figures yet: `{archive}` holds no cell of the block `{BLOCK}`."
    part = (
        f"{block['evaluated']} of {block['planned']} cells of"
        if block["evaluated"] < block["planned"]
        else ""
    )
    metric = verdict["metric"]
    lines = [
        f"Grid `{verdict['grid']}`, {part + ' ' if part else ''}block `{BLOCK}`, by {NAMES[metric]} over informative "
        f"tasks, with 95 % intervals. From [`{archive}`](../../{archive}).",
        *_table(("compressed model", "method", "R", "g", "h", "intervals cover"), _methods(verdict, metric)),
    ]
    if told := list(_told(verdict)):
        heads = (
            "compressed model",
            "task",
            "methods",
            "R of untrained items",
            "learned",
            "known apart",
            "shows",
        )
        lines += _table(heads, told)
    if choices := verdict["choices"]:
        behind = ("model", "IDP", "chose", *(f"IDP minus {name}" for name in _ways(choices[0])))
        lines += ["", "IDP beside other ways to choose among its prompts, by accuracy over all tasks:"]
        lines += _table(behind, _choices(verdict))
    return "\n".join(lines)


def _table(heads: tuple[str, ...], rows: Iterator[list[str]] | list[list[str]]) -> list[str]:
    return ["", pipe(list(heads)), pipe(["---"] * len(heads)), *map(pipe, rows)]


def _methods(verdict: dict, metric: str) -> Iterator[list[str]]:
    shown = unit(metric)
    for group in judged(verdict):
        for method, row in group["metrics"][metric]["methods"].items():
            numbers = [shown(row[name]) for name in ("recovered", "gain", "dense_gain")]
            yield [place(group), method, *numbers, row["recovered_covers"] or row["gain_covers"]]


def _told(verdict: dict) -> Iterator[list[str]]:
    for row in verdict["parts"]:
        if row["metric"] == "accuracy":
            numbers = [points(value) for value in (row["untrained"]["recovered"], row["learned"])]
            none = "no item was known" if not row["untrained"]["known"] else "every item was known"
            apart = points(row["known_apart"]) if row["known_apart"] else none
            methods = ", ".join(row["methods"].values())
            yield [place(row), row["task"], methods, *numbers, apart, row["shows"] or "—"]


def _choices(verdict: dict) -> Iterator[list[str]]:
    """chose: a prompt that is taken for every item is no choice, whatever it is ahead of."""
    for one in verdict["choices"]:
        cells = {
            (one["model"], one["compressor"], one["corpus"], one["method"], seed) for seed in one["seeds"]
        }
        scores = [row for row in verdict["scores"] if tuple(row[name] for name in Cell._fields[1:]) in cells]
        yield [place(one), one["method"], selection_shares(scores), *_ways(one).values()]


def _ways(choice: dict) -> dict[str, str]:
    """Another way to choose among an IDP's prompts -> how far the IDP is ahead of it."""
    return {
        way["name"].removesuffix(f" of {choice['method']}"): points(way["behind"]) for way in choice["ways"]
    }

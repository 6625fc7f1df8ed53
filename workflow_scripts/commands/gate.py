"""End with 0 if a grid's verdicts are wanted ones, with 1 if one is not, with 2 if one is open.

  python -m workflow_scripts gate --grid bench --want no_loss,displaced

Reads results/<grid>/verdict.json and nothing else: for the CI of people who publish compressed models. Each verdict is
printed with its support and copies. Compressed models for which the pair was not planned are named and passed over. A
verdict of the grid's primary metric is open if it is `undecided` or `unavailable`, or if planned cells of it are
missing: it would pass by the first copy that looks well. Without a verdict, and for words that it does not know, the
command ends with 1. CI asks this command, not `make gate`: make ends with 2 whatever its command fails with.
"""

import argparse
from collections.abc import Collection
from pathlib import Path

from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.judge.verdict import MEANING
from workflow_scripts.plan.layout import VERDICT
from workflow_scripts.plan.names import unknown
from workflow_scripts.report.summary import basis, judged, place, unjudged

OPEN = ("undecided", "unavailable")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grid", default="smoke", help="a grid of the configuration (default: %(default)s)")
    parser.add_argument(
        "--want",
        type=lambda words: words.split(","),
        default=["no_loss", "displaced"],
        metavar="WORD[,WORD]",
        help="verdicts that pass, joined by commas (default: no_loss,displaced)",
    )


def main(grid: str, want: list[str]) -> int:
    """Print each verdict and whether it passes; returns an exit status. Raises ArtifactError for a word that is none,
    and without a verdict."""
    decided = [word for word in MEANING if word not in OPEN]
    for word in want:
        if word not in decided:
            raise ArtifactError(unknown("--want", word, decided, "verdict that can be wanted"))
    path = Path(VERDICT.path(grid))
    if not path.exists():
        raise ArtifactError(f"{path}: grid '{grid}' has no verdict yet: make run GRID={grid}")
    verdict = read_json(path, "verdict")
    metrics = {place(group): group["metrics"][verdict["metric"]] for group in judged(verdict)}
    found = {name: metric["verdict"]["word"] for name, metric in metrics.items()}
    found |= dict.fromkeys(unjudged(verdict), "unavailable")
    missing = {place(group): _missing(group, verdict["pair"].values()) for group in verdict["groups"]}
    statuses = set()
    for name, word in found.items():
        status = "open" if word in OPEN or missing[name] else "wanted" if word in want else "not wanted"
        statuses.add(status)
        lacks = f", {missing[name]} planned cells are missing" if missing[name] else ""
        print(f"{name}: {word} ({status}{lacks}){_grounds(metrics[name]) if name in metrics else ''}")
    for group in verdict["groups"]:
        if (name := place(group)) not in found:
            word = group["metrics"][verdict["metric"]]["verdict"]["word"]
            print(f"{name}: {word} (passed over: the pair is not planned for it)")
    if not found:
        raise ArtifactError(f"{path}: judges no compressed model")
    return 1 if "not wanted" in statuses else 2 if "open" in statuses else 0


def _missing(group: dict, pair: Collection[str]) -> int:
    """How many cells of a group's verdict are planned and not there: those without a method and those of the pair."""
    return sum(cell.split(" / ")[3] in ("none", *pair) for cell in group["missing"])


def _grounds(metric: dict) -> str:
    """ "; of one copy; support: no loss 100 %; 1,200 items of 6 informative tasks, 1 compressed copy" """
    verdict = metric["verdict"]
    copy = "; of one copy" if verdict["of_one_copy"] else ""
    return f"{copy}; {'support: ' if verdict['support'] else ''}{verdict['reason']}; {basis(metric)}"

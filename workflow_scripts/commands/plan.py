"""Say how many items and replicates a wanted half-width of L and R costs, from the variance seen so far.

  python -m workflow_scripts plan --grid bench --half-width 1

Reads results/<grid>/verdict.json (a first run of few items, with two seeds or more). The half-width is in points of
accuracy, or in the unit of the grid's primary metric. A line per number of replicates: the smallest number of items a
task whose intervals of L and of both R are no wider in any group, and the hours of the blocks with them.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workflow_scripts.commands.options import add_grid
from workflow_scripts.files.artifacts import ArtifactError, read_json
from workflow_scripts.judge.components import Components
from workflow_scripts.plan.config import ConfigError, files, load, read
from workflow_scripts.plan.forecast import foreseen, job_hours
from workflow_scripts.plan.layout import VERDICT
from workflow_scripts.plan.recipes import Plan

REPLICATES = (2, 3, 4, 5, 6, 8, 10, 15, 20)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid(parser, "bench")
    parser.add_argument(
        "--half-width",
        type=float,
        default=1.0,
        help="wanted half-width: points of accuracy, nats or bits (default: %(default)s)",
    )
    parser.add_argument("--device", help="a device of plan/devices.yaml (default: the grid's own)")


def main(
    grid: str,
    half_width: float = 1.0,
    device: str | None = None,
    blocks: list[str] | None = None,
    configfile: Sequence[str] = (),
) -> int:
    """Print the table; returns an exit status.

    Raises ConfigError for an unknown grid or block, ArtifactError if the grid has no verdict yet or its verdict
    has no variance components.
    """
    if not 0 < half_width < math.inf:
        raise ArtifactError(f"half-width: {half_width:g} is not allowed; give a number above 0")
    config = read(*files(*configfile)) | {"grid": grid} | ({"blocks": blocks} if blocks else {})
    load(config)
    path = Path(VERDICT.path(grid))
    if not path.exists():
        raise ArtifactError(f"{path}: not there yet; run the grid with few items and two seeds or more first")
    verdict = read_json(path, schema="verdict")
    seen = components_of(verdict)
    if not seen:
        raise ArtifactError(
            f"{path}: no group has the pair evaluated with its dense controls, so nothing is known of R"
        )
    factor = 100 if verdict["metric"] == "accuracy" else 1
    items = _items_a_task(verdict)
    print(
        f"Half-width of {half_width:g} for L and R of every group of '{grid}', seen so far with {items} items a task:"
    )
    print(f"{'replicates':>10}{'items a task':>14}{'hours':>9}")
    for replicates in REPLICATES if any(part.count > 1 for part in seen) else (1,):
        times = needed_items(seen, half_width / factor, replicates)
        if times is None:
            print(f"{replicates:>10}{'never':>14}")
            continue
        wanted = max(2, math.ceil(items * times))
        try:
            hours, few = _hours(config, grid, replicates, wanted, device)
        except ConfigError as error:  # methods that are trained on items which so many would score
            problem = str(error).splitlines()[0]
            print(f"{replicates:>10}{wanted:>14,}{'':>9}  not with these blocks: {problem}")
            continue
        short = f"  more than {', '.join(few)} {'has' if len(few) == 1 else 'have'}" if few else ""
        print(f"{replicates:>10}{wanted:>14,}{hours:>9.1f}{short}")
    if any(part.count < 2 for part in seen):
        whose = " (here items alone count)" if any(part.count > 1 for part in seen) else ""
        print(
            f"One copy shows nothing of the variance between copies{whose}: run the pair with seeds: [0, 1, 2] first."
        )
    return 0


def components_of(verdict: dict) -> list[Components]:
    """Variance components of L and R of all groups on the primary metric."""
    judged = [group["metrics"][verdict["metric"]]["verdict"] for group in verdict["groups"]]
    rows = [
        one["components"] for one in judged if one.get("components", {}).keys() >= {"loss", "prompt", "lora"}
    ]
    return [Components.of_json(part) for row in rows for part in row.values()]


def needed_items(seen: list[Components], half_width: float, replicates: int) -> float | None:
    """The factor on the items that makes every half-width small enough; None if no number of items does."""
    if max(part.half_width(1e9, replicates) for part in seen) > half_width:
        return None
    low, high = 1e-3, 1.0
    while max(part.half_width(high, replicates) for part in seen) > half_width:
        high *= 2
    for _ in range(40):
        middle = (low * high) ** 0.5
        enough = max(part.half_width(middle, replicates) for part in seen) <= half_width
        low, high = (low, middle) if enough else (middle, high)
    return high


def _items_a_task(verdict: dict) -> int:
    counts = [n for group in verdict["groups"] for n in group["metrics"][verdict["metric"]]["items"].values()]
    return round(sum(counts) / len(counts))


def _hours(
    config: dict[str, Any], grid: str, replicates: int, items: int, device: str | None
) -> tuple[float, list[str]]:
    """Hours of the chosen blocks (default: all) with so many seeds and items in every task; tasks that have fewer."""
    spec = config["grids"][grid]
    chosen = config.get("blocks") or spec["blocks"]
    blocks = {name: spec["blocks"][name] | {"seeds": list(range(replicates))} for name in chosen}
    changed = spec | {"blocks": blocks, "evaluation": spec["evaluation"] | {"items": items}}
    changed.pop("expected", None)  # labels of groups that other blocks may hold
    expected = foreseen(Plan(load(config | {"grids": config["grids"] | {grid: changed}})), grid, device)
    sizes = expected.device["tasks"]
    few = [task for task in spec["tasks"] if sizes.get(task, sizes["default"])["items"] < items]
    return job_hours(expected.costs, expected.device) / expected.device["at_once"], few

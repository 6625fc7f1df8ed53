"""Forecast jobs, hours, disk and memory of a grid before it runs.

  python -m workflow_scripts forecast --grid paper --device a100-80g --price 2

Hours are those of one device; plan/devices.yaml holds the constants of each.
"""

import argparse
from collections.abc import Sequence

from workflow_scripts.commands.options import add_grid, warning
from workflow_scripts.files.artifacts import ArtifactError
from workflow_scripts.plan.config import files
from workflow_scripts.plan.forecast import foreseen, summary
from workflow_scripts.plan.recipes import plan_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_grid(parser, "paper")
    parser.add_argument("--device", help="a device of plan/devices.yaml (default: the grid's own)")
    parser.add_argument("--price", type=float, help="price of a device hour, in any currency (default: none)")


def main(
    grid: str,
    device: str | None = None,
    price: float | None = None,
    blocks: list[str] | None = None,
    configfile: Sequence[str] = (),
) -> int:
    """Print the forecast, for the grid's own device if none is named; returns an exit status.

    Raises ConfigError for an unknown grid or block, ArtifactError for an unknown device.
    """
    plan = plan_of(files(*configfile), grid, blocks)
    try:
        expected = foreseen(plan, grid, device)
    except KeyError as error:
        raise ArtifactError(error.args[0]) from error
    print(f"Forecast of grid '{grid}': {len(plan.cells(grid))} cells, {len(plan.adapters(grid))} adapters")
    print("\n".join([*summary(expected.costs, expected.device, price), *map(warning, expected.warnings)]))
    return 0
